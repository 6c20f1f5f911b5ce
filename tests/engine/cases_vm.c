/* The VM as a whole: another one beside it, its statistics, and code that changes. */
#include "cases.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_CODE (RIG_ENTRY + 0x41) /* the immediate that the host changes: modify.S */

bool case_two_vms(struct rig *r)
{
	static const struct engine_case other_case = {"other", "pio", BOOT_REAL, 0, NULL};
	struct rig other;
	bool ok;

	TRY(want_out(r, 0x3f8, 1, '0'));
	ok = rig_open(&other, r->vm.engine, &other_case) && want_out(&other, 0xe0, 1, 0x11) &&
	     want_out(&other, 0xe0, 2, 0x2211);
	if (ok) {
		ok = want_out(r, 0x3f8, 1, '\n') && want_out(&other, 0xe0, 4, 0x44332211) &&
		     want_hlt(r) && want_out(&other, 0x500, 1, 0x11);
	}
	if (!ok && other.text[0])
		rig_fail(r, "the other VM: %s", other.text);
	rig_close(&other);
	return ok;
}

static bool change_code(struct rig *r, u8 value)
{
	r->ram[HOST_CODE] = value;
	if (r->vm.engine->memory_written)
		r->vm.engine->memory_written(r->vm.fd, HOST_CODE, 1);
	return true;
}

bool case_code_changes(struct rig *r)
{
	TRY(want_out(r, 0x500, 1, 0x22));
	for (u32 i = 0; i < 3; i++)
		TRY(want_out(r, 0x500, 1, 0x30 + i));
	TRY(want_out(r, 0x500, 1, 0x40));
	for (u8 i = 5; i < 250; i++) {
		change_code(r, i);
		TRY(want_out(r, 0x500, 1, i));
	}
	change_code(r, 0);
	TRY(want_out(r, 0x500, 1, 0));
	return want_hlt(r);
}

/* The value of a statistic of one 64-bit number; -1 when there is none of that name. */
static s64 read_stat(int fd, const struct kvm_stats_header *h, const char *name)
{
	size_t size = sizeof(struct kvm_stats_desc) + h->name_size;
	struct kvm_stats_desc *desc = calloc(1, size + 1);
	s64 value = -1;

	for (u32 i = 0; i < h->num_desc && desc; i++) {
		if (pread(fd, desc, size, (off_t)(h->desc_offset + i * size)) != (ssize_t)size)
			break;
		if (strcmp(desc->name, name))
			continue;
		if (pread(fd, &value, 8, (off_t)h->data_offset + desc->offset) != 8)
			value = -1;
	}
	free(desc);
	return value;
}

bool case_stats(struct rig *r)
{
	struct kvm_stats_header h;
	s64 before;
	int fd;

	TRY(rig_need(r, KVM_CAP_BINARY_STATS_FD, "binary statistics"));
	fd = rig_ioctl(r, KVM_GET_STATS_FD, NULL);
	EXPECT(r, fd >= 0);
	EXPECT(r, pread(fd, &h, sizeof(h), 0) == sizeof(h));
	EXPECT(r, h.num_desc > 0 && h.num_desc < 1000 && h.name_size > 0 && h.name_size <= 256);
	before = read_stat(fd, &h, "exits");
	EXPECT(r, before >= 0);
	TRY(want_hlt(r));
	TRY(want_out(r, 0x500, 1, 1));
	EXPECT(r, read_stat(fd, &h, "exits") >= before + 2);
	EXPECT(r, read_stat(fd, &h, "there is none of this name") == -1);
	close(fd);
	return true;
}
