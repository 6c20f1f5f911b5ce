/* The configuration of the user-mode back end: addresses and port forwards. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "net/user_int.h"

#define FIELD(f)      offsetof(struct user_config, f)
#define NAME_MOST     253 /* RFC 1035, 2.3.4 */
#define BOOTFILE_MOST 127 /* RFC 2131, 2: `file', with its end */

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
	{"hostfwd", OPT_CALL, .arg = "PROTO:ADDR:PORT-ADDR:PORT", .call = add_hostfwd,
	 .help = "forward a port of the host to the guest; PROTO is tcp or udp, an IPv6 address "
		 "stands in brackets; or unix:PATH-ADDR:PORT"},
	{"guestfwd", OPT_CALL, .arg = "PROTO:ADDR:PORT-PROTO:HOST:PORT", .call = add_guestfwd,
	 .help = "what the guest sends to an address in its network goes to a server, tcp or udp; "
		 "over tcp also to -unix:PATH, or to a -cmd:COMMAND of each connection's own"},
	OPT_END,
};

static int parse_ipv4(const char *key, const char *text, struct in_addr *out, struct err *err)
{
	if (inet_pton(AF_INET, text, out) != 1)
		return err_set(err, EINVAL, "%s=%s: not an IPv4 address", key, text);
	return 0;
}

/* Where hosts live: not this host, its loop-back, nor groups and what lies above them. */
static bool is_unicast(struct in_addr addr)
{
	u32 first = ntohl(addr.s_addr) >> 24;

	return first && first != 127 && first < 224;
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
	return is_unicast(s->vnetwork)
		       ? 0
		       : err_set(err, EINVAL, "net=%s: no host has an address like that", text);
}

static bool in_network(struct in_addr addr, const SlirpConfig *s)
{
	u32 host = ntohl(addr.s_addr & ~s->vnetmask.s_addr);

	return (addr.s_addr & s->vnetmask.s_addr) == s->vnetwork.s_addr && host &&
	       host != ntohl(~s->vnetmask.s_addr);
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
	if (!in_network(*out, s))
		return err_set(err, EINVAL,
			       "%s=%s: not the address of a host in the guest's network", key,
			       text);
	return 0;
}

static int place_hosts(const struct user_config *c, SlirpConfig *s, struct err *err)
{
	/* The highest of .2, .3 and .15 must fit: a network of 29 bits has six hosts. */
	u32 guest = ~ntohl(s->vnetmask.s_addr) > 15 ? 15 : 4;

	if (place("host", c->host, 2, s, &s->vhost, err) ||
	    place("dns", c->dns, 3, s, &s->vnameserver, err) ||
	    place("dhcpstart", c->dhcpstart, guest, s, &s->vdhcp_start, err))
		return -EINVAL;
	if (s->vhost.s_addr == s->vnameserver.s_addr || s->vhost.s_addr == s->vdhcp_start.s_addr ||
	    s->vnameserver.s_addr == s->vdhcp_start.s_addr)
		return err_set(err, EINVAL,
			       "host=, dns= and dhcpstart=: two of them are the same address");
	return 0;
}

/* What goes into a DHCP answer: most is what fits there. */
static int check_name(const char *key, const char *text, size_t most, struct err *err)
{
	if (text && (!*text || strlen(text) > most))
		return err_set(err, EINVAL, "%s=: 1 to %zu bytes", key, most);
	return 0;
}

static int check_names(const struct user_config *c, struct err *err)
{
	struct stat st;

	if (check_name("hostname", c->hostname, NAME_MOST, err) ||
	    check_name("domain", c->domain, NAME_MOST, err) ||
	    check_name("bootfile", c->bootfile, BOOTFILE_MOST, err))
		return -EINVAL;
	if (!c->tftp)
		return 0;
	if (stat(c->tftp, &st))
		return err_set(err, errno, "tftp=%s: %s", c->tftp, strerror(errno));
	return S_ISDIR(st.st_mode) ? 0 : err_set(err, ENOTDIR, "tftp=%s: not a folder", c->tftp);
}

int user_make_config(const struct user_config *c, SlirpConfig *s, struct err *err)
{
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
	if (parse_net(c->net ? c->net : "10.0.2.0/24", s, err) || place_hosts(c, s, err))
		return -EINVAL;
	return check_names(c, err);
}

