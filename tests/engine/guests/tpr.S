/* Lowering CR8 tells the monitor where it keeps the local APIC itself. */
	.code64
	jmp 1f
	.byte lowered - .text		/* where the first lowering is done */
1:	mov $0x500, %edx
	mov $8, %eax
	mov %rax, %cr8
	out %al, (%dx)
	mov $9, %eax
	mov %rax, %cr8
	mov %rax, %cr8
	out %al, (%dx)
	mov $2, %eax
	mov %rax, %cr8
lowered:
	mov %cr8, %rax
	out %al, (%dx)
	xor %eax, %eax
	mov %rax, %cr8
	hlt
