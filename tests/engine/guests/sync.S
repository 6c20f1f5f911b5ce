	.code16
	mov $0x500, %dx
	mov $0x1111, %ax
	out %ax, (%dx)
	add %bx, %ax			/* bx came from the host meanwhile */
	out %ax, (%dx)
	hlt
