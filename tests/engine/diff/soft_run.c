/*
 * A case in softkvm, by its KVM API: 64-bit (or compatibility) mode at CPL 3, the case's pages at
 * their linear addresses, everything of the supervisor's in the high half. Each exception's handler
 * is HLT.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "state.h"

/* Guest-physical layout of the supervisor's 2 MiB; linear addresses are HIGH + these. */
enum {
	PML4 = 0x1000,
	PDPT_LOW = 0x2000,
	PD_LOW = 0x3000,
	PT_LOW = 0x4000,
	PDPT_HIGH = 0x5000,
	PD_HIGH = 0x6000,
	IDT = 0x8000,
	GDT = 0x9000,
	TSS = 0xa000,
	STACK_TOP = 0xc000,
	HANDLERS = 0xd000,
};

#define HIGH	  0xffff800000000000ull
#define SYS_SIZE  (2 * MiB)
#define CASE_SIZE 0x30000ull /* from CODE_BASE */
#define PTE_P	  1ull
#define PTE_W	  2ull
#define PTE_U	  4ull
#define PTE_PS	  0x80ull
#define PTE_NX	  (1ull << 63)
#define KERNEL_CS 0x10
#define KERNEL_DS 0x18
#define USER_CS32 0x23
#define USER_DS	  0x2b
#define USER_CS64 0x33
#define TSS_SEL	  0x40
#define CPUID_MAX 128

static struct {
	const struct engine_class *engine;
	int sys, vm, vcpu;
	struct kvm_run *run;
	u8 *sys_mem, *case_mem;
	struct kvm_sregs sregs[2]; /* start of a case; by code32 */
	struct kvm_xsave xsave;
} soft;

static int soft_ioctl(int fd, unsigned long request, void *arg)
{
	return soft.engine->ioctl(fd, request, (unsigned long)arg);
}

static void put64(u64 gpa, u64 value)
{
	memcpy(soft.sys_mem + gpa, &value, 8);
}

static void map_pages(void)
{
	static const struct {
		u64 addr, size, flags;
	} maps[] = {
		{CODE_BASE, CODE_SIZE, 0},
		{DATA_BASE, DATA_SIZE, PTE_W | PTE_NX},
		{RO_BASE, RO_SIZE, PTE_NX},
	};

	put64(PML4, PDPT_LOW | PTE_P | PTE_W | PTE_U);
	put64(PDPT_LOW, PD_LOW | PTE_P | PTE_W | PTE_U);
	put64(PD_LOW + 8 * (CODE_BASE >> 21), PT_LOW | PTE_P | PTE_W | PTE_U);
	for (unsigned int i = 0; i < ARRAY_SIZE(maps); i++)
		for (u64 a = maps[i].addr; a < maps[i].addr + maps[i].size; a += PAGE_SIZE)
			put64(PT_LOW + 8 * ((a >> 12) & 511), a | PTE_P | PTE_U | maps[i].flags);
	put64(PML4 + 8 * 256, PDPT_HIGH | PTE_P | PTE_W);
	put64(PDPT_HIGH, PD_HIGH | PTE_P | PTE_W);
	put64(PD_HIGH, PTE_PS | PTE_P | PTE_W);
}

