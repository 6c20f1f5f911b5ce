#include "fuzz/ops.h"

#include <string.h>

u64 fuzz_take(struct fuzz_input *in, unsigned int size)
{
	u64 value = 0;

	for (unsigned int i = 0; i < size && in->left; i++, in->left--)
		value |= (u64)*in->data++ << (8 * i);
	return value;
}

const u8 *fuzz_take_bytes(struct fuzz_input *in, size_t *len)
{
	const u8 *data = in->data;

	*len = min(*len, in->left);
	in->data += *len;
	in->left -= *len;
	return *len ? data : NULL;
}

static void access_one(struct harness *h, const struct harness_range *r, struct fuzz_input *in,
		       u8 op)
{
	bool pio = r->space == BUS_PIO;
	unsigned int size = 1U << ((op >> 3) % (pio ? 3 : 4));
	u64 at = r->base + fuzz_take(in, r->size > 256 ? 4 : 1) % r->size;

	if ((op & 7) < 3 && pio)
		harness_out(h, (u16)at, size, (u32)fuzz_take(in, size));
	else if ((op & 7) < 3)
		harness_write(h, at, size, fuzz_take(in, size));
	else if (pio)
		harness_in(h, (u16)at, size);
	else
		harness_read(h, at, size);
}

static void string_out(struct harness *h, const struct harness_range *r, struct fuzz_input *in)
{
	u64 at = r->base + fuzz_take(in, 1) % r->size;
	size_t len = fuzz_take(in, 1);
	const u8 *data = fuzz_take_bytes(in, &len);

	if (data && r->space == BUS_PIO)
		harness_outs(h, (u16)at, 1, data, (u32)len);
}

static void write_ram(struct harness *h, u64 ram_size, struct fuzz_input *in)
{
	u64 addr = fuzz_take(in, 2) << 3;
	size_t len = fuzz_take(in, 1);
	const u8 *data = fuzz_take_bytes(in, &len);

	if (data && addr < ram_size && len <= ram_size - addr)
		memcpy(harness_ram(h, addr, len), data, len);
}

void fuzz_run(struct harness *h, const struct harness_range *ranges, size_t n, u64 ram_size,
	      struct fuzz_input *in, void (*other)(void *ctx, struct fuzz_input *in), void *ctx)
{
	while (in->left) {
		u8 op = (u8)fuzz_take(in, 1);

		if ((op & 7) < 5)
			access_one(h, &ranges[(op >> 5) % n], in, op);
		else if ((op & 7) == 5)
			harness_advance(h, fuzz_take(in, 1) * 10 * NSEC_PER_USEC);
		else if ((op & 7) == 6 && ram_size && (op & 8))
			write_ram(h, ram_size, in);
		else if ((op & 7) == 6)
			string_out(h, &ranges[(op >> 5) % n], in);
		else if (other)
			other(ctx, in);
	}
	harness_settle(h);
}
