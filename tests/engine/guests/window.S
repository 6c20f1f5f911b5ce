/* Interrupts closed, then open; for machines without an interrupt controller. */
	.code16
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, 0x30 * 4
	movw $0, 0x30 * 4 + 2
	cli
	mov $0x500, %dx
	out %al, (%dx)
	nop
	sti
1:	cmpb $1, 0x3000			/* until the handler has run */
	jne 1b
	out %al, (%dx)
	hlt
handler:
	push %ax
	push %dx
	mov $0x501, %dx
	mov $0x30, %al
	out %al, (%dx)
	movb $1, 0x3000
	pop %dx
	pop %ax
	iret
