/* A processor begins here in long mode, its number in RDI and its stack in RSP. */
	.section .entry, "ax"
	.globl _start
_start:
	call smp_main
1:	cli
	hlt
	jmp 1b
