#define _GNU_SOURCE
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "base/endian.h"
#include "engine/vcpu.h"
#include "machine/cpuid.h"

#define EXTRA_SIZE  0x10000
#define CPUID_COUNT 256

static bool vset(struct rig *r, const char *fmt, va_list ap)
{
	if (!r->text[0])
		vsnprintf(r->text, sizeof(r->text), fmt, ap);
	return false;
}

bool rig_fail(struct rig *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vset(r, fmt, ap);
	va_end(ap);
	return false;
}

bool rig_skip(struct rig *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vset(r, fmt, ap);
	va_end(ap);
	r->skipped = true;
	return false;
}

int rig_vm_ioctl(struct rig *r, unsigned long request, void *arg)
{
	return engine_vm_ioctl(&r->vm, request, arg);
}

int rig_ioctl(struct rig *r, unsigned long request, void *arg)
{
	return r->vm.engine->ioctl(r->cpu[0].fd, request, (unsigned long)arg);
}

bool rig_need(struct rig *r, unsigned int capability, const char *name)
{
	if (engine_vm_has(&r->vm, capability) > 0)
		return true;
	return rig_skip(r, "this engine has no %s", name);
}

bool rig_enable(struct rig *r, unsigned int capability, u64 arg)
{
	struct kvm_enable_cap cap = {.cap = capability, .args = {arg}};
	int rc = rig_vm_ioctl(r, KVM_ENABLE_CAP, &cap);

	return !rc || rig_fail(r, "KVM_ENABLE_CAP %u: %s", capability, strerror(-rc));
}

/* ---- construction ---- */

static bool set_slot(struct rig *r, u32 slot, gpa_t gpa, u64 size, void *hva, u32 flags)
{
	struct kvm_userspace_memory_region region = {.slot = slot,
						     .flags = flags,
						     .guest_phys_addr = gpa,
						     .memory_size = size,
						     .userspace_addr = (uintptr_t)hva};
	int rc = rig_vm_ioctl(r, KVM_SET_USER_MEMORY_REGION, &region);

	return !rc || rig_fail(r, "KVM_SET_USER_MEMORY_REGION: %s", strerror(-rc));
}

bool rig_slot(struct rig *r, gpa_t gpa, u64 size, u32 flags)
{
	return set_slot(r, 1, gpa, size, r->extra, flags);
}

static bool open_memory(struct rig *r)
{
	struct err err;

	r->mem = mem_new();
	r->extra =
		mmap(NULL, EXTRA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!r->mem || r->extra == MAP_FAILED)
		return rig_fail(r, "out of memory");
	if (mem_add_ram(r->mem, 0, RIG_RAM, MEM_NO_THP, &err))
		return rig_fail(r, "%s", err.text);
	r->ram = mem_slice_rw(r->mem, 0, RIG_RAM);
	return set_slot(r, 0, 0, RIG_RAM, r->ram, 0);
}

/* What Intel's processors need for real mode; others take or refuse it. */
static void give_tss(struct rig *r)
{
	rig_vm_ioctl(r, KVM_SET_TSS_ADDR, (void *)(uintptr_t)LAYOUT_TSS);
}

/* Before the interrupt controllers, which make slot changes slow on some hosts; after the slots. */
static bool open_irqchip(struct rig *r, u32 flags)
{
	int rc;

	if (flags & RIG_SPLIT) {
		TRY(rig_need(r, KVM_CAP_SPLIT_IRQCHIP, "split irqchip"));
		return rig_enable(r, KVM_CAP_SPLIT_IRQCHIP, 24);
	}
	if (!(flags & RIG_IRQCHIP))
		return true;
	rc = rig_vm_ioctl(r, KVM_CREATE_IRQCHIP, NULL);
	return !rc || rig_fail(r, "KVM_CREATE_IRQCHIP: %s", strerror(-rc));
}

