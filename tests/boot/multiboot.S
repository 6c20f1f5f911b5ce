/*
 * A multiboot kernel that says on COM1 what it was given, and ends with status 7 through the
 * debug-exit port. With KLUDGE its header has the addresses, for a flat file.
 */
	.code32
	.globl start
	.text
header:	.long 0x1badb002
#ifdef KLUDGE
	.long 0x10003
	.long -(0x1badb002 + 0x10003)
	.long header, header, end, end_bss, start
#else
	.long 3
	.long -(0x1badb002 + 3)
#endif

start:	mov $stack, %esp
	mov %ebx, %ebp
	mov $bad, %esi
	cmp $0x2badb002, %eax
	jne die
	cmpl $0, end_bss - 4		/* the bss is clear */
	jne die
	mov $good, %esi
	call print
	mov 16(%ebp), %esi		/* the command line */
	call print
	mov $space, %esi
	call print
	mov 24(%ebp), %edi		/* the modules: text of the first and last */
	mov 8(%edi), %esi
	call print
	mov $space, %esi
	call print
	mov 20(%ebp), %ecx
	dec %ecx
	shl $4, %ecx
	mov (%edi, %ecx), %esi
	call print
	mov $3, %al
	mov $0xf4, %dx
	out %al, (%dx)
die:	call print
	cli
	hlt

print:	lodsb
	test %al, %al
	jz 2f
	mov %al, %ah
	mov $0x3fd, %dx
1:	in (%dx), %al
	test $0x20, %al
	jz 1b
	mov %ah, %al
	mov $0x3f8, %dx
	out %al, (%dx)
	jmp print
2:	ret

good:	.asciz "MULTIBOOT "
bad:	.asciz "not multiboot\n"
space:	.asciz " "
end:
	.bss
	.space 4096
stack:	.space 4
end_bss:
