/*
 * The queue library alone: the input is the mode, the size and the bytes of rings, tables and
 * buffers, and which of the chains come back when. Whatever comes out must lie in RAM.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "virtio/virtq.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM	 0x10000
#define MAX_SIZE 32
#define TURNS	 64

static void on_signal(void *ctx)
{
}

static void on_broken(void *ctx, const char *why)
{
	if (++*(int *)ctx > 1)
		abort(); /* once is enough */
}

static const struct virtq_ops ops = {on_signal, on_broken};

static void use(struct guest_mem *mem, const struct virtq_chain *c)
{
	size_t n;
	const struct mem_region *ram = mem_regions(mem, &n);

	for (u32 i = 0; i < (u32)c->nout + c->nin; i++) {
		const struct iovec *v = &c->out[i];
		u8 *p = v->iov_base;

		if (p < ram->hva || v->iov_len > RAM || p + v->iov_len > ram->hva + RAM)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guest_mem *mem;
	struct virtq vq;
	struct virtq_chain *held[MAX_SIZE];
	unsigned int nheld = 0;
	int broken = 0;
	u8 *ram;

	if (size < 8)
		return 0;
	mem = mem_new();
	if (mem_add_ram(mem, 0, RAM, MEM_NO_THP, NULL))
		abort();
	ram = mem_slice(mem, 0, RAM);
	if (virtq_init(&vq, mem, MAX_SIZE, sizeof(struct virtq_chain), &ops, &broken))
		abort();
	vq.size = data[1] % (MAX_SIZE + 1);
	vq.desc_gpa = 0;
	vq.avail_gpa = 0x400;
	vq.used_gpa = 0x500;
	for (size_t at = 0; at < RAM; at += size - 8 + 1)
		memcpy(ram + at, data + 8, size - 8 < RAM - at ? size - 8 : RAM - at);
	if (!virtq_start(&vq, data[0] & 0x1f)) {
		for (int turn = 0; turn < TURNS; turn++) {
			u8 what = data[2 + turn % 6] + (u8)turn;
			struct virtq_chain *c = what & 1 ? virtq_pop(&vq) : NULL;

			if (c) {
				use(mem, c);
				held[nheld++] = c; /* at most one a slot, or the queue is broken */
			} else if (nheld && what & 2) {
				unsigned int which = what / 8 % nheld;

				c = held[which];
				held[which] = held[nheld - 1];
				nheld--;
				virtq_push(&vq, c, load_le32(data + 2));
			} else if (nheld && what & 4) {
				virtq_unpop(&vq, held[--nheld]);
			} else {
				virtq_flush(&vq);
				virtq_notify_disable(&vq);
				virtq_notify_enable(&vq);
			}
			if (turn % 16 == 15) /* another processor */
				ram[load_le16(data + 3)] ^= what;
		}
	}
	virtq_stop(&vq);
	virtq_release(&vq);
	mem_free(mem);
	return 0;
}