static bool open_vcpu(struct rig *r, unsigned int n)
{
	struct rig_vcpu *cpu = &r->cpu[n];
	int rc = rig_vm_ioctl(r, KVM_CREATE_VCPU, (void *)(uintptr_t)n);

	if (rc < 0)
		return rig_fail(r, "KVM_CREATE_VCPU: %s", strerror(-rc));
	cpu->fd = rc;
	cpu->run = r->vm.engine->mmap(cpu->fd, r->run_size);
	return cpu->run || rig_fail(r, "cannot map kvm_run: %s", strerror(errno));
}

static bool set_cpuid(struct rig *r, unsigned int n)
{
	const struct cpuid_config config = {.topology = {1, RIG_CPUS, 1}};
	size_t size = sizeof(struct kvm_cpuid2) +
		      (CPUID_COUNT + CPUID_EXTRA) * sizeof(struct kvm_cpuid_entry2);
	struct kvm_cpuid2 *supported = calloc(1, size), *table = calloc(1, size);
	struct err err = {{0}};
	int rc;

	supported->nent = CPUID_COUNT;
	rc = r->vm.engine->ioctl(r->vm.sys_fd, KVM_GET_SUPPORTED_CPUID, (uintptr_t)supported);
	table->nent = CPUID_COUNT + CPUID_EXTRA;
	if (!rc)
		rc = cpuid_make(supported, &config, n, table, &err);
	if (!rc)
		rc = r->vm.engine->ioctl(r->cpu[n].fd, KVM_SET_CPUID2, (uintptr_t)table);
	free(supported);
	free(table);
	return !rc || rig_fail(r, "CPUID: %s %s", strerror(-rc), err.text);
}

bool rig_add_vcpu(struct rig *r)
{
	TRY(open_vcpu(r, 1));
	return set_cpuid(r, 1);
}

static const struct guest *find_guest(const char *name)
{
	for (const struct guest *g = guests; g->name; g++)
		if (!strcmp(g->name, name))
			return g;
	return NULL;
}

/* As `bothy run --load 0x1000` does it. */
static bool load_guest(struct rig *r, const struct engine_case *c)
{
	const struct guest *g = find_guest(c->guest);
	const struct boot_options options = {.mode = c->mode};
	const struct layout layout = {.memory = RIG_RAM, .low_end = RIG_RAM};
	struct boot_entry entry;
	struct kvm_sregs sregs;
	struct image image;
	struct err err;
	int rc;

	if (!g)
		return rig_fail(r, "there is no guest called %s", c->guest);
	if (image_from_memory(&image, g->name, g->code, g->size, IMAGE_FLAT, &err))
		return rig_fail(r, "%s", err.text);
	rc = boot_load(r->mem, &layout, &image, &options, &entry, &err);
	image_close(&image);
	if (rc)
		return rig_fail(r, "%s", err.text);
	rc = rig_ioctl(r, KVM_GET_SREGS, &sregs);
	boot_entry_apply(&entry, &sregs);
	if (!rc)
		rc = rig_ioctl(r, KVM_SET_SREGS, &sregs);
	if (!rc)
		rc = rig_ioctl(r, KVM_SET_REGS, &entry.regs);
	return !rc || rig_fail(r, "setting registers: %s", strerror(-rc));
}

/* ---- signals ---- */

static void on_tick(int sig)
{
}

/* Before the first KVM_RUN: an engine in user space has to know of the handler. */
static void install_handlers(void)
{
	const struct sigaction action = {.sa_handler = on_tick};

	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
}

void rig_ticks_start(void)
{
	const struct itimerval every = {{0, 10000}, {0, 10000}};

	setitimer(ITIMER_REAL, &every, NULL);
}

void rig_ticks_stop(void)
{
	const struct itimerval off = {{0, 0}, {0, 0}};

	setitimer(ITIMER_REAL, &off, NULL);
}

/* ---- life ---- */

