/* Something to step through, at fixed places; the guest's own handlers say so to port 0x501. */
	.code16
	nop				/* 0x1000 */
	mov $0x1234, %ax		/* 0x1001 */
	mov %ax, 0x3000			/* 0x1004 */
	int3				/* 0x1007 */
	hlt				/* 0x1008 */
	.org 0x20
handler1:
	mov $1, %al
	jmp say
handler3:
	mov $3, %al
say:	mov $0x501, %dx
	out %al, (%dx)
	hlt
	.org 0x40
	.word handler1, handler3
