/* Entry points of system calls, and code for compatibility mode. */
	.text
	.globl syscall_entry
syscall_entry:
	movq %rax, syscall_saw
	movq %rcx, syscall_saw+8
	movq %r11, syscall_saw+16
	pushfq
	popq syscall_saw+24
	movl %cs, %eax
	movq %rax, syscall_saw+32
	movl %ss, %eax
	movq %rax, syscall_saw+40
	sysretq

	.section .user, "ax"
	.globl compat_code, compat_gp
	.code32
compat_code:
	/* what differs from 64-bit code: one-byte INC, PUSH of 4 bytes, 32-bit addresses */
	movl %esp, %ecx
	movl $0xffffffff, %eax
	incl %eax
	pushl %eax
	subl %esp, %ecx
	movl %ecx, %eax
	popl %edx
	call 1f
1:	popl %edx
	addl $0x100, %eax
	int $0x80
compat_gp:
	movl $0x8, %eax
	movw %ax, %ds
	int $0x80
	.code64

	.bss
	.globl syscall_saw
	.balign 8
syscall_saw:
	.skip 64
