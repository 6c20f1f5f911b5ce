/*
 * Invariants:
 * 1. Files are sorted by name; the selector of file i is FW_CFG_FILE_FIRST + i, and the directory
 *    (item FW_CFG_FILE_DIR) says so.
 * 2. What the guest may write lies in store[], which is saved with the device; everything else
 *    comes from the machine's configuration again.
 * 3. A DMA moves at most what the item has, and up to ZEROS_MAX zeros after it.
 *
 * docs/specs/fw_cfg of QEMU.
 */
#include "hw/fw_cfg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

#define KEYS	   0x20 /* well-known ones, and as many of the architecture */
#define ARCH	   0x8000
#define WRITE_BIT  0x4000 /* of old interfaces; ignored */
#define STORE_SIZE 4096
#define ZEROS_MAX  (64 * KiB)
#define DIR_ENTRY  64
#define SIGNATURE  "QEMU"

enum { ID_PORTS = 1, ID_DMA = 2 };
enum { SELECTOR = 0, DATA = 1, DMA_HIGH = 4, DMA_LOW = 8 };
enum {
	DMA_ERROR = 1 << 0,
	DMA_READ = 1 << 1,
	DMA_SKIP = 1 << 2,
	DMA_SELECT = 1 << 3,
	DMA_WRITE = 1 << 4,
};

struct entry {
	struct fw_cfg_item item;
	u8 *data; /* what the guest reads: our copy, in store[], or borrowed */
	char name[FW_CFG_NAME_MAX];
};

struct fw_cfg {
	struct device dev;
	struct bus_range range;
	bool dma;
	struct entry known[KEYS], arch[KEYS], files[FW_CFG_FILE_MAX];
	u32 file_count;
	u8 store[STORE_SIZE];
	u32 store_used;
	u16 selected;
	u32 offset; /* in the selected item */
	u32 dma_high;
};

/* ---- items ---- */

static bool in_store(const struct fw_cfg *f, const u8 *p)
{
	return p >= f->store && p < f->store + STORE_SIZE;
}

static void entry_free(struct fw_cfg *f, struct entry *e)
{
	if (!e->item.borrowed && !in_store(f, e->data))
		free(e->data);
	e->data = NULL;
}

static u8 *store_alloc(struct fw_cfg *f, size_t len)
{
	u8 *p = f->store + f->store_used;

	if (len > STORE_SIZE - f->store_used)
		return NULL;
	f->store_used += (u32)len;
	return p;
}

static int entry_set(struct fw_cfg *f, struct entry *e, const struct fw_cfg_item *item)
{
	u8 *data;

	if (item->len > UINT32_MAX || (item->borrowed && (item->writable || item->selected)))
		return -EINVAL;
	if (item->borrowed)
		data = (u8 *)(uintptr_t)item->data;
	else if (item->writable)
		data = store_alloc(f, item->len);
	else
		data = malloc(item->len + 1);
	if (!data && item->len)
		return item->writable ? -ENOSPC : -ENOMEM;
	if (!item->borrowed && item->data)
		memcpy(data, item->data, item->len);
	else if (!item->borrowed)
		memset(data, 0, item->len);
	entry_free(f, e);
	e->item = *item;
	e->data = data;
	return 0;
}

static struct entry *entry_of(struct fw_cfg *f, u16 selector)
{
	selector &= (u16)~WRITE_BIT;
	if (selector < KEYS)
		return &f->known[selector];
	if (selector >= ARCH && selector < ARCH + KEYS)
		return &f->arch[selector - ARCH];
	if (selector >= FW_CFG_FILE_FIRST && selector - FW_CFG_FILE_FIRST < (int)f->file_count)
		return &f->files[selector - FW_CFG_FILE_FIRST];
	return NULL;
}

int fw_cfg_add(struct device *dev, u16 selector, const struct fw_cfg_item *item)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	struct entry *e = entry_of(f, selector);

	if (!e || (selector >= FW_CFG_FILE_FIRST && selector < ARCH))
		return -EINVAL;
	return entry_set(f, e, item);
}

int fw_cfg_add_uint(struct device *dev, u16 selector, u64 value, unsigned int size)
{
	u8 raw[8];

	store_le64(raw, value);
	return fw_cfg_add(dev, selector, &(struct fw_cfg_item){.data = raw, .len = size});
}

