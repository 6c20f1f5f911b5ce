/*
 * The part of a link that every back end shares: checks, the client, counters, options.
 *
 * Invariants:
 * 1. class->send() sees only frames that passed net_offload_check() against caps, of legal length.
 * 2. The client is called only through net_deliver() and net_deliver_sendable(), and not after
 *    net_stop().
 */
#include "net/net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "net/net_int.h"

#define ETHERNET_MTU 1500

static const struct net_class *const classes[] = {
#define NET(class) &class,
#include "net/backends.def"
#undef NET
};

const struct net_class *net_class_lookup(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		if (!strcmp(classes[i]->name, name))
			return classes[i];
	return NULL;
}

/* ---- the link's state ---- */

bool net_link(const struct net *net)
{
	return !__atomic_load_n(&net->link_down, __ATOMIC_RELAXED) &&
	       !__atomic_load_n(&net->unplugged, __ATOMIC_RELAXED);
}

static void change_link(struct net *net, bool *flag, bool value)
{
	bool before = net_link(net);

	__atomic_store_n(flag, value, __ATOMIC_RELAXED);
	if (net_link(net) != before && net->client.link && !net->stopped)
		net->client.link(net->client.ctx, !before);
}

static void plug_work(struct loop_work *work)
{
	struct net *net = container_of(work, struct net, plug_work);

	change_link(net, &net->unplugged, __atomic_load_n(&net->unplug_wanted, __ATOMIC_RELAXED));
}

void net_set_link(struct net *net, bool up)
{
	change_link(net, &net->link_down, !up);
}

void net_plug(struct net *net, bool in)
{
	__atomic_store_n(&net->unplug_wanted, !in, __ATOMIC_RELAXED);
	loop_post(net->pair_loop[0], &net->plug_work);
}

/* ---- life ---- */

int net_new(struct net **out, const struct net_class *class, struct loop *loop, const void *config,
	    struct err *err)
{
	struct net *net = calloc(1, class->size);
	int rc;

	if (!net)
		return err_set(err, ENOMEM, "no memory for a network link");
	net->class = class;
	net->loop = loop;
	net->pairs = net->active_pairs = 1;
	net->plug_work.fn = plug_work;
	for (int i = 0; i < NET_MAX_PAIRS; i++)
		net->pair_loop[i] = loop;
	rc = class->init(net, config, err);
	if (rc) {
		net_close(net);
		return rc;
	}
	*out = net;
	return 0;
}

void net_stop(struct net *net)
{
	if (net->stopped)
		return;
	net->stopped = true;
	loop_cancel(net->pair_loop[0], &net->plug_work);
	if (net->class->stop)
		net->class->stop(net);
}

void net_close(struct net *net)
{
	if (!net)
		return;
	net_stop(net);
	if (net->class->free)
		net->class->free(net);
	free(net);
}

void net_set_client(struct net *net, const struct net_client *client)
{
	if (client)
		net->client = *client;
	else
		memset(&net->client, 0, sizeof(net->client));
	if (net->class->attached && !net->stopped)
		net->class->attached(net, client != NULL);
}

const char *net_name(const struct net *net)
{
	return net->class->name;
}

unsigned int net_pairs(const struct net *net)
{
	return net->pairs;
}

void net_set_pairs(struct net *net, unsigned int n)
{
	net->active_pairs = max(1u, min(n, net->pairs));
	if (net->class->set_pairs)
		net->class->set_pairs(net, net->active_pairs);
}

struct loop *net_loop(const struct net *net, unsigned int pair)
{
	return net->pair_loop[pair];
}

u32 net_caps(const struct net *net)
{
	return net->caps;
}

void net_set_receive_offloads(struct net *net, u32 mask)
{
	__atomic_store_n(&net->receive_offloads, mask, __ATOMIC_RELAXED);
	if (net->class->set_offloads)
		net->class->set_offloads(net, mask);
}

/* ---- vhost ---- */

u64 net_vhost_features(const struct net *net)
{
	return net->class->vhost_features ? net->class->vhost_features(net) : 0;
}

int net_vhost_set_memory(struct net *net, const struct net_memory *memory, unsigned int n)
{
	return net->class->vhost_set_memory(net, memory, n);
}

