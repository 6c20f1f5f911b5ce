/* Traps of the 32-bit guest: see trap64.S. enter(fn, arg, cpl); CPL 4 means virtual-8086 mode, at
 * fn >> 4 : fn & 15 with the selectors of v86_frame. */
	.text
	.macro STUB n
	.balign 16
	.if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17)
	.else
	pushl $0
	.endif
	pushl $\n
	jmp common
	.endm
	/* from real mode to where the 32-bit caller was */
	.macro RETURN_TO_32
	lidtl saved_idt
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $0x08, $5f
	.code32
5:	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %fs
	movl %eax, %gs
	movl %eax, %ss
	movl real_sp, %esp
	popl %edi
	popl %esi
	popl %ebp
	popl %ebx
	ret
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
	/* vector, error, eip, cs, eflags; esp, ss; es, ds, fs, gs (V86) */
	cld
	pushl %eax
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	popl trapped+72
	movl %ecx, trapped+64
	movl %esp, trapped+80
	popl trapped
	popl trapped+8
	popl trapped+16
	popl trapped+24
	popl trapped+32
	testl $3, trapped+24
	jnz 1f
	testl $0x20000, trapped+32
	jz 2f
1:	popl trapped+40
	popl trapped+48
	popl trapped+88
	popl trapped+96
	popl trapped+104
	popl trapped+112
2:	movl %cr2, %eax
	movl %eax, trapped+56
	.globl recover
recover:
	movl recover_sp, %esp
	testl %esp, %esp
	jz unexpected
	movl $0, recover_sp
	movl $0x10, %eax
	movl %eax, %ss
	popfl
	popl %edi
	popl %esi
	popl %ebp
	popl %ebx
	popl %es
	popl %ds
	ret

unexpected:
	movl $0x10, %eax
	movl %eax, %ss
	movl $0x70000, %esp
	call report_unexpected
	movw $0xf4, %dx
	outb %al, %dx
	hlt

	.globl enter
enter:
	pushl %ds
	pushl %es
	pushl %ebx
	pushl %ebp
	pushl %esi
	pushl %edi
	pushfl
	movl %esp, recover_sp
	movl $-1, trapped
	movl 32(%esp), %eax	/* fn */
	movl 36(%esp), %edx	/* arg */
	movl 40(%esp), %ecx	/* cpl */
	cmpl $3, %ecx
	je 1f
	cmpl $4, %ecx
	je 2f
	pushl enter_flags
	popfl
	pushl %edx
	call *%eax
	jmp recover
1:	movl %edx, user_arg
	movl $0x23, %ecx
	movl %ecx, %ds
	movl %ecx, %es
	pushl $0x23
	pushl $user_stack_top - 8
	pushl enter_flags
	pushl $0x33
	pushl %eax
	iretl
2:	pushl v86_frame+20	/* gs, fs, ds, es, ss */
	pushl v86_frame+16
	pushl v86_frame+12
	pushl v86_frame+8
	pushl v86_frame+4
	pushl v86_frame		/* esp */
	movl enter_flags, %ecx
	orl $0x20000, %ecx
	pushl %ecx
	movl %eax, %ecx
	shrl $4, %ecx
	pushl %ecx
	andl $15, %eax
	pushl %eax
	iretl

/* Code of the second task. */
	.globl task_entry, task_int_entry
task_entry:
	incl task_runs
	movl %eax, task_saw
	pushfl
	popl task_saw+4
	movl %esp, task_saw+8
	str %ax
	movw %ax, task_saw+12
	movl %cr0, %eax
	movl %eax, task_saw+16
	clts
	movl $0x5a5a, %eax
	iretl
	incl task_runs
	movl $0x6b6b, %eax
	iretl
task_int_entry:
	popl task_saw+20	/* the error code */
	incl task_runs
	iretl
	popl task_saw+20
	incl task_runs
	iretl

/* Target of the call gate: two parameters. */
	.globl gate_entry
