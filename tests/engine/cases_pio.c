/* Ports: single accesses, strings, and the coalesced class. */
#include <string.h>

#include "cases.h"

bool case_add(struct rig *r)
{
	struct kvm_regs regs;

	EXPECT(r, !rig_ioctl(r, KVM_GET_REGS, &regs));
	regs.rax = regs.rbx = 2;
	EXPECT(r, !rig_ioctl(r, KVM_SET_REGS, &regs));
	TRY(want_out(r, 0x3f8, 1, '4'));
	TRY(want_out(r, 0x3f8, 1, '\n'));
	return want_hlt(r);
}

bool case_pio(struct rig *r)
{
	TRY(want_out(r, 0xe0, 1, 0x11));
	TRY(want_out(r, 0xe0, 2, 0x2211));
	TRY(want_out(r, 0xe0, 4, 0x44332211));
	TRY(want_out(r, 0x500, 1, 0x11));
	TRY(want_out(r, 0x501, 2, 0x2211));
	TRY(want_out(r, 0x502, 4, 0x44332211));
	TRY(want_in(r, 0x510, 1, 0x99));
	TRY(want_out(r, 0x510, 4, 0xaabbcc99));
	TRY(want_in(r, 0x510, 2, 0x7788));
	TRY(want_out(r, 0x510, 4, 0xaabb7788));
	TRY(want_in(r, 0x510, 4, 0x12345678));
	TRY(want_out(r, 0x510, 4, 0x12345678));
	TRY(want_in(r, 0xe1, 1, 0x01));
	TRY(want_out(r, 0x510, 4, 0x12345601));
	TRY(want_out(r, 0xffff, 1, 0x01));
	return want_hlt(r);
}

static bool want_report(struct rig *r, u16 cx, u16 si, u16 di)
{
	TRY(want_out(r, 0x520, 2, cx));
	TRY(want_out(r, 0x520, 2, si));
	return want_out(r, 0x520, 2, di);
}

static bool strings_out(struct rig *r, const u8 *data)
{
	u8 down[6];

	TRY(want_outs(r, 0x510, 1, data, 1));
	TRY(want_outs(r, 0x510, 1, data + 1, 16));
	TRY(want_report(r, 0, 0x2011, 0x3000));
	TRY(want_outs(r, 0x511, 2, data + 0x11, 3));
	TRY(want_outs(r, 0x512, 4, data + 0x17, 5));
	TRY(want_report(r, 0, 0x202b, 0x3000));
	for (int i = 0; i < 3; i++)
		memcpy(down + 2 * i, data + 0x10 - 2 * i, 2);
	TRY(want_outs(r, 0x511, 2, down, 3));
	return want_report(r, 0, 0x200a, 0x3000);
}

static bool strings_in(struct rig *r, const u8 *data)
{
	TRY(want_ins(r, 0x513, 1, data, 1));
	TRY(want_ins(r, 0x513, 1, data + 1, 10));
	TRY(want_ins(r, 0x514, 2, data + 11, 5));
	TRY(want_ins(r, 0x515, 4, data + 21, 3));
	TRY(want_report(r, 0, 0x200a, 0x3021));
	return want_outs(r, 0x516, 1, data, 33);
}

bool case_strings(struct rig *r)
{
	static u8 data[5000];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 7 + i / 256 + 1);
	memcpy(r->ram + 0x2000, data, 0x40);
	TRY(strings_out(r, data));
	TRY(strings_in(r, data));
	TRY(want_ins(r, 0x517, 1, data, sizeof(data)));
	TRY(want_outs(r, 0x518, 1, data, sizeof(data)));
	TRY(want_report(r, 0, 0x4100 + sizeof(data), 0x4100 + sizeof(data)));
	EXPECT(r, !memcmp(r->ram + 0x4100, data, sizeof(data)));
	return want_hlt(r);
}

bool case_coalesced_pio(struct rig *r)
{
	struct kvm_coalesced_mmio_zone zone = {.addr = 0x540, .size = 4, .pio = 1};
	struct ring ring;

	TRY(rig_need(r, KVM_CAP_COALESCED_PIO, "coalesced PIO"));
	TRY(ring_open(r, &ring));
	EXPECT(r, !rig_vm_ioctl(r, KVM_REGISTER_COALESCED_MMIO, &zone));
	TRY(want_out(r, 0x500, 1, 0x11));
	TRY(ring_take(r, &ring, true, 0x540, 1, 0x11));
	TRY(ring_take(r, &ring, true, 0x540, 2, 0x2211));
	TRY(ring_take(r, &ring, true, 0x540, 4, 0x44332211));
	EXPECT(r, ring_empty(&ring));
	TRY(want_in(r, 0x540, 1, 0x66));
	TRY(want_out(r, 0x544, 1, 0x66));
	EXPECT(r, ring_empty(&ring));
	return want_hlt(r);
}
