/*
 * Device accesses of the instruction under way (see mmu.h for the protocol with the run loop).
 * Invariants:
 *  1. fragment[0 .. count) have been done, in the instruction that is executed, since its last
 *     committed iteration; fragment[0 .. next) have been asked for in this execution of it.
 *  2. pending: the user has been asked for fragment[count] (or for a string transfer, or for what
 * is no access), and the instruction at linear_rip has had no architectural effect.
 */
#include "engine/soft/io.h"

#include <string.h>

#include "engine/soft/mmu_int.h"

static u64 linear_rip(const struct kvm_vcpu *vcpu)
{
	return vcpu->ctl.seg[SEG_CS].base + vcpu->ctl.rip;
}

static struct io_replay *replay(struct kvm_vcpu *vcpu)
{
	return &vcpu_mmu(vcpu)->io;
}

void exit_internal_error(struct kvm_vcpu *vcpu, u32 suberror)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = suberror;
	run->internal.ndata = 0;
	vcpu->ctl.exit_qualification = suberror;
	replay(vcpu)->stepping = false;
	vcpu_mmu(vcpu)->delivering = false;
	exit_to_user(vcpu);
}

/* Nothing has been asked of a device yet in this instruction: have it run alone. */
static void need_step(struct kvm_vcpu *vcpu)
{
	struct mmu *m = vcpu_mmu(vcpu);

	if (m->delivering)
		exit_internal_error(vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV);
	if (!m->io.stepping)
		io_step(vcpu);
}

_Noreturn static void leave(struct kvm_vcpu *vcpu, u32 reason, u64 qualification)
{
	struct io_replay *r = replay(vcpu);

	r->pending = true;
	r->stepping = false;
	vcpu->run->exit_reason = reason;
	vcpu->ctl.exit_qualification = qualification;
	exit_to_user(vcpu);
}

_Noreturn static void leave_mmio(struct kvm_vcpu *vcpu, const struct io_fragment *f)
{
	struct kvm_run *run = vcpu->run;

	run->mmio.phys_addr = f->addr;
	run->mmio.len = f->len;
	run->mmio.is_write = f->write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (f->write)
		memcpy(run->mmio.data, f->data, f->len);
	leave(vcpu, KVM_EXIT_MMIO, f->addr);
}

_Noreturn static void leave_port(struct kvm_vcpu *vcpu, u16 port, unsigned int size, u32 count,
				 bool write)
{
	struct kvm_run *run = vcpu->run;

	run->io.direction = write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = (u8)size;
	run->io.port = port;
	run->io.count = count;
	run->io.data_offset = (u64)(vcpu->pio_data - (u8 *)run);
	leave(vcpu, KVM_EXIT_IO, port);
}

static int bus_access(struct kvm_vcpu *vcpu, enum kvm_bus bus, u64 addr, u32 len, bool write,
		      void *data)
{
	return write ? kvm_io_bus_write(vcpu, bus, addr, len, data)
		     : kvm_io_bus_read(vcpu, bus, addr, len, data);
}

static bool same_access(const struct io_fragment *a, const struct io_fragment *b)
{
	return a->addr == b->addr && a->len == b->len && a->write == b->write && a->port == b->port;
}

void io_access(struct kvm_vcpu *vcpu, bool port, u64 addr, unsigned int len, bool write, void *data)
{
	struct io_replay *r = replay(vcpu);
	struct io_fragment *f, want = {.addr = addr, .len = (u8)len, .write = write, .port = port};

	need_step(vcpu);
	if (r->next < r->count && same_access(&r->fragment[r->next], &want)) {
		f = &r->fragment[r->next++];
		if (!write)
			memcpy(data, f->data, len);
		return;
	}
	/* Not what was done before: memory or registers were changed under the instruction. */
	r->count = r->next;
	if (r->count >= IO_REPLAY_MAX)
		exit_internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION);
	f = &r->fragment[r->count];
	*f = want;
	if (write)
		memcpy(f->data, data, len);
	if (bus_access(vcpu, port ? KVM_PIO_BUS : KVM_MMIO_BUS, addr, len, write, f->data)) {
		if (!port)
			leave_mmio(vcpu, f);
		if (write)
			memcpy(vcpu->pio_data, f->data, len);
		leave_port(vcpu, (u16)addr, len, 1, write);
	}
	if (!write)
		memcpy(data, f->data, len);
	r->next = ++r->count;
}

void io_port(struct kvm_vcpu *vcpu, u16 port, unsigned int size, bool write, void *data)
{
	if (!replay(vcpu)->stepping && !bus_access(vcpu, KVM_PIO_BUS, port, size, write, data))
		return;
	io_access(vcpu, true, port, size, write, data);
}

u32 io_string(struct kvm_vcpu *vcpu, u16 port, unsigned int size, u32 count, bool write)
{
	struct io_replay *r = replay(vcpu);
	u32 done;

	need_step(vcpu);
	if (r->string_done) {
		r->string_done = false;
		return min(r->string_count, count);
	}
	for (done = 0; done < count; done++)
		if (bus_access(vcpu, KVM_PIO_BUS, port, size, write, vcpu->pio_data + done * size))
			break;
	if (done)
		return done;
	r->string = true;
	r->string_count = count;
	leave_port(vcpu, port, size, count, write);
}

bool io_string_answered(struct kvm_vcpu *vcpu, u32 *count)
{
	*count = replay(vcpu)->string_count;
	return replay(vcpu)->string_done;
}

void io_ask_user(struct kvm_vcpu *vcpu, u32 reason, u64 qualification)
{
	need_step(vcpu);
	replay(vcpu)->user = true;
	leave(vcpu, reason, qualification);
}

bool io_user_answered(const struct kvm_vcpu *vcpu)
{
	return vcpu_mmu(vcpu)->io.user_done;
}

bool io_complete(struct kvm_vcpu *vcpu)
{
	struct io_replay *r = replay(vcpu);
	struct io_fragment *f = &r->fragment[r->count];

	if (!r->pending)
		return false;
	r->pending = false;
	if (r->linear_rip != linear_rip(vcpu)) {
		/* The user has moved the vCPU elsewhere (reset): the instruction is no more. */
		io_end(vcpu);
		return false;
	}
	if (r->user) {
		r->user = false;
		r->user_done = true;
		return true;
	}
	if (r->string) {
		r->string = false;
		r->string_done = true;
		return true;
	}
	if (!f->write)
		memcpy(f->data, f->port ? vcpu->pio_data : vcpu->run->mmio.data, f->len);
	r->count++;
	return true;
}

void io_begin(struct kvm_vcpu *vcpu)
{
	struct io_replay *r = replay(vcpu);

	r->stepping = true;
	r->next = 0;
	r->linear_rip = linear_rip(vcpu);
}

void io_end(struct kvm_vcpu *vcpu)
{
	struct io_replay *r = replay(vcpu);

	r->stepping = r->pending = false;
	r->string = r->string_done = r->user = r->user_done = false;
	r->count = r->next = 0;
}
