/* A write to 0xe0008 after the other, each one higher than the last. */
	.code16
	mov $0xe000, %ax
	mov %ax, %es
	xor %eax, %eax
1:	inc %eax
	mov %eax, %es:8
	cmp $8000, %eax
	jne 1b
	mov $0x500, %dx
	out %al, (%dx)
	hlt
