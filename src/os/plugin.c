#define _GNU_SOURCE
#include "os/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the running program, with a trailing slash; "" when unknown. */
static void program_dir(char *buf, size_t cap)
{
	ssize_t n = readlink("/proc/self/exe", buf, cap - 1);
	char *slash;

	buf[n > 0 ? n : 0] = '\0';
	slash = strrchr(buf, '/');
	if (slash)
		slash[1] = '\0';
}

const void *plugin_symbol(const char *name, const char *symbol, struct err *err)
{
	static const char *const places[] = {"", "../lib/bothy/"};
	const char *other = secure_getenv("BOTHY_PLUGINS");
	char dir[PATH_MAX], path[PATH_MAX + 64];
	const char *why = "not built";
	void *handle = NULL;
	const void *sym;

	program_dir(dir, sizeof(dir));
	for (size_t i = 0; i < ARRAY_SIZE(places) && !handle; i++) {
		if (other)
			snprintf(path, sizeof(path), "%s/bothy-%s.so", other, name);
		else
			snprintf(path, sizeof(path), "%s%sbothy-%s.so", dir, places[i], name);
		if (access(path, R_OK))
			continue;
		handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		if (!handle)
			why = dlerror();
	}
	if (!handle) {
		err_set(err, ENOENT, "plug-in %s cannot be loaded: %s", name, why);
		return NULL;
	}
	sym = dlsym(handle, symbol);
	if (!sym)
		err_set(err, ENOENT, "plug-in %s: %s", name, dlerror());
	return sym;
}