int net_vhost_start(struct net *net, unsigned int pair, u64 features,
		    const struct net_vring ring[2])
{
	return net->class->vhost_start(net, pair, features, ring);
}

void net_vhost_stop(struct net *net, unsigned int pair, u16 base[2])
{
	net->class->vhost_stop(net, pair, base);
}

/* ---- frames ---- */

static void count(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static bool sendable(const struct net *net, const struct net_frame *frame)
{
	return net_link(net) && frame->len >= NET_MIN_FRAME && frame->len <= NET_MAX_FRAME &&
	       net_offload_check(&frame->offload, frame->len, net->caps);
}

/* The good frames from the front on; 0 when the first is bad. */
static u32 good_run(const struct net *net, const struct net_frame *frames, u32 n)
{
	u32 i = 0;

	while (i < n && sendable(net, &frames[i]))
		i++;
	return i;
}

u32 net_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	u32 done = 0;

	while (done < n) {
		u32 run = good_run(net, frames + done, n - done), sent;

		if (!run) {
			count(&net->stats[pair].tx_dropped, 1);
			done++;
			continue;
		}
		sent = net->class->send(net, pair, frames + done, run);
		for (u32 i = 0; i < sent; i++)
			count(&net->stats[pair].tx_bytes, frames[done + i].len);
		count(&net->stats[pair].tx_frames, sent);
		done += sent;
		if (sent < run)
			break;
	}
	return done;
}

void net_receive_resume(struct net *net, unsigned int pair)
{
	if (!net->stopped)
		net->class->resume(net, pair);
}

u32 net_deliver(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	u32 taken;

	if (net->stopped || !net_link(net) || !net->client.receive) {
		count(&net->stats[pair].rx_dropped, n);
		return n;
	}
	taken = net->client.receive(net->client.ctx, pair, frames, n);
	for (u32 i = 0; i < taken; i++)
		count(&net->stats[pair].rx_bytes, frames[i].len);
	count(&net->stats[pair].rx_frames, taken);
	return taken;
}

void net_deliver_sendable(struct net *net, unsigned int pair)
{
	if (!net->stopped && net->client.sendable)
		net->client.sendable(net->client.ctx, pair);
}

void net_get_stats(const struct net *net, struct net_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (unsigned int i = 0; i < net->pairs; i++) {
		stats->tx_frames += __atomic_load_n(&net->stats[i].tx_frames, __ATOMIC_RELAXED);
		stats->tx_bytes += __atomic_load_n(&net->stats[i].tx_bytes, __ATOMIC_RELAXED);
		stats->tx_dropped += __atomic_load_n(&net->stats[i].tx_dropped, __ATOMIC_RELAXED);
		stats->rx_frames += __atomic_load_n(&net->stats[i].rx_frames, __ATOMIC_RELAXED);
		stats->rx_bytes += __atomic_load_n(&net->stats[i].rx_bytes, __ATOMIC_RELAXED);
		stats->rx_dropped += __atomic_load_n(&net->stats[i].rx_dropped, __ATOMIC_RELAXED);
	}
}

/* ---- options ---- */

int net_mac_parse(const char *text, u8 mac[6])
{
	static const u8 none[6];
	char end;
	unsigned int b[6];

	if (strlen(text) > 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &b[0], &b[1], &b[2],
					&b[3], &b[4], &b[5], &end) != 6)
		return -EINVAL;
	for (int i = 0; i < 6; i++)
		mac[i] = (u8)b[i];
	return mac[0] & 1 || !memcmp(mac, none, sizeof(none)) ? -EINVAL : 0;
}

void net_mac_default(u8 mac[6], const char *machine, unsigned int n)
{
	u64 h = 0;

	for (const char *p = machine ? machine : ""; *p; p++)
		h = hash_u64(h + (u8)*p);
	mac[0] = 0x52;
	mac[1] = 0x54;
	mac[2] = 0;
	mac[3] = (u8)(h >> 8);
	mac[4] = (u8)h;
	mac[5] = (u8)n;
}

static int set_mac(void *target, const char *value, struct err *err)
{
	struct net_card *card = target;

	if (!value || net_mac_parse(value, card->mac))
		return err_set(err, EINVAL,
			       "\"%s\" is no address of a card: six bytes such as "
			       "52:54:00:12:34:56, the first one even, not all of them 0",
			       value ? value : "");
	card->has_mac = true;
	return 0;
}

