/* An MSR that nobody knows. */
	.code16
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $general, 13 * 4
	movw $0, 13 * 4 + 2
	mov $0x500, %bx
	mov $0x12345678, %ecx
	rdmsr
	xchg %bx, %dx
	out %eax, (%dx)			/* low half */
	mov %bx, %ax
	out %ax, (%dx)			/* high half */
	mov $0x55667788, %eax
	mov $0x11223344, %edx
	wrmsr
	rdmsr				/* refused: general protection */
	hlt
general:
	mov $0x501, %dx
	mov $13, %al
	out %al, (%dx)
	hlt
