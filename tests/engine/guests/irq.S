/* 8259s at vectors 0x20 and 0x28, IRQ 5 and 12 open; handlers say which came to port 0x501. */
	.code16
	.macro vector n, handler
	movw $\handler, \n * 4
	movw $0, \n * 4 + 2
	.endm

	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	vector 0x02, nmi
	vector 0x25, irq5
	vector 0x2c, irq12
	vector 0x30, injected
	mov $0x11, %al
	out %al, $0x20
	out %al, $0xa0
	mov $0x20, %al
	out %al, $0x21
	mov $0x28, %al
	out %al, $0xa1
	mov $4, %al
	out %al, $0x21
	mov $2, %al
	out %al, $0xa1
	mov $1, %al
	out %al, $0x21
	out %al, $0xa1
	mov $0xdb, %al			/* IRQ 2 and 5 */
	out %al, $0x21
	mov $0xef, %al			/* IRQ 12 */
	out %al, $0xa1
	mov $0x500, %dx
	out %al, (%dx)
1:	sti
	hlt
	cli				/* so that the next one comes at HLT too */
	mov $0x502, %dx			/* awake again */
	out %al, (%dx)
	jmp 1b

	.macro say n
	push %ax
	push %dx
	mov $0x501, %dx
	mov $\n, %al
	out %al, (%dx)
	.endm

irq5:	say 5
	mov $0x20, %al
	out %al, $0x20
	pop %dx
	pop %ax
	iret
irq12:	say 12
	mov $0x20, %al
	out %al, $0xa0
	out %al, $0x20
	pop %dx
	pop %ax
	iret
nmi:	say 2
	pop %dx
	pop %ax
	iret
injected:
	say 0x30
	pop %dx
	pop %ax
	iret
