/*
 * A tree of files of every kind that a shared folder must carry, and the comparison of two.
 *
 * usage: tree make DIR FILES MIB     FILES small files, and a big one of MIB
 *        tree compare DIR DIR        types, modes, sizes, seconds of modification, links, contents
 *        tree read-only DIR          nothing in it can be changed
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH 40
#define CHUNK (1 << 20)

static int bad;
static unsigned long objects;

static void complain(const char *what, const char *name)
{
	if (++bad <= 20)
		printf("tree: %s: %s: %s\n", name, what, strerror(errno));
}

/* ---- making ---- */

static void set_time(int dir, const char *name, uint64_t seed)
{
	const struct timespec t[2] = {{.tv_sec = 1000000000 + (time_t)(seed % 500000000)},
				      {.tv_sec = 1000000000 + (time_t)(seed % 500000000)}};

	if (utimensat(dir, name, t, AT_SYMLINK_NOFOLLOW))
		complain("utimensat", name);
}

static void make_file(int dir, const char *name, uint64_t size, mode_t mode)
{
	static uint8_t buf[CHUNK];
	int fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY, 0600);
	uint64_t x = size * 0x9e3779b97f4a7c15ULL + strlen(name);

	if (fd < 0) {
		complain("create", name);
		return;
	}
	for (uint64_t at = 0; at < size;) {
		size_t n = size - at < CHUNK ? (size_t)(size - at) : CHUNK;

		for (size_t i = 0; i < n; i += 8) {
			x = x * 6364136223846793005ULL + 1442695040888963407ULL;
			memcpy(buf + i, &x, n - i < 8 ? n - i : 8);
		}
		if (write(fd, buf, n) != (ssize_t)n) {
			complain("write", name);
			break;
		}
		at += n;
	}
	if (fchmod(fd, mode))
		complain("chmod", name);
	close(fd);
	set_time(dir, name, x);
}

static int make_dir(int dir, const char *name)
{
	int fd = -1;

	if (!mkdirat(dir, name, 0755))
		fd = openat(dir, name, O_DIRECTORY | O_RDONLY);
	if (fd < 0)
		complain("mkdir", name);
	return fd;
}

static void make_link(int dir, const char *target, const char *name)
{
	if (symlinkat(target, dir, name))
		complain("symlink", name);
}

static void make_names(int dir)
{
	static const char *const names[] = {
		"plain",
		" a space ",
		"-dash",
		"*?[glob]",
		"quote'\"`$(x)",
		"back\\sl",
		"new\nline",
		"tab\tbell\a",
		".hidden",
		"...",
		"~",
		"\xc3\xa4\xe2\x82\xac\xf0\x9f\x8f\x94",
		"\xff\xfe not utf-8",
		"a:b",
		"CON",
		"trailing.",
		"%s%n",
		"#comment",
		"\x01\x1b[31m",
	};
	char longest[256];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		make_file(dir, names[i], 10 + i, 0644);
	memset(longest, 'n', 255);
	longest[255] = 0;
	make_file(dir, longest, 255, 0644);
}

/* Around pages, blocks, and what one 9P message carries. */
static void make_sizes(int dir)
{
	static const uint32_t edges[] = {1,	512,	     4096,	  8192,
					 65536, 131072 - 24, 262144 - 24, 524288 - 24};
	static const mode_t modes[] = {0600, 0644, 0755, 0400, 0711, 0664};
	char name[32];
	unsigned int n = 0;

	for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++)
		for (uint32_t size = edges[i] - 1; size <= edges[i] + 1; size++) {
			snprintf(name, sizeof(name), "size-%u", size);
			make_file(dir, name, size, modes[n++ % 6]);
		}
}

static void make_links(int dir)
{
	char target[2001];

	make_file(dir, "first", 5000, 0644);
	if (linkat(dir, "first", dir, "second", 0))
		complain("link", "second");
	make_link(dir, "first", "to-file");
	make_link(dir, "nowhere", "dangling");
	make_link(dir, "/etc/passwd", "absolute");
	make_link(dir, "../../../../../../etc", "upwards");
	make_link(dir, ".", "itself");
	make_link(dir, "loop", "loop");
	memset(target, 't', 2000);
	target[2000] = 0;
	make_link(dir, target, "long");
}

static void make_sparse(int dir)
{
	int fd = openat(dir, "sparse", O_CREAT | O_EXCL | O_WRONLY, 0644);

	if (fd < 0 || pwrite(fd, "middle", 6, 3 << 20) != 6 || ftruncate(fd, 5 << 20))
		complain("sparse", "sparse");
	close(fd);
	set_time(dir, "sparse", 1);
}

static void make_deep(int dir)
{
	char name[61];

	memset(name, 'd', 60);
	name[60] = 0;
	dir = dup(dir);
	for (int i = 0; i < DEPTH && dir >= 0; i++) {
		int next = make_dir(dir, name);

		make_file(dir, "at-this-depth", (uint64_t)i, 0644);
		close(dir);
		dir = next;
	}
	close(dir);
}

static void make_many(int dir, unsigned long files)
{
	char name[32];
	int sub = -1;

	for (unsigned long i = 0; i < files; i++) {
		if (i % 1000 == 0) {
			close(sub);
			snprintf(name, sizeof(name), "many-%lu", i);
			sub = make_dir(dir, name);
		}
		snprintf(name, sizeof(name), "%lx", i * 2654435761u);
		make_file(sub, name, i % 97, 0644);
	}
	close(sub);
}

