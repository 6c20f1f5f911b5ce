/* The configuration of the user-mode back end: addresses and port forwards. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/str.h"
#include "net/user_int.h"

#define FIELD(f) offsetof(struct user_config, f)

static int add_forward(void *target, const char *value, bool to_guest, struct err *err)
{
	struct user_config *c = target;
	struct user_forward *f = &c->forward[c->forwards];

	if (c->forwards == USER_MAX_FORWARDS)
		return err_set(err, E2BIG, "more than %d forwards", USER_MAX_FORWARDS);
	if (strlen(value) >= sizeof(f->text))
		return err_set(err, EINVAL, "forward is too long: %s", value);
	f->to_guest = to_guest;
	memcpy(f->text, value, strlen(value) + 1);
	c->forwards++;
	return 0;
}

static int add_hostfwd(void *target, const char *value, struct err *err)
{
	return add_forward(target, value, true, err);
}

static int add_guestfwd(void *target, const char *value, struct err *err)
{
	return add_forward(target, value, false, err);
}

const struct opt user_options[] = {
	{"net", OPT_STRING, FIELD(net), "ADDR/BITS", "the guest's IPv4 network (10.0.2.0/24)"},
	{"host", OPT_STRING, FIELD(host), "ADDR", "the gateway's address in it (.2)"},
	{"dns", OPT_STRING, FIELD(dns), "ADDR", "the name server's address in it (.3)"},
	{"dhcpstart", OPT_STRING, FIELD(dhcpstart), "ADDR", "the first address DHCP gives (.15)"},
	{"hostname", OPT_STRING, FIELD(hostname), "NAME", "the name DHCP gives the guest"},
	{"domain", OPT_STRING, FIELD(domain), "NAME", "the domain DHCP gives the guest"},
	{"tftp", OPT_STRING, FIELD(tftp), "DIR", "a folder that the gateway serves by TFTP"},
	{"bootfile", OPT_STRING, FIELD(bootfile), "NAME", "the file DHCP gives for network boot"},
	{"ipv6", OPT_BOOL, FIELD(ipv6), "on|off", "IPv6, fec0::/64 (on)", .dflt = "on"},
	{"restrict", OPT_BOOL, FIELD(restrict_on), "on|off",
	 "the guest reaches nothing but what forwards allow"},
	{"host-loopback", OPT_BOOL, FIELD(host_loopback), "on|off",
	 "the gateway's address reaches the host's 127.0.0.1 (off)"},
	{"link-mtu", OPT_U64, FIELD(mtu), "N", "largest packet (1500)", .dflt = "1500", .min = 1280,
	 .max = 65500},
	{"hostfwd", OPT_CALL, .arg = "PROTO:[ADDR]:PORT-[ADDR]:PORT", .call = add_hostfwd,
	 .help = "forward a port of the host to the guest; PROTO is tcp or udp; or "
		 "unix:PATH-[ADDR]:PORT"},
	{"guestfwd", OPT_CALL, .arg = "tcp:ADDR:PORT-unix:PATH|cmd:COMMAND", .call = add_guestfwd,
	 .help = "connections of the guest to an address in its network go to a UNIX socket, or "
		 "each "
		 "to a command of its own on standard input and output"},
	OPT_END,
};

static int parse_ipv4(const char *key, const char *text, struct in_addr *out, struct err *err)
{
	if (inet_pton(AF_INET, text, out) != 1)
		return err_set(err, EINVAL, "%s=%s: not an IPv4 address", key, text);
	return 0;
}

static int parse_net(const char *text, SlirpConfig *s, struct err *err)
{
	const char *slash = strchr(text, '/');
	char addr[32];
	u64 bits = 24;

	if ((slash && (parse_u64(slash + 1, &bits) || bits < 8 || bits > 29)) ||
	    snprintf(addr, sizeof(addr), "%.*s", (int)(slash ? slash - text : (long)strlen(text)),
		     text) >= (int)sizeof(addr))
		return err_set(err, EINVAL, "net=%s: give it as 10.0.2.0/24 (8 to 29 bits)", text);
	if (parse_ipv4("net", addr, &s->vnetwork, err))
		return -EINVAL;
	s->vnetmask.s_addr = htonl(~0u << (32 - bits));
	s->vnetwork.s_addr &= s->vnetmask.s_addr;
	return 0;
}

/* An address in the network: the user's, or the network's with a host part of n. */
static int place(const char *key, const char *text, u32 n, const SlirpConfig *s,
		 struct in_addr *out, struct err *err)
{
	out->s_addr = s->vnetwork.s_addr | htonl(n);
	if (!text)
		return 0;
	if (parse_ipv4(key, text, out, err))
		return -EINVAL;
	if ((out->s_addr & s->vnetmask.s_addr) != s->vnetwork.s_addr)
		return err_set(err, EINVAL, "%s=%s: not in the guest's network", key, text);
	return 0;
}

