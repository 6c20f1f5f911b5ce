/* --net: a network card and the link behind it. */
#include <errno.h>
#include <string.h>

#include "bus/device.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "net/net.h"
#include "virtio/net.h"

extern const struct virtio_class virtio_net;

static void stop_link(void *object)
{
	net_stop(object);
}

static void release_link(void *object)
{
	net_close(object);
}

static int add_card(struct machine *m, struct net *net, const struct net_card *card, const u8 *mac,
		    struct err *err)
{
	struct virtio_net_options options = {
		.net = net,
		.mtu = (u16)card->mtu,
		.pairs = (unsigned int)card->pairs,
	};

	memcpy(options.mac, mac, sizeof(options.mac));
	if (card->model && strcmp(card->model, "virtio"))
		return err_set(err, EINVAL, "model=%s: this build has virtio", card->model);
	return board_add_virtio(m, &virtio_net, "net", &options, false, err) ? 0 : -EIO;
}

int build_net(struct machine *m, const char *spec, struct err *err)
{
	struct net_card card;
	struct net *net;
	u8 mac[6];
	int rc;

	if (!strcmp(spec, "none"))
		return 0;
	rc = net_open(&net, m->loop, spec, &card, err);
	if (rc)
		return rc;
	if (board_own(m, stop_link, release_link, net)) {
		net_close(net);
		rc = err_set(err, ENOSPC, "too many devices");
		goto out;
	}
	if (card.has_mac)
		memcpy(mac, card.mac, sizeof(mac));
	else
		net_mac_default(mac, m->config.name, m->nets);
	m->nets++;
	rc = add_card(m, net, &card, mac, err);
out:
	opt_free(net_card_table, &card);
	return rc;
}
