/* A level interrupt at vector 0x51 of a local APIC whose IOAPIC is the monitor's. */
#include "apic.inc"
	.code16
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $handler, 0x51 * 4
	movw $0, 0x51 * 4 + 2
	enable_apic
	mov $0x500, %dx
	out %al, (%dx)
	sti
1:	hlt
	jmp 1b
handler:
	mov $0x501, %dx
	mov $0x51, %al
	out %al, (%dx)
	end_of_interrupt		/* exits here */
	mov $0x502, %dx
	out %al, (%dx)
	iret