/* "[ADDR]:PORT" or "[IPV6]:PORT" with an empty address standing for `any`. */
static int parse_endpoint(char *text, struct in_addr any, struct sock_addr *out)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&out->storage;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->storage;
	char *colon = strrchr(text, ':');
	u64 port;

	memset(out, 0, sizeof(*out));
	if (!colon || parse_u64(colon + 1, &port) || !port || port > 65535)
		return -EINVAL;
	*colon = '\0';
	if (*text == '[' && colon[-1] == ']') {
		colon[-1] = '\0';
		*v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((u16)port)};
		out->len = sizeof(*v6);
		return inet_pton(AF_INET6, text + 1, &v6->sin6_addr) == 1 ? 0 : -EINVAL;
	}
	*v4 = (struct sockaddr_in){
		.sin_family = AF_INET, .sin_addr = any, .sin_port = htons((u16)port)};
	out->len = sizeof(*v4);
	return !*text || inet_pton(AF_INET, text, &v4->sin_addr) == 1 ? 0 : -EINVAL;
}

static bool is_ours(struct in_addr addr, const SlirpConfig *s)
{
	return addr.s_addr == s->vhost.s_addr || addr.s_addr == s->vnameserver.s_addr;
}

static int add_hostfwd_ends(struct user_forwards *to, const struct sock_addr *host_end,
			    const struct sock_addr *guest_end, int flags, const char *text,
			    struct err *err)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&guest_end->storage;

	if (v4->sin_family == AF_INET &&
	    (!in_network(v4->sin_addr, to->config) || is_ours(v4->sin_addr, to->config)))
		return err_set(err, EINVAL,
			       "hostfwd=%s: the guest's address is taken or not in its network",
			       text);
	if (!to->slirp || to->api->add_hostfwd(to->slirp, &host_end->any, host_end->len,
					       &guest_end->any, guest_end->len, flags) >= 0)
		return 0;
	return err_set(err, errno, "hostfwd=%s: %s%s", text, strerror(errno),
		       errno == EACCES ? " (low ports are root's)" : "");
}

/* A UNIX socket of the host's, for connections to the guest over TCP. */
static int add_unix_to_guest(struct user_forwards *to, const char *path, char *target,
			     const char *text, struct err *err)
{
	struct sock_addr host_end, guest_end;
	int rc;

	if (sock_addr_unix(&host_end, path, err) || parse_endpoint(target, to->guest, &guest_end) ||
	    guest_end.any.sa_family != AF_INET)
		return err_set(err, EINVAL, "hostfwd=%s: give it as unix:PATH-:22", text);
	if (to->slirp)
		sock_remove_leftover(&host_end, SOCK_STREAM);
	rc = add_hostfwd_ends(to, &host_end, &guest_end, 0, text, err);
	if (!rc)
		to->path[to->paths++] = host_end;
	return rc;
}

static int add_to_guest(struct user_forwards *to, char *from, char *target, const char *text,
			struct err *err)
{
	struct in_addr any = {.s_addr = htonl(INADDR_ANY)};
	bool udp = !strncmp(from, "udp:", 4);
	struct sock_addr host_end, guest_end;
	int flags = udp ? SLIRP_HOSTFWD_UDP : 0;

	if (!strncmp(from, "unix:", 5))
		return add_unix_to_guest(to, from + 5, target, text, err);
	if (!udp && strncmp(from, "tcp:", 4))
		return err_set(err, EINVAL, "hostfwd=%s: starts with tcp:, udp: or unix:", text);
	if (parse_endpoint(from + 4, any, &host_end) ||
	    parse_endpoint(target, to->guest, &guest_end))
		return err_set(err, EINVAL,
			       "hostfwd=%s: give it as tcp:127.0.0.1:2222-:22 (an address left out "
			       "is any of the host's, or the guest's first) or "
			       "tcp:[::1]:2222-[fec0::15]:22",
			       text);
	if (host_end.any.sa_family != guest_end.any.sa_family)
		return err_set(err, EINVAL,
			       "hostfwd=%s: both ends are IPv4 or both are IPv6, where the guest's "
			       "address has to be named: tcp:[::1]:2222-[fec0::15]:22",
			       text);
	/* [::] leaves IPv4 alone, which may have a forward of its own. */
	if (host_end.any.sa_family == AF_INET6)
		flags |= SLIRP_HOSTFWD_V6ONLY;
	return add_hostfwd_ends(to, &host_end, &guest_end, flags, text, err);
}

static int explain_guestfwd(const char *text, struct err *err)
{
	return err_set(err, EINVAL,
		       "guestfwd=%s: give it as tcp:10.0.2.100:80-tcp:HOST:PORT, "
		       "tcp:10.0.2.100:80-unix:PATH, tcp:10.0.2.100:80-cmd:COMMAND or "
		       "udp:10.0.2.100:53-udp:HOST:PORT",
		       text);
}