const struct opt net_card_table[] = {
	{.name = "model",
	 .type = OPT_STRING,
	 .offset = offsetof(struct net_card, model),
	 .arg = "NAME",
	 .help = "the card the guest sees: virtio, rtl8139 or e1000"},
	{.name = "mac",
	 .type = OPT_CALL,
	 .arg = "ADDRESS",
	 .call = set_mac,
	 .help = "hardware address of the card"},
	{.name = "rom",
	 .type = OPT_STRING,
	 .offset = offsetof(struct net_card, rom),
	 .arg = "FILE|pxe|off",
	 .help = "boot ROM for firmware to run; pxe, the default with firmware, is iPXE's for this "
		 "card (package ipxe-qemu)"},
	{.name = "mtu",
	 .type = OPT_U64,
	 .offset = offsetof(struct net_card, mtu),
	 .arg = "BYTES",
	 .min = NET_MTU_MIN,
	 .max = 65535,
	 .help = "largest packet, told to the guest (virtio)"},
	{.name = "queues",
	 .type = OPT_U64,
	 .offset = offsetof(struct net_card, pairs),
	 .arg = "N",
	 .dflt = "1",
	 .min = 1,
	 .max = NET_MAX_PAIRS,
	 .help = "pairs of queues (virtio)"},
	{.name = "transitional",
	 .type = OPT_BOOL,
	 .offset = offsetof(struct net_card, transitional),
	 .help = "offer the registers from before virtio 1.0 too"},
	{.name = "bps",
	 .type = OPT_SIZE,
	 .offset = offsetof(struct net_card, limits.bps),
	 .arg = "SIZE",
	 .max = 1ULL << 50,
	 .help = "most bytes a second, each way"},
	{.name = "bps-burst",
	 .type = OPT_SIZE,
	 .offset = offsetof(struct net_card, limits.bps_burst),
	 .arg = "SIZE",
	 .max = 1ULL << 50,
	 .help = "how many bytes may pass at once"},
	{.name = "pps",
	 .type = OPT_U64,
	 .offset = offsetof(struct net_card, limits.pps),
	 .arg = "N",
	 .max = 1ULL << 50,
	 .help = "most frames a second, each way"},
	{.name = "pps-burst",
	 .type = OPT_U64,
	 .offset = offsetof(struct net_card, limits.pps_burst),
	 .arg = "N",
	 .max = 1ULL << 50,
	 .help = "how many frames may pass at once"},
	{.name = "dump",
	 .type = OPT_STRING,
	 .offset = offsetof(struct net_card, dump),
	 .arg = "FILE",
	 .help = "write every frame of this link to a pcap file"},
	OPT_END,
};

static void add_item(struct str *to, const char *item, size_t len)
{
	str_add(to, "%s%.*s", to->len ? "," : "", (int)len, item);
}

/* Deal the items of "key=value,..." out to the card's list and the back end's. What both know (the
 * number of queues) goes to both; what nobody knows, to the back end, which says so. */
static void deal_items(const char *text, const struct opt *table, struct str *card,
		       struct str *rest)
{
	while (*text) {
		size_t len = 0, key;
		char name[32];
		bool cards;

		while (text[len] && (text[len] != ',' || text[len + 1] == ','))
			len += text[len] == ',' ? 2 : 1;
		key = strcspn(text, "=,");
		snprintf(name, sizeof(name), "%.*s", (int)min(key, len), text);
		cards = opt_lookup(net_card_table, name);
		if (cards)
			add_item(card, text, len);
		if (!cards || opt_lookup(table, name))
			add_item(rest, text, len);
		text += len + (text[len] == ',');
	}
}

static const struct opt *options_of(const struct net_class *class)
{
	static const struct opt none[] = {OPT_END};

	return class->options ? class->options : none;
}

