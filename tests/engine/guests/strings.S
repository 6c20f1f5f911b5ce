/* String instructions, both directions of transfer and of the direction flag. */
	.code16
	.macro report			/* cx, si, di to port 0x520 */
	mov $0x520, %dx
	mov %cx, %ax
	out %ax, (%dx)
	mov %si, %ax
	out %ax, (%dx)
	mov %di, %ax
	out %ax, (%dx)
	.endm

	cld
	mov $0x2000, %si
	mov $0x3000, %di
	mov $0x510, %dx
	outsb
	mov $16, %cx
	rep outsb
	report
	mov $0x511, %dx
	mov $3, %cx
	rep outsw
	mov $0x512, %dx
	mov $5, %cx
	rep outsl
	report

	/* Downwards. */
	std
	mov $0x2010, %si
	mov $0x511, %dx
	mov $3, %cx
	rep outsw
	report
	cld

	/* Nothing at all. */
	xor %cx, %cx
	mov $0x510, %dx
	rep outsb
	rep insb

	mov $0x3000, %di
	mov $0x513, %dx
	insb
	mov $10, %cx
	rep insb
	mov $0x514, %dx
	mov $5, %cx
	rep insw
	mov $0x515, %dx
	mov $3, %cx
	rep insl
	report
	/* Show what arrived: 1 + 10 + 10 + 12 bytes. */
	mov $0x3000, %si
	mov $33, %cx
	mov $0x516, %dx
	rep outsb

	/* More than a page each way. */
	mov $0x4100, %di
	mov $5000, %cx
	mov $0x517, %dx
	rep insb
	mov $0x4100, %si
	mov $5000, %cx
	mov $0x518, %dx
	rep outsb
	report
	hlt
