/* --net: a network card and the link behind it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "hw/e1000.h"
#include "hw/rtl8139.h"
#include "machine/machine_int.h"
#include "machine/user_devices.h"
#include "net/net.h"
#include "os/clock.h"
#include "os/file.h"
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

#define ROM_MAX	    (16 * MiB)
#define ROM_PACKAGE "/usr/lib/ipxe/qemu/%s-%.*s.rom"

/* iPXE's ROM for the model (package ipxe-qemu): with code for UEFI, too, where there is one. */
static void package_rom(char path[64], const char *model)
{
	static const char *const kinds[] = {"efi", "pxe"};

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		/* rtl8139-plain is an rtl8139, too. */
		snprintf(path, 64, ROM_PACKAGE, kinds[i], (int)strcspn(model, "-"), model);
		if (!access(path, R_OK))
			return;
	}
}

static int load_rom(struct device *dev, const char *path, struct err *err)
{
	void *data;
	size_t len;
	int rc = file_read_all(path, ROM_MAX, &data, &len, err);

	if (rc)
		return rc;
	rc = pci_set_rom(container_of(dev, struct pci_device, dev), data, len, err);
	free(data);
	return rc;
}

/* rom=: only firmware runs it, and with firmware a card has the package's, where that is there. */
static int add_rom(struct machine *m, struct device *dev, const struct net_card *card,
		   struct err *err)
{
	const char *rom = card->rom ? card->rom : "";
	char package[64];
	int rc;

	if (!strcmp(rom, "off") || !strcmp(rom, "none"))
		return 0;
	package_rom(package, card->model ? card->model : "virtio");
	if (!card->rom && (!m->config.firmware || access(package, R_OK)))
		return 0;
	if (m->board != BOARD_PC)
		return card->rom ? err_set(err, EINVAL, "rom=: this machine has no PCI") : 0;
	rc = load_rom(dev, card->rom && strcmp(rom, "pxe") ? rom : package, err);
	if (rc)
		err_prefix(err, "rom=%s%s", rom,
			   strcmp(rom, "pxe") ? "" : " (package ipxe-qemu has it)");
	return rc;
}

static int add_virtio(struct machine *m, struct net *net, const struct net_card *card,
		      const u8 *mac, struct err *err)
{
	struct device *dev;
	struct virtio_net_options options = {
		.net = net,
		.mtu = (u16)card->mtu,
		.pairs = (unsigned int)card->pairs,
	};

	memcpy(options.mac, mac, sizeof(options.mac));
	dev = board_add_virtio(m, &virtio_net, "net", &options, card->transitional, err);
	return dev ? add_rom(m, dev, card, err) : -EIO;
}

static int add_rtl8139(struct machine *m, struct net *net, const struct net_card *card,
		       const u8 *mac, struct err *err)
{
	struct rtl8139_config config = {.net = net, .plain = !strcmp(card->model, "rtl8139-plain")};
	struct device *dev;

	memcpy(config.mac, mac, sizeof(config.mac));
	dev = device_new(m->bus, &rtl8139_class, m->net[m->nets].id, &config, err);
	return dev ? add_rom(m, dev, card, err) : -EIO;
}

static int add_e1000(struct machine *m, struct net *net, const struct net_card *card, const u8 *mac,
		     struct err *err)
{
	struct e1000_config config = {.net = net};
	struct device *dev;

	memcpy(config.mac, mac, sizeof(config.mac));
	dev = device_new(m->bus, &e1000_class, m->net[m->nets].id, &config, err);
	return dev ? add_rom(m, dev, card, err) : -EIO;
}

static const struct {
	const char *model;
	int (*add)(struct machine *m, struct net *net, const struct net_card *card, const u8 *mac,
		   struct err *err);
} models[] = {
	{"virtio", add_virtio},
	{"e1000", add_e1000},
	{"rtl8139", add_rtl8139},
	{"rtl8139-plain", add_rtl8139},
};

static int add_card(struct machine *m, struct net *net, const struct net_card *card, const u8 *mac,
		    struct err *err)
{
	struct str known = {0};
	int rc;

	for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
		if (!strcmp(models[i].model, card->model ? card->model : "virtio"))
			return models[i].add(m, net, card, mac, err);
		str_add(&known, "%s%s", i ? ", " : "", models[i].model);
	}
	rc = err_set(err, EINVAL, "model=%s: must be one of %s", card->model,
		     known.text ? known.text : "");
	str_free(&known);
	return rc;
}

/* The same each time for a machine with a name, and behind NAT, where nobody else sees it. Machines
 * without a name that meet on one network must differ. */
static void default_mac(struct machine *m, const char *spec, u8 *mac)
{
	char name[64] = "nat";

	if (strncmp(spec, "user", 4))
		snprintf(name, sizeof(name), "%d %llu", (int)getpid(),
			 (unsigned long long)clock_realtime_ns());
	net_mac_default(mac, m->config.name ? m->config.name : name, m->nets);
}

int build_net(struct machine *m, const char *spec, struct err *err)
{
	struct net_card card;
	struct net *net;
	u8 mac[6];
	int rc;

	if (!strcmp(spec, "none"))
		return 0;
	if (m->nets == MACHINE_MAX_NETS)
		return err_set(err, ENOSPC, "a machine has %d network cards at most",
			       MACHINE_MAX_NETS);
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
		default_mac(m, spec, mac);
	/* The name that add_virtio()'s device gets, too. */
	snprintf(m->net[m->nets].id, sizeof(m->net[0].id), "net%u", m->nets);
	m->net[m->nets].net = net;
	rc = add_card(m, net, &card, mac, err);
	m->nets++;
out:
	opt_free(net_card_table, &card);
	return rc;
}

int machine_set_link(struct machine *m, const char *id, bool up)
{
	for (u32 i = 0; i < m->nets; i++) {
		if (strcmp(m->net[i].id, id))
			continue;
		net_plug(m->net[i].net, up);
		return 0;
	}
	return -ENOENT;
}

const char *machine_get_link(struct machine *m, u32 n, bool *up)
{
	if (n >= m->nets)
		return NULL;
	*up = net_link(m->net[n].net);
	return m->net[n].id;
}
