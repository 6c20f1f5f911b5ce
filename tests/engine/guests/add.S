/* The classic first KVM guest: adds two registers that the host set, prints the digit, halts. */
	.code16
	mov $0x3f8, %dx
	add %bl, %al
	add $'0', %al
	out %al, (%dx)
	mov $'\n', %al
	out %al, (%dx)
	hlt
