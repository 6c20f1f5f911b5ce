/* For the guest programs: freestanding, 32-bit or 64-bit. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word; /* a register */

#define BIT(n) (1ULL << (n))

#define K_CODE32 0x08
#define K_DATA	 0x10
#define K_CODE64 0x18
#define U_DATA	 0x23
#define U_CODE64 0x2b
#define U_CODE32 0x33
#define FREE_SEL 0x40 /* this and what follows is for the tests */

extern volatile u64 gdt[];

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" ::"a"(value), "d"(port));
}

static inline u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "d"(port));
	return value;
}

/* What a venue cannot stand: QEMU's TCG lets reserved bits into CR3, L and D into CS, and a null
 * selector into TR; KVM above it then finds the state unfit for VMRUN, or QEMU itself gives up. */
#define SKIP_UNFIT 1

static inline int skips(int what)
{
	return inb(0xea) & what;
}

static inline void put(const char *s)
{
	while (*s)
		outb(0xe9, (u8)*s++);
}

static inline void put_hex(u64 v)
{
	int shift = 60;

	while (shift && !(v >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		outb(0xe9, (u8) "0123456789abcdef"[(v >> shift) & 15]);
}

static inline void show(const char *name, u64 v)
{
	put(" ");
	put(name);
	put("=");
	put_hex(v);
}

#endif
