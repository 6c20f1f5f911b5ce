/* Port accesses of 1, 2 and 4 bytes, with the port as an immediate and in dx. */
	.code16
	mov $0x11, %al
	out %al, $0xe0
	mov $0x2211, %ax
	out %ax, $0xe0
	mov $0x44332211, %eax
	out %eax, $0xe0
	mov $0x500, %dx
	out %al, (%dx)
	inc %dx
	out %ax, (%dx)
	inc %dx
	out %eax, (%dx)

	/* A byte or word read leaves the rest of eax; what was read goes out again. */
	mov $0x510, %dx
	mov $0xaabbccdd, %eax
	in (%dx), %al
	out %eax, (%dx)
	in (%dx), %ax
	out %eax, (%dx)
	in (%dx), %eax
	out %eax, (%dx)
	in $0xe1, %al
	out %eax, (%dx)
	/* The last port, and one whose access reaches past it. */
	mov $0xffff, %dx
	out %al, (%dx)
	hlt
