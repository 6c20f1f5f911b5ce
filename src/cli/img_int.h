/* What the verbs of `bothy img` share. */
#ifndef CLI_IMG_INT_H
#define CLI_IMG_INT_H

#include "block/image.h"
#include "cli/cli.h"

/* Exit statuses, as those of qemu-img: 1 failed (or compare: different), 2 a wrong command line
 * (compare: an error; check: errors found), 3 (check: leaks found). */
#define IMG_FAILED 1

/* The verbs are commands themselves: VERB(identifier) in img_verbs.def. */
extern const struct command *const img_verbs[];
#define VERB(id) extern const struct command id;
#include "cli/img_verbs.def"
#undef VERB

/* Take a positional argument into the first of the fields that is free; it stays argv's. */
int img_take(const char *value, char **const *fields, size_t count, struct err *err);

/* "bothy img VERB: text" on standard error; returns status. */
int img_fail(const char *verb, const struct err *err, int status);

/* Parse the arguments of a verb. Options of one letter are qemu-img's names for the long ones. */
int img_parse(const struct command *verb, void *target, int argc, char **argv,
	      int (*positional)(void *target, const char *value, struct err *err));

/* How an image is to be opened, before the option table changes it. */
struct block_options img_open_defaults(void);

/* The keys that every verb takes to open an image: --format, --backing, --cache, --no-lock... */
struct img_source {
	char *file, *format;
	int cache;
	bool no_backing; /* do not open what the image names */
	char *backing_format;
	bool share; /* do not lock */
	char *key_file;
};

#define IMG_SOURCE_OPTIONS(T, m)                                                                   \
	{.name = "format",                                                                         \
	 .type = OPT_STRING,                                                                       \
	 .offset = offsetof(T, m.format),                                                          \
	 .arg = "NAME",                                                                            \
	 .help = "format of the image; probed when left out"},                                     \
		{.name = "f", .type = OPT_STRING, .offset = offsetof(T, m.format), .arg = "NAME"}, \
		{.name = "cache",                                                                  \
		 .type = OPT_ENUM,                                                                 \
		 .offset = offsetof(T, m.cache),                                                   \
		 .dflt = "writeback",                                                              \
		 .arg = "MODE",                                                                    \
		 .choices = block_cache_names,                                                     \
		 .help = "writeback, none, writethrough, directsync or unsafe"},                   \
		{.name = "T",                                                                      \
		 .type = OPT_ENUM,                                                                 \
		 .offset = offsetof(T, m.cache),                                                   \
		 .arg = "MODE",                                                                    \
		 .choices = block_cache_names},                                                    \
		{.name = "no-backing",                                                             \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m.no_backing),                                              \
		 .help = "refuse images that name a backing or data file"},                        \
		{.name = "backing-format",                                                         \
		 .type = OPT_STRING,                                                               \
		 .offset = offsetof(T, m.backing_format),                                          \
		 .arg = "NAME",                                                                    \
		 .help = "format of backing files that are named without one"},                    \
		{.name = "share",                                                                  \
		 .type = OPT_BOOL,                                                                 \
		 .offset = offsetof(T, m.share),                                                   \
		 .help = "do not lock the image (it may change meanwhile)"},                       \
		{.name = "U", .type = OPT_BOOL, .offset = offsetof(T, m.share)},                   \
	{                                                                                          \
		.name = "key-file", .type = OPT_STRING, .offset = offsetof(T, m.key_file),         \
		.arg = "FILE", .help = "passphrase of encrypted images, a last newline included"   \
	}

/* --json, and --output as qemu-img has it. */
struct img_output {
	int how;
	bool json;
};
extern const char *const img_output_names[];

static inline bool img_wants_json(const struct img_output *o)
{
	return o->json || o->how;
}

#define IMG_OUTPUT_OPTIONS(T, m)                                                                   \
	{.name = "json",                                                                           \
	 .type = OPT_BOOL,                                                                         \
	 .offset = offsetof(T, m.json),                                                            \
	 .help = "print JSON, with qemu-img's names"},                                             \
	{                                                                                          \
		.name = "output", .type = OPT_ENUM, .offset = offsetof(T, m.how), .dflt = "human", \
		.arg = "human|json", .choices = img_output_names,                                  \
		.help = "the same: --output json"                                                  \
	}

/* flags of img_open() */
enum { IMG_WRITE = 1, IMG_METADATA = 2, IMG_NO_REPAIR = 4, IMG_SNAPSHOT = 8 };

int img_open(struct block **out, const struct img_source *source, unsigned int flags,
	     struct err *err);

/* A name relative to the folder of the image that says it; the caller's. NULL: out of memory. */
char *img_path_beside(const char *image, const char *name);

/* Both are there, and are one. */
bool img_same_file(const char *a, const char *b);

/* A file that is being made in place of another, or of none. */
struct img_target {
	const char *name;  /* as the user has it */
	char *path, *part; /* behind links; where to write */
	bool exists;
	struct block *old; /* what is replaced, locked */
};

/* Make an empty file beside `name`, to be written at t->part. -EINVAL when what is there is no
 * regular file or the same as source, -EAGAIN when it is in use. Nothing is left on failure. */
int img_target_begin(struct img_target *t, const char *name, const char *source, struct err *err);
/* rc 0: it takes the name over. Else it is removed, and what err says of it is said of the name. */
int img_target_end(struct img_target *t, int rc, struct err *err);

/* What -l says: NAME, snapshot.name=NAME or snapshot.id=ID. */
const char *img_snapshot_name(const char *text);

/* The table of an image's snapshots. */
void img_print_snapshots(struct block *b, int count);

/* A JSON string with its quotes. */
void img_json_string(FILE *out, const char *text);

/* Text that comes from inside an image: nothing of it reaches the terminal but printable text. At
 * least `width` characters wide. */
void img_print_text(FILE *out, const char *text, int width);

/* "512", "1.5 GiB (1610612736 bytes)" */
void img_print_size(FILE *out, u64 bytes);

/* A line on a terminal that shows how far it is; nothing elsewhere. */
struct img_progress {
	bool on;
	u64 total;
	int last;
};
void img_progress_begin(struct img_progress *p, bool wanted, u64 total);
void img_progress_step(struct img_progress *p, u64 done);
void img_progress_end(struct img_progress *p);

/* Ctrl-C and termination only set a flag from here on; a second one ends the program. */
void img_catch_signals(void);
bool img_interrupted(void);

#endif