bool rig_open(struct rig *r, const struct engine_class *engine, const struct engine_case *c)
{
	struct err err;
	int size;

	memset(r, 0, sizeof(*r));
	install_handlers();
	r->extra = MAP_FAILED;
	for (int i = 0; i < RIG_CPUS; i++)
		r->cpu[i].fd = -1;
	r->vm.fd = r->vm.sys_fd = -1;
	if (engine_vm_open(&r->vm, engine, &err))
		return rig_skip(r, "%s", err.text);
	size = engine->ioctl(r->vm.sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	EXPECT(r, size >= (int)sizeof(struct kvm_run));
	r->run_size = (size_t)size;
	TRY(open_memory(r));
	give_tss(r);
	TRY(open_irqchip(r, c->flags));
	TRY(open_vcpu(r, 0));
	r->run = r->cpu[0].run;
	if (c->flags & RIG_CPUID)
		TRY(set_cpuid(r, 0));
	return load_guest(r, c);
}

void rig_close(struct rig *r)
{
	for (int i = 0; i < RIG_CPUS; i++) {
		if (r->cpu[i].run)
			munmap(r->cpu[i].run, r->run_size);
		if (r->cpu[i].fd >= 0)
			r->vm.engine->close(r->cpu[i].fd);
	}
	engine_vm_close(&r->vm);
	if (r->extra != MAP_FAILED)
		munmap(r->extra, EXTRA_SIZE);
	mem_free(r->mem);
}

bool rig_restart(struct rig *r)
{
	struct kvm_regs regs;

	EXPECT(r, !rig_ioctl(r, KVM_GET_REGS, &regs));
	regs.rip = RIG_ENTRY;
	EXPECT(r, !rig_ioctl(r, KVM_SET_REGS, &regs));
	return true;
}

bool rig_is_kvm(const struct rig *r)
{
	return !strcmp(r->vm.engine->name, "kvm");
}

/* ---- entering ---- */

bool rig_enter(struct rig *r)
{
	r->last_rc = rig_ioctl(r, KVM_RUN, NULL);
	if (!r->last_rc || r->last_rc == -EINTR || r->last_rc == -EAGAIN)
		return true;
	return rig_fail(r, "KVM_RUN: %s", strerror(-r->last_rc));
}

static void describe(struct rig *r, char *text, size_t cap)
{
	const struct kvm_run *run = r->run;
	struct kvm_regs regs = {0};
	struct kvm_sregs sregs = {0};
	int n = 0;

	rig_ioctl(r, KVM_GET_REGS, &regs);
	rig_ioctl(r, KVM_GET_SREGS, &sregs);
	if (r->last_rc)
		n = snprintf(text, cap, "%s", strerror(-r->last_rc));
	else if (run->exit_reason == KVM_EXIT_IO)
		n = snprintf(
			text, cap, "%s port 0x%x size %u count %u value 0x%llx",
			run->io.direction ? "out" : "in", run->io.port, run->io.size, run->io.count,
			(unsigned long long)load_le((u8 *)run + run->io.data_offset, run->io.size));
	else if (run->exit_reason == KVM_EXIT_MMIO)
		n = snprintf(text, cap, "mmio %s 0x%llx len %u data 0x%llx",
			     run->mmio.is_write ? "write" : "read", run->mmio.phys_addr,
			     run->mmio.len, (unsigned long long)load_le64(run->mmio.data));
	else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		n = snprintf(text, cap, "internal error, suberror %u", run->internal.suberror);
	else
		n = snprintf(text, cap, "%s", vcpu_exit_name(run->exit_reason));
	snprintf(text + n, cap - (size_t)n, "; cs:rip %x:%llx rax %llx rflags %llx",
		 sregs.cs.selector, regs.rip, regs.rax, regs.rflags);
}

/* What came was not expected: fail, or skip where this KVM's emulator gave up, which says nothing
 * about the engine (a software /dev/kvm runs every instruction through it). */
static bool unexpected(struct rig *r, const char *fmt, ...)
{
	char wanted[256], got[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(wanted, sizeof(wanted), fmt, ap);
	va_end(ap);
	describe(r, got, sizeof(got));
	if (rig_is_kvm(r) && !r->last_rc && r->run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
	    r->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		return rig_skip(r, "the emulator of this /dev/kvm lacks an instruction (%s)", got);
	return rig_fail(r, "expected %s, got %s", wanted, got);
}

static bool is_io(const struct rig *r, unsigned int direction, u16 port, unsigned int size)
{
	const struct kvm_run *run = r->run;

	return !r->last_rc && run->exit_reason == KVM_EXIT_IO && run->io.direction == direction &&
	       run->io.port == port && run->io.size == size;
}

static u8 *io_data(struct rig *r)
{
	return (u8 *)r->run + r->run->io.data_offset;
}

bool want_out(struct rig *r, u16 port, unsigned int size, u32 value)
{
	TRY(rig_enter(r));
	if (is_io(r, KVM_EXIT_IO_OUT, port, size) && r->run->io.count == 1 &&
	    load_le(io_data(r), size) == value)
		return true;
	return unexpected(r, "out port 0x%x size %u value 0x%x", port, size, value);
}

bool want_in(struct rig *r, u16 port, unsigned int size, u32 value)
{
	TRY(rig_enter(r));
	if (!is_io(r, KVM_EXIT_IO_IN, port, size) || r->run->io.count != 1)
		return unexpected(r, "in port 0x%x size %u", port, size);
	store_le(io_data(r), size, value);
	return true;
}

static bool is_mmio(const struct rig *r, bool write, u64 addr, unsigned int len)
{
	const struct kvm_run *run = r->run;

	return !r->last_rc && run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write == write &&
	       run->mmio.phys_addr == addr && run->mmio.len == len;
}

bool want_write(struct rig *r, u64 addr, unsigned int len, u64 value)
{
	TRY(rig_enter(r));
	if (is_mmio(r, true, addr, len) && load_le(r->run->mmio.data, len) == value)
		return true;
	return unexpected(r, "mmio write 0x%llx len %u data 0x%llx", (unsigned long long)addr, len,
			  (unsigned long long)value);
}

bool want_read(struct rig *r, u64 addr, unsigned int len, u64 value)
{
	TRY(rig_enter(r));
	if (!is_mmio(r, false, addr, len))
		return unexpected(r, "mmio read 0x%llx len %u", (unsigned long long)addr, len);
	store_le(r->run->mmio.data, len, value);
	return true;
}

bool want_exit(struct rig *r, u32 reason)
{
	TRY(rig_enter(r));
	return got_exit(r, reason);
}

bool got_exit(struct rig *r, u32 reason)
{
	if (!r->last_rc && r->run->exit_reason == reason)
		return true;
	return unexpected(r, "%s", vcpu_exit_name(reason));
}

bool want_hlt(struct rig *r)
{
	return want_exit(r, KVM_EXIT_HLT);
}

bool want_interrupted(struct rig *r)
{
	TRY(rig_enter(r));
	return r->last_rc == -EINTR || unexpected(r, "an interrupted KVM_RUN");
}

/* How many elements an exit carries is the engine's choice; their order and sum are not. */
static bool want_string(struct rig *r, unsigned int direction, u16 port, unsigned int size,
			const void *data, u32 count)
{
	const u8 *expect = data;

	while (count) {
		size_t bytes;

		TRY(rig_enter(r));
		if (!is_io(r, direction, port, size) || !r->run->io.count ||
		    r->run->io.count > count)
			return unexpected(r, "up to %u string elements at port 0x%x size %u", count,
					  port, size);
		bytes = (size_t)r->run->io.count * size;
		if (direction == KVM_EXIT_IO_IN)
			memcpy(io_data(r), expect, bytes);
		else if (memcmp(io_data(r), expect, bytes))
			return unexpected(r, "other data, %u elements before the end", count);
		expect += bytes;
		count -= r->run->io.count;
	}
	return true;
}

bool want_outs(struct rig *r, u16 port, unsigned int size, const void *data, u32 count)
{
	return want_string(r, KVM_EXIT_IO_OUT, port, size, data, count);
}

bool want_ins(struct rig *r, u16 port, unsigned int size, const void *data, u32 count)
{
	return want_string(r, KVM_EXIT_IO_IN, port, size, data, count);
}
