/* Writes that queue, at 0xe0000 and at port 0x540. */
	.code16
	mov $0xe000, %ax
	mov %ax, %es
	mov $0x500, %dx
	movb $0x11, %es:0
	movw $0x2211, %es:2
	movl $0x44332211, %es:0xfc
	out %al, (%dx)			/* drained here */
	mov %es:4, %al			/* reads exit */
	out %al, (%dx)
	movb $0x55, %es:0x100		/* just past the zone: exits */
	/* More than the ring holds. */
	mov $200, %cx
1:	mov %cx, %es:8
	loop 1b
	out %al, (%dx)
	hlt
