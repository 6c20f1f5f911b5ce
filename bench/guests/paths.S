/*
 * Three loops in real mode at 0x1000. Entry + 0: ecx writes to port 0x600, then port 0xf4. Entry + 3:
 * set up the interrupt controllers, then halt for ever; each interrupt 5 writes port 0x601. Entry + 6:
 * ecx writes to memory at 0x100ff0, past RAM, then port 0xf4.
 */
	.code16
	.globl _start
_start:
	jmp	doorbell
	.org	3
	jmp	irq
	.org	6
	jmp	memory
irq:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movw	$0x7000, %sp
	movw	$(handler - _start + 0x1000), 0x0d * 4
	movw	%ax, 0x0d * 4 + 2
	movb	$0x11, %al		/* ICW1: edge, cascade, ICW4 */
	outb	%al, $0x20
	movb	$0x08, %al		/* ICW2: vector 8 */
	outb	%al, $0x21
	movb	$0x04, %al
	outb	%al, $0x21
	movb	$0x01, %al		/* ICW4: 8086 */
	outb	%al, $0x21
	movb	$0xdf, %al		/* all but 5 masked */
	outb	%al, $0x21
	movw	$0x602, %dx		/* ready */
	outb	%al, %dx
	sti
1:
	hlt
	jmp	1b
handler:
	movw	$0x601, %dx
	outb	%al, %dx
	movb	$0x20, %al
	outb	%al, $0x20
	iretw
doorbell:
	movw	$0x600, %dx
1:
	outb	%al, %dx
	addr32 loop	1b
	outb	%al, $0xf4
2:
	hlt
	jmp	2b
memory:
	movw	$0xffff, %ax
	movw	%ax, %ds
1:
	movb	%al, 0x1000
	addr32 loop	1b
	outb	%al, $0xf4
	jmp	2b
