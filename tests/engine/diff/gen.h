/* Cases from seeds. The same seed gives the same case. */
#ifndef DIFF_GEN_H
#define DIFF_GEN_H

#include "state.h"

#define GEN_MAX_INSNS 32

struct gen_insns {
	unsigned int n;
	unsigned int off[GEN_MAX_INSNS + 1]; /* in the code, from code_off; [n]: the end */
};

/* Registers and memory; code32: for 32-bit code. The code is filled with INT3. */
void gen_state(struct diff_case *c, u64 seed, bool code32);
/* Instructions on top. */
void gen_code(struct diff_case *c, u64 seed, struct gen_insns *insns);
bool gen_is_code32(u64 seed);

#endif
