/*
 * A UEFI application, header and all: it says that it runs and turns the machine off.
 * PE32+: Microsoft's PE/COFF specification, sections 2 to 4; the tables: UEFI 2.10, sections 4.3, 4.5
 * and 12.4.
 */
#define CON_OUT       64  /* of the system table */
#define RUNTIME       88
#define OUTPUT_STRING 8   /* of the console */
#define RESET_SYSTEM  104 /* of the run-time services */
#define RESET_OFF     2
#define AMD64         0x8664
#define EXECUTABLE    0x0022 /* and at home above 2 GiB */
#define PE32_PLUS     0x20b
#define EFI_PROGRAM   10
#define CODE          0xe0000020 /* which may be written, too */

	.globl start
	.code64
	.text
base:
	.ascii "MZ"
	.org base + 0x3c
	.long header - base
header:
	.ascii "PE\0\0"
	.word AMD64, 1 # machine, sections
	.long 0, 0, 0
	.word section - optional, EXECUTABLE
optional:
	.word PE32_PLUS, 0
	.long end - start, 0, 0 # code, data, zeros
	.long start - base, start - base # entry, code
	.quad 0 # goes anywhere
	.long 32, 32 # alignment in memory and in the file
	.word 0, 0, 0, 0, 0, 0
	.long 0, end - base, start - base, 0
	.word EFI_PROGRAM, 0
	.quad 0, 0, 0, 0
	.long 0, 6 # six directories, all empty
	.quad 0, 0, 0, 0, 0, 0
section:
	.ascii ".text\0\0\0"
	.long end - start, start - base, end - start, start - base, 0, 0
	.word 0, 0
	.long CODE

	.balign 32
start: # rdx: the system table
	sub $40, %rsp
	mov %rdx, %rbx
	mov CON_OUT(%rbx), %rcx
	lea text(%rip), %rdx
	call *OUTPUT_STRING(%rcx)
	mov RUNTIME(%rbx), %rax
	mov $RESET_OFF, %ecx
	xor %edx, %edx
	xor %r8d, %r8d
	xor %r9d, %r9d
	call *RESET_SYSTEM(%rax)
	hlt
text: # UTF-16
	.irpc letter, "GUEST runs what came over the network"
	.ascii "\letter"
	.byte 0
	.endr
	.short 13, 10, 0
	.balign 32
end:
