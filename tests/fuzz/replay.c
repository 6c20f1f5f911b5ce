/*
 * Runs a fuzz target without libFuzzer: on each file named (or in a directory named), and with
 * --random COUNT SEED on random inputs, which is what the tests do. After --mutate COUNT SEED each
 * file is run COUNT times more with a few of its bytes changed: for formats that random inputs
 * never look like.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
	unsigned long count;
	uint64_t state;
	const char *last;
} mutate;

static void save(const char *path, const uint8_t *data, size_t size);

static uint64_t random_next(void)
{
	mutate.state = mutate.state * 6364136223846793005ULL + 1442695040888963407ULL;
	return mutate.state >> 32;
}

/* Numbers at the edges of 8, 16 and 32 bits are what lengths and offsets break on. */
static void change_some(uint8_t *buf, size_t n)
{
	static const uint32_t edges[] = {0,	 1,	 0x7f,	     0x80,	 0xff,	     0xfff,
					 0x1000, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff0, ~0u};
	unsigned int changes = 1 + random_next() % 4;

	while (changes--) {
		size_t at = random_next() % (random_next() % 2 ? n : n < 0x300 ? n : 0x300);
		size_t len = (size_t)1 << random_next() % 3;
		uint32_t value = (uint32_t)random_next();

		if (random_next() % 2)
			value = edges[random_next() % (sizeof(edges) / sizeof(edges[0]))];
		memcpy(buf + at, &value, len < n - at ? len : n - at);
	}
}

static void run_mutated(const uint8_t *data, size_t n)
{
	static uint8_t buf[1 << 20];

	for (unsigned long i = 0; i < mutate.count && n; i++) {
		memcpy(buf, data, n);
		change_some(buf, n);
		if (mutate.last)
			save(mutate.last, buf, n);
		LLVMFuzzerTestOneInput(buf, n);
	}
}

static int run_file(const char *path)
{
	static uint8_t buf[1 << 20];
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f) {
		perror(path);
		return 1;
	}
	n = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	LLVMFuzzerTestOneInput(buf, n);
	run_mutated(buf, n);
	return 0;
}

static int run_path(const char *path)
{
	struct dirent *e;
	struct stat st;
	char name[4096];
	DIR *dir;
	int rc = 0;

	if (stat(path, &st) || !S_ISDIR(st.st_mode))
		return run_file(path);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		rc |= run_file(name);
	}
	if (dir)
		closedir(dir);
	return rc;
}

/* Where a crash is to be repeated from. */
static void save(const char *path, const uint8_t *data, size_t size)
{
	FILE *f = fopen(path, "wb");

	if (!f)
		return;
	fwrite(data, 1, size, f);
	fclose(f);
}

static void run_random(unsigned long count, uint64_t seed, const char *last)
{
	uint8_t buf[256];

	for (unsigned long i = 0; i < count; i++) {
		size_t len = 17 + (seed >> 20) % 128;

		for (size_t j = 0; j < len; j++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			buf[j] = (uint8_t)(seed >> 33);
		}
		if (last)
			save(last, buf, len);
		LLVMFuzzerTestOneInput(buf, len);
	}
}

int main(int argc, char **argv)
{
	const char *last = getenv("FUZZ_LAST");
	int rc = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--random") && i + 2 < argc) {
			printf("random inputs: %s, seed %s\n", argv[i + 1], argv[i + 2]);
			fflush(stdout);
			run_random(strtoul(argv[i + 1], NULL, 0), strtoull(argv[i + 2], NULL, 0),
				   last);
			i += 2;
		} else if (!strcmp(argv[i], "--mutate") && i + 2 < argc) {
			mutate.count = strtoul(argv[i + 1], NULL, 0);
			mutate.state = strtoull(argv[i + 2], NULL, 0);
			mutate.last = last;
			i += 2;
		} else {
			rc |= run_path(argv[i]);
		}
	}
	return rc;
}
