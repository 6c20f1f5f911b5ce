/*
 * A case on the host CPU: signals carry the state in and out.
 *
 * 1. UD2 in host_run() raises SIGILL; the handler replaces the interrupted context by the case's
 * start state, and returns into the case.
 * 2. The case ends with an exception, whose handler keeps the context and puts back the one of 1.
 * 3. While a case runs, FS is not the C library's: a handler first restores it, and clears AC,
 * before it runs any compiled code that could depend on them.
 * 4. A case that is still the same at the second tick of a timer is given up. The timer's signal is
 *    SIGSYS too, because softkvm puts handlers of its own before those of ordinary signals.
 * 5. A system call made from the low 4 GiB, where only cases run, is refused by seccomp: SIGSYS.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "state.h"

#define USER_CS32 0x23
#define USER_DS	  0x2b
#define USER_CS64 0x33
#define ALT_STACK (256 * 1024)

#define XSTATE_BV 512
#define XMM_AVX	  576
#define SW_BYTES  464 /* of the frame's FXSAVE image: the kernel's from here to 512 */

/* Signal handlers have no argument of ours: the state of the runner is here. */
static struct {
	const struct diff_case *now;
	struct diff_state *end;
	bool in_case;
	u64 count, seen; /* cases; at the last tick of the timer */
	u64 fs_base;
	gregset_t gregs; /* of host_run() */
	u8 xsave[XSAVE_SIZE];
} run;

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				REG_R12, REG_R13, REG_R14, REG_R15};

#define IN_HANDLER __attribute__((no_stack_protector, noinline))

static void xsave_put(u8 *frame, const u8 *area)
{
	u64 bv;

	memcpy(frame, area, SW_BYTES);
	memcpy(&bv, frame + XSTATE_BV, 8);
	bv |= 7;
	memcpy(frame + XSTATE_BV, &bv, 8);
	memcpy(frame + XMM_AVX, area + XMM_AVX, XSAVE_SIZE - XMM_AVX);
}

static void xsave_get(u8 *area, const u8 *frame)
{
	memset(area + SW_BYTES, 0, XMM_AVX - SW_BYTES);
	memcpy(area, frame, SW_BYTES);
	memcpy(area + XMM_AVX, frame + XMM_AVX, XSAVE_SIZE - XMM_AVX);
}

IN_HANDLER static void case_enter(ucontext_t *uc)
{
	const struct diff_state *s = &run.now->start;
	greg_t *g = uc->uc_mcontext.gregs;
	u8 *frame = (u8 *)uc->uc_mcontext.fpregs;

	memcpy(run.gregs, g, sizeof(run.gregs));
	xsave_get(run.xsave, frame);
	for (int i = 0; i < 16; i++)
		g[greg_of[i]] = (greg_t)s->gpr[i];
	g[REG_RIP] = (greg_t)s->rip;
	g[REG_EFL] = (greg_t)s->rflags;
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | (s->code32 ? USER_CS32 : USER_CS64);
	xsave_put(frame, s->xsave);
	run.in_case = true;
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(USER_DS));
	__asm__ volatile("mov %0, %%fs\n\tmov %0, %%gs" : : "r"(0));
	__asm__ volatile("wrgsbase %0" : : "r"((u64)DATA_BASE + GS_OFFSET));
	__asm__ volatile("wrfsbase %0" : : "r"((u64)DATA_BASE + FS_OFFSET) : "memory");
}

IN_HANDLER static void case_leave(int sig, ucontext_t *uc)
{
	struct diff_state *e = run.end;
	greg_t *g = uc->uc_mcontext.gregs;
	u8 *frame = (u8 *)uc->uc_mcontext.fpregs;

	run.in_case = false;
	for (int i = 0; i < 16; i++)
		e->gpr[i] = (u64)g[greg_of[i]];
	e->rip = (u64)g[REG_RIP];
	e->rflags = (u64)g[REG_EFL];
	e->code32 = (g[REG_CSGSFS] & 0xffff) == USER_CS32;
	e->vector = (u32)g[REG_TRAPNO];
	e->error = (u32)g[REG_ERR];
	e->cr2 = (u64)g[REG_CR2];
	if (sig == SIGSYS)
		e->vector = VECTOR_SKIP;
	xsave_get(e->xsave, frame);
	memcpy(g, run.gregs, sizeof(run.gregs));
	g[REG_RIP] += 2; /* past UD2 */
	xsave_put(frame, run.xsave);
}

