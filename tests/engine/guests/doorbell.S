/* Writes that ring: ports 0x550 to 0x558, memory at 0xd0000 to 0xd0010. */
	.code16
	mov $0xd000, %ax
	mov %ax, %es
	mov $0x550, %dx			/* any value, 2 bytes */
	mov $7, %ax
	out %ax, (%dx)
	mov $9, %ax
	out %ax, (%dx)
	out %al, (%dx)			/* other sizes exit */
	mov $0x554, %dx			/* 2 bytes, value 3 */
	mov $3, %ax
	out %ax, (%dx)
	mov $4, %ax
	out %ax, (%dx)			/* another value exits */
	in (%dx), %ax			/* reads exit */
	mov $0x500, %dx
	out %al, (%dx)			/* counted here */
	movl $1, %es:0			/* any value, 4 bytes */
	movl $2, %es:0
	movl $3, %es:4			/* 4 bytes, value 3 */
	movl $4, %es:4			/* exits */
	movb $1, %es:8			/* any size */
	movl $2, %es:8
	out %al, (%dx)
	hlt
