/* Hypercalls that the engine answers by itself. */
	.code64
	.macro call nr, b=0, c=0, d=0, s=0
	mov $\nr, %eax
	mov $\b, %ebx
	mov $\c, %ecx
	mov $\d, %edx
	mov $\s, %esi
	vmcall
	mov $0x500, %edx
	out %eax, (%dx)
	.endm

	call 1				/* VAPIC_POLL_IRQ */
	call 5, 0, 0			/* KICK_CPU: this one */
	call 5, 0, 77			/* KICK_CPU: nobody */
	call 10, 0, 0, 0, 0x800		/* SEND_IPI: no logical destination beside the set */
	call 10, 6, 0, 0, 0x4041	/* SEND_IPI: processors 1 and 2, which are not there */
	call 11, 5			/* SCHED_YIELD: to nobody */
	call 12, 0x3000, 2, 0x10	/* MAP_GPA_RANGE: not asked for by the monitor */
	call 99				/* no such call */
1:	hlt
	jmp 1b
