/* No handler for an exception, none for that, and none for that: a triple fault. */
	.code32
	lidt empty
	ud2
	hlt
empty:	.word 0
	.long 0
