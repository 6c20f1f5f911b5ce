/*
 * The other exits. What is not here cannot be provoked by a guest on purpose on every engine:
 * KVM_EXIT_UNKNOWN, FAIL_ENTRY and EXCEPTION (states that KVM_SET_SREGS refuses first), TPR_ACCESS
 * (Intel without virtual APIC), SYSTEM_EVENT (Hyper-V), BUS_LOCK and NOTIFY (processors that have
 * them).
 */
#include "cases.h"

#include <string.h>

bool case_hlt(struct rig *r)
{
	TRY(want_hlt(r));
	TRY(want_out(r, 0x500, 1, 1));
	return want_hlt(r);
}

/* What the last exit wrote to a port. */
static u32 io_value(const struct rig *r)
{
	u32 value = 0;

	memcpy(&value, (const u8 *)r->run + r->run->io.data_offset, r->run->io.size);
	return value;
}

static u64 rip_of(struct rig *r)
{
	struct kvm_regs regs = {0};

	rig_ioctl(r, KVM_GET_REGS, &regs);
	return regs.rip;
}

bool case_kick(struct rig *r)
{
	struct kvm_regs regs;
	u64 before = 0;

	TRY(want_out(r, 0x500, 1, 0));
	rig_ticks_start();
	for (int i = 0; i < 3; i++) {
		TRY(want_interrupted(r));
		EXPECT(r, r->run->exit_reason == KVM_EXIT_INTR);
		EXPECT(r, !rig_ioctl(r, KVM_GET_REGS, &regs));
		EXPECT(r, regs.rip == 0x1004 || regs.rip == 0x1006);
		/* It went on in between. */
		EXPECT(r, regs.rax > before);
		before = regs.rax;
	}
	rig_ticks_stop();
	return true;
}

bool case_immediate_exit(struct rig *r)
{
	TRY(rig_need(r, KVM_CAP_IMMEDIATE_EXIT, "immediate exit"));
	r->run->immediate_exit = 1;
	TRY(want_interrupted(r));
	EXPECT(r, rip_of(r) == RIG_ENTRY);
	r->run->immediate_exit = 0;
	TRY(want_out(r, 0x500, 1, 0));
	/* The port access is finished all the same. */
	r->run->immediate_exit = 1;
	TRY(want_interrupted(r));
	EXPECT(r, rip_of(r) == RIG_ENTRY + 4);
	return true;
}

bool case_shutdown(struct rig *r)
{
	return want_exit(r, KVM_EXIT_SHUTDOWN);
}

static bool set_debug(struct rig *r, const struct kvm_guest_debug *debug)
{
	int rc = rig_ioctl(r, KVM_SET_GUEST_DEBUG, (void *)debug);

	return !rc || rig_fail(r, "KVM_SET_GUEST_DEBUG: %s", strerror(-rc));
}

/* Point the guest's vectors 1 and 3 at its handlers. */
static bool catch_debug(struct rig *r)
{
	const u8 *list = r->ram + RIG_ENTRY + 0x40;

	memset(r->ram, 0, 16);
	memcpy(r->ram + 1 * 4, list, 2);
	memcpy(r->ram + 3 * 4, list + 2, 2);
	return true;
}

static bool guest_got_it(const struct rig *r)
{
	return !r->last_rc && r->run->exit_reason == KVM_EXIT_IO && r->run->io.port == 0x501;
}

/* A /dev/kvm that emulates int3, or that runs nested in QEMU's TCG (which neither intercepts int3
 * nor loads the guest's breakpoint registers), leaves breakpoints to the guest. */
static bool want_debug(struct rig *r, u64 pc, u32 exception)
{
	TRY(rig_enter(r));
	if (rig_is_kvm(r) && guest_got_it(r))
		return rig_skip(r, "this /dev/kvm does not stop at breakpoints: it is emulated");
	TRY(got_exit(r, KVM_EXIT_DEBUG));
	if (r->run->debug.arch.pc == pc && r->run->debug.arch.exception == exception)
		return true;
	return rig_fail(r, "expected debug exception %u at 0x%llx, got %u at 0x%llx", exception,
			(unsigned long long)pc, r->run->debug.arch.exception,
			r->run->debug.arch.pc);
}

/* Go on behind the int3. */
static bool finish_debug(struct rig *r, struct kvm_guest_debug *debug)
{
	struct kvm_regs regs;

	debug->control = 0;
	TRY(set_debug(r, debug));
	EXPECT(r, !rig_ioctl(r, KVM_GET_REGS, &regs));
	regs.rip = 0x1008;
	EXPECT(r, !rig_ioctl(r, KVM_SET_REGS, &regs));
	return want_hlt(r);
}

