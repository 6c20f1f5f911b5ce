/* What -n prints: the configuration as it was understood. */
#include "base/str.h"
#include "machine/machine.h"

void machine_print_config(const struct machine_config *c, FILE *out)
{
	static const char *const boards[] = {"auto", "pc", "micro", "bare"};
	char size[32];

	fprintf(out, "%-10s %s (%s)\n", "engine", c->engine->name, c->engine->summary);
	fprintf(out, "%-10s %s\n", "machine", boards[machine_choose_board(c)]);
	fprintf(out, "%-10s %u\n", "cpus", c->cpus);
	fprintf(out, "%-10s %s%s\n", "memory", format_size(size, sizeof(size), c->memory),
		c->hugepages ? ", huge pages" : "");
	if (c->firmware)
		fprintf(out, "%-10s %s: %s\n", "firmware", c->firmware->name, c->firmware->text);
	if (c->image)
		fprintf(out, "%-10s %s: %s\n", image_kind_name(c->image->kind), c->image->name,
			c->image->text);
	for (size_t i = 0; i < c->boot.module_count; i++)
		fprintf(out, "%-10s %s: %llu bytes\n", i ? "" : "modules",
			c->boot.modules[i].image->name,
			(unsigned long long)c->boot.modules[i].image->size);
	if (c->boot.cmdline)
		fprintf(out, "%-10s %s\n", "append", c->boot.cmdline);
	for (u32 i = 0; i < c->reg_count; i++)
		fprintf(out, "%-10s %s = 0x%llx\n", i ? "" : "registers", c->reg[i].name,
			(unsigned long long)c->reg[i].value);
	for (size_t i = 0; i < c->device_count; i++)
		fprintf(out, "%-10s %s\n", c->devices[i].kind, c->devices[i].spec);
}
