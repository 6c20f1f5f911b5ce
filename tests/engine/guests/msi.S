/* The local APIC in x2APIC mode; vector 0x41 says so to port 0x501. */
#include "apic.inc"
	.code16
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, 0x41 * 4
	movw $0, 0x41 * 4 + 2
	enable_apic
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
	end_of_interrupt
	pop %dx
	pop %ax
	iret
