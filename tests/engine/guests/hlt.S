	.code16
	hlt
	mov $0x500, %dx
	mov $1, %al
	out %al, (%dx)
	hlt
