/*
 * The loads of the CPU benchmark. A load does one round of fixed work and says how much it was; the
 * same round gives the same sum on every machine, so that a wrong result shows.
 */
#ifndef CPULOAD_H
#define CPULOAD_H

#include <stdint.h>

struct load {
	const char *name;
	/* One round: units of work done, 0 when it could not be done. Adds to *sum. */
	uint64_t (*round)(uint64_t *sum);
};

uint64_t load_coremark(uint64_t *sum); /* passes over lists, matrices, a state machine, a CRC */
uint64_t load_sha256(uint64_t *sum);   /* bytes */
uint64_t load_qsort(uint64_t *sum);    /* numbers sorted */
uint64_t load_nbody(uint64_t *sum);    /* steps of five bodies */
uint64_t load_linpack(uint64_t *sum);  /* floating-point operations */
uint64_t load_triad(uint64_t *sum);    /* bytes read and written */
uint64_t load_crc32(uint64_t *sum);    /* bytes */
uint64_t load_divide(uint64_t *sum);   /* divisions */
uint64_t load_x87(uint64_t *sum);      /* floating-point operations */

uint64_t load_copy(uint64_t *sum);	 /* bytes, a MiB at a time */
uint64_t load_copy_short(uint64_t *sum); /* bytes, 100 at a time */
uint64_t load_syscall(uint64_t *sum);	 /* calls */
uint64_t load_fork(uint64_t *sum);	 /* children that ran a program */
uint64_t load_pipe(uint64_t *sum);	 /* there and back between two processes */
uint64_t load_fault(uint64_t *sum);	 /* pages touched first */

#endif
