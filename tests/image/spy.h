/* A node that notes or fails what passes through it on the way to the file. */
#ifndef TESTS_IMAGE_SPY_H
#define TESTS_IMAGE_SPY_H

#include "block/block_int.h"

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
	u64 *tick;    /* read with each note */
	pthread_mutex_t lock;
};

/* Open the image at path (format: options->format) with the spy between it and its file; its
 * backing file is options->backing_file. */
int spy_open(struct block **out, struct spy *spy, const char *path,
	     const struct block_options *options, struct err *err);
void spy_forget(struct spy *spy);

#endif
