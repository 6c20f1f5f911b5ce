/* What blocks.c needs of the branches. */
#ifndef SOFT_OPS_BRANCH_H
#define SOFT_OPS_BRANCH_H

#include "engine/soft/blocks.h"

/* The uop that closes a block without a branch, `off` bytes and `nr` instructions after its start;
 * the links are in the slot after it. chain: it may go straight on in the next block. */
void branch_make_fall(struct uop *u, unsigned int off, unsigned int nr, bool mode64, bool chain);
/* Fill the links' slot after a uop that ends its block; page_off: of the block's start. */
void branch_link(struct uop *u, u64 page_off);
/* The function that does `compare` and the 64-bit Jcc of condition cc after it, or NULL. */
uop_fn *branch_fuse(uop_fn *compare, unsigned int cc);
/* The function of the compare alone, where fn does the branch after it, too; else fn itself. */
uop_fn *branch_unfused(uop_fn *fn);
/* Is this the Jcc that branch_fuse() is for? */
bool branch_is_jcc(const struct uop *u);
/* The function of every uop of a dropped block. */
uop_fn branch_dropped;

/* For the translator: which function does what. [0]: of 64-bit code, [1]: of flat 32-bit code. */
struct branch_fns {
	uop_fn *jmp, *jmp_far, *fall, *call, *ret, *jmp_r, *jmp_m, *call_r, *call_m;
	uop_fn *const *jcc; /* [16] */
};
extern const struct branch_fns branch_fns[2];

#endif
