/* Image operations of qcow2 (see image.h). */
#ifndef BLOCK_QCOW2_CREATE_INT_H
#define BLOCK_QCOW2_CREATE_INT_H

#include "block/image.h"

int qcow2_judge(const char *name, const struct block_create *c, struct err *err);
int qcow2_create(struct block *file, const struct block_create *c, struct err *err);
int qcow2_preallocate(const char *path, const struct block_create *c, struct err *err);
int qcow2_extend(struct block *b, u64 from, int how);
int qcow2_info(struct block *b, struct block_image_info *info);
int qcow2_check(struct block *b, unsigned int fix, struct block_check *check, struct err *err);
int qcow2_snapshot_count(struct block *b);
int qcow2_snapshot_get(struct block *b, unsigned int index, struct block_snapshot *out);
int qcow2_snapshot_create(struct block *b, const char *name, struct err *err);
int qcow2_snapshot_apply(struct block *b, const char *which, struct err *err);
int qcow2_snapshot_delete(struct block *b, const char *which, struct err *err);
int qcow2_snapshot_view(struct block *b, const char *which, struct err *err);
int qcow2_make_empty(struct block *b, struct err *err);
int qcow2_change_backing(struct block *b, const char *file, const char *format, struct err *err);
int qcow2_measure(const struct block_create *c, u64 data, u64 *required, u64 *full,
		  struct err *err);

#endif
