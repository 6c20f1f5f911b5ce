	.code16
	mov $0x540, %dx
	mov $0x44332211, %eax
	out %al, (%dx)
	out %ax, (%dx)
	out %eax, (%dx)
	mov $0x500, %dx
	out %al, (%dx)			/* drained here */
	mov $0x540, %dx
	in (%dx), %al			/* reads exit */
	mov $0x544, %dx
	out %al, (%dx)			/* just past the zone: exits */
	hlt