static void tables(void)
{
	static const struct {
		unsigned int sel;
		u64 desc;
	} gdt[] = {
		{KERNEL_CS, 0x00af9b000000ffff},       {KERNEL_DS, 0x00cf93000000ffff},
		{USER_CS32 & ~3u, 0x00cffb000000ffff}, {USER_DS & ~3u, 0x00cff3000000ffff},
		{USER_CS64 & ~3u, 0x00affb000000ffff},
	};
	u64 tss = HIGH + TSS;

	for (unsigned int i = 0; i < ARRAY_SIZE(gdt); i++)
		put64(GDT + gdt[i].sel, gdt[i].desc);
	put64(GDT + TSS_SEL,
	      0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
	put64(GDT + TSS_SEL + 8, tss >> 32);
	put64(TSS + 4, HIGH + STACK_TOP);
	put64(TSS + 0x60, 0x68ull << 48); /* no I/O permission map */
	for (unsigned int v = 0; v < 32; v++) {
		u64 h = HIGH + HANDLERS + 16 * v, dpl = v == 3 || v == 4 ? 3 : 0;

		put64(IDT + 16 * v, (h & 0xffff) | KERNEL_CS << 16 | (0x8eull | dpl << 5) << 40 |
					    (h >> 16 & 0xffff) << 48);
		put64(IDT + 16 * v + 8, h >> 32);
		soft.sys_mem[HANDLERS + 16 * v] = 0xf4; /* HLT */
	}
}

static struct kvm_segment segment(u16 sel, u8 type, bool code, bool l)
{
	return (struct kvm_segment){.selector = sel,
				    .limit = ~0u,
				    .type = type,
				    .present = 1,
				    .dpl = 3,
				    .db = !l,
				    .s = 1,
				    .l = l,
				    .g = 1};
}

static int start_sregs(void)
{
	struct kvm_sregs *s = &soft.sregs[0];
	int ret = soft_ioctl(soft.vcpu, KVM_GET_SREGS, s);

	if (ret < 0)
		return ret;
	s->cr0 = 0x80050033;
	s->cr3 = PML4;
	s->cr4 = 0x20 | 0x80 | 0x600 | 0x10000 | 0x40000; /* PAE PGE OSFXSR.. FSGSBASE OSXSAVE */
	s->efer = 1 << 8 | 1 << 10 | 1 << 11;
	s->cs = segment(USER_CS64, 11, true, true);
	s->ss = s->ds = s->es = segment(USER_DS, 3, false, false);
	s->fs = s->gs = (struct kvm_segment){.unusable = 1};
	s->fs.base = DATA_BASE + FS_OFFSET;
	s->gs.base = DATA_BASE + GS_OFFSET;
	s->ldt = (struct kvm_segment){.unusable = 1};
	s->tr = (struct kvm_segment){
		.base = HIGH + TSS, .limit = 0x67, .selector = TSS_SEL, .type = 11, .present = 1};
	s->gdt.base = HIGH + GDT;
	s->gdt.limit = 127; /* as the host's */
	s->idt.base = HIGH + IDT;
	s->idt.limit = 16 * 32 - 1;
	soft.sregs[1] = *s;
	soft.sregs[1].cs = segment(USER_CS32, 11, true, false);
	return 0;
}

static int set_cpuid(void)
{
	static _Alignas(8)
		u8 buf[sizeof(struct kvm_cpuid2) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
	struct kvm_cpuid2 *cpuid = (void *)buf;
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 7}}};
	int ret;

	cpuid->nent = CPUID_MAX;
	ret = soft_ioctl(soft.sys, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_SET_CPUID2, cpuid);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_SET_XCRS, &xcrs);
	return ret;
}

static int add_memory(u32 slot, u64 gpa, u64 size, u8 **mem)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {.slot = slot,
						     .guest_phys_addr = gpa,
						     .memory_size = size,
						     .userspace_addr = (u64)p};

	if (p == MAP_FAILED)
		return -errno;
	*mem = p;
	return soft_ioctl(soft.vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int soft_init(const char *engine)
{
	struct err err = {0};
	int ret;

	soft.engine = engine_lookup(engine);
	if (!soft.engine)
		return -ENOENT;
	soft.sys = soft.engine->open(&err);
	if (soft.sys < 0)
		return soft.sys;
	soft.vm = soft.engine->ioctl(soft.sys, KVM_CREATE_VM, 0);
	if (soft.vm < 0)
		return soft.vm;
	ret = add_memory(0, 0, SYS_SIZE, &soft.sys_mem);
	if (ret >= 0)
		ret = add_memory(1, CODE_BASE, CASE_SIZE, &soft.case_mem);
	if (ret < 0)
		return ret;
	map_pages();
	tables();
	soft.vcpu = soft.engine->ioctl(soft.vm, KVM_CREATE_VCPU, 0);
	if (soft.vcpu < 0)
		return soft.vcpu;
	soft.run = soft.engine->mmap(soft.vcpu, 3 * PAGE_SIZE);
	if (!soft.run)
		return -errno;
	ret = start_sregs();
	return ret < 0 ? ret : set_cpuid();
}

/* kvm_regs has its own order. */
static void regs_put(struct kvm_regs *r, const struct diff_state *s)
{
	const u64 *g = s->gpr;

	*r = (struct kvm_regs){g[0], g[3],  g[1],  g[2],  g[6],	 g[7],	g[4],  g[5],   g[8],
			       g[9], g[10], g[11], g[12], g[13], g[14], g[15], s->rip, s->rflags};
}

static void regs_get(struct diff_state *s, const struct kvm_regs *r)
{
	const u64 g[16] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
			   r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};

	memcpy(s->gpr, g, sizeof(g));
}

