/* Which rows of the opcode tables the generated cases have had, in which forms. */
#ifndef DIFF_ROWS_H
#define DIFF_ROWS_H

#include "gen.h"

/* In shared memory, of rows_size() bytes. */
struct rows;

size_t rows_size(void);
int rows_init(void); /* 0 or -errno */
/* Decode the instructions of a case and count each. */
void rows_note(struct rows *rows, const struct diff_case *c, const struct gen_insns *insns);
/*
 * Print the rows that ran in no case, or not in both code sizes, with and without a memory operand,
 * in each operand size, where they could; user code can reach them. Returns how many lines that
 * were.
 */
unsigned int rows_report(const struct rows *rows, bool all);

#endif
