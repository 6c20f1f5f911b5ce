/*
 * With --param=tsan-distinguish-volatile=1 the compiler calls these in place of the sanitizer's own
 * for volatile accesses: in softkvm those of guest memory, where the guest's processors may race.
 */
#include "base/types.h"

#define IGNORE(NAME)                                                                               \
	void __tsan_##NAME(void *addr);                                                            \
	void __tsan_##NAME(void *addr)                                                             \
	{                                                                                          \
	}
#define IGNORE_SIZE(n)                                                                             \
	IGNORE(volatile_read##n)                                                                   \
	IGNORE(volatile_write##n)                                                                  \
	IGNORE(unaligned_volatile_read##n)                                                         \
	IGNORE(unaligned_volatile_write##n)

IGNORE_SIZE(1)
IGNORE_SIZE(2)
IGNORE_SIZE(4)
IGNORE_SIZE(8)
IGNORE_SIZE(16)
