/* Power-on state of a vCPU (SDM volume 3, table 10-1), its dump, and the trace of its exits. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "engine/vcpu_int.h"

static void reset_segment(struct kvm_segment *s, u16 selector, u64 base, u8 type, u8 system)
{
	*s = (struct kvm_segment){
		.selector = selector,
		.base = base,
		.limit = 0xffff,
		.type = type,
		.s = !system,
		.present = 1,
	};
}

static int reset_sregs(struct vcpu *vcpu)
{
	struct kvm_sregs old, s = {0};
	int rc = vcpu_ioctl(vcpu, KVM_GET_SREGS, &old);

	if (rc)
		return rc;
	reset_segment(&s.cs, 0xf000, 0xffff0000, 11, 0);
	reset_segment(&s.ds, 0, 0, 3, 0);
	s.es = s.fs = s.gs = s.ss = s.ds;
	reset_segment(&s.ldt, 0, 0, 2, 1);
	reset_segment(&s.tr, 0, 0, 11, 1);
	s.gdt.limit = s.idt.limit = 0xffff;
	s.cr0 = 0x60000010;
	/* Enabled at the usual place, BSP where it was (SDM volume 3, 11.4.4). */
	s.apic_base = 0xfee00000 | 0x800 | (vcpu->config.index ? 0 : 0x100);
	return vcpu_ioctl(vcpu, KVM_SET_SREGS, &s);
}

static int reset_msrs(struct vcpu *vcpu)
{
	static const struct {
		u32 index;
		u64 value;
	} values[] = {
		{0x10, 0},
		{0x174, 0},
		{0x175, 0},
		{0x176, 0},
		{0x277, 0x0007040600070406ULL},
		{0x2ff, 0},
		{0xc0000081, 0},
		{0xc0000082, 0},
		{0xc0000083, 0},
		{0xc0000084, 0},
		{0xc0000102, 0},
		{0x4b564d00, 0},
		{0x4b564d01, 0},
		{0x4b564d02, 0},
		{0x4b564d03, 0},
		{0x4b564d04, 0},
		{0x12, 0},
		{0x11, 0},
		{0x1d9, 0},
	};

	/* One by one: an engine may lack some, and KVM_SET_MSRS stops at the first it refuses. */
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} msr = {{.nmsrs = 1}, {.index = values[i].index, .data = values[i].value}};
		int rc = vcpu_ioctl(vcpu, KVM_SET_MSRS, &msr);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* xAPIC registers: ID and version stay, DFR all ones, SVR 0xff, the LVTs masked. */
static int reset_lapic(struct vcpu *vcpu)
{
	static const u16 lvt[] = {0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370};
	struct kvm_lapic_state old, apic = {{0}};
	int rc = vcpu_ioctl(vcpu, KVM_GET_LAPIC, &old);

	if (rc)
		return rc == -EINVAL || rc == -ENOTTY ? 0 : rc; /* no in-kernel LAPIC */
	memcpy(apic.regs + 0x20, old.regs + 0x20, 4);
	/* The format of the ID follows the mode, which has just become xAPIC. */
	store_le32(apic.regs + 0x20, vcpu->config.apic_id << 24);
	memcpy(apic.regs + 0x30, old.regs + 0x30, 4);
	store_le32(apic.regs + 0xe0, ~0u);
	store_le32(apic.regs + 0xf0, 0xff);
	for (size_t i = 0; i < ARRAY_SIZE(lvt); i++)
		store_le32(apic.regs + lvt[i], 0x10000);
	/* LINT0 as ExtINT on the boot processor, LINT1 as NMI: virtual wire mode, which firmware
	 * would set up (MultiProcessor Specification 1.4, 3.6.2.2). */
	if (!vcpu->config.index)
		store_le32(apic.regs + 0x350, 0x700);
	store_le32(apic.regs + 0x360, 0x400);
	return vcpu_ioctl(vcpu, KVM_SET_LAPIC, &apic);
}

static int reset_rest(struct vcpu *vcpu)
{
	struct kvm_regs regs = {.rdx = 0x600, .rip = 0xfff0, .rflags = 2};
	struct kvm_fpu fpu = {.fcw = 0x37f, .mxcsr = 0x1f80};
	struct kvm_debugregs dr = {.dr6 = 0xffff0ff0, .dr7 = 0x400};
	struct kvm_vcpu_events events = {0};
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = 1}};
	int rc = vcpu_ioctl(vcpu, KVM_SET_REGS, &regs);

	if (!rc)
		rc = vcpu_ioctl(vcpu, KVM_SET_FPU, &fpu);
	if (!rc)
		rc = vcpu_ioctl(vcpu, KVM_SET_DEBUGREGS, &dr);
	if (!rc)
		rc = vcpu_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events);
	if (!rc)
		vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs); /* absent without XSAVE */
	return rc;
}