void host_handler_body(int sig, siginfo_t *info, void *context);

IN_HANDLER void host_handler_body(int sig, siginfo_t *info, void *context)
{
	bool timer = info->si_code == SI_TIMER;

	if (timer && (!run.in_case || run.seen != run.count)) {
		run.seen = run.count;
	} else if (run.in_case) {
		__asm__ volatile("wrfsbase %0" : : "r"(run.fs_base) : "memory");
		case_leave(sig, context);
	} else if (sig == SIGILL && run.now) {
		case_enter(context);
	} else {
		signal(sig, SIG_DFL); /* the test's own fault: again, and die of it */
	}
}

/* Signals are delivered with the case's AC flag. */
void host_handler(int sig, siginfo_t *info, void *context);
__asm__(".text\n"
	".globl host_handler\n"
	"host_handler:\n"
	"	pushfq\n"
	"	andl $~0x40400, (%rsp)\n"
	"	popfq\n"
	"	jmp host_handler_body\n");

static int refuse_system_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(code), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return -errno;
	return 0;
}

static int map_at(u64 addr, u64 size, int prot)
{
	void *p = mmap((void *)addr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
		       -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	return p == (void *)addr ? 0 : -EEXIST;
}

/* Two mappings of the pages that a case may not write. */
static u8 *code_rw, *ro_rw;

static u8 *map_twice(u64 addr, u64 size, int prot)
{
	int fd = memfd_create("diff", MFD_CLOEXEC);
	void *rw, *p;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		return NULL;
	rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	p = mmap((void *)addr, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	close(fd);
	return rw == MAP_FAILED || p != (void *)addr ? NULL : rw;
}

static int start_timer(void)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGSYS};
	struct itimerspec tick = {{.tv_nsec = 50000000}, {.tv_nsec = 50000000}};
	timer_t timer;

	ev._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) || timer_settime(timer, 0, &tick, NULL))
		return -errno;
	return 0;
}

static int install_handlers(void)
{
	static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGSYS};
	struct sigaction sa = {.sa_sigaction = host_handler,
			       .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	stack_t ss = {.ss_sp = malloc(ALT_STACK), .ss_size = ALT_STACK};

	if (!ss.ss_sp || sigaltstack(&ss, NULL))
		return -errno;
	for (unsigned int i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], &sa, NULL))
			return -errno;
	return 0;
}

int host_init(void)
{
	int ret;

	if (!(getauxval(AT_HWCAP2) & 2)) /* FSGSBASE */
		return -ENOTSUP;
	ret = map_at(DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE);
	if (ret)
		return ret;
	code_rw = map_twice(CODE_BASE, CODE_SIZE, PROT_READ | PROT_EXEC);
	ro_rw = map_twice(RO_BASE, RO_SIZE, PROT_READ);
	if (!code_rw || !ro_rw)
		return -ENOMEM;
	/* error codes tell whether a page is present: make all of them so */
	for (u64 a = 0; a < CODE_SIZE; a += PAGE_SIZE)
		(void)*(volatile u8 *)(CODE_BASE + a);
	(void)*(volatile u8 *)(u64)RO_BASE;
	syscall(SYS_arch_prctl, ARCH_GET_FS, &run.fs_base);
	ret = install_handlers();
	if (!ret)
		ret = start_timer();
	return ret ? ret : refuse_system_calls();
}

void host_run(const struct diff_case *c, struct diff_state *end)
{
	memcpy(code_rw, c->code, CODE_SIZE);
	memcpy((void *)(u64)DATA_BASE, c->mem, DATA_SIZE);
	memcpy(ro_rw, c->mem + DATA_SIZE, RO_SIZE);
	run.now = c;
	run.end = end;
	run.count++;
	/* ID and NT go into the case, and come out of it, as they are now. */
	__asm__ volatile("pushq $0x202\n\tpopfq\n\tud2" : : : "memory", "cc");
	run.now = NULL;
}

const u8 *host_data(void)
{
	return (const u8 *)(u64)DATA_BASE;
}
