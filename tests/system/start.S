/*
 * From the reset vector to C, in 32-bit (BITS == 32) or long mode. The image is linked at 0x8000, so
 * that real mode reaches it with a segment of 0, and starts by copying itself there from the ROM.
 */
	.code16
	.section .text.start, "ax"
	.globl _start
_start:
	cli
	cld
	movw $0xf000, %ax
	movw %ax, %ds
	xorw %ax, %ax
	movw %ax, %es
	xorw %si, %si
	movw $0x8000, %di
	movw $0x4000, %cx
	rep movsw
	ljmp $0, $real
real:
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7000, %sp
	movw $0xe9, %dx
	movb $'r', %al
	outb %al, %dx
	movb $'\n', %al
	outb %al, %dx
	lgdtl gdt_pointer
	movl %cr0, %eax
	orl $0x21, %eax		/* PE, NE */
	andl $0x9fffffff, %eax	/* caches on */
	movl %eax, %cr0
	ljmpl $0x08, $protected
	.code32
protected:
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movl $stack_top, %esp
	/* .bss */
	movl $bss_start, %edi
	movl $bss_end, %ecx
	subl %edi, %ecx
	xorl %eax, %eax
	rep stosb
#if BITS == 64
	/* PML4, PDPT and a directory of 2M pages at 0x200000 to 0x203000: the first GiB */
	movl $0x200000, %edi
	movl $0x3000 / 4, %ecx
	rep stosl
	movl $0x201007, 0x200000
	movl $0x202007, 0x201000
	movl $0x202000, %edi
	movl $0x87, %eax
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	cmpl $0x203000, %edi
	jne 1b
	movl $0x200000, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x620, %eax	/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x901, %eax	/* NXE, LME, SCE */
	wrmsr
	movl %cr0, %eax
	orl $0x80010000, %eax	/* PG, WP */
	movl %eax, %cr0
	ljmpl $0x18, $long_mode
	.code64
long_mode:
	xorl %eax, %eax
	movw %ax, %ss
	movq $stack_top, %rsp
#endif
	call main
	movw $0xf4, %dx
	xorl %eax, %eax
	outb %al, %dx
	hlt

	.section .reset, "ax"
	.code16
	ljmp $0xf000, $0
	.balign 16, 0

	.data
	.balign 16
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
	.globl gdt, gdt_end
	.balign 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 08: code 32 */
	.quad 0x00cf93000000ffff	/* 10: data */
	.quad 0x00af9b000000ffff	/* 18: code 64 */
	.quad 0x00cff3000000ffff	/* 20: user data */
	.quad 0x00affb000000ffff	/* 28: user code 64 */
	.quad 0x00cffb000000ffff	/* 30: user code 32 */
	.fill 41, 8, 0
gdt_end:
