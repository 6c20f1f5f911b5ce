/* Runs into memory that is not there. */
	.code16
	ljmp $0xd000, $0
