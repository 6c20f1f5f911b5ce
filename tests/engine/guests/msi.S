/* The local APIC in x2APIC mode; vector 0x41 says so to port 0x501. */
	.code16
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, 0x41 * 4
	movw $0, 0x41 * 4 + 2
	mov $0x1b, %ecx			/* APIC base: enable x2APIC */
	rdmsr
	or $0xc00, %eax
	wrmsr
	mov $0x80f, %ecx		/* spurious vector: enable */
	mov $0x1ff, %eax
	xor %edx, %edx
	wrmsr
	mov $0x802, %ecx		/* id */
	rdmsr
	mov $0x500, %dx
	out %eax, (%dx)
	sti
1:	hlt
	jmp 1b
handler:
	push %ax
	push %dx
	mov $0x501, %dx
	mov $0x41, %al
	out %al, (%dx)
	mov $0x80b, %ecx		/* end of interrupt */
	xor %eax, %eax
	xor %edx, %edx
	wrmsr
	pop %dx
	pop %ax
	iret
