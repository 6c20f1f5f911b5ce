/* A read-only slot at 0xc0000: reads are the memory's, writes exit. */
	.code16
	mov $0xc000, %ax
	mov %ax, %es
	mov $0x510, %dx
	mov %es:0x10, %ax
	out %ax, (%dx)
	movw $0xffff, %es:0x10
	mov %es:0x10, %ax
	out %ax, (%dx)
	hlt
