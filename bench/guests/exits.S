/*
 * Exits in a loop, for counting what one costs: real mode at 0x1000, no stack, no interrupts.
 * Built once for each KIND, with -DKIND=... Registers at entry: ecx (set by --reg rcx=N) is the
 * number of rounds. Ends with a write of 0 to the debug-exit port.
 */
	.code16
	.globl _start
_start:
	movw	$0x80, %dx
	movw	$0x3ff, %si
#if KIND == KIND_MMIO || KIND == KIND_COALESCED
	/* A 32-bit address from real mode: FS is given a 4 GiB limit (unreal mode). */
	lgdtl	%cs:(gdtr - _start + 0x1000)
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
#elif KIND == KIND_MMIO || KIND == KIND_COALESCED
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

#if KIND == KIND_MMIO || KIND == KIND_COALESCED
	.balign	8
gdt:
	.quad	0
	.quad	0x00cf92000000ffff
gdtr:
	.word	15
	.long	gdt - _start + 0x1000
#endif
