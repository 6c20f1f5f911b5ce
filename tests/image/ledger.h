/*
 * A node that notes or fails what passes through it on the way to the file, and a ledger of what
 * each sector of the guest's disk may hold after a crash.
 */
#ifndef TESTS_IMAGE_LEDGER_H
#define TESTS_IMAGE_LEDGER_H

#include "block/block_int.h"

/* ---- the node ---- */

enum note_kind { NOTE_WRITE, NOTE_ZERO, NOTE_TRUNCATE, NOTE_FLUSH };

struct note {
	enum note_kind kind;
	u64 offset, len;
	u8 *data;
	u64 tick; /* of the guest's operations at the time */
};

struct spy {
	struct note *notes;
	u64 count, cap;
	u64 fail_at;  /* this operation fails, 1 the first; 0: none does */
	bool fail_on; /* and all after it */
	u64 seen;     /* operations so far */
	bool keep;    /* notes are wanted */
	u64 *tick;
	pthread_mutex_t lock;
};

/* Open the image at path (format: options->format) with the spy between it and its file. */
int spy_open(struct block **out, struct spy *spy, const char *path,
	     const struct block_options *options, struct err *err);
void spy_forget(struct spy *spy);

/* ---- the ledger ---- */

/* One operation on a sector. */
struct entry {
	u32 id;		  /* what it wrote; 0: zeros */
	u64 begun, ended; /* ticks; ended ~0: it failed, or is under way */
};

struct ledger {
	u64 sectors, tick, flushed; /* flushed: begin of the last flush that succeeded */
	u32 next_id;
	struct history {
		struct entry *e;
		u32 count, cap;
	} * sector;
	struct flush {
		u64 begun, ended;
	} * flushes;
	u64 nflushes;
};

int ledger_init(struct ledger *l, u64 size);
void ledger_free(struct ledger *l);

/* A random operation; its result. Writes carry the ids of the ledger. */
int ledger_step(struct ledger *l, struct block *block, u64 random, u64 random2);

/* May the disk hold this after a crash at `tick`? A line on standard error and -EBADMSG when not.
 */
int ledger_verify(struct ledger *l, struct block *block, u64 tick);

#endif
