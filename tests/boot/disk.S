/*
 * A boot sector: the BIOS has loaded it from the disk by its own driver. Reads another sector through
 * the BIOS, prints it on the first serial port, writes it back elsewhere with its first letter
 * changed, and resets the machine.
 */
#define FROM   9  /* sectors of the disk */
#define TO     2000
#define BUFFER 0x8000

	.code16
	.globl start
start:
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movb %dl, drive
	movw $hello, %si
	call print
	movb $0x42, %ah
	call transfer
	movw $BUFFER, %si
	call print
	movb $'W', BUFFER
	movl $TO, packet + 8
	movb $0x43, %ah
	call transfer
	movw $done, %si
	call print
reset:
	movb $6, %al
	movw $0xcf9, %dx
	outb %al, %dx
1:
	hlt
	jmp 1b

/* ah: what the BIOS is to do with the packet. */
transfer:
	xorb %al, %al
	movb drive, %dl
	movw $packet, %si
	int $0x13
	jnc 1f
	movw $failed, %si
	call print
	jmp reset
1:
	ret

print:
	lodsb
	testb %al, %al
	jz 2f
	movb %al, %bl
	movw $0x3fd, %dx
1:
	inb %dx, %al
	testb $0x20, %al
	jz 1b
	movb %bl, %al
	movw $0x3f8, %dx
	outb %al, %dx
	jmp print
2:
	ret

drive:	.byte 0
hello:	.asciz "SECTOR started\n"
done:	.asciz "SECTOR done\n"
failed:	.asciz "SECTOR failed\n"
	.balign 4
packet:	.byte 16, 0
	.word 1, BUFFER, 0
	.quad FROM
	.org 510
	.word 0xaa55
