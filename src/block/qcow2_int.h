/*
 * qcow2, versions 2 and 3 (QEMU's docs/interop/qcow2.rst is the specification).
 *
 * Locks and threads
 *
 *   lock		everything of the image but what is said below. Held over metadata reads and
 *			over the reservation of space, never over data I/O or a sync.
 *   tables[], entries	written under `lock`; read without it, see qcow2_table.c.
 *   busy list		ranges of the guest that one thread is changing; see qcow2_busy_enter().
 *   flush		one at a time; concurrent ones share it; see qcow2_flush.c.
 *
 * A queue's thread only ever tries the lock, and gives the request to a helper when it fails.
 *
 * What is in memory is ahead of what is on disk. The order in which it gets there is in
 * qcow2_flush.c and nowhere else.
 */
#ifndef BLOCK_QCOW2_INT_H
#define BLOCK_QCOW2_INT_H

#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "block/block_int.h"
#include "block/compress.h"
#include "block/luks_int.h"

#define QCOW2_MAGIC 0x514649fbu

#define QCOW2_MAX_L1	       (32 * MiB)
#define QCOW2_MAX_REFTABLE     (8 * MiB)
#define QCOW2_MAX_SNAPSHOTS    65536u
#define QCOW2_MAX_SNAPSHOT_TAB (64 * MiB)
#define QCOW2_MAX_EXTRA	       1024u
#define QCOW2_MAX_NAME	       1023u
#define QCOW2_MAX_LUKS	       (64 * MiB)
#define QCOW2_HOST_LIMIT       (1ULL << 56)

/* Incompatible features, by bit. */
enum {
	QCOW2_INCOMPAT_DIRTY = 1 << 0,
	QCOW2_INCOMPAT_CORRUPT = 1 << 1,
	QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
	QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
	QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
	QCOW2_INCOMPAT_KNOWN = (1 << 5) - 1,
};
#define QCOW2_CRYPT_LUKS    2 /* of qcow2_header.crypt */
#define QCOW2_COMPAT_LAZY   (1ULL << 0)
#define QCOW2_AUTO_BITMAPS  (1ULL << 0)
#define QCOW2_AUTO_DATA_RAW (1ULL << 1)

/* Header extensions. */
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURES	 0x6803f857u
#define QCOW2_EXT_BITMAPS	 0x23852875u
#define QCOW2_EXT_LUKS		 0x0537be77u
#define QCOW2_EXT_DATA_FILE	 0x44415441u

/* L1 and L2 entries. */
#define QCOW2_COPIED	 (1ULL << 63)
#define QCOW2_COMPRESSED (1ULL << 62)
#define QCOW2_ZERO	 (1ULL << 0)
#define QCOW2_OFFSET	 0x00fffffffffffe00ULL

#define QCOW2_SUBCLUSTERS 32u

/* The header, in the machine's byte order (header_length bytes on disk, at offset 0). */
struct qcow2_header {
	u32 version;
	u64 backing_offset;
	u32 backing_len;
	u32 cluster_bits;
	u64 size;
	u32 crypt;
	u32 l1_size; /* entries */
	u64 l1_offset;
	u64 reftable_offset;
	u32 reftable_clusters;
	u32 nsnapshots;
	u64 snapshots_offset;
	u64 incompatible, compatible, autoclear;
	u32 refcount_order;
	u32 length;
	u8 compression; /* 0 deflate, 1 zstd */
};

enum qcow2_tab_kind { QCOW2_L2, QCOW2_REFBLOCK };

/*
 * A metadata table of one cluster in memory: as on disk, big-endian. Its memory lives until the
 * image is closed and is only ever reused for another table, so a reader without the lock may look
 * at a stale one and find out afterwards (seq).
 */
struct qcow2_tab {
	u8 *data;
	u64 seq;    /* odd while it changes */
	u64 dirty;  /* one bit for each 64th of it */
	u64 offset; /* in the file */
	u64 index;  /* in L1, or in the refcount table */
	bool used, referenced, writing;
	bool loading; /* out of the map; whoever reserved it fills it */
	u64 good;     /* L2: 64ths of it that were looked through; see qcow2_table.c */
};