bool case_step(struct rig *r)
{
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct kvm_regs regs;

	TRY(set_debug(r, &debug));
	TRY(want_debug(r, 0x1001, 1));
	EXPECT(r, r->run->debug.arch.dr6 & 1 << 14);
	TRY(want_debug(r, 0x1004, 1));
	TRY(want_debug(r, 0x1007, 1));
	EXPECT(r, r->ram[0x3000] == 0x34 && r->ram[0x3001] == 0x12);
	/* The guest does not see it. */
	EXPECT(r, !rig_ioctl(r, KVM_GET_REGS, &regs));
	EXPECT(r, !(regs.rflags & 1 << 8));
	return finish_debug(r, &debug);
}

bool case_hw_breakpoints(struct rig *r)
{
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP};

	TRY(catch_debug(r));

	/* Register 0: execution of 0x1001; register 1: a write of two bytes to 0x3000. */
	debug.arch.debugreg[0] = 0x1001;
	debug.arch.debugreg[1] = 0x3000;
	debug.arch.debugreg[7] = 1 << 10 | 1 << 0 | 1 << 2 | 1 << 20 | 1 << 22;
	TRY(set_debug(r, &debug));
	TRY(want_debug(r, 0x1001, 1));
	EXPECT(r, (r->run->debug.arch.dr6 & 0xf) == 1);
	debug.arch.debugreg[7] &= ~1ULL;
	TRY(set_debug(r, &debug));
	TRY(want_debug(r, 0x1007, 1));
	EXPECT(r, (r->run->debug.arch.dr6 & 0xf) == 2);
	return finish_debug(r, &debug);
}

bool case_sw_breakpoint(struct rig *r)
{
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP};

	TRY(catch_debug(r));
	TRY(set_debug(r, &debug));
	TRY(want_debug(r, 0x1007, 3));
	return finish_debug(r, &debug);
}

bool case_set_tpr(struct rig *r)
{
	TRY(want_out(r, 0x500, 1, 8));
	/* Raised to 9, and written once more: nobody need know. */
	TRY(want_out(r, 0x500, 1, 9));
	TRY(rig_enter(r));
	if (rig_is_kvm(r) && !r->last_rc && r->run->exit_reason == KVM_EXIT_IO)
		return rig_skip(r, "this /dev/kvm emulates MOV to CR8, and then it tells nobody");
	TRY(got_exit(r, KVM_EXIT_SET_TPR));
	EXPECT(r, r->run->cr8 == 2);
	EXPECT(r, rip_of(r) == RIG_ENTRY + r->ram[RIG_ENTRY + 2]);
	/* What the monitor writes is there after the entry. */
	r->run->cr8 = 5;
	TRY(want_out(r, 0x500, 1, 5));
	EXPECT(r, r->run->cr8 == 5);
	TRY(want_exit(r, KVM_EXIT_SET_TPR));
	EXPECT(r, r->run->cr8 == 0);
	return want_hlt(r);
}

/* Where the engine has the local APIC, it keeps its TPR to itself. */
bool case_kernel_tpr(struct rig *r)
{
	TRY(want_out(r, 0x500, 1, 8));
	TRY(want_out(r, 0x500, 1, 9));
	TRY(want_out(r, 0x500, 1, 2));
	EXPECT(r, r->run->cr8 == 2);
	return true;
}

static bool want_msr(struct rig *r, u32 reason)
{
	TRY(want_exit(r, reason));
	EXPECT(r, r->run->msr.index == 0x12345678);
	r->run->msr.error = 0;
	return true;
}

bool case_user_msr(struct rig *r)
{
	TRY(rig_need(r, KVM_CAP_X86_USER_SPACE_MSR, "exits for MSRs"));
	TRY(rig_enable(r, KVM_CAP_X86_USER_SPACE_MSR,
		       KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL));
	TRY(want_msr(r, KVM_EXIT_X86_RDMSR));
	r->run->msr.data = 0xaabbccdd55443322;
	TRY(want_out(r, 0x500, 4, 0x55443322));
	TRY(want_out(r, 0x500, 2, 0xccdd));
	TRY(want_msr(r, KVM_EXIT_X86_WRMSR));
	EXPECT(r, r->run->msr.data == 0x1122334455667788);
	TRY(want_msr(r, KVM_EXIT_X86_RDMSR));
	r->run->msr.error = 1;
	TRY(want_out(r, 0x501, 1, 13));
	return want_hlt(r);
}

static bool set_filter(struct rig *r, u32 flags, struct kvm_msr_filter_range *ranges, int count)
{
	struct kvm_msr_filter filter = {.flags = flags};
	int rc;

	for (int i = 0; i < count; i++)
		filter.ranges[i] = ranges[i];
	rc = rig_vm_ioctl(r, KVM_X86_SET_MSR_FILTER, &filter);
	return !rc || rig_fail(r, "KVM_X86_SET_MSR_FILTER: %s", strerror(-rc));
}

