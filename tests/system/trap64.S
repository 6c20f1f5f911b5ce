/*
 * Traps of the 64-bit guest. enter(fn, arg, cpl) runs fn(arg) at that CPL until it returns, executes
 * INT 0x80 or faults; what happened is in `trapped`.
 */
	.text
	.macro STUB n
	.balign 16
	.if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17)
	.else
	pushq $0
	.endif
	pushq $\n
	jmp common
	.endm
	.globl stubs
	.balign 16
stubs:
	.set i, 0
	.rept 256
	STUB i
	.set i, i + 1
	.endr

common:
	/* vector, error, rip, cs, rflags, rsp, ss */
	cld
	pushq %rax
	pushq %rcx
	movq %rsp, %rcx
	popq %rax
	movq %rax, trapped+64	/* rcx */
	popq %rax
	movq %rax, trapped+72	/* rax */
	popq trapped		/* vector */
	popq trapped+8		/* error */
	popq trapped+16		/* rip */
	popq trapped+24		/* cs */
	popq trapped+32		/* rflags */
	popq trapped+40		/* rsp */
	popq trapped+48		/* ss */
	movq %cr2, %rax
	movq %rax, trapped+56
	movq %rcx, trapped+80	/* where the frame was */
	cmpb $0, resume_trap
	je recover
	cmpb $0, resume_only_db
	je resume
	cmpq $1, trapped
	je resume
recover:
	movq recover_sp, %rsp
	testq %rsp, %rsp
	jz unexpected
	movq $0, recover_sp
	popfq
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret

/* One trap was for counting: go on where it was. */
resume:
	decb resume_trap
	incl trap_count
	leaq 32(%rcx), %rsp
	movq trapped+72, %rax
	movq trapped+64, %rcx
	iretq

/* Not inside enter(): the program itself is wrong. */
unexpected:
	movq $0x70000, %rsp
	call report_unexpected
	movw $0xf4, %dx
	outb %al, %dx
	hlt

	.globl enter
enter:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	pushfq
	movq %rsp, recover_sp
	movq $-1, trapped
	movq %rdi, %rax
	movq %rsi, %rdi
	cmpl $3, %edx
	je 1f
	movq enter_flags, %rcx
	andq $~0x100, %rcx
	pushq %rcx
	popfq
	call *%rax
	jmp recover
1:	pushq $0x23
	pushq $user_stack_top
	pushq enter_flags
	pushq user_cs
	pushq %rax
	iretq

	.data
	.globl resume_trap, trap_count, user_cs, enter_flags, resume_only_db
	.balign 8
user_cs:	.quad 0x2b
enter_flags:	.quad 0x2
recover_sp:	.quad 0
trap_count:	.long 0
resume_trap:	.byte 0
resume_only_db:	.byte 0
