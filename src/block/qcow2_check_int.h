/* What qcow2_check.c and qcow2_rebuild.c share: the counts of all references. */
#ifndef BLOCK_QCOW2_CHECK_INT_H
#define BLOCK_QCOW2_CHECK_INT_H

#include "block/image.h"
#include "block/qcow2_int.h"

#define AUDIT_CHUNK   4096u	 /* clusters a piece of the count */
#define AUDIT_TABLE   (1u << 31) /* in a cluster's count: an L2 table cannot lie there */
#define AUDIT_REPORTS 1000

struct qcow2_audit {
	struct qcow2 *s;
	struct block_check *out;
	unsigned int fix;
	u32 **chunks;
	u64 nchunks, clusters; /* in the file */
	u64 highest;	       /* cluster that is referenced */
	u64 reports;
	bool bad_blocks; /* the refcount structure itself is broken */
};

/* The references to a cluster. */
u32 qcow2_audit_count(const struct qcow2_audit *a, u64 cluster);

/* Count again all references but those of the refcount structure. */
int qcow2_audit_anew(struct qcow2_audit *a);

/* Write the refcounts that the references ask for. Locked. On failure the old ones hold. */
int qcow2_rebuild(struct qcow2_audit *a);

#endif
