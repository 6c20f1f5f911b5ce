/* A disk under random operations beside a shadow in memory: what the block tests share. */
#ifndef TESTS_BLOCK_RIG_H
#define TESTS_BLOCK_RIG_H

#include "base/types.h"
#include "block/block.h"

struct rig {
	struct block *block;
	struct block_queue *queue; /* NULL: synchronous access */
	u8 *shadow;
	u64 size;
	u64 seed;
	u32 unit;	/* offsets and lengths are multiples */
	u32 max_len;	/* bytes */
	bool misalign;	/* memory too */
	bool no_shrink; /* leave discards out of it */
};

u64 rig_random(struct rig *rig);
/* Shadow of zeros. 0 or -ENOMEM. */
int rig_init(struct rig *rig, struct block *block, u64 seed);
void rig_free(struct rig *rig);

/* One random operation on disk and shadow; 0, or -errno of the disk, or -EBADMSG when what was
 * read is not what the shadow holds (a line on standard error says where). */
int rig_step(struct rig *rig);
/* `depth` operations on disjoint ranges at once, through the queue. */
int rig_burst(struct rig *rig, unsigned int depth);
/* The whole disk against the shadow. */
int rig_compare(struct rig *rig);

/* Submit one request and wait for its result. */
int rig_wait(struct block_queue *queue, struct block_req *req);

/* Options with defaults, for a file. Free with rig_options_free(). */
struct block_options rig_options(const char *file, const char *format);
void rig_options_free(struct block_options *options);

/* A fresh folder below the build's, removed by rig_folder_free(). */
char *rig_folder(void);
void rig_folder_free(char *folder);
/* folder/name; freed by the caller. */
char *rig_path(const char *folder, const char *name);

/* Run a command of printf form; its exit status. Output goes to standard error. */
int rig_run(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The same, its output in fresh memory, NULL when it failed. */
char *rig_output(const char *fmt, ...) PRINTF_LIKE(1, 2);
bool rig_have(const char *program);

#endif