/* With out NULL it is only looked at. */
static int open_backend(struct net **out, struct loop *loop, const struct net_class *class,
			const char *items, struct err *err)
{
	const struct opt *table = options_of(class);
	void *config = calloc(1, class->config_size ? class->config_size : 1);
	int rc;

	if (!config)
		return err_set(err, ENOMEM, "no memory for a network link");
	rc = opt_defaults(table, config, err);
	if (!rc && items)
		rc = opt_parse_list(table, config, items, NULL, err);
	if (!rc && out)
		rc = net_new(out, class, loop, config, err);
	else if (!rc && class->check)
		rc = class->check(config, err);
	opt_free(table, config);
	free(config);
	return rc;
}

static int add_dump(struct net **net, const char *path, struct err *err)
{
	struct net *top;
	int rc = net_dump_new(&top, *net, path, err);

	if (rc)
		net_close(*net);
	else
		*net = top;
	return rc;
}

static int add_throttle(struct net **net, const struct net_limits *limits, struct err *err)
{
	struct net *top;
	int rc = net_throttle_new(&top, *net, limits, err);

	if (rc)
		net_close(*net);
	else
		*net = top;
	return rc;
}

/* Filters, and what card and back end must agree on. On failure the link is closed. */
static int finish(struct net **net, struct net_card *card, struct err *err)
{
	u32 mtu = (*net)->mtu;
	int rc = 0;

	if (card->pairs > (*net)->pairs)
		rc = err_set(err, EINVAL, "queues=%llu: this back end has %u",
			     (unsigned long long)card->pairs, (*net)->pairs);
	else if (mtu && card->mtu > mtu)
		rc = err_set(err, EINVAL, "mtu=%llu: the link carries %u (link-mtu=)",
			     (unsigned long long)card->mtu, mtu);
	if (rc) {
		net_close(*net);
		return rc;
	}
	if (mtu != ETHERNET_MTU && !card->mtu)
		card->mtu = mtu;
	if (card->limits.bps || card->limits.pps)
		rc = add_throttle(net, &card->limits, err);
	if (!rc && card->dump)
		rc = add_dump(net, card->dump, err);
	return rc;
}

static int check_limits(const struct net_limits *l, struct err *err)
{
	if ((l->bps_burst && !l->bps) || (l->pps_burst && !l->pps))
		return err_set(err, EINVAL,
			       "a burst without a limit: bps-burst= is for bps=, "
			       "pps-burst= for pps=");
	return 0;
}

static int lookup_class(const struct net_class **out, const char *spec, struct err *err)
{
	struct str known = {0};
	char type[32];

	snprintf(type, sizeof(type), "%.*s", (int)strcspn(spec, ","), spec);
	*out = net_class_lookup(type);
	if (*out)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(classes); i++)
		str_add(&known, ", %s", classes[i]->name);
	err_set(err, EINVAL, "there is no back end \"%s\"; there are none%s", type,
		known.text ? known.text : "");
	str_free(&known);
	return -EINVAL;
}

/* With out NULL it is only looked at. */
static int open_or_check(struct net **out, struct loop *loop, const char *spec,
			 struct net_card *card, struct err *err)
{
	size_t len = strcspn(spec, ",");
	struct str for_card = {0}, rest = {0};
	const struct net_class *class;
	int rc = lookup_class(&class, spec, err);

	memset(card, 0, sizeof(*card));
	if (rc)
		return rc;
	deal_items(spec + len + (spec[len] == ','), options_of(class), &for_card, &rest);
	rc = for_card.failed || rest.failed ? err_set(err, ENOMEM, "no memory for options") : 0;
	if (!rc)
		rc = opt_defaults(net_card_table, card, err);
	if (!rc && for_card.text)
		rc = opt_parse_list(net_card_table, card, for_card.text, NULL, err);
	if (!rc)
		rc = check_limits(&card->limits, err);
	if (!rc)
		rc = open_backend(out, loop, class, rest.text, err);
	if (!rc && out)
		rc = finish(out, card, err);
	str_free(&for_card);
	str_free(&rest);
	if (rc)
		opt_free(net_card_table, card);
	return rc;
}

int net_open(struct net **out, struct loop *loop, const char *spec, struct net_card *card,
	     struct err *err)
{
	return open_or_check(out, loop, spec, card, err);
}

int net_check(const char *spec, struct err *err)
{
	struct net_card card;
	int rc = open_or_check(NULL, NULL, spec, &card, err);

	if (!rc)
		opt_free(net_card_table, &card);
	return rc;
}
