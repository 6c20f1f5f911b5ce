/*
 * Saving and loading of any virtio device. The transport's description holds a struct
 * virtio_saved; what the class itself saves is encoded into its `device` bytes.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>

#include "base/str.h"
#include "virtio/virtio.h"

static const struct state_field queue_fields[] = {
	STATE_NESTED(struct virtio_saved_queue, vq, virtq_saved_state),
	STATE_FIELD(struct virtio_saved_queue, vector),
	STATE_FIELD(struct virtio_saved_queue, enabled),
	STATE_END,
};

static const struct state_desc queue_state = {
	.name = "virtio-queue",
	.version = 1,
	.fields = queue_fields,
};

static const struct state_field fields[] = {
	STATE_FIELD(struct virtio_saved, features),
	STATE_FIELD(struct virtio_saved, status),
	STATE_FIELD(struct virtio_saved, generation),
	STATE_NESTED_ARRAY(struct virtio_saved, queue, queue_state),
	STATE_FIELD(struct virtio_saved, device_len),
	STATE_BUFFER(struct virtio_saved, device),
	STATE_END,
};

const struct state_desc virtio_saved_state = {
	.name = "virtio",
	.version = 1,
	.fields = fields,
};

int virtio_device_save(struct virtio_device *dev, struct virtio_saved *saved)
{
	struct str text = {0};
	int rc;

	virtio_device_signal_pending(dev);
	memset(saved, 0, sizeof(*saved));
	saved->features = dev->features;
	saved->status = virtio_get_status(dev);
	saved->generation = dev->generation;
	for (unsigned int i = 0; i < dev->nqueues; i++) {
		virtq_save(&dev->queue[i].vq, &saved->queue[i].vq);
		saved->queue[i].vector = dev->queue[i].vector;
		saved->queue[i].enabled = dev->queue[i].enabled;
	}
	rc = state_save(dev->class->state, dev, &text);
	if (!rc && text.len > sizeof(saved->device))
		rc = -EFBIG;
	if (!rc) {
		saved->device_len = (u32)text.len;
		if (text.len)
			memcpy(saved->device, text.text, text.len);
	}
	str_free(&text);
	return rc;
}

/* A legacy driver has used this device: its features are final. */
static bool saved_in_use(const struct virtio_device *dev, const struct virtio_saved *saved)
{
	bool used = saved->status & VIRTIO_CONFIG_S_DRIVER_OK;

	for (unsigned int i = 0; i < dev->nqueues; i++)
		used |= saved->queue[i].enabled;
	return used;
}

/* Features, then the device's own, then queues, then the status, which makes them live; but for a
 * device that needs a reset, which stays as it is. */
int virtio_device_load(struct virtio_device *dev, const struct virtio_saved *saved, struct err *err)
{
	u8 status = saved->status & (u8)~VIRTIO_CONFIG_S_NEEDS_RESET;
	int rc = 0;

	if (saved->device_len > sizeof(saved->device))
		return err_set(err, EINVAL, "%s: saved state too long", dev->id);
	virtio_set_features(dev, 0, (u32)saved->features);
	virtio_set_features(dev, 1, (u32)(saved->features >> 32));
	virtio_set_status(dev, status & (u8)~VIRTIO_CONFIG_S_DRIVER_OK);
	if (saved->status && (virtio_get_status(dev) ^ status) & VIRTIO_CONFIG_S_FEATURES_OK)
		return err_set(err, EINVAL, "%s: saved with features that are not offered",
			       dev->id);
	/* What the features decide comes before what the driver changed later. */
	if (saved_in_use(dev, saved))
		virtio_settle_features(dev);
	if (saved->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		__atomic_fetch_or(&dev->status, VIRTIO_CONFIG_S_NEEDS_RESET, __ATOMIC_RELEASE);
	rc = state_load(dev->class->state, dev, saved->device, saved->device_len, err);
	for (unsigned int i = 0; i < dev->nqueues && !rc; i++) {
		rc = virtq_load(&dev->queue[i].vq, &saved->queue[i].vq);
		dev->queue[i].vector = saved->queue[i].vector;
		if (!rc && saved->queue[i].enabled)
			virtio_queue_enable(&dev->queue[i]);
	}
	if (rc)
		return err_set(err, -rc, "%s: saved queues are not legal", dev->id);
	virtio_set_status(dev, status);
	dev->generation = saved->generation;
	return 0;
}