static bool has_error_code(u32 vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* The exception frame on the supervisor's stack. */
static void frame_get(struct diff_state *s, const struct kvm_regs *r)
{
	u64 frame[6], *f = frame;
	u64 offset = r->rip - HIGH - HANDLERS;

	s->vector = offset < 32 * 16 ? (u32)(offset / 16) : VECTOR_SKIP + 1;
	if (s->vector > VECTOR_SKIP || r->rsp - HIGH > STACK_TOP - 40)
		return;
	memset(frame, 0, sizeof(frame));
	memcpy(frame, soft.sys_mem + (r->rsp - HIGH), has_error_code(s->vector) ? 48 : 40);
	if (has_error_code(s->vector))
		s->error = (u32)*f++;
	s->rip = f[0];
	s->code32 = f[1] == USER_CS32;
	s->rflags = f[2];
	s->gpr[4] = f[3];
}

static int set_start(const struct diff_case *c)
{
	struct kvm_regs regs;
	int ret;

	regs_put(&regs, &c->start);
	memcpy(soft.xsave.region, c->start.xsave, XSAVE_SIZE);
	ret = soft_ioctl(soft.vcpu, KVM_SET_SREGS, &soft.sregs[c->start.code32]);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_SET_REGS, &regs);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_SET_XSAVE, &soft.xsave);
	return ret;
}

static int get_end(struct diff_state *end)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int ret;

	ret = soft_ioctl(soft.vcpu, KVM_GET_REGS, &regs);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_GET_SREGS, &sregs);
	if (ret >= 0)
		ret = soft_ioctl(soft.vcpu, KVM_GET_XSAVE, &soft.xsave);
	if (ret < 0)
		return ret;
	regs_get(end, &regs);
	frame_get(end, &regs);
	end->cr2 = sregs.cr2;
	memcpy(end->xsave, soft.xsave.region, XSAVE_SIZE);
	return 0;
}

/* A failure of the API itself ends with a vector that nothing has. */
void soft_run(const struct diff_case *c, struct diff_state *end)
{
	int ret;

	memset(end, 0, sizeof(*end));
	memcpy(soft.case_mem, c->code, CODE_SIZE);
	memcpy(soft.case_mem + (DATA_BASE - CODE_BASE), c->mem, DATA_SIZE);
	memcpy(soft.case_mem + (RO_BASE - CODE_BASE), c->mem + DATA_SIZE, RO_SIZE);
	if (soft.engine->memory_written)
		soft.engine->memory_written(soft.vm, CODE_BASE, CODE_SIZE);
	ret = set_start(c);
	if (ret >= 0)
		ret = soft.engine->ioctl(soft.vcpu, KVM_RUN, 0);
	if (ret >= 0 && soft.run->exit_reason == KVM_EXIT_HLT)
		ret = get_end(end);
	else if (ret >= 0)
		end->vector = VECTOR_SKIP + 100 + soft.run->exit_reason;
	if (ret < 0)
		end->vector = VECTOR_SKIP + 1000 + (u32)-ret;
}

const u8 *soft_data(void)
{
	return soft.case_mem + (DATA_BASE - CODE_BASE);
}
