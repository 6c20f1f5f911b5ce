/* bothy img serve: an image over NBD. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "block/nbd_server.h"
#include "cli/img_int.h"
#include "os/file.h"

struct serve {
	struct img_source source;
	char *socket, *bind, *export;
	u64 port;
	bool readonly, persistent;
	u64 clients;
};

#define FIELD(f) .offset = offsetof(struct serve, f)

static const struct opt serve_options[] = {
	IMG_SOURCE_OPTIONS(struct serve, source),
	{.name = "socket",
	 .type = OPT_STRING,
	 FIELD(socket),
	 .arg = "PATH",
	 .help = "listen on this Unix socket"},
	{.name = "k", .type = OPT_STRING, FIELD(socket), .arg = "PATH"},
	{.name = "bind",
	 .type = OPT_STRING,
	 FIELD(bind),
	 .dflt = "127.0.0.1",
	 .arg = "ADDRESS",
	 .help = "listen on this address; anyone who reaches it may read and write"},
	{.name = "b", .type = OPT_STRING, FIELD(bind), .arg = "ADDRESS"},
	{.name = "port",
	 .type = OPT_U64,
	 FIELD(port),
	 .dflt = "10809",
	 .arg = "PORT",
	 .min = 1,
	 .max = 65535,
	 .help = "and this port"},
	{.name = "p", .type = OPT_U64, FIELD(port), .arg = "PORT", .min = 1, .max = 65535},
	{.name = "export",
	 .type = OPT_STRING,
	 FIELD(export),
	 .dflt = "",
	 .arg = "NAME",
	 .help = "name of the export"},
	{.name = "x", .type = OPT_STRING, FIELD(export), .arg = "NAME"},
	{.name = "readonly", .type = OPT_BOOL, FIELD(readonly), .help = "refuse writes"},
	{.name = "r", .type = OPT_BOOL, FIELD(readonly)},
	{.name = "persistent",
	 .type = OPT_BOOL,
	 FIELD(persistent),
	 .help = "go on when the last client has left"},
	{.name = "t", .type = OPT_BOOL, FIELD(persistent)},
	{.name = "clients",
	 .type = OPT_U64,
	 FIELD(clients),
	 .dflt = "8",
	 .arg = "N",
	 .min = 1,
	 .max = 1024,
	 .help = "served at once"},
	{.name = "e", .type = OPT_U64, FIELD(clients), .arg = "N", .min = 1, .max = 1024},
	OPT_END,
};

static int serve_arg(void *target, const char *value, struct err *err)
{
	struct serve *s = target;

	return img_take(value, (char **const[]){&s->source.file}, 1, err);
}

static int serve(const struct serve *s, struct err *err)
{
	struct nbd_export export = {.name = s->export,
				    .readonly = s->readonly,
				    .persistent = s->persistent,
				    .max_clients = (unsigned int)s->clients,
				    .stop = img_interrupted};
	int rc = img_open(&export.block, &s->source, s->readonly ? 0 : IMG_WRITE, err), fd, closed;
	char port[8];

	if (rc)
		return rc;
	snprintf(port, sizeof(port), "%u", (unsigned int)s->port);
	fd = s->socket ? nbd_listen_unix(s->socket, err) : nbd_listen_tcp(s->bind, port, err);
	rc = fd < 0 ? fd : nbd_serve(&export, fd, err);
	if (fd >= 0 && s->socket)
		unlink(s->socket);
	fd_close(&fd);
	closed = block_close(export.block);
	if (!rc && closed)
		rc = err_set(err, -closed, "%s: %s", s->source.file, strerror(-closed));
	return rc;
}

static int serve_main(int argc, char **argv)
{
	struct serve s = {0};
	struct err err = {""};
	int rc = img_parse(&img_serve, &s, argc, argv, serve_arg), status = EXIT_USAGE;

	if (!rc) {
		img_catch_signals();
		status = serve(&s, &err) ? img_fail("serve", &err, IMG_FAILED) : 0;
	}
	opt_free(serve_options, &s);
	return status;
}

const struct command img_serve = {
	.name = "serve",
	.args = "[OPTIONS] FILE",
	.summary = "Export an image over NBD",
	.options = serve_options,
	.run = serve_main,
};
