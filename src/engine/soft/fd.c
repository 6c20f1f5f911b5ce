/*
 * Invariants:
 * 1. Chunks are never freed, so a slot's lock may be taken at any time.
 * 2. slot->file is read and written with the slot's lock held, and a reference is taken under it:
 *    who holds the lock sees a file whose table reference is still there.
 */
#include "engine/soft/fd.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_SHIFT 10
#define CHUNK_SLOTS (1u << CHUNK_SHIFT)
#define CHUNKS	    1024

struct slot {
	u32 lock;
	struct file *file;
};

static struct slot *chunks[CHUNKS];

static struct slot *slot_lookup(int fd)
{
	struct slot *chunk;

	if (fd < 0 || (unsigned int)fd >= CHUNKS * CHUNK_SLOTS)
		return NULL;
	chunk = __atomic_load_n(&chunks[fd >> CHUNK_SHIFT], __ATOMIC_ACQUIRE);
	return chunk ? &chunk[fd & (CHUNK_SLOTS - 1)] : NULL;
}

static struct slot *slot_create(int fd)
{
	struct slot **place = &chunks[fd >> CHUNK_SHIFT], *none = NULL, *chunk;

	chunk = calloc(CHUNK_SLOTS, sizeof(*chunk));
	if (!chunk)
		return NULL;
	if (!__atomic_compare_exchange_n(place, &none, chunk, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		free(chunk);
	return slot_lookup(fd);
}

/* Held for a few instructions, without calls. */
static void slot_lock(struct slot *slot)
{
	while (__atomic_exchange_n(&slot->lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

static void slot_unlock(struct slot *slot)
{
	__atomic_store_n(&slot->lock, 0, __ATOMIC_RELEASE);
}

static struct file *slot_exchange(struct slot *slot, struct file *file)
{
	struct file *old;

	slot_lock(slot);
	old = slot->file;
	slot->file = file;
	slot_unlock(slot);
	return old;
}

int file_install(int fd, const struct file_ops *ops, void *object)
{
	struct slot *slot;
	struct file *file, *stale;

	if (fd < 0 || (unsigned int)fd >= CHUNKS * CHUNK_SLOTS)
		return -EMFILE;
	slot = slot_lookup(fd);
	if (!slot)
		slot = slot_create(fd);
	file = slot ? malloc(sizeof(*file)) : NULL;
	if (!file)
		return -ENOMEM;
	*file = (struct file){.ops = ops, .object = object, .refs = 1};
	stale = slot_exchange(slot, file);
	if (stale)
		file_put(stale);
	return 0;
}

struct file *file_get(int fd)
{
	struct slot *slot = slot_lookup(fd);
	struct file *file;

	if (!slot)
		return NULL;
	slot_lock(slot);
	file = slot->file;
	if (file)
		__atomic_fetch_add(&file->refs, 1, __ATOMIC_RELAXED);
	slot_unlock(slot);
	return file;
}

void file_put(struct file *file)
{
	if (__atomic_sub_fetch(&file->refs, 1, __ATOMIC_ACQ_REL))
		return;
	file->ops->release(file->object);
	free(file);
}

int file_remove(int fd)
{
	struct slot *slot = slot_lookup(fd);
	struct file *file = slot ? slot_exchange(slot, NULL) : NULL;

	if (!file)
		return -EBADF;
	file_put(file);
	return 0;
}