/*
 * The word at a byte offset, in the machine's order. A reader without the lock may look at a table
 * that the kernel is just filling from the file for somebody else, and finds that out by seq; the
 * thread sanitizer, to which that is a race, looks away here and nowhere else.
 */
#ifdef __SANITIZE_THREAD__
#define QCOW2_RACING __attribute__((no_sanitize("thread"), noinline, unused))
#else
#define QCOW2_RACING inline
#endif
static QCOW2_RACING u64 qcow2_tab_word(const struct qcow2_tab *tab, u64 at)
{
	return be64toh(
		__atomic_load_n((const u64 *)(const void *)(tab->data + at), __ATOMIC_RELAXED));
}

struct qcow2_cache {
	enum qcow2_tab_kind kind;
	struct qcow2_tab **map; /* by index; NULL: not in memory */
	u64 entries;		/* of map */
	struct qcow2_tab **tabs;
	u32 count, cap, hand, dirty, loading;
};

enum qcow2_free_state {
	QCOW2_FREE_NEW,	    /* something on disk may point to it */
	QCOW2_FREE_NOTED,   /* the flush under way will change that */
	QCOW2_FREE_DURABLE, /* nothing on disk does */
};

/* Host clusters to be given back once it is safe. */
struct qcow2_free {
	struct list link;
	u64 offset, clusters;
	enum qcow2_free_state state;
	u64 epoch, helper_epoch; /* at which it became durable */
	bool data;		 /* guest data: requests in flight may still use it */
};

struct qcow2_snapshot {
	u64 l1_offset;
	u32 l1_size;
	char *id, *name;
	u32 date_sec, date_nsec;
	u64 vm_clock_ns;
	u64 vm_state_size;
	u64 disk_size;
	u32 extra_size;
	u8 *extra; /* as on disk */
};

/* A table that readers without the lock may still be looking at; freed at the close. */
struct qcow2_old {
	struct qcow2_old *next;
	void *memory;
};

/* A range of the guest that one thread changes. */
struct qcow2_busy {
	struct list link;
	u64 start, end;
};

/* One mapping of the guest, at most within one L2 table. */
enum qcow2_type {
	QCOW2_UNALLOCATED, /* the backing file shows, or zeros */
	QCOW2_ZEROED,	   /* zeros; host may be set (preallocated) */
	QCOW2_NORMAL,
	QCOW2_PACKED, /* compressed */
	QCOW2_BROKEN,
};

struct qcow2_map {
	enum qcow2_type type;
	bool copied; /* the host cluster is ours alone */
	u64 len;     /* of the guest range with these properties */
	u64 host;    /* of its first byte */
	u64 entry;   /* the L2 entry of its first cluster */
};

#define QCOW2_FILTER 65536 /* bits */

struct qcow2 {
	struct block block;
	struct qcow2_header h;
	struct block *data;		 /* where guest data lies: block.file, data_file or crypt */
	struct block *data_file, *crypt; /* the external data file, what encrypts; or NULL */
	bool external, data_raw, copy_on_read;

	u32 cluster_bits;
	u64 cluster_size;
	u64 plain;     /* the same, if an L2 entry alone says where a cluster's data lies; or 0 */
	bool extended; /* L2 entries of 16 bytes with subclusters */
	u32 l2_bits;   /* log2 of the entries of a table */
	u32 sub_bits;  /* log2 of a subcluster; cluster_bits without extended */
	u32 refblock_bits;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* busy list, flush */

	u64 *l1;			       /* machine order; read without the lock */
	u64 l1_dirty[QCOW2_MAX_L1 / 512 / 64]; /* sectors */
	bool l1_any_dirty;
	u64 *reftable;
	u64 reftable_size; /* entries */
	u64 reftable_dirty[QCOW2_MAX_REFTABLE / 512 / 64];
	bool reftable_any_dirty;
	struct qcow2_cache l2, refblocks;

	/* Where metadata lies: a set of host clusters, and before it a filter, one bit for 64
	 * clusters in a row, over and over; bits are only ever set. */
	u64 *meta;
	u64 meta_cap, meta_count;
	u64 meta_filter[QCOW2_FILTER / 64];

