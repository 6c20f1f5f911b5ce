/*
 * A ledger of what each sector of a disk may hold after a crash.
 *
 * Every operation has a begin and, once it has returned, an end, in ticks of one clock. What an
 * operation wrote may be there as soon as it has begun. It may not be there any more when another
 * one began after its end, succeeded, and had ended before a flush began that ended before the
 * crash. Operations may overlap in time and place.
 */
#ifndef TESTS_IMAGE_LEDGER_H
#define TESTS_IMAGE_LEDGER_H

#include "block/block.h"

#define LEDGER_SECTOR 512

/* What an operation made of a sector; or of the size of the disk. */
struct ledger_entry {
	u32 id; /* 0: zeros */
	u32 serial;
	u64 begun, ended; /* ended ~0: under way */
	bool sure;	  /* it succeeded */
};

struct ledger_history {
	struct ledger_entry *e;
	u32 count, cap;
};

struct ledger {
	u64 sectors; /* at most, while the disk is resized */
	u64 tick;    /* atomic */
	u32 next_id, next_serial;
	struct ledger_history *sector, size; /* size: ids are sectors */
	struct {
		u64 begun, ended;
	} * flushes;
	u64 nflushes;
	struct ledger_saved {
		char name[8];
		u32 *ids;
		u64 ended, deleted; /* created; deleted, or ~0 */
	} * saved;
	u64 nsaved;
};

/* `base` sectors hold contents of their own to begin with (ledger_base()). */
int ledger_init(struct ledger *l, u64 size, u64 base);
void ledger_free(struct ledger *l);
/* What a backing file of that size holds. */
void ledger_base(u8 *data, u64 size);
/* All that is on the disk now is durable. */
void ledger_settle(struct ledger *l);

/* ---- operations ---- */

struct ledger_op {
	struct ledger *ledger;
	struct block_req req;
	struct iovec iov;
	u8 *data;
	u64 first, n; /* sectors */
	u32 serial;
	u64 begun;
	bool busy;
	int result;
};

/* Choose an operation within the first `sectors` and enter it; pack: the cluster size of writes to
 * be stored compressed, 0 for none. near: around the sector of that number plus one, 0 anywhere. */
int ledger_begin(struct ledger_op *op, struct ledger *l, u64 sectors, u64 pack, u64 near,
		 u64 random, u64 random2);
/* Its result. */
void ledger_end(struct ledger_op *op, int result);

/* One at a time, synchronously; its result. */
int ledger_step(struct ledger *l, struct block *block, u64 pack, u64 random, u64 random2);
/*
 * Several at once through a queue of their own; the first error. apart: those that touch the same
 * sectors one after the other, so that a replay in the order of their starts ends as the disk did
 * (what a snapshot holds is read from the disk).
 */
int ledger_burst(struct ledger *l, struct block *block, u64 pack, unsigned int count, bool apart,
		 u64 seed);

int ledger_resize(struct ledger *l, struct block *block, u64 sectors);
int ledger_snapshot(struct ledger *l, struct block *block, u64 random);

/* May the disk hold this after a crash at `tick`? A line on standard error and -EBADMSG when not.
 */
int ledger_verify(struct ledger *l, struct block *block, u64 tick);
/* The same of a snapshot's contents, the block showing it. */
int ledger_verify_snapshot(struct ledger *l, struct block *block, const char *name);
/* Must a snapshot that was taken be there? */
bool ledger_snapshot_needed(const struct ledger *l, u64 index, u64 tick);

#endif
