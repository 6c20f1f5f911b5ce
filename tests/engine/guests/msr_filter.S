/* MSRs that exist, some of which the monitor keeps for itself. Each is written and read back. */
	.code16
	.macro access msr
	mov $\msr, %ecx
	mov $0x3000, %eax
	xor %edx, %edx
	wrmsr
	rdmsr
	mov $0x500, %dx
	out %eax, (%dx)
	.endm

	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	movw $general, 13 * 4
	movw $0, 13 * 4 + 2
	access 0x174			/* SYSENTER_CS: the guest's */
	access 0x175			/* SYSENTER_ESP: writes are the monitor's */
	access 0x176			/* SYSENTER_EIP: reads are */
	mov $0x12345678, %ecx		/* unknown, but no exit is wanted for that */
	rdmsr
	hlt
general:
	mov $0x501, %dx
	mov $13, %al
	out %al, (%dx)
	hlt