	/* Space. */
	u64 end;	  /* clusters from here on have never been used */
	u64 cursor;	  /* no free cluster lies before it */
	u64 run, run_end; /* reserved: free, zero, inside the file */
	struct list frees;
	u64 nfrees;
	u64 packed_at; /* next byte for compressed data, 0: none */
	u64 file_size;

	struct list busy;
	struct list cows; /* copies under way: qcow2_cow.c */
	pthread_mutex_t cow_lock;
	struct list cow_slots; /* memory for more of them */
	u32 ncows;
	pthread_mutex_t load_lock;
	struct list loads, load_slots; /* tables that queues wait for: qcow2_load.c */
	u32 nloads, load_ahead;
	u64 load_next;		      /* the index after the last one that was loaded */
	u64 load_mark;		      /* who asks for this one has more read ahead */
	u64 helpers[2], helper_epoch; /* as a queue's epochs, for threads in qcow2_io() */

	bool writing;	 /* the header says that we write */
	bool meta_dirty; /* something for a flush to do */
	bool corrupt;	 /* found by us or by the header: no more writes */
	int failed;	 /* a sync failed: what is on disk is not known any more */
	bool flushing, releasing;
	u64 flush_started, flush_done;
	int flush_result;

	struct qcow2_snapshot *snapshots;
	u64 snapshots_bytes;
	u32 old_l1_size; /* while a snapshot is applied */
	struct qcow2_old *old_tables;

	/* Unknown extensions and known ones that we keep, as on disk, without the end mark. */
	u8 *extensions;
	u32 extensions_len;
	char *data_name;
	u32 nbitmaps;
	u64 bitmap_dir_offset, bitmap_dir_size;
	u64 luks_offset, luks_len; /* of the LUKS header, 0: none */
	struct luks_header luks;

	const struct compress_class *compress; /* NULL until needed */
	struct qcow2_unpacked *unpacked;
};

static inline struct qcow2 *qcow2_of(struct block *b)
{
	return container_of(b, struct qcow2, block);
}

extern const struct block_class block_qcow2_class;

static inline u64 qcow2_entry_size(const struct qcow2 *s)
{
	return s->extended ? 16 : 8;
}

static inline u64 qcow2_l1_index(const struct qcow2 *s, u64 offset)
{
	return offset >> (s->cluster_bits + s->l2_bits);
}

static inline u64 qcow2_l2_index(const struct qcow2 *s, u64 offset)
{
	return (offset >> s->cluster_bits) & (BIT(s->l2_bits) - 1);
}

/* What readers without the lock see of L1 and of the L2 tables in memory. The number of entries
 * goes up after the arrays have moved, so it is asked for first. */
static inline u32 qcow2_l1_entries(const struct qcow2 *s)
{
	return __atomic_load_n(&s->h.l1_size, __ATOMIC_ACQUIRE);
}

static inline u64 qcow2_l1_peek(const struct qcow2 *s, u64 index)
{
	const u64 *l1 = __atomic_load_n(&s->l1, __ATOMIC_ACQUIRE);

	return __atomic_load_n(&l1[index], __ATOMIC_ACQUIRE);
}

static inline struct qcow2_tab *qcow2_l2_peek(const struct qcow2 *s, u64 index)
{
	struct qcow2_tab *const *map = __atomic_load_n(&s->l2.map, __ATOMIC_ACQUIRE);

	return __atomic_load_n(&map[index], __ATOMIC_ACQUIRE);
}

static inline u64 qcow2_into_cluster(const struct qcow2 *s, u64 offset)
{
	return offset & (s->cluster_size - 1);
}

/* ---- qcow2_header.c ---- */