static int rebuild_directory(struct fw_cfg *f)
{
	size_t len = 4 + (size_t)f->file_count * DIR_ENTRY;
	u8 *dir = calloc(1, len);
	int rc;

	if (!dir)
		return -ENOMEM;
	store_be32(dir, f->file_count);
	for (u32 i = 0; i < f->file_count; i++) {
		u8 *e = dir + 4 + (size_t)i * DIR_ENTRY;

		store_be32(e, (u32)f->files[i].item.len);
		store_be16(e + 4, (u16)(FW_CFG_FILE_FIRST + i));
		memcpy(e + 8, f->files[i].name, FW_CFG_NAME_MAX);
	}
	rc = entry_set(f, &f->known[FW_CFG_FILE_DIR],
		       &(struct fw_cfg_item){.data = dir, .len = len});
	free(dir);
	return rc;
}

/* Where the name is, or belongs. */
static u32 file_position(const struct fw_cfg *f, const char *name)
{
	u32 at = 0;

	while (at < f->file_count && strcmp(f->files[at].name, name) < 0)
		at++;
	return at;
}

int fw_cfg_add_file(struct device *dev, const char *name, const struct fw_cfg_item *item)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	u32 at = file_position(f, name);
	struct entry fresh = {.data = NULL};
	int rc;

	if (strlen(name) >= FW_CFG_NAME_MAX)
		return -ENAMETOOLONG;
	if (at < f->file_count && !strcmp(f->files[at].name, name)) {
		rc = entry_set(f, &f->files[at], item);
		return rc ? rc : rebuild_directory(f);
	}
	if (f->file_count == FW_CFG_FILE_MAX)
		return -ENOSPC;
	rc = entry_set(f, &fresh, item);
	if (rc)
		return rc;
	strcpy(fresh.name, name);
	memmove(&f->files[at + 1], &f->files[at], (f->file_count - at) * sizeof(f->files[0]));
	f->files[at] = fresh;
	f->file_count++;
	return rebuild_directory(f);
}

/* ---- reading and writing ---- */

static void select_item(struct fw_cfg *f, u16 selector)
{
	struct entry *e = entry_of(f, selector);

	f->selected = selector;
	f->offset = 0;
	if (e && e->item.selected)
		e->item.selected(e->item.ctx, e->data, e->item.len);
}

/* Bytes left in the selected item, and where they are. */
static u32 remaining(struct fw_cfg *f, struct entry **entry)
{
	struct entry *e = entry_of(f, f->selected);

	*entry = e;
	return e && f->offset < e->item.len ? (u32)e->item.len - f->offset : 0;
}

static void advance(struct fw_cfg *f, u32 len)
{
	if (add_overflows(&f->offset, f->offset, len))
		f->offset = UINT32_MAX;
}

static void read_bytes(struct fw_cfg *f, u8 *buf, u32 len)
{
	struct entry *e;
	u32 n = min(len, remaining(f, &e));

	if (n)
		memcpy(buf, e->data + f->offset, n);
	memset(buf + n, 0, len - n);
	advance(f, len);
}

/* ---- DMA ---- */

static int dma_read(struct fw_cfg *f, gpa_t addr, u32 len)
{
	static const u8 zeros[4096];
	struct guest_mem *mem = bus_mem(f->dev.bus);
	struct entry *e;
	u32 n = min(len, remaining(f, &e));
	u32 offset = f->offset;

	if (len - n > ZEROS_MAX || (n && mem_write(mem, addr, e->data + offset, n)))
		return -EFAULT;
	advance(f, len);
	for (addr += n, len -= n; len; addr += n, len -= n) {
		n = min(len, (u32)sizeof(zeros));
		if (mem_write(mem, addr, zeros, n))
			return -EFAULT;
	}
	return 0;
}

static int dma_write(struct fw_cfg *f, gpa_t addr, u32 len)
{
	struct entry *e;
	u32 left = remaining(f, &e), offset = f->offset;

	if (!e || !e->item.writable || len > left)
		return -EPERM;
	if (mem_read(bus_mem(f->dev.bus), addr, e->data + offset, len))
		return -EFAULT;
	advance(f, len);
	if (e->item.written)
		e->item.written(e->item.ctx, e->data, offset, len);
	return 0;
}

static int dma_execute(struct fw_cfg *f, u32 control, u32 len, gpa_t addr)
{
	if (control & DMA_SELECT)
		select_item(f, (u16)(control >> 16));
	if (control & DMA_READ)
		return dma_read(f, addr, len);
	if (control & DMA_WRITE)
		return dma_write(f, addr, len);
	if (control & DMA_SKIP)
		advance(f, len);
	return 0;
}

/* The descriptor: control, length (32 bits each), address (64), all big-endian. The control word
 * tells the guest when we are done and how it went. */
