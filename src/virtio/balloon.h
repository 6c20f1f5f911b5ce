/* Memory balloon: Virtio 1.3, section 5.5. */
#ifndef VIRTIO_BALLOON_H
#define VIRTIO_BALLOON_H

#include "virtio/virtio.h"

struct virtio_balloon_options {
	bool deflate_on_oom; /* the guest may take memory back when it would kill instead */
};

/* Ask the guest to give back so many bytes (in pages of 4 KiB). With the bus lock. */
void virtio_balloon_set_target(struct virtio_device *dev, u64 bytes);
/* What the guest says it has given, bytes. */
u64 virtio_balloon_actual(const struct virtio_device *dev);

/* Statistics of section 5.5.6.3, by tag; UINT64_MAX where the guest did not tell. */
#define VIRTIO_BALLOON_STATS 16
struct virtio_balloon_statistics {
	u64 value[VIRTIO_BALLOON_STATS];
	u64 updated_ns; /* clock_now_ns() of the last report, 0: none */
};
/* A copy; and ask for a fresh report, which comes a little later. With the bus lock. */
void virtio_balloon_get_stats(struct virtio_device *dev, struct virtio_balloon_statistics *stats);

#endif