static bool want_filtered(struct rig *r, u32 exit, u32 index)
{
	TRY(want_exit(r, exit));
	EXPECT(r, r->run->msr.reason == KVM_MSR_EXIT_REASON_FILTER);
	EXPECT(r, r->run->msr.index == index);
	EXPECT(r, !r->run->msr.error);
	EXPECT(r, r->ram[rip_of(r)] == 0x0f); /* the instruction itself: it is not done */
	return true;
}

bool case_filtered_msr(struct rig *r)
{
	/* From 0x174 on, three: bit set is allowed. */
	u64 writes = 5, reads = 3;
	struct kvm_msr_filter_range ranges[] = {
		{.flags = KVM_MSR_FILTER_WRITE, .nmsrs = 3, .base = 0x174, .bitmap = (u8 *)&writes},
		{.flags = KVM_MSR_FILTER_READ, .nmsrs = 3, .base = 0x174, .bitmap = (u8 *)&reads},
	};

	TRY(rig_need(r, KVM_CAP_X86_MSR_FILTER, "the MSR filter"));
	TRY(rig_enable(r, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
	TRY(set_filter(r, KVM_MSR_FILTER_DEFAULT_ALLOW, ranges, 2));
	TRY(want_out(r, 0x500, 4, 0x3000));
	TRY(want_filtered(r, KVM_EXIT_X86_WRMSR, 0x175));
	EXPECT(r, r->run->msr.data == 0x3000);
	TRY(want_out(r, 0x500, 4, 0)); /* it was not written */
	TRY(want_filtered(r, KVM_EXIT_X86_RDMSR, 0x176));
	r->run->msr.data = 0x4711;
	TRY(want_out(r, 0x500, 4, 0x4711));
	return want_out(r, 0x501, 1, 13);
}

bool case_wild_jump(struct rig *r)
{
	TRY(want_exit(r, KVM_EXIT_INTERNAL_ERROR));
	EXPECT(r, r->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION);
	return true;
}

bool case_sync_regs(struct rig *r)
{
	TRY(rig_need(r, KVM_CAP_SYNC_REGS, "synced registers"));
	r->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	TRY(want_out(r, 0x500, 2, 0x1111));
	EXPECT(r, (r->run->s.regs.regs.rax & 0xffff) == 0x1111);
	r->run->s.regs.regs.rbx = 0x2222;
	r->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	TRY(want_out(r, 0x500, 2, 0x3333));
	return want_hlt(r);
}

bool case_hypercalls(struct rig *r)
{
	static const u32 results[] = {0, 0, 0, (u32)-22, 0, 0, (u32)-1000, (u32)-1000};

	for (u32 i = 0; i < ARRAY_SIZE(results); i++) {
		rig_ticks_start();
		for (int tries = 0; tries < 100; tries++) {
			TRY(rig_enter(r));
			if (!r->last_rc)
				break;
		}
		rig_ticks_stop();
		if (rig_is_kvm(r) && r->last_rc)
			return rig_skip(r, "this /dev/kvm emulates vmcall, and then it never ends");
		if (r->run->exit_reason != KVM_EXIT_IO || io_value(r) != results[i])
			return rig_fail(r, "call %u: exit %u, result 0x%x", i, r->run->exit_reason,
					io_value(r));
	}
	/* The kick ends one HLT; the second goes on. */
	rig_ticks_start();
	TRY(want_interrupted(r));
	rig_ticks_stop();
	return true;
}

bool case_hypercall(struct rig *r)
{
	TRY(rig_need(r, KVM_CAP_EXIT_HYPERCALL, "exits for hypercalls"));
	TRY(rig_enable(r, KVM_CAP_EXIT_HYPERCALL, 1 << 12 /* KVM_HC_MAP_GPA_RANGE */));
	rig_ticks_start();
	for (int i = 0; i < 100; i++) {
		TRY(rig_enter(r));
		if (!r->last_rc)
			break;
	}
	rig_ticks_stop();
	if (rig_is_kvm(r) && r->last_rc)
		return rig_skip(r, "this /dev/kvm emulates vmcall, and then it never ends");
	TRY(got_exit(r, KVM_EXIT_HYPERCALL));
	EXPECT(r, r->run->hypercall.nr == 12);
	EXPECT(r, r->run->hypercall.args[0] == 0x3000 && r->run->hypercall.args[1] == 2);
	r->run->hypercall.ret = 0x77;
	TRY(want_out(r, 0x500, 4, 0x77));
	return want_hlt(r);
}