int vcpu_reset(struct vcpu *vcpu)
{
	struct kvm_mp_state mp = {.mp_state = vcpu->config.index ? KVM_MP_STATE_UNINITIALIZED
								 : KVM_MP_STATE_RUNNABLE};
	int rc = reset_sregs(vcpu);

	if (!rc)
		rc = reset_rest(vcpu);
	if (!rc)
		rc = reset_msrs(vcpu);
	if (!rc)
		rc = reset_lapic(vcpu);
	if (!rc)
		vcpu_ioctl(vcpu, KVM_SET_MP_STATE, &mp); /* absent without in-kernel LAPIC */
	return rc;
}

/* ---- dump ---- */

static void dump_segment(const char *name, const struct kvm_segment *s)
{
	log_error("  %-3s %04x base %016llx limit %08x type %x%s%s%s dpl %u", name, s->selector,
		  (unsigned long long)s->base, s->limit, s->type,
		  s->l	  ? " 64"
		  : s->db ? " 32"
			  : "",
		  s->present ? "" : " not present", s->s ? "" : " system", s->dpl);
}

static void dump_code(struct vcpu *vcpu, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	struct kvm_translation t = {.linear_address = s->cs.base + r->rip};
	char text[3 * 16 + 1] = "";
	u8 bytes[16];

	if (s->cs.l)
		t.linear_address = r->rip;
	if (!vcpu->read_mem || vcpu_ioctl(vcpu, KVM_TRANSLATE, &t) || !t.valid) {
		log_error("  code at rip: not readable");
		return;
	}
	for (u32 i = 0; i < sizeof(bytes); i++) {
		if (vcpu->read_mem(vcpu->read_ctx, t.physical_address + i, &bytes[i], 1))
			break;
		snprintf(text + 3 * i, 4, " %02x", bytes[i]);
	}
	log_error("  code at rip:%s", text[0] ? text : " not readable");
}

#define LL(x) ((unsigned long long)(x))

void vcpu_dump(struct vcpu *vcpu)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (vcpu_ioctl(vcpu, KVM_GET_REGS, &r) || vcpu_ioctl(vcpu, KVM_GET_SREGS, &s)) {
		log_error("vCPU %u: registers not readable", vcpu->config.index);
		return;
	}
	log_error("vCPU %u: rip %016llx rflags %08llx", vcpu->config.index, LL(r.rip),
		  LL(r.rflags));
	log_error("  rax %016llx rbx %016llx rcx %016llx rdx %016llx", LL(r.rax), LL(r.rbx),
		  LL(r.rcx), LL(r.rdx));
	log_error("  rsi %016llx rdi %016llx rsp %016llx rbp %016llx", LL(r.rsi), LL(r.rdi),
		  LL(r.rsp), LL(r.rbp));
	log_error("  r8  %016llx r9  %016llx r10 %016llx r11 %016llx", LL(r.r8), LL(r.r9),
		  LL(r.r10), LL(r.r11));
	log_error("  r12 %016llx r13 %016llx r14 %016llx r15 %016llx", LL(r.r12), LL(r.r13),
		  LL(r.r14), LL(r.r15));
	dump_segment("cs", &s.cs);
	dump_segment("ss", &s.ss);
	dump_segment("ds", &s.ds);
	log_error("  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx", LL(s.cr0), LL(s.cr2),
		  LL(s.cr3), LL(s.cr4), LL(s.efer));
	log_error("  gdt %016llx+%x idt %016llx+%x", LL(s.gdt.base), s.gdt.limit, LL(s.idt.base),
		  s.idt.limit);
	dump_code(vcpu, &r, &s);
}

/* ---- trace ---- */

static void trace_bytes(char *out, size_t cap, const u8 *data, size_t len)
{
	size_t n = 0;

	out[0] = '\0';
	for (size_t i = 0; i < len && i < 16 && n + 3 < cap; i++)
		n += (size_t)snprintf(out + n, cap - n, "%02x", data[i]);
	if (len > 16)
		snprintf(out + n, cap - n, "...");
}

void vcpu_trace_exit(const struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	const char *name = vcpu_exit_name(run->exit_reason) + 9; /* without KVM_EXIT_ */
	char data[64];

	if (run->exit_reason == KVM_EXIT_IO) {
		trace_bytes(data, sizeof(data), (const u8 *)run + run->io.data_offset,
			    (size_t)run->io.size * run->io.count);
		fprintf(vcpu->config.trace, "%u %s %s port=0x%x size=%u count=%u data=%s\n",
			vcpu->config.index, name,
			run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port,
			run->io.size, run->io.count, data);
	} else if (run->exit_reason == KVM_EXIT_MMIO) {
		trace_bytes(data, sizeof(data), run->mmio.data, min(run->mmio.len, 8u));
		fprintf(vcpu->config.trace, "%u %s %s addr=0x%llx size=%u data=%s\n",
			vcpu->config.index, name, run->mmio.is_write ? "write" : "read",
			LL(run->mmio.phys_addr), run->mmio.len, data);
	} else {
		fprintf(vcpu->config.trace, "%u %s\n", vcpu->config.index, name);
	}
}
