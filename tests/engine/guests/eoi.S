/* A level interrupt at vector 0x51 of a local APIC whose IOAPIC is the monitor's. */
	.code16
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, 0x51 * 4
	movw $0, 0x51 * 4 + 2
	mov $0x1b, %ecx
	rdmsr
	or $0xc00, %eax
	wrmsr
	mov $0x80f, %ecx
	mov $0x1ff, %eax
	xor %edx, %edx
	wrmsr
	mov $0x500, %dx
	out %al, (%dx)
	sti
1:	hlt
	jmp 1b
handler:
	mov $0x501, %dx
	mov $0x51, %al
	out %al, (%dx)
	mov $0x80b, %ecx
	xor %eax, %eax
	xor %edx, %edx
	wrmsr				/* exits here */
	mov $0x502, %dx
	out %al, (%dx)
	iret
