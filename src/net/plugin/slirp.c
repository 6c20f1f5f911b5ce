/* bothy-slirp.so: libslirp as a table of its functions. */
#include "net/slirp_api.h"

/* GLib's, as its reference has it; libslirp brings the library, but not the header. */
extern unsigned int g_log_set_handler(const char *domain, int levels,
				      void (*fn)(const char *domain, int level, const char *text,
						 void *data),
				      void *data) __attribute__((weak));
#define LOG_LEVELS 0x1f /* warnings and worse, be they fatal or recursive */

extern const struct slirp_api slirp_api;

static void pass_on(const char *domain, int level, const char *text, void *data)
{
	((void (*)(const char *text))data)(text);
}

static void set_log(void (*line)(const char *text))
{
	if (g_log_set_handler)
		g_log_set_handler("Slirp", LOG_LEVELS, pass_on, (void *)line);
}

__attribute__((visibility("default"))) const struct slirp_api slirp_api = {
	.new = slirp_new,
	.cleanup = slirp_cleanup,
	.pollfds_fill = slirp_pollfds_fill,
	.pollfds_poll = slirp_pollfds_poll,
	.input = slirp_input,
	.handle_timer = slirp_handle_timer,
	.add_hostfwd = slirp_add_hostxfwd,
	.add_unix = slirp_add_unix,
	.add_exec = slirp_add_exec,
	.set_log = set_log,
};
