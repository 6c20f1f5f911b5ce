/* PIIX3: 82371FB/82371SB data sheet (290550), section 2.2; PIIX4: 82371AB (290562), section 7.1. */
#include "hw/piix.h"

#include <string.h>

#include "base/endian.h"
#include "bus/pci.h"
#include "hw/pm.h"

#define HEADER_TYPE   0x0e
#define MULTIFUNCTION 0x80

#define PIRQ_ROUTE	0x60 /* of PIIX3: four registers */
#define PIRQ_NOT_ROUTED 0x80

#define PM_BASE_ADDRESS 0x40 /* PMBA of PIIX4 */
#define PM_BASE_IS_IO	1
#define DEVACTB		0x58
#define DEVACTB_APMC_EN (1u << 25) /* set: firmware need not put a handler into SMRAM */
#define PM_REG_MISC	0x80
#define PM_REG_ENABLE	1

struct piix {
	struct pci_device pci;
};

static struct piix *to_piix(struct device *dev)
{
	return container_of(dev, struct piix, pci.dev);
}

static int isa_init(struct device *dev, const void *config, struct err *err)
{
	static const struct pci_ident ident = {
		.vendor = 0x8086, .device = 0x7000, .class_code = 0x060100};
	struct pci_device *pci = &to_piix(dev)->pci;
	int rc = pci_device_init(pci, &ident, PIIX_ISA_DEVFN, err);

	if (rc)
		return rc;
	pci->config[HEADER_TYPE] |= MULTIFUNCTION;
	memset(pci->writable + PIRQ_ROUTE, 0x8f, 4);
	return 0;
}

static void isa_reset(struct device *dev)
{
	struct pci_device *pci = &to_piix(dev)->pci;

	pci_device_reset(pci);
	memset(pci->config + PIRQ_ROUTE, PIRQ_NOT_ROUTED, 4);
}

static int pm_init(struct device *dev, const void *config, struct err *err)
{
	static const struct pci_ident ident = {
		.vendor = 0x8086, .device = 0x7113, .class_code = 0x068000};
	const struct piix_pm_config *c = config;
	struct pci_device *pci = &to_piix(dev)->pci;
	u16 base = c && c->base ? c->base : PM_BASE;
	int rc = pci_device_init(pci, &ident, PIIX_PM_DEVFN, err);

	if (rc)
		return rc;
	/* The ports are there and stay there: none of these can be written. */
	store_le32(pci->config + PM_BASE_ADDRESS, base | PM_BASE_IS_IO);
	store_le32(pci->config + DEVACTB, DEVACTB_APMC_EN);
	pci->config[PM_REG_MISC] = PM_REG_ENABLE;
	return 0;
}

static void pm_reset(struct device *dev)
{
	pci_device_reset(&to_piix(dev)->pci);
}

static void piix_free(struct device *dev)
{
	pci_device_release(&to_piix(dev)->pci);
}

static const struct state_field fields[] = {
	STATE_NESTED(struct piix, pci, pci_device_state),
	STATE_END,
};
static const struct state_desc isa_state = {.name = "piix-isa", .version = 1, .fields = fields};
static const struct state_desc pm_state = {.name = "piix-pm", .version = 1, .fields = fields};

const struct device_class piix_isa_class = {
	.name = "piix-isa",
	.summary = "Intel PIIX3, ISA bridge as firmware looks for it",
	.size = sizeof(struct piix),
	.init = isa_init,
	.reset = isa_reset,
	.free = piix_free,
	.state = &isa_state,
};

const struct device_class piix_pm_class = {
	.name = "piix-pm",
	.summary = "Intel PIIX4, power management as firmware looks for it",
	.size = sizeof(struct piix),
	.init = pm_init,
	.reset = pm_reset,
	.free = piix_free,
	.state = &pm_state,
};