gate_entry:
	movl 8(%esp), %eax
	movl 12(%esp), %ecx
	movl %eax, task_saw
	movl %ecx, task_saw+4
	movw %cs, task_saw+8
	movw %ss, task_saw+12
	movl %esp, %eax
	movl %eax, task_saw+16
	movl 16(%esp), %eax
	movl %eax, task_saw+20
	lretl $8

/* void real_mode(void): to real mode, INT 0x60 there, and back. */
	.globl real_mode
real_mode:
	pushl %ebx
	pushl %ebp
	pushl %esi
	pushl %edi
	movl %esp, real_sp
	ljmpl $0x38, $1f
	.code16
1:	movw $0x40, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movl %cr0, %eax
	andb $0xfe, %al
	movl %eax, %cr0
	ljmp $0, $2f
2:	xorw %ax, %ax
	movw %ax, %ss
	movw $0x7000, %sp
	movw %ax, %ds
	movw %ax, %es
	lidtl real_idt
	movw %ax, %fs
	xorw %ax, %ax
	movw %ax, %gs
	movw $real_handler, %gs:0x60*4
	movw $0, %gs:0x60*4+2
	movw $real_fault, %gs:13*4
	movw $0, %gs:13*4+2
	movw $real_fault, %gs:12*4
	movw $0, %gs:12*4+2
	movw $0x1234, %ax
	stc
	int $0x60
	pushfw
	popw real_saw + 4
	/* a word at offset FFFF */
	movw $3f, real_resume
	movw $0xffff, %bx
	movw (%bx), %ax
3:	/* the limit is 64K - 1 still: 32-bit offsets beyond it fault */
	movw $4f, real_resume
	movl $0x10000, %ebx
	movb (%ebx), %al
4:	movw %sp, real_saw + 8
	RETURN_TO_32
	.code16
real_handler:
	movw %ax, real_saw
	pushfw
	popw real_saw + 2
	iretw
real_fault:
	incw real_saw + 6
	popw %ax
	movw real_resume, %ax
	pushw %ax
	iretw
	.code32

/* Target of the 16-bit call gate: two words. */
	.globl gate16_entry
gate16_entry:
	movzwl 4(%esp), %eax
	movl %eax, task_saw
	movzwl 6(%esp), %eax
	movl %eax, task_saw+4
	movl %esp, task_saw+16
	lretw $4

/* Tasks of #TS to #GP: the error code is all they have. */
	.globl task_faults
	.balign 32
task_faults:
	.set i, 10
	.rept 4
	.balign 32
	popl trapped+8
	movl $i, trapped
	jmp recover
	.set i, i + 1
	.endr

/* Code of the 16-bit task, in a 32-bit segment. */
	.globl task16_entry
task16_entry:
	movl %eax, task_saw
	movl %esp, task_saw+8
	str %ax
	movw %ax, task_saw+12
	clts
	movw $0x5c5c, %ax
	iretl

	.globl sysenter_entry32
sysenter_entry32:
	movl %cs, %eax
	movl %eax, enter_saw
	movl %ss, %eax
	movl %eax, enter_saw+4
	movl %esp, enter_saw+12
	pushfl
	popl enter_saw+8
	sysexit

/* void unreal_mode(void): real mode with FS of 4 GiB. */
	.globl unreal_mode
unreal_mode:
	pushl %ebx
	pushl %ebp
	pushl %esi
	pushl %edi
	movl %esp, real_sp
	movw $0x10, %ax
	movw %ax, %fs
	ljmpl $0x38, $1f
	.code16
1:	movw $0x40, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %gs
	movw %ax, %ss
	movl %cr0, %eax
	andb $0xfe, %al
	movl %eax, %cr0
	ljmp $0, $2f