static void dma_run(struct fw_cfg *f, gpa_t at)
{
	struct guest_mem *mem = bus_mem(f->dev.bus);
	u8 d[16], done[4];
	int rc;

	if (mem_read(mem, at, d, sizeof(d)))
		return;
	rc = dma_execute(f, load_be32(d), load_be32(d + 4), load_be64(d + 8));
	store_be32(done, rc ? DMA_ERROR : 0);
	mem_write(mem, at, done, sizeof(done));
}

/* ---- ports ---- */

static u64 fw_cfg_read(void *ctx, u64 offset, unsigned int size)
{
	static const u8 sign[8] = "QEMU CFG";
	struct fw_cfg *f = ctx;
	u8 buf[8] = {0};

	if (offset == DATA)
		read_bytes(f, buf, 1);
	else if (offset >= DMA_HIGH && f->dma)
		memcpy(buf, &sign[offset - DMA_HIGH], min(size, (unsigned int)(12 - offset)));
	return load_le(buf, size);
}

static void fw_cfg_write(void *ctx, u64 offset, unsigned int size, u64 value)
{
	struct fw_cfg *f = ctx;

	if (offset == SELECTOR && size == 2)
		select_item(f, (u16)value);
	else if (!f->dma || size != 4)
		return;
	else if (offset == DMA_HIGH)
		f->dma_high = __builtin_bswap32((u32)value);
	else if (offset == DMA_LOW)
		dma_run(f, (u64)f->dma_high << 32 | __builtin_bswap32((u32)value));
	if (offset == DMA_LOW)
		f->dma_high = 0;
}

static void fw_cfg_read_block(void *ctx, u64 offset, unsigned int size, void *data, u32 count)
{
	u8 *p = data;

	if (offset == DATA && size == 1) {
		read_bytes(ctx, data, count);
		return;
	}
	for (u32 i = 0; i < count; i++, p += size)
		store_le(p, size, fw_cfg_read(ctx, offset, size));
}

static const struct bus_ops fw_cfg_ops = {
	.read = fw_cfg_read,
	.write = fw_cfg_write,
	.read_block = fw_cfg_read_block,
};

/* ---- life ---- */

static int fw_cfg_init(struct device *dev, const void *config, struct err *err)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);
	const struct fw_cfg_config *c = config;
	const struct fw_cfg_item sign = {.data = SIGNATURE, .len = 4};

	f->dma = !c || !c->no_dma;
	f->range = (struct bus_range){
		.name = "fw-cfg",
		.space = BUS_PIO,
		.base = c && c->port ? c->port : FW_CFG_PORT,
		.size = f->dma ? FW_CFG_PORTS : 2,
		.ops = &fw_cfg_ops,
		.ctx = f,
	};
	if (bus_add(dev->bus, &f->range))
		return err_set(err, EEXIST, "port 0x%llx is taken",
			       (unsigned long long)f->range.base);
	if (fw_cfg_add(dev, FW_CFG_SIGNATURE, &sign) ||
	    fw_cfg_add_uint(dev, FW_CFG_ID, ID_PORTS | (f->dma ? ID_DMA : 0), 4) ||
	    rebuild_directory(f))
		return err_set(err, ENOMEM, "out of memory");
	return 0;
}

static void fw_cfg_reset(struct device *dev)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	select_item(f, FW_CFG_SIGNATURE);
	f->dma_high = 0;
}

static void fw_cfg_free(struct device *dev)
{
	struct fw_cfg *f = container_of(dev, struct fw_cfg, dev);

	bus_remove(dev->bus, &f->range);
	for (u32 i = 0; i < KEYS; i++) {
		entry_free(f, &f->known[i]);
		entry_free(f, &f->arch[i]);
	}
	for (u32 i = 0; i < f->file_count; i++)
		entry_free(f, &f->files[i]);
}

static const struct state_field fw_cfg_fields[] = {
	STATE_BUFFER(struct fw_cfg, store),
	STATE_FIELD(struct fw_cfg, selected),
	STATE_FIELD(struct fw_cfg, offset),
	STATE_FIELD(struct fw_cfg, dma_high),
	STATE_END,
};

static const struct state_desc fw_cfg_state = {
	.name = "fw-cfg",
	.version = 1,
	.fields = fw_cfg_fields,
};

const struct device_class fw_cfg_class = {
	.name = "fw-cfg",
	.summary = "blobs for firmware",
	.size = sizeof(struct fw_cfg),
	.init = fw_cfg_init,
	.reset = fw_cfg_reset,
	.free = fw_cfg_free,
	.state = &fw_cfg_state,
};
