/* RAM with a dirty log at 0xa0000: 16 pages. */
	.code16
	mov $0xa000, %ax
	mov %ax, %es
	mov $0x500, %dx
	movb $1, %es:0x1000
	movw $2, %es:0x3ffe
	movl $3, %es:0x6ffe		/* two pages */
	mov %es:0xc000, %al		/* reading does not count */
	out %al, (%dx)
	movb $4, %es:0
	movb $5, %es:0xffff
	out %al, (%dx)
	movb $6, %es:0x1001
	hlt
