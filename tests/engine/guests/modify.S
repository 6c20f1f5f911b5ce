/* Code that changes: by the guest itself just ahead of rip, behind it, and by the host. */
	.code16
	xor %ax, %ax
	mov %ax, %ds
	mov $0x500, %dx
	movb $0x22, 1f + 1		/* the next instruction but one */
	jmp 1f
1:	mov $0x11, %al
	out %al, (%dx)
	/* A loop whose body is another one each time round. */
	mov $3, %cx
2:	mov $0x30, %al
	out %al, (%dx)
	incb 2b + 1
	loop 2b
	/* The host changes this one at each exit, until it becomes zero. */
	.org 0x40
3:	mov $0x40, %al
	out %al, (%dx)
	test %al, %al
	jnz 3b
	hlt