/* A relay to the server; *path is where libslirp connects. */
static int add_relay(struct user_forwards *to, const char *server, const char **path,
		     const char *text, struct err *err)
{
	struct sock_addr addr[SOCK_MAX_ADDRS];
	int n = sock_addr_inet(addr, server, SOCK_STREAM, false, err), rc;

	rc = n < 0 ? n : relay_new(&to->relay[to->relays], addr, (unsigned int)n, err);
	if (rc) {
		err_prefix(err, "guestfwd=%s", text);
		return rc;
	}
	*path = relay_path(to->relay[to->relays++]);
	return 0;
}

static int add_udp(struct user_forwards *to, const struct sockaddr_in *at, const char *server,
		   const char *text, struct err *err)
{
	struct sock_addr addr[SOCK_MAX_ADDRS];
	int rc, n;

	n = sock_addr_inet(addr, server, SOCK_DGRAM, false, err);
	if (n < 0) {
		err_prefix(err, "guestfwd=%s", text);
		return n;
	}
	rc = to->udp ? 0 : user_udp_new(&to->udp, to->mtu, to->deliver, to->ctx);
	if (!rc)
		rc = user_udp_add(to->udp, at, addr, (unsigned int)n);
	return rc ? err_set(err, -rc, "guestfwd=%s: %s", text, strerror(-rc)) : 0;
}

/* libslirp itself would take the last of them. */
static bool is_taken(const struct user_forwards *to, bool udp, const struct sockaddr_in *at)
{
	for (u32 i = 0; i < to->takens[udp]; i++)
		if (to->taken[udp][i].sin_addr.s_addr == at->sin_addr.s_addr &&
		    to->taken[udp][i].sin_port == at->sin_port)
			return true;
	return false;
}

static int add_to_host(struct user_forwards *to, char *from, const char *target, const char *text,
		       struct err *err)
{
	struct in_addr none = {0};
	struct sock_addr guest_end;
	struct sockaddr_in *at = (struct sockaddr_in *)&guest_end.storage;
	bool command = !strncmp(target, "cmd:", 4), tcp = !strncmp(target, "tcp:", 4);
	bool udp = !strncmp(target, "udp:", 4);
	const char *what = target + (command || tcp || udp ? 4 : 5);
	int rc;

	if (strncmp(from, udp ? "udp:" : "tcp:", 4) ||
	    (!command && !tcp && !udp && strncmp(target, "unix:", 5)) || !*what ||
	    parse_endpoint(from + 4, none, &guest_end) || at->sin_family != AF_INET ||
	    !at->sin_addr.s_addr)
		return explain_guestfwd(text, err);
	if (!in_network(at->sin_addr, to->config) || is_ours(at->sin_addr, to->config) ||
	    is_taken(to, udp, at))
		return err_set(err, EINVAL,
			       "guestfwd=%s: the address is taken or not in the guest's network",
			       text);
	to->taken[udp][to->takens[udp]++] = *at;
	if (!to->slirp)
		return 0;
	if (udp)
		return add_udp(to, at, what, text, err);
	if (tcp) {
		rc = add_relay(to, what, &what, text, err);
		if (rc)
			return rc;
	}
	rc = (command ? to->api->add_exec : to->api->add_unix)(to->slirp, what, &at->sin_addr,
							       ntohs(at->sin_port));
	return rc < 0 ? err_set(err, EINVAL, "guestfwd=%s: libslirp refuses it", text) : 0;
}

static int add_forward_text(struct user_forwards *to, const struct user_forward *f, struct err *err)
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
		return add_to_guest(to, text, dash + 1, f->text, err);
	return add_to_host(to, text, dash + 1, f->text, err);
}

int user_add_forwards(struct user_forwards *to, const struct user_config *c, struct err *err)
{
	int rc = 0;

	for (u32 i = 0; i < c->forwards && !rc; i++)
		rc = add_forward_text(to, &c->forward[i], err);
	return rc;
}

int user_check(const void *config, struct err *err)
{
	const struct user_config *c = config;
	struct user_forwards *to = calloc(1, sizeof(*to));
	SlirpConfig slirp;
	int rc = to ? user_make_config(c, &slirp, err) : err_set(err, ENOMEM, "out of memory");

	if (!rc) {
		to->config = &slirp;
		to->guest = slirp.vdhcp_start;
		rc = user_add_forwards(to, c, err);
	}
	free(to);
	return rc;
}
