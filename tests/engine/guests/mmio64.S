/* Trapped memory in long mode: eight bytes at once, and sign and zero extension. */
	.code64
	mov $0xd0000, %ebx
	mov $0x510, %edx
	mov $0x8877665544332211, %rax
	mov %rax, (%rbx)
	mov 8(%rbx), %rcx
	mov %rcx, %rax
	out %eax, (%dx)
	shr $32, %rax
	out %eax, (%dx)
	movsbq 16(%rbx), %rax
	out %eax, (%dx)
	shr $32, %rax
	out %eax, (%dx)
	/* A 32-bit load clears the upper half. */
	mov $-1, %rax
	mov 20(%rbx), %eax
	shr $32, %rax
	out %eax, (%dx)
	/* Above 4 GiB does not exist in the boot tables: 2 MiB below it does. */
	mov $0xffe00000, %ebx
	movb $0x42, (%rbx)
	cmpb $0x42, 1(%rbx)
	sete %al
	out %al, (%dx)
	hlt
