/*
 * Four processors at once: locked operations, locks, message passing, code that changes under the
 * others, shoot-downs of translations by IPI, messages from the monitor, memory that comes and
 * goes. What must hold is checked here; what fails is told by its line.
 */
#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* The first word of the data: the monitor's. */
volatile u32 smp_rounds __attribute__((section(".rounds"))) = 1;

static volatile u64 idt[256][2] __attribute__((aligned(16)));
static u32 ready, done;
static u64 added, exchanged, locked;
static u32 lock, shoot_lock;
static u32 generation, acks;
static u32 published;
static u64 message, message_seq, message_ack;
static volatile u32 messages[SMP_CPUS];

static void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" ::"a"(value), "d"(port) : "memory");
}

/* Waiting for another processor, which may want this one's host thread's place. */
static void wait(u32 *turns)
{
	asm volatile("pause" ::: "memory");
	if (++*turns % 256 == 0)
		outl(PORT_PING, *turns);
}

static void wrmsr(u32 n, u64 v)
{
	asm volatile("wrmsr" ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

static u64 rdmsr(u32 n)
{
	u32 a, d;

	asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
	return a | (u64)d << 32;
}

#define MUST(what)                                                                                 \
	do {                                                                                       \
		if (!(what))                                                                       \
			outl(PORT_FALSE, __LINE__);                                                \
	} while (0)

#define LOAD(x)	    __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define STORE(x, v) __atomic_store_n(&(x), v, __ATOMIC_RELEASE)

#define SHOTS 40 /* each processor shoots once in so many rounds */

/* ---- interrupts ---- */

struct frame;

static volatile u32 *window(void)
{
	return (volatile u32 *)(u64)WINDOW;
}

static void invlpg(u64 va)
{
	asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static void end_of_interrupt(void)
{
	wrmsr(0x80b, 0);
}

/* Somebody has changed what WINDOW maps: after INVLPG it is the new one. */
__attribute__((interrupt)) static void on_ipi(struct frame *f)
{
	invlpg(WINDOW);
	MUST(*window() == (LOAD(generation) & 1));
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
	end_of_interrupt();
}

__attribute__((interrupt)) static void on_msi(struct frame *f)
{
	messages[rdmsr(0x802) & 3]++;
	end_of_interrupt();
}

__attribute__((interrupt)) static void on_fault(struct frame *f)
{
	outl(PORT_FAULT, 0);
	for (;;)
		asm volatile("cli; hlt");
}

static void set_gate(int v, u64 handler)
{
	idt[v][1] = handler >> 32;
	idt[v][0] = (handler & 0xffff) | 8 << 16 | 0x8eUL << 40 | (handler & 0xffff0000) << 32;
}

static void start(u32 id)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = {sizeof(idt) - 1, (u64)idt};
	u32 turns = 0;

	if (!id) {
		for (int v = 0; v < 32; v++)
			set_gate(v, (u64)on_fault);
		set_gate(IPI_VECTOR, (u64)on_ipi);
		set_gate(MSI_VECTOR, (u64)on_msi);
		*(volatile u32 *)(u64)FRAME0 = 0;
		*(volatile u32 *)(u64)FRAME1 = 1;
	}
	asm volatile("lidt %0" ::"m"(idtr) : "memory");
	wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
	wrmsr(0x80f, 0x1ff);
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (LOAD(ready) != SMP_CPUS)
		wait(&turns);
	asm volatile("sti");
}

/* ---- what each round does ---- */

static void take(u32 *l)
{
	u32 turns = 0;

	while (__atomic_exchange_n(l, 1, __ATOMIC_ACQUIRE))
		while (LOAD(*l))
			wait(&turns);
}

static void give(u32 *l)
{
	__atomic_store_n(l, 0, __ATOMIC_RELEASE);
}

static void count(void)
{
	u64 old = __atomic_load_n(&exchanged, __ATOMIC_RELAXED);

	__atomic_fetch_add(&added, 1, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&exchanged, &old, old + 1, 0, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED))
		;
	take(&lock);
	locked++;
	give(&lock);
}

/* Processor 0 sends, 1 receives: plain stores and loads, in the order that x86 keeps. */
static void pass(u32 id, u32 round)
{
	volatile u64 *data = &message, *seq = &message_seq, *ack = &message_ack;

	if (id == 0) {
		if (*ack != *seq)
			return;
		*data = ((u64)round << 32 | round) * 3;
		*seq = *seq + 1;
	} else if (id == 1 && *seq != *ack) {
		u64 v = *data;

		MUST((v / 3 >> 32) == (u32)(v / 3));
		*ack = *seq;
	}
}

/* Processor 0 changes the immediate of a function that all call. */
static void modify(u32 id, u32 round)
{
	volatile u32 *imm = (volatile u32 *)(u64)(FUNCTION + 1);
	u32 least, a = 0, b, c, d, got;

	if (id == 0) {
		*imm = round;
		STORE(published, round);
		return;
	}
	least = LOAD(published);
	if (!least)
		return;
	asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d)); /* serialize */
	asm volatile("call *%1" : "=a"(got) : "r"((u64)FUNCTION) : "memory");
	MUST(got >= least);
}

static void shoot_down(void)
{
	volatile u64 *pte = (volatile u64 *)(u64)WINDOW_PT;
	u32 g, turns = 0;

	take(&shoot_lock);
	g = generation + 1;
	STORE(acks, 0);
	*pte = (g & 1 ? FRAME1 : FRAME0) | 3;
	STORE(generation, g);
	invlpg(WINDOW);
	wrmsr(0x830, 3 << 18 | IPI_VECTOR); /* all but this one */
	while (LOAD(acks) != SMP_CPUS - 1)
		wait(&turns);
	MUST(*window() == (g & 1));
	give(&shoot_lock);
}

/* Memory that is logged, memory that may not be there, and a port. */
static void touch(u32 id, u32 round)
{
	volatile u32 *page =
		(volatile u32 *)(u64)(LOGGED + (round * SMP_CPUS + id) % LOGGED_PAGES * 4096);
	volatile u32 *coming = (volatile u32 *)(u64)(COMING + 4 * id);

	page[id] = round;
	MUST(page[id] == round);
	if (round % 8 == 0) {
		*coming = round;
		(void)*coming;
	}
	if (round % 16 == 0)
		outl(PORT_PING, id);
}

void smp_main(u32 id)
{
	u32 turns = 0;

	start(id);
	for (u32 round = 1; round <= smp_rounds; round++) {
		count();
		pass(id, round);
		modify(id, round);
		touch(id, round);
		if (round % SHOTS == id)
			shoot_down();
	}
	__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
	while (LOAD(done) != SMP_CPUS)
		wait(&turns);
	MUST(LOAD(added) == (u64)SMP_CPUS * smp_rounds);
	MUST(LOAD(exchanged) == (u64)SMP_CPUS * smp_rounds);
	MUST(LOAD(locked) == (u64)SMP_CPUS * smp_rounds);
	MUST(LOAD(generation) == smp_rounds / SHOTS * SMP_CPUS);
	/* the monitor's thread may not have had a turn since the start: it sends until all are done
	 */
	while (id == SMP_CPUS - 1 && !messages[id])
		wait(&turns);
	asm volatile("cli");
	outl(PORT_DONE, messages[id]);
}
