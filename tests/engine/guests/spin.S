/* Never exits by itself. */
	.code16
	mov $0x500, %dx
	out %al, (%dx)
1:	inc %eax
	jmp 1b
