/* Reads 0xa0010 three times: what is there changes in between. */
	.code16
	mov $0xa001, %ax
	mov %ax, %es
	mov $0x500, %dx
	mov $3, %cx
1:	mov %es:0, %al
	out %al, (%dx)
	loop 1b
	hlt
