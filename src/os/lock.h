/*
 * A futex lock of one word, taken and released in a few instructions when nobody waits. Not
 * recursive. Under TSan and for condition variables use pthread mutexes.
 */
#ifndef OS_LOCK_H
#define OS_LOCK_H

#include "base/types.h"

struct lock {
	u32 word; /* 0 free, 1 held, 2 held and waited for */
};

void lock_wait(struct lock *l);
void lock_wake(struct lock *l);

static inline void lock_acquire(struct lock *l)
{
	u32 expected = 0;

	if (unlikely(!__atomic_compare_exchange_n(&l->word, &expected, 1, false, __ATOMIC_ACQUIRE,
						  __ATOMIC_RELAXED)))
		lock_wait(l);
}

static inline void lock_release(struct lock *l)
{
	if (unlikely(__atomic_exchange_n(&l->word, 0, __ATOMIC_RELEASE) == 2))
		lock_wake(l);
}

#endif
