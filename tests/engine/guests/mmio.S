/* Trapped memory at 0xd0000, in real mode. */
	.code16
	mov $0xd000, %ax
	mov %ax, %es
	mov $0x510, %dx
	movb $0x11, %es:0
	movw $0x2211, %es:2
	movl $0x44332211, %es:4
	mov $0xaabbccdd, %eax
	mov %es:8, %al
	out %eax, (%dx)
	mov %es:10, %ax
	out %eax, (%dx)
	mov %es:12, %eax
	out %eax, (%dx)
	movzbl %es:16, %eax
	out %eax, (%dx)
	/* Read, change, write. */
	addw $1, %es:20
	lock orb $0x80, %es:21
	mov $0x5a, %al
	xchg %al, %es:22
	out %al, (%dx)
	/* Strings: to it, from it, and both. */
	cld
	mov $32, %di
	mov $0x77, %al
	mov $3, %cx
	rep stosb
	mov %es, %ax
	mov %ax, %ds
	mov $48, %si
	lodsw
	out %ax, (%dx)
	mov $50, %si
	mov $60, %di
	movsw
	/* Across a page: two accesses. */
	movl $0x44332211, %es:0xffe
	/* RAM goes on to the register. */
	hlt
