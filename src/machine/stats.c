/* --stats: what happened, in numbers. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus/device.h"
#include "bus/irq.h"
#include "machine/machine_int.h"

static void print_exits(struct machine *m, FILE *out)
{
	u64 count[VCPU_EXIT_REASONS] = {0}, ns[VCPU_EXIT_REASONS] = {0};
	u64 total = 0, interrupted = 0, strings = 0, string_bytes = 0;

	for (u32 i = 0; i < m->vcpus; i++) {
		const struct vcpu_stats *s = vcpu_get_stats(m->vcpu[i]);

		interrupted += s->interrupted;
		strings += s->pio_string;
		string_bytes += s->pio_bytes;
		for (u32 r = 0; r < VCPU_EXIT_REASONS; r++) {
			count[r] += s->exits[r];
			ns[r] += s->handling_ns[r];
			total += s->exits[r];
		}
	}
	fprintf(out, "exits %llu\n", (unsigned long long)total);
	for (u32 r = 0; r < VCPU_EXIT_REASONS; r++) {
		if (!count[r])
			continue;
		fprintf(out, "  %-24s %12llu", vcpu_exit_name(r), (unsigned long long)count[r]);
		if (m->config.timed)
			fprintf(out, "  %10.3f ms  %8.0f ns each", (double)ns[r] / 1e6,
				(double)ns[r] / (double)count[r]);
		fputc('\n', out);
	}
	fprintf(out, "  %-24s %12llu\n", "interrupted by a signal",
		(unsigned long long)interrupted);
	fprintf(out, "  %-24s %12llu  %llu bytes\n", "string I/O", (unsigned long long)strings,
		(unsigned long long)string_bytes);
}

static void print_range(void *ctx, const struct bus_range *r)
{
	if (!r->reads && !r->writes)
		return;
	fprintf(ctx, "  %-4s 0x%-10llx %-24s %10llu reads %10llu writes", r->space ? "mmio" : "pio",
		(unsigned long long)r->base, r->name, (unsigned long long)r->reads,
		(unsigned long long)(r->writes - r->coalesced));
	if (r->class == BUS_COALESCED)
		fprintf(ctx, " %10llu coalesced", (unsigned long long)r->coalesced);
	fputc('\n', ctx);
}

static void print_interrupts(struct machine *m, FILE *out)
{
	fprintf(out, "interrupts\n");
	for (u32 gsi = 0; gsi < 24; gsi++)
		if (irq_line_count(m->bus, gsi))
			fprintf(out, "  line %-19u %12llu\n", gsi,
				(unsigned long long)irq_line_count(m->bus, gsi));
	fprintf(out, "  %-24s %12llu\n", "MSI sent by the monitor",
		(unsigned long long)irq_msi_count(m->bus));
}

struct device_lines {
	FILE *out;
	const char *id;
};

static void print_line(void *ctx, const char *name, u64 value)
{
	struct device_lines *d = ctx;

	fprintf(d->out, "  %-12s %-24s %12llu\n", d->id, name, (unsigned long long)value);
}

static void print_device(void *ctx, struct device *dev)
{
	struct device_lines lines = {ctx, dev->id};

	if (dev->class->stats)
		dev->class->stats(dev, print_line, &lines);
}

/* The engine's own counters (KVM_GET_STATS_FD): header, descriptors, data, as api.rst has them. */
static void print_stats_fd(int fd, FILE *out)
{
	struct kvm_stats_header h;
	size_t stride;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size > 256 || h.num_desc > 4096)
		return;
	stride = sizeof(struct kvm_stats_desc) + h.name_size;
	for (u32 i = 0; i < h.num_desc; i++) {
		union {
			struct kvm_stats_desc d;
			char raw[sizeof(struct kvm_stats_desc) + 257];
		} u = {0};
		u64 value;

		if (pread(fd, u.raw, stride, (off_t)(h.desc_offset + i * stride)) !=
			    (ssize_t)stride ||
		    u.d.size != 1)
			continue;
		if (pread(fd, &value, sizeof(value), (off_t)h.data_offset + u.d.offset) !=
			    sizeof(value) ||
		    !value)
			continue;
		fprintf(out, "  %-32s %14llu\n", u.raw + sizeof(struct kvm_stats_desc),
			(unsigned long long)value);
	}
}

void machine_open_stats(struct machine *m)
{
	m->vm_stats_fd = engine_vm_ioctl(&m->vm, KVM_GET_STATS_FD, NULL);
	for (u32 i = 0; i < m->vcpus; i++)
		m->vcpu_stats_fd[i] = vcpu_ioctl(m->vcpu[i], KVM_GET_STATS_FD, NULL);
}

void machine_close_stats(struct machine *m)
{
	if (m->vm_stats_fd > 0)
		m->vm.engine->close(m->vm_stats_fd);
	for (u32 i = 0; i < m->vcpus; i++)
		if (m->vcpu_stats_fd[i] > 0)
			m->vm.engine->close(m->vcpu_stats_fd[i]);
}

static void print_engine(struct machine *m, FILE *out)
{
	fprintf(out, "engine %s\n", m->vm.engine->name);
	if (m->vm_stats_fd <= 0) {
		fprintf(out, "  %s\n",
			m->config.timed ? "it keeps no statistics"
					: "its own statistics: start with --stats");
		return;
	}
	print_stats_fd(m->vm_stats_fd, out);
	for (u32 i = 0; i < m->vcpus; i++) {
		if (m->vcpu_stats_fd[i] <= 0)
			continue;
		fprintf(out, " vCPU %u\n", i);
		print_stats_fd(m->vcpu_stats_fd[i], out);
	}
}

void machine_print_stats(struct machine *m, FILE *out)
{
	print_exits(m, out);
	bus_lock(m->bus);
	fprintf(out, "accesses\n");
	bus_for_each_range(m->bus, print_range, out);
	fprintf(out, "  unclaimed: %llu pio, %llu mmio\n",
		(unsigned long long)bus_unclaimed(m->bus, BUS_PIO),
		(unsigned long long)bus_unclaimed(m->bus, BUS_MMIO));
	print_interrupts(m, out);
	fprintf(out, "devices\n");
	devices_for_each(m->bus, print_device, out);
	bus_unlock(m->bus);
	print_engine(m, out);
	fflush(out);
}
