/* The boot processor starts the other one at 0x2000 with INIT and SIPI; each reports its APIC id. */
#include "apic.inc"
	.code16
	xor %ax, %ax
	mov %ax, %ds
	movb $0xea, 0x2000		/* jmp 0:ap */
	movw $ap, 0x2001
	movw $0, 0x2003
	enable_apic
	mov $0x830, %ecx		/* ICR: to APIC id 1 */
	mov $1, %edx
	mov $0x4500, %eax		/* INIT */
	wrmsr
	mov $0x4602, %eax		/* SIPI, page 2 */
	wrmsr
1:	pause
	cmpb $1, 0x3000			/* until the other one is there */
	jne 1b
	mov $0x500, %dx
	mov $0xb0, %al
	out %al, (%dx)
	cli
	hlt
ap:	xor %ax, %ax
	mov %ax, %ds
	mov $0x501, %dx
	mov %cs, %ax
	out %ax, (%dx)
	mov $1, %eax
	cpuid
	shr $24, %ebx
	mov %ebx, %eax
	mov $0x501, %dx
	out %al, (%dx)
	movb $1, 0x3000
	cli
	hlt