/* Read and judge the header and its extensions. Fills h, names, extensions. */
int qcow2_header_read(struct qcow2 *s, bool ignore_corrupt, struct err *err);
/* Write the first cluster's header whole (creation, rebase). The caller syncs. */
int qcow2_header_write(struct qcow2 *s);
/* Set and clear feature bits on disk, synced. */
int qcow2_header_features(struct qcow2 *s, u64 incompatible, u64 autoclear);
/* The header is about to be overtaken by writes: clear autoclear bits. Under the lock. */
int qcow2_begin_writing(struct qcow2 *s);
/* Something that cannot be was found: refuse further writes and say so in the header. Locked. */
void qcow2_mark_corrupt(struct qcow2 *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- qcow2_table.c: L1, L2 and refcount tables in memory ---- */

int qcow2_tables_open(struct qcow2 *s, const struct block_options *o, struct err *err);
void qcow2_tables_free(struct qcow2 *s);
/* Forget every clean L2 table (the L1 changed). Locked, flushed. */
void qcow2_l2_forget(struct qcow2 *s);
/* A table in memory, loading it; *tab NULL when there is none. Locked. */
int qcow2_l2_get(struct qcow2 *s, u64 l1_index, struct qcow2_tab **tab);
/* The same, of our own (refcount 1), making or copying it. Locked. */
int qcow2_l2_own(struct qcow2 *s, u64 l1_index, struct qcow2_tab **tab);
/* A new zeroed table in the cache. Locked. */
struct qcow2_tab *qcow2_tab_new(struct qcow2 *s, struct qcow2_cache *c, u64 index, u64 offset);
int qcow2_tab_load(struct qcow2 *s, struct qcow2_cache *c, u64 index, u64 offset,
		   struct qcow2_tab **tab);
void qcow2_tab_dirty(struct qcow2 *s, struct qcow2_cache *c, struct qcow2_tab *tab, u64 at,
		     u64 len);
/* An L2 table to be filled from the file without the lock, within the cache's limit; NULL: none
 * is left. It is ended by settle, which lets the others see it (keep) or forgets it. Locked. */
struct qcow2_tab *qcow2_l2_reserve(struct qcow2 *s);
void qcow2_l2_settle(struct qcow2 *s, struct qcow2_tab *tab, u64 l1_index, u64 offset, bool keep);
/* Do the entries of [offset, +len), all in this table, lead where guest data may be? Locked. */
bool qcow2_l2_trust(struct qcow2 *s, struct qcow2_tab *tab, u64 offset, u64 len);
/* Are so many tables dirty that a flush should come first? */
bool qcow2_cache_full(const struct qcow2 *s);
void qcow2_l1_set(struct qcow2 *s, u64 index, u64 entry);

u64 qcow2_entry_get(const struct qcow2 *s, const struct qcow2_tab *tab, u64 index, u64 *bitmap);
void qcow2_entry_set(struct qcow2 *s, struct qcow2_tab *tab, u64 index, u64 entry, u64 bitmap);

/*
 * Map [offset, +len), len shortened to what is alike and inside one table. Locked; loads the table.
 * A broken entry marks the image and gives QCOW2_BROKEN.
 */
int qcow2_lookup(struct qcow2 *s, u64 offset, u64 len, struct qcow2_map *map);
/* The same without the lock and without blocking: false when that does not do. */
bool qcow2_lookup_fast(struct qcow2 *s, u64 offset, u64 len, struct qcow2_map *map);

/* May there be metadata within the 64 clusters around it? Any thread. */
static inline bool qcow2_meta_near(const struct qcow2 *s, u64 offset)
{
	u64 bit = (offset >> (s->cluster_bits + 6)) % QCOW2_FILTER;

	return (__atomic_load_n(&s->meta_filter[bit / 64], __ATOMIC_RELAXED) >> bit % 64) & 1;
}

static inline void qcow2_meta_mark(struct qcow2 *s, u64 offset)
{
	u64 bit = (offset >> (s->cluster_bits + 6)) % QCOW2_FILTER;

	__atomic_or_fetch(&s->meta_filter[bit / 64], BIT(bit % 64), __ATOMIC_RELAXED);
}

/* The set of metadata clusters. Locked. */
int qcow2_meta_add(struct qcow2 *s, u64 offset, u64 clusters);
void qcow2_meta_del(struct qcow2 *s, u64 offset, u64 clusters);
bool qcow2_meta_has(const struct qcow2 *s, u64 offset);
/* Find it all anew: the tables have moved. */
int qcow2_meta_refresh(struct qcow2 *s);

/* ---- qcow2_refcount.c ---- */

u64 qcow2_refcount_in(const u8 *block, u32 order, u64 index);
void qcow2_refcount_put(u8 *block, u32 order, u64 index, u64 value);
/* Locked. */
int qcow2_refcount_get(struct qcow2 *s, u64 offset, u64 *count);
int qcow2_refcount_add(struct qcow2 *s, u64 offset, u64 clusters, int delta);
/* For repair: -ENOENT where there is no block for it. */
int qcow2_refcount_set(struct qcow2 *s, u64 offset, u64 count);

/* ---- qcow2_alloc.c: all locked ---- */

/* Clusters in a row, at least 1, at most want; refcount 1, contents zero. */
int qcow2_alloc(struct qcow2 *s, u64 want, u64 *offset, u64 *got);
/* Exactly that many in a row, contents anything. */
int qcow2_alloc_exact(struct qcow2 *s, u64 clusters, u64 *offset);
/* One cluster without any I/O, or false. */
bool qcow2_alloc_fast(struct qcow2 *s, u64 *offset);
/* Clusters that nothing on disk ever pointed to. */
void qcow2_unalloc(struct qcow2 *s, u64 offset, u64 clusters);
/* Give back once no table on disk points there any more. data: guest data. */
int qcow2_free_later(struct qcow2 *s, u64 offset, u64 clusters, bool data);
/* The host clusters of an L2 entry that has been replaced. */
int qcow2_free_entry(struct qcow2 *s, u64 entry);
/* Host range of a compressed cluster. */
void qcow2_packed_range(const struct qcow2 *s, u64 entry, u64 *offset, u64 *len);
/* Bytes for compressed data. */
int qcow2_alloc_packed(struct qcow2 *s, u64 len, u64 *offset);
/* The flush is done: what was noted for it is durable. */
void qcow2_frees_durable(struct qcow2 *s);
/* Release what may be released; drops the lock for hole punching. */
void qcow2_release(struct qcow2 *s);
/* Give back the reserved run and cut the file behind the last used cluster. */
void qcow2_trim(struct qcow2 *s);

/* Threads in qcow2_io(): count in and out. Locked. */
u64 qcow2_helper_enter(struct qcow2 *s);
void qcow2_helper_leave(struct qcow2 *s, u64 slot);

/* ---- qcow2_flush.c ---- */

/* What the disk holds is not known any more: rc is the answer to every later write. Locked. */
void qcow2_give_up(struct qcow2 *s, int rc);
/* Not locked. Everything completed before becomes durable. */
int qcow2_flush(struct qcow2 *s);
/* Locked, and held throughout but for the end of a flush under way: afterwards memory and disk
 * agree until the lock is let go. */
int qcow2_flush_held(struct qcow2 *s);
/* Flush until nothing is left to be done, frees included. Not locked, no other user. */
int qcow2_settle(struct qcow2 *s);

/* ---- qcow2_step.c: all locked ---- */

/* Bytes that one step of a large request works on, at most. */
#define QCOW2_MAX_STEP (2 * MiB)

/* Clusters in a row that get written together: data in the middle, what was there around it. */
struct qcow2_step {
	u64 start, end;	 /* guest range written: data and copies */
	u64 offset, len; /* of the data */
	u64 host;	 /* of `start` */
	u64 clusters;	 /* newly allocated; 0: subclusters are added to the one that is there */
	u64 new_host;	 /* of the first of them */
	bool fresh;	 /* reads as zeros where it is not written */
	bool whole;	 /* written from the first cluster's start to the last one's end */
};

/* Decide on the next step of a write at st->offset, st->len of it at most. Busy. */
int qcow2_step_plan(struct qcow2 *s, struct qcow2_step *st, bool *in_place);
/* Let the entries of the step point to what was written; clusters that could not be are given
 * back. */
int qcow2_step_publish(struct qcow2 *s, const struct qcow2_step *st);
/* It was not written: give its clusters back. */
void qcow2_step_drop(struct qcow2 *s, const struct qcow2_step *st);
/* Does [start, end) read as zeros by what is known without I/O? */
bool qcow2_known_zero(struct qcow2 *s, u64 start, u64 end);
/* May the cluster be written to as it is, at least in part? */
bool qcow2_ours(const struct qcow2 *s, u64 entry);
int qcow2_entry_at(struct qcow2 *s, u64 offset, u64 *entry, u64 *bitmap);

/* ---- qcow2_io.c ---- */

int qcow2_io(struct block *b, const struct block_io *io);
/* Flags of DISCARD between the parts of qcow2: the backing file shows again. */
#define QCOW2_UNCOVER (1u << 16)
/* Wait until nobody changes any part of it, and be the one who does. Locked (waits). */
void qcow2_busy_enter(struct qcow2 *s, struct qcow2_busy *busy, u64 start, u64 end);
void qcow2_busy_leave(struct qcow2 *s, struct qcow2_busy *busy);
bool qcow2_is_busy(const struct qcow2 *s, u64 start, u64 end);

/* ---- qcow2_submit.c, in the queue's thread ---- */

void qcow2_submit(struct block *b, struct block_queue *q, struct block_req *req);
/* Start a read or write over, as far as this layer is concerned. */
void qcow2_start(struct qcow2 *s, struct block_queue *q, struct block_req *req);

/* The same for one that has waited for its table, and need not do so again. */
void qcow2_start_loaded(struct qcow2 *s, struct block_queue *q, struct block_req *req);

/* ---- qcow2_load.c ---- */

/* Let the request wait, in the queue's thread, for the L2 table that it needs. False: that is not
 * what keeps it. */
bool qcow2_load_start(struct qcow2 *s, struct block_queue *q, struct block_req *req);
/* Is it the table whose first use has more read ahead? */
#define QCOW2_LOAD_NONE (~0ULL)
static inline bool qcow2_load_marked(const struct qcow2 *s, u64 l1_index)
{
	return __atomic_load_n(&s->load_mark, __ATOMIC_RELAXED) == l1_index;
}
/* Its first use, in the queue's thread. */
void qcow2_load_more(struct qcow2 *s, struct block_queue *q, u64 l1_index);
/* What is being read of the table (QCOW2_LOAD_ALL: any) is overtaken. Locked. */
#define QCOW2_LOAD_ALL (~0ULL)
void qcow2_load_spoil(struct qcow2 *s, u64 index);
/* In a helper: a READ with this flag, iov being the load. */
#define QCOW2_LOAD (1u << 19)
int qcow2_load(struct qcow2 *s, const struct block_io *io);
void qcow2_loads_free(struct qcow2 *s);

/* ---- qcow2_cow.c ---- */

/* A write that changes mappings, in the queue's thread. False: a helper must do it. */
bool qcow2_cow_start(struct qcow2 *s, struct block_queue *q, struct block_req *req);
/* Its last part, in a helper: a READ with this flag, iov being the copy. */
#define QCOW2_PUBLISH (1u << 17)
int qcow2_cow_publish(struct qcow2 *s, const struct block_io *io);
void qcow2_cows_free(struct qcow2 *s);

/* ---- qcow2_packed.c ---- */

int qcow2_packed_init(struct qcow2 *s);
/* Load the plug-in now, with a reason when it is missing. */
int qcow2_packed_prepare(struct qcow2 *s, struct err *err);
/* Space is handed out for compressed data. */
void qcow2_packed_forget(struct qcow2 *s);
int qcow2_packed_read(struct qcow2 *s, u64 entry, u64 skip, const struct iovec *iov, int niov,
		      u64 at, u64 len);
int qcow2_packed_write(struct qcow2 *s, const struct block_io *io);
void qcow2_packed_free(struct qcow2 *s);

/* ---- qcow2_resize.c ---- */

int qcow2_resize(struct block *b, u64 size, bool shrink, struct err *err);
int qcow2_write_l1(struct qcow2 *s, const u64 *l1, u64 entries, u64 offset);
int qcow2_keep_old(struct qcow2 *s, void *memory);

/* ---- qcow2_resize.c ---- */

/* Put the size into the header, flushed, and take it over. L1 must reach so far. Not locked. */
int qcow2_write_size(struct qcow2 *s, u64 size);

/* ---- qcow2_snapshot.c ---- */

/* Set every COPIED flag of the active tables by the refcounts. Locked. */
int qcow2_refresh_copied(struct qcow2 *s);

/* Add where they lie to the set of metadata clusters. Locked. */
int qcow2_snapshots_note(struct qcow2 *s);
int qcow2_snapshots_read(struct qcow2 *s, struct err *err);
void qcow2_snapshots_free(struct qcow2 *s);

/* ---- qcow2_check.c ---- */

int qcow2_repair_dirty(struct qcow2 *s, struct err *err);

#endif
