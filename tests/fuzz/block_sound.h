/*
 * Damaged images for the fuzz targets: the first byte of an input picks a sound one, the second
 * says how many changes of 8 bytes follow.
 */
#ifndef TESTS_FUZZ_BLOCK_SOUND_H
#define TESTS_FUZZ_BLOCK_SOUND_H

#include "block/block.h"

/*
 * The image as a file in memory: its descriptor, its path (in `path`, which the options point to)
 * and what to open it with. *at: where in the input the changes ended. Inputs of two bytes at
 * least.
 */
int sound_open(const u8 *data, size_t size, size_t *at, char path[64],
	       struct block_options *options);

#endif
