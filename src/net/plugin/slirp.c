/* bothy-slirp.so: libslirp as a table of its functions. */
#include "net/slirp_api.h"

extern const struct slirp_api slirp_api;

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
};
