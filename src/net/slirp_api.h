/* libslirp behind a table: what the plug-in bothy-slirp.so exports as `slirp_api`. The library
 * pulls in GLib, which a run without it does not load. The functions are libslirp's own
 * (libslirp.h). */
#ifndef NET_SLIRP_API_H
#define NET_SLIRP_API_H

#include <slirp/libslirp.h>

struct slirp_api {
	Slirp *(*new)(const SlirpConfig *config, const SlirpCb *callbacks, void *opaque);
	void (*cleanup)(Slirp *slirp);
	void (*pollfds_fill)(Slirp *slirp, uint32_t *timeout, SlirpAddPollCb add, void *opaque);
	void (*pollfds_poll)(Slirp *slirp, int error, SlirpGetREventsCb get, void *opaque);
	void (*input)(Slirp *slirp, const uint8_t *frame, int len);
	void (*handle_timer)(Slirp *slirp, SlirpTimerId id, void *opaque);
	int (*add_hostfwd)(Slirp *slirp, const struct sockaddr *host, socklen_t host_len,
			   const struct sockaddr *guest, socklen_t guest_len, int flags);
	int (*add_exec)(Slirp *slirp, const char *cmdline, struct in_addr *guest, int port);
	int (*add_unix)(Slirp *slirp, const char *path, struct in_addr *guest, int port);
	/* Who gets what the library would write to standard error: of all stacks. Any thread. */
	void (*set_log)(void (*line)(const char *text));
};

#endif