2:	xorw %ax, %ax
	movw %ax, %ss
	movw $0x7000, %sp
	movw %ax, %ds
	movw %ax, %gs
	lidtl real_idt
	/* FS keeps its limit, and with it the 4 GiB */
	movl $0x123456, %ebx
	movw %fs:(%ebx), %ax
	movw %ax, unreal_saw
	/* FFFF:0020 is in the second MiB */
	movw $0xffff, %ax
	movw %ax, %es
	movw %es:0x20, %ax
	movw %ax, unreal_saw + 2
	/* a new selector gives a base, not a limit: FS stays wide */
	xorw %ax, %ax
	movw %ax, %fs
	movw %fs:(%ebx), %ax
	movw %ax, unreal_saw + 4
	/* the stack wraps at 64 KiB: into 2000:FFFE */
	movw $0x2000, %ax
	movw %ax, %ss
	xorw %sp, %sp
	pushw $0x7c7c
	movw %sp, %cx
	popw %dx
	xorw %ax, %ax
	movw %ax, %ss
	movw $0x7000, %sp
	movw %cx, unreal_saw + 6
	movw %dx, unreal_saw + 8
	call 3f
3:	popw %ax
	subw $3b, %ax
	movw %ax, unreal_saw + 10
	RETURN_TO_32

	.section .user, "ax"
	.globl u_gate16, u_sysenter, u_sysexit
u_gate16:
	pushw $0x2222
	pushw $0x1111
	lcall *far_gate
	int $0x80
u_sysenter:
	movl %esp, %ecx
	movl $1f, %edx
	stc
	sysenter
1:	int $0x80
u_sysexit:
	sysexit
	.globl u_call_gate, u_int80, u_arg_read, u_arg_write
u_call_gate:
	pushl $0x2222
	pushl $0x1111
	lcall *far_gate
	movl %esp, %eax
	subl $user_stack_top - 8, %eax
	int $0x80
u_int80:
	int $0x80
u_arg_read:
	movl user_arg, %eax
	movl (%eax), %eax
	int $0x80
u_arg_write:
	movl user_arg, %eax
	movl %eax, (%eax)
	int $0x80
	.globl user_arg, far_gate
user_arg:	.long 0
far_gate:	.long 0
		.word 0x63

/* Code for virtual-8086 mode, each at a paragraph. */
	.code16
	.macro V86 name
	.balign 16
	.globl \name
\name:
	.endm
V86 v86_int21
	movw $0x77, %ax
	int $0x21
	int $0x80
V86 v86_cli
	cli
	movw $1, %ax
	int $0x80
V86 v86_sti
	sti
	movw $2, %ax
	int $0x80
V86 v86_pushf
	pushfw
	popw %ax
	movzwl %ax, %eax
	int $0x80
V86 v86_popf
	pushw $0x0202
	popfw
	int $0x80
V86 v86_iret
	pushfw
	pushw %cs
	call 1f
1:	popw %ax
	addw $3f - 1b, %ax
	pushw %ax
	iretw
3:	movw $3, %ax
	int $0x80
V86 v86_in
	inb $0x61, %al
	int $0x80
V86 v86_hlt
	hlt
V86 v86_segs
	movw $0x2000, %ax
	movw %ax, %ds
	movw $0xffff, %bx
	movb (%bx), %al
	movw (%bx), %ax
	int $0x80
V86 v86_lldt
	lldt %ax
V86 v86_handler		/* of INT 0x21 with VME */
	pushfw
	popw %bx
	movw %sp, %bp
	movw 4(%bp), %cx
	iretw
	.code32

	.data
	.globl v86_frame, enter_flags, task_saw, task_runs, real_saw, saved_idt
	.balign 8
enter_flags:	.long 2, 0
recover_sp:	.long 0
real_sp:	.long 0
v86_frame:	.skip 24
task_saw:	.skip 32
task_runs:	.long 0
real_saw:	.skip 16
		.globl unreal_saw, enter_saw
unreal_saw:	.skip 16
enter_saw:	.skip 16
real_resume:	.word 0
real_idt:	.word 0x3ff
		.long 0
saved_idt:	.word 0
		.long 0
