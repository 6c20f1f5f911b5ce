/* QED: see qed.c. */
#ifndef BLOCK_QED_INT_H
#define BLOCK_QED_INT_H

#include "block/block_int.h"

#define QED_MAGIC 0x00444551u

enum {
	QED_BACKING = 1,
	QED_NEED_CHECK = 2,
	QED_BACKING_RAW = 4,
	QED_FEATURES = 7,
};

/* L2 entries that are no offsets. */
#define QED_NONE 0
#define QED_ZERO 1

#define QED_BLOCK 4096u
#define QED_CACHE 1024u

struct qed_block {
	u64 offset; /* in the file; 0: empty (the header is no table) */
	u8 *data;
};

struct qed {
	struct block block;
	u32 cluster_size, table_clusters, header_clusters;
	u64 features, compat, autoclear;
	u64 l1;
	u32 name_offset, name_len;
	u64 end;     /* of the file, whole clusters */
	bool broken; /* a check found what it could not mend: leave NEED_CHECK set */
	pthread_mutex_t lock;
	struct qed_block cache[QED_CACHE];
};

static inline struct qed *qed_of(struct block *b)
{
	return container_of(b, struct qed, block);
}

bool qed_table_fits(const struct qed *s, u64 offset);
bool qed_cluster_fits(const struct qed *s, u64 offset);
/* Entries by their offset in the file. Locked. */
int qed_entry_get(struct qed *s, u64 at, u64 *entry);
int qed_entry_set(struct qed *s, u64 at, u64 entry);

int qed_check(struct block *b, unsigned int fix, struct block_check *check, struct err *err);

#endif
