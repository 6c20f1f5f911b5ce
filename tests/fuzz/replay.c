/*
 * Runs a fuzz target without libFuzzer: on each file named (or in a directory named), and with
 * --random COUNT SEED on random inputs, which is what the tests do.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
		} else {
			rc |= run_path(argv[i]);
		}
	}
	return rc;
}
