/* Entropy device: Virtio 1.3, section 5.4. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "base/types.h"

struct virtio_rng_options {
	u64 max_bytes_per_second; /* 0: no limit */
};

#endif
