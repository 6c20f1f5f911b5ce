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
/* Is this the Jcc that branch_fuse() is for? */
bool branch_is_jcc(const struct uop *u);
/* The function of every uop of a dropped block. */
uop_fn branch_dropped;

#endif
