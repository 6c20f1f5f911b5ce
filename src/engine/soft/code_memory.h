/* Memory for host code that is made at run time: written in one place, executed in another. */
#ifndef SOFT_CODE_MEMORY_H
#define SOFT_CODE_MEMORY_H

#include <stddef.h>

#include "base/types.h"

/* Two mappings of the same pages, of which neither is both writable and executable. */
struct code_memory {
	u8 *rw;
	const u8 *rx; /* NULL: not mapped */
	size_t size;
};

/* Map `size` bytes, a multiple of pages, which cost memory only where they are written. name is
 * what /proc/self/maps shows. 0 or -errno. */
int code_memory_map(struct code_memory *m, const char *name, size_t size);
/* Nothing when it is not mapped. */
void code_memory_unmap(struct code_memory *m);

#endif
