/*
 * Exits in a loop, for counting what one costs: real mode, no stack, no interrupts. Built once for
 * each KIND. A flat binary at 0x1000 takes the number of rounds in ecx; with -DCOUNT=N it is the
 * 64 KiB firmware of a machine that can start nothing else. Ends with a write of 0 to the
 * debug-exit port.
 */
#ifdef COUNT
#define BASE 0xf0000
#else
#define BASE 0x1000
#endif
#define FAR_MEMORY (KIND == KIND_MMIO || KIND == KIND_COALESCED)

	.code16
	.globl _start
_start:
#ifdef COUNT
	movl	$COUNT, %ecx
#endif
	movw	$0x80, %dx
	movw	$0x3ff, %si
#if FAR_MEMORY
	/* A 32-bit address from real mode: FS is given a 4 GiB limit (unreal mode). */
#ifdef COUNT
	lgdtl	%cs:(gdtr - _start)
#else
	lgdtl	%cs:(gdtr - _start + BASE)
#endif
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	movw	$8, %bx
	movw	%bx, %fs
	andb	$0xfe, %al
	movl	%eax, %cr0
	movl	$0xd0000000, %edi
#endif
	jecxz	2f
1:
#if KIND == KIND_PIO
	outb	%al, %dx
#elif KIND == KIND_SCRATCH
	movw	%si, %dx
	outb	%al, %dx
#elif FAR_MEMORY
	movl	%eax, %fs:(%edi)
#elif KIND == KIND_NOTHING
	nop
#endif
	addr32 loop	1b
2:
	xorl	%eax, %eax
	outb	%al, $0xf4
3:
	hlt
	jmp	3b

#if FAR_MEMORY
	.balign	8
gdt:
	.quad	0
	.quad	0x00cf92000000ffff
gdtr:
	.word	15
	.long	gdt - _start + BASE
#endif

#ifdef COUNT
	.org	0xfff0
	ljmp	$0xf000, $0
	.org	0x10000
#endif