int user_make_config(const struct user_config *c, SlirpConfig *s, struct err *err)
{
	/* The highest of .2, .3 and .15 must fit: a network of 29 bits has six hosts. */
	*s = (SlirpConfig){
		.version = 4,
		.restricted = c->restrict_on,
		.in_enabled = true,
		.in6_enabled = c->ipv6,
		.vprefix_len = 64,
		.vhostname = c->hostname,
		.vdomainname = c->domain,
		.tftp_path = c->tftp,
		.bootfile = c->bootfile,
		.if_mtu = c->mtu,
		.if_mru = c->mtu,
		.disable_host_loopback = !c->host_loopback,
	};
	inet_pton(AF_INET6, "fec0::", &s->vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &s->vhost6);
	inet_pton(AF_INET6, "fec0::3", &s->vnameserver6);
	if (parse_net(c->net ? c->net : "10.0.2.0/24", s, err) ||
	    place("host", c->host, 2, s, &s->vhost, err) ||
	    place("dns", c->dns, 3, s, &s->vnameserver, err) ||
	    place("dhcpstart", c->dhcpstart, ~ntohl(s->vnetmask.s_addr) > 15 ? 15 : 4, s,
		  &s->vdhcp_start, err))
		return -EINVAL;
	if (s->vhost.s_addr == s->vnameserver.s_addr)
		return err_set(err, EINVAL, "host= and dns= are the same address");
	return 0;
}

/* "[ADDR]:PORT" with an empty address standing for `any`. */
static int parse_endpoint(char *text, struct in_addr any, struct sockaddr_in *out)
{
	char *colon = strrchr(text, ':');
	u64 port;

	if (!colon)
		return -EINVAL;
	*colon = '\0';
	*out = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = any};
	if (parse_u64(colon + 1, &port) || !port || port > 65535)
		return -EINVAL;
	out->sin_port = htons((u16)port);
	return !*text || inet_pton(AF_INET, text, &out->sin_addr) == 1 ? 0 : -EINVAL;
}

/* A UNIX socket of the host's, for connections to the guest over TCP. */
static int add_unix_to_guest(const struct slirp_api *api, Slirp *slirp, const char *path, char *to,
			     struct in_addr guest, const char *text, struct err *err)
{
	struct sockaddr_un host_end = {.sun_family = AF_UNIX};
	struct sockaddr_in guest_end;
	size_t len = strlen(path);

	if (!len || len >= sizeof(host_end.sun_path) || parse_endpoint(to, guest, &guest_end))
		return err_set(err, EINVAL, "hostfwd=%s: give it as unix:PATH-:22", text);
	memcpy(host_end.sun_path, path, len + 1);
	if (api->add_hostfwd(slirp, (struct sockaddr *)&host_end, sizeof(host_end),
			     (struct sockaddr *)&guest_end, sizeof(guest_end), 0) < 0)
		return err_set(err, errno, "hostfwd=%s: %s", text, strerror(errno));
	return 0;
}

static int add_to_guest(const struct slirp_api *api, Slirp *slirp, char *from, char *to,
			struct in_addr guest, const char *text, struct err *err)
{
	struct in_addr any = {.s_addr = htonl(INADDR_ANY)};
	bool udp = !strncmp(from, "udp:", 4);
	struct sockaddr_in host_end, guest_end;

	if (!strncmp(from, "unix:", 5))
		return add_unix_to_guest(api, slirp, from + 5, to, guest, text, err);
	if (!udp && strncmp(from, "tcp:", 4))
		return err_set(err, EINVAL, "hostfwd=%s: starts with tcp:, udp: or unix:", text);
	if (parse_endpoint(from + 4, any, &host_end) || parse_endpoint(to, guest, &guest_end))
		return err_set(err, EINVAL,
			       "hostfwd=%s: give it as tcp:127.0.0.1:2222-:22 (an address left out "
			       "is any of the host's, or the guest's first)",
			       text);
	if (api->add_hostfwd(slirp, (struct sockaddr *)&host_end, sizeof(host_end),
			     (struct sockaddr *)&guest_end, sizeof(guest_end),
			     udp ? SLIRP_HOSTFWD_UDP : 0) < 0)
		return err_set(err, errno, "hostfwd=%s: %s", text, strerror(errno));
	return 0;
}

static int add_to_host(const struct slirp_api *api, Slirp *slirp, char *from, const char *to,
		       const char *text, struct err *err)
{
	struct in_addr none = {0};
	struct sockaddr_in guest_end;
	bool command = !strncmp(to, "cmd:", 4);
	const char *target = to + (command ? 4 : 5);
	int (*add)(Slirp *, const char *, struct in_addr *, int) =
		command ? api->add_exec : api->add_unix;

	if (strncmp(from, "tcp:", 4) || (!command && strncmp(to, "unix:", 5)) || !*target ||
	    parse_endpoint(from + 4, none, &guest_end) || !guest_end.sin_addr.s_addr)
		return err_set(err, EINVAL,
			       "guestfwd=%s: give it as tcp:10.0.2.100:80-unix:PATH or "
			       "tcp:10.0.2.100:80-cmd:COMMAND",
			       text);
	if (add(slirp, target, &guest_end.sin_addr, ntohs(guest_end.sin_port)) < 0)
		return err_set(err, EINVAL,
			       "guestfwd=%s: the address is taken or not in the "
			       "guest's network",
			       text);
	return 0;
}

int user_add_forward(const struct slirp_api *api, Slirp *slirp, const struct user_forward *f,
		     struct in_addr guest, struct err *err)
{
	const char *key = f->to_guest ? "hostfwd" : "guestfwd";
	char text[sizeof(f->text)], *dash;

	memcpy(text, f->text, sizeof(text));
	/* Only on the host's side there may be others, in a path. */
	dash = f->to_guest ? strrchr(text, '-') : strchr(text, '-');
	if (!dash)
		return err_set(err, EINVAL, "%s=%s: no '-' between the two ends", key, f->text);
	*dash = '\0';
	if (f->to_guest)
		return add_to_guest(api, slirp, text, dash + 1, guest, f->text, err);
	return add_to_host(api, slirp, text, dash + 1, f->text, err);
}
