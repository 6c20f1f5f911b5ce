/* Reference counts of host clusters: the table of blocks, and the counts of 1 to 64 bits in them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2_int.h"

u64 qcow2_refcount_in(const u8 *block, u32 order, u64 index)
{
	switch (order) {
	case 0:
		return (block[index / 8] >> (index % 8)) & 1;
	case 1:
		return (block[index / 4] >> (2 * (index % 4))) & 3;
	case 2:
		return (block[index / 2] >> (4 * (index % 2))) & 15;
	case 3:
		return block[index];
	case 4:
		return load_be16(block + 2 * index);
	case 5:
		return load_be32(block + 4 * index);
	default:
		return load_be64(block + 8 * index);
	}
}

static void put_bits(u8 *byte, unsigned int shift, unsigned int mask, u64 value)
{
	*byte = (u8)((*byte & ~(mask << shift)) | ((unsigned int)value << shift));
}

void qcow2_refcount_put(u8 *block, u32 order, u64 index, u64 value)
{
	switch (order) {
	case 0:
		put_bits(block + index / 8, (unsigned int)(index % 8), 1, value);
		break;
	case 1:
		put_bits(block + index / 4, 2 * (unsigned int)(index % 4), 3, value);
		break;
	case 2:
		put_bits(block + index / 2, 4 * (unsigned int)(index % 2), 15, value);
		break;
	case 3:
		block[index] = (u8)value;
		break;
	case 4:
		store_be16(block + 2 * index, (u16)value);
		break;
	case 5:
		store_be32(block + 4 * index, (u32)value);
		break;
	default:
		store_be64(block + 8 * index, value);
		break;
	}
}

static int block_of(struct qcow2 *s, u64 cluster, struct qcow2_tab **tab)
{
	u64 index = cluster >> s->refblock_bits;

	*tab = NULL;
	if (index >= s->reftable_size || !(s->reftable[index] & QCOW2_OFFSET))
		return 0;
	return qcow2_tab_load(s, &s->refblocks, index, s->reftable[index] & QCOW2_OFFSET, tab);
}

int qcow2_refcount_get(struct qcow2 *s, u64 offset, u64 *count)
{
	u64 cluster = offset >> s->cluster_bits;
	struct qcow2_tab *tab;
	int rc = block_of(s, cluster, &tab);

	*count = rc || !tab ? 0
			    : qcow2_refcount_in(tab->data, s->h.refcount_order,
						cluster & (BIT(s->refblock_bits) - 1));
	return rc;
}

static u64 refcount_max(const struct qcow2 *s)
{
	return s->h.refcount_order == 6 ? ~0ULL : BIT(1u << s->h.refcount_order) - 1;
}

static void set_in(struct qcow2 *s, struct qcow2_tab *tab, u64 index, u64 count)
{
	u32 order = s->h.refcount_order;

	qcow2_refcount_put(tab->data, order, index, count);
	qcow2_tab_dirty(s, &s->refblocks, tab, (index << order) / 8,
			order < 3 ? 1 : BIT(order) / 8);
}

static int add_one(struct qcow2 *s, u64 cluster, int delta)
{
	u32 order = s->h.refcount_order;
	u64 index = cluster & (BIT(s->refblock_bits) - 1), count;
	struct qcow2_tab *tab;
	int rc = block_of(s, cluster, &tab);

	if (rc)
		return rc;
	count = tab ? qcow2_refcount_in(tab->data, order, index) : 0;
	if (!tab || (delta < 0 && count < (u64)-delta)) {
		qcow2_mark_corrupt(s, "refcount of host cluster %#llx falls below 0",
				   (unsigned long long)(cluster << s->cluster_bits));
		return -EIO;
	}
	if (delta > 0 && count > refcount_max(s) - (u64)delta)
		return -EOVERFLOW;
	qcow2_refcount_put(tab->data, order, index, count + (u64)(s64)delta);
	qcow2_tab_dirty(s, &s->refblocks, tab, (index << order) / 8,
			order < 3 ? 1 : BIT(order) / 8);
	return 0;
}

int qcow2_refcount_set(struct qcow2 *s, u64 offset, u64 count)
{
	u64 cluster = offset >> s->cluster_bits;
	struct qcow2_tab *tab;
	int rc = block_of(s, cluster, &tab);

	if (rc || !tab)
		return rc ? rc : -ENOENT;
	if (count > refcount_max(s))
		return -EOVERFLOW;
	set_in(s, tab, cluster & (BIT(s->refblock_bits) - 1), count);
	return 0;
}

int qcow2_refcount_add(struct qcow2 *s, u64 offset, u64 clusters, int delta)
{
	u64 first = offset >> s->cluster_bits;
	int rc = 0;

	for (u64 i = 0; i < clusters && !rc; i++) {
		rc = add_one(s, first + i, delta);
		/* All or nothing. */
		for (; rc && i; i--)
			add_one(s, first + i - 1, -delta);
		if (rc)
			break;
	}
	return rc;
}
