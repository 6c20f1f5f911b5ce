/* Tell the monitor that two pages at 0x3000 are shared (KVM_HC_MAP_GPA_RANGE). */
	.code64
	mov $12, %eax
	mov $0x3000, %ebx
	mov $2, %ecx
	mov $0x10, %edx
	vmcall
	mov $0x500, %edx
	out %eax, (%dx)
	hlt