static void make(const char *path, unsigned long files, unsigned long mib)
{
	static void (*const parts[])(int dir) = {make_names, make_sizes, make_links, make_sparse,
						 make_deep};
	static const char *const names[] = {"names", "sizes", "links", "sparse", "deep"};
	int top = make_dir(AT_FDCWD, path), dir;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		dir = make_dir(top, names[i]);
		parts[i](dir);
		close(dir);
	}
	close(make_dir(top, "empty"));
	make_many(top, files);
	make_file(top, "big", (uint64_t)mib << 20, 0640);
	close(top);
}

/* ---- comparing ---- */

static void differ(const char *what, const char *name)
{
	errno = 0;
	complain(what, name);
}

static void compare_contents(int a, int b, const char *name)
{
	static uint8_t x[CHUNK], y[CHUNK];
	int fx = openat(a, name, O_RDONLY | O_NOFOLLOW),
	    fy = openat(b, name, O_RDONLY | O_NOFOLLOW);
	ssize_t n, m;

	if (fx < 0 || fy < 0) {
		complain("open", name);
		return;
	}
	do {
		n = read(fx, x, sizeof(x));
		for (m = 0; m < n;) { /* a file system may give less than was asked for */
			ssize_t part = read(fy, y + m, (size_t)(n - m));

			if (part <= 0)
				break;
			m += part;
		}
		if (n < 0 || m != n || memcmp(x, y, (size_t)n)) {
			complain("contents", name);
			break;
		}
	} while (n > 0);
	close(fx);
	close(fy);
}

static void compare_links(int a, int b, const char *name)
{
	static char x[4096], y[4096];
	ssize_t n = readlinkat(a, name, x, sizeof(x)), m = readlinkat(b, name, y, sizeof(y));

	if (n < 0 || n != m || memcmp(x, y, (size_t)n))
		complain("link", name);
}

static unsigned long count_entries(int dir)
{
	DIR *d = fdopendir(dup(dir));
	unsigned long n = 0;

	rewinddir(d);
	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

static void compare(int a, int b);

static void compare_one(int a, int b, const char *name)
{
	struct stat x, y;

	objects++;
	if (fstatat(a, name, &x, AT_SYMLINK_NOFOLLOW) ||
	    fstatat(b, name, &y, AT_SYMLINK_NOFOLLOW)) {
		complain("missing", name);
		return;
	}
	if (x.st_mode != y.st_mode)
		differ("mode", name);
	if (S_ISDIR(x.st_mode) && S_ISDIR(y.st_mode)) {
		int dx = openat(a, name, O_DIRECTORY | O_RDONLY);
		int dy = openat(b, name, O_DIRECTORY | O_RDONLY);

		if (dx < 0 || dy < 0)
			complain("open", name);
		else
			compare(dx, dy);
		close(dx);
		close(dy);
	} else if (S_ISLNK(x.st_mode)) {
		compare_links(a, b, name);
	} else {
		if (x.st_size != y.st_size || x.st_nlink != y.st_nlink ||
		    x.st_mtim.tv_sec != y.st_mtim.tv_sec)
			differ("size, links or time", name);
		compare_contents(a, b, name);
	}
}

static void compare(int a, int b)
{
	DIR *d = fdopendir(dup(a));
	struct dirent *e;

	if (!d || count_entries(a) != count_entries(b))
		differ("number of entries", "a folder");
	rewinddir(d);
	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			compare_one(a, b, e->d_name);
	closedir(d);
}

static void compare_tops(const char *a, const char *b)
{
	int x = open(a, O_DIRECTORY | O_RDONLY), y = open(b, O_DIRECTORY | O_RDONLY);

	if (x < 0 || y < 0)
		complain("open", x < 0 ? a : b);
	else
		compare(x, y);
}

/* ---- not changing ---- */

static void must_fail(int rc, const char *what)
{
	if (rc >= 0 || errno != EROFS)
		complain("not refused as read-only", what);
}

static void try_changes(const char *path)
{
	int dir = open(path, O_DIRECTORY | O_RDONLY);

	if (dir < 0) {
		complain("open", path);
		return;
	}
	must_fail(openat(dir, "new", O_CREAT | O_WRONLY, 0644), "create");
	must_fail(openat(dir, "big", O_WRONLY), "open for writing");
	must_fail(openat(dir, "big", O_RDONLY | O_TRUNC), "truncate by open");
	must_fail(mkdirat(dir, "new", 0755), "mkdir");
	must_fail(symlinkat("x", dir, "new"), "symlink");
	must_fail(linkat(dir, "big", dir, "new", 0), "link");
	must_fail(renameat(dir, "big", dir, "new"), "rename");
	must_fail(unlinkat(dir, "big", 0), "unlink");
	must_fail(unlinkat(dir, "empty", AT_REMOVEDIR), "rmdir");
	must_fail(fchmodat(dir, "big", 0600, 0), "chmod");
	must_fail(utimensat(dir, "big", NULL, 0), "utimes");
	close(dir);
}

int main(int argc, char **argv)
{
	umask(022);
	if (argc == 5 && !strcmp(argv[1], "make")) {
		make(argv[2], strtoul(argv[3], NULL, 0), strtoul(argv[4], NULL, 0));
	} else if (argc == 4 && !strcmp(argv[1], "compare")) {
		compare_tops(argv[2], argv[3]);
		printf("tree: %lu objects compared, %d differ\n", objects, bad);
	} else if (argc == 3 && !strcmp(argv[1], "read-only")) {
		try_changes(argv[2]);
	} else {
		return 2;
	}
	return bad ? 1 : 0;
}
