/* Checking QED: every table and cluster inside the file, none used twice. Bad entries become empty.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "block/qed_int.h"

#define MAX_CLUSTERS (1ULL << 32)
#define MAX_REPORTS  1000

struct audit {
	struct qed *s;
	struct block_check *out;
	unsigned int fix;
	u64 *used, clusters, reports, last;
};

static void report(struct audit *a, const char *what, u64 at, u64 entry)
{
	char line[120];

	if (!a->out->report || a->reports++ >= MAX_REPORTS)
		return;
	snprintf(line, sizeof(line), "ERROR %s entry at %#llx leads to %#llx", what,
		 (unsigned long long)at, (unsigned long long)entry);
	a->out->report(a->out->arg, line);
}

/* Take n clusters; false when one of them is taken. */
static bool take(struct audit *a, u64 offset, u64 n)
{
	u64 first = offset / a->s->cluster_size;
	bool fresh = true;

	for (u64 i = first; i < first + n; i++) {
		fresh &= !bitmap_test(a->used, i);
		bitmap_set(a->used, i);
	}
	return fresh;
}

static int bad_entry(struct audit *a, const char *what, u64 at, u64 entry)
{
	report(a, what, at, entry);
	if (!(a->fix & BLOCK_FIX_ERRORS)) {
		a->out->errors++;
		return 0;
	}
	a->out->errors_fixed++;
	return qed_entry_set(a->s, at, QED_NONE);
}

static int check_l2(struct audit *a, u64 table)
{
	u64 entries = (u64)a->s->table_clusters * a->s->cluster_size / 8;
	int rc = 0;

	for (u64 i = 0; i < entries && !rc; i++) {
		u64 at = table + i * 8, entry;

		rc = qed_entry_get(a->s, at, &entry);
		if (rc || entry <= QED_ZERO)
			continue;
		if (!qed_cluster_fits(a->s, entry) || !take(a, entry, 1)) {
			rc = bad_entry(a, "L2", at, entry);
			continue;
		}
		a->out->allocated_clusters++;
		a->out->fragmented_clusters += a->last && entry != a->last + a->s->cluster_size;
		a->last = entry;
	}
	return rc;
}

static int check_l1(struct audit *a)
{
	struct qed *s = a->s;
	u64 entries = (u64)s->table_clusters * s->cluster_size / 8;
	int rc = 0;

	for (u64 i = 0; i < entries && !rc; i++) {
		u64 at = s->l1 + i * 8, entry;

		rc = qed_entry_get(s, at, &entry);
		if (rc || !entry)
			continue;
		if (!qed_table_fits(s, entry) || !take(a, entry, s->table_clusters))
			rc = bad_entry(a, "L1", at, entry);
		else
			rc = check_l2(a, entry);
	}
	return rc;
}

int qed_check(struct block *b, unsigned int fix, struct block_check *out, struct err *err)
{
	struct qed *s = qed_of(b);
	struct audit a = {.s = s, .out = out, .fix = fix};
	int rc = 0;

	out->errors = out->leaks = out->errors_fixed = out->leaks_fixed = 0;
	out->allocated_clusters = out->compressed_clusters = out->fragmented_clusters = 0;
	out->total_clusters = div_round_up(b->size, s->cluster_size);
	out->image_end = s->end;
	a.clusters = s->end / s->cluster_size;
	if (a.clusters > MAX_CLUSTERS)
		return err_set(err, EFBIG, "%s: has too many clusters to check", b->name);
	if (fix && b->readonly)
		return err_set(err, EROFS, "%s: is read-only", b->name);
	a.used = calloc(BITMAP_WORDS(a.clusters + 1), sizeof(u64));
	if (!a.used)
		return err_set(err, ENOMEM, "%s: out of memory", b->name);
	pthread_mutex_lock(&s->lock);
	take(&a, 0, s->header_clusters);
	take(&a, s->l1, s->table_clusters);
	rc = check_l1(&a);
	/* Space that nothing leads to cannot be given back, only counted. */
	for (u64 i = 0; i < a.clusters; i++)
		out->leaks += !bitmap_test(a.used, i);
	s->broken = rc || out->errors;
	pthread_mutex_unlock(&s->lock);
	free(a.used);
	return rc ? err_set(err, -rc, "%s: %s", b->name, strerror(-rc)) : 0;
}
