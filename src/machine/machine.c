/*
 * The machine's life. What ends or resets it happens on other threads (a vCPU's exit, a register
 * write); there it only becomes a bit in event.pending, and the main thread acts on it.
 */
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus/device.h"
#include "bus/irq.h"
#include "hw/pm.h"
#include "hw/pvpanic.h"
#include "machine/machine_int.h"
#include "os/clock.h"

/* This many triple faults without a second of life between them are an error, not a reboot. */
#define TRIPLE_FAULTS_MAX 3

static void post(struct machine *m, enum machine_event_kind kind)
{
	__atomic_fetch_or(&m->event.pending, 1u << kind, __ATOMIC_SEQ_CST);
	loop_post(m->loop, &m->event.work);
}

/* ---- from the vCPU threads ---- */

static void on_pio(void *ctx, u16 port, bool write, unsigned int size, void *data, u32 count)
{
	bus_pio(((struct machine *)ctx)->bus, port, write, size, data, count);
}

static void on_mmio(void *ctx, u64 addr, bool write, unsigned int size, void *data)
{
	bus_mmio(((struct machine *)ctx)->bus, addr, write, size, data);
}

static void on_system_event(struct machine *m, u32 type)
{
	if (type == KVM_SYSTEM_EVENT_RESET)
		post(m, EVENT_RESET);
	else if (type == KVM_SYSTEM_EVENT_SHUTDOWN)
		post(m, EVENT_SHUTDOWN);
	else
		post(m, EVENT_FAILED);
}

static void on_ended(void *ctx, struct vcpu *vcpu, enum vcpu_end end, u32 value)
{
	struct machine *m = ctx;

	switch (end) {
	case VCPU_HALTED:
		if (__atomic_add_fetch(&m->halted, 1, __ATOMIC_SEQ_CST) == m->vcpus)
			post(m, EVENT_HALTED);
		break;
	case VCPU_SHUTDOWN:
		if (m->board == BOARD_BARE) {
			log_error("the guest ended in a triple fault");
			vcpu_dump(vcpu);
			post(m, EVENT_FAILED);
		} else {
			post(m, EVENT_TRIPLE_FAULT);
		}
		break;
	case VCPU_EVENT:
		on_system_event(m, value);
		break;
	default:
		post(m, EVENT_FAILED);
	}
}

const struct vcpu_ops machine_vcpu_ops = {on_pio, on_mmio, on_ended};

/* From a device, with the bus lock held. */
static void on_request(void *ctx, enum bus_event event, int value)
{
	struct machine *m = ctx;

	switch (event) {
	case BUS_RESET_REQUEST:
		post(m, EVENT_RESET);
		break;
	case BUS_SHUTDOWN_REQUEST:
		post(m, EVENT_SHUTDOWN);
		break;
	case BUS_PANIC:
		if (value & PVPANIC_PANICKED)
			post(m, EVENT_PANIC);
		break;
	case BUS_EXIT:
		m->event.exit_status = value;
		post(m, EVENT_EXIT);
		break;
	case BUS_SUSPEND_REQUEST:
		break;
	}
}

/* ---- on the main thread ---- */

static void do_reset(struct machine *m)
{
	int rc;

	if (m->config.no_reboot) {
		loop_stop(m->loop, 0);
		return;
	}
	rc = machine_reset(m);
	if (rc)
		loop_stop(m->loop, 1);
}

static void do_triple_fault(struct machine *m)
{
	u64 now = clock_now_ns();

	m->triple_faults = now - m->last_reset_ns < NSEC_PER_SEC ? m->triple_faults + 1 : 1;
	if (m->triple_faults < TRIPLE_FAULTS_MAX) {
		do_reset(m);
		return;
	}
	log_error("the guest ended in a triple fault %u times in a row", m->triple_faults);
	machine_pause(m);
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_dump(m->vcpu[i]);
	loop_stop(m->loop, 1);
}

static void on_event(struct loop_work *work)
{
	struct machine_event *event = container_of(work, struct machine_event, work);
	struct machine *m = event->machine;
	u32 pending = __atomic_exchange_n(&event->pending, 0, __ATOMIC_SEQ_CST);

	if (pending & 1u << EVENT_PANIC)
		log_warn("the guest's kernel panicked");
	if (pending & 1u << EVENT_EXIT)
		loop_stop(m->loop, event->exit_status);
	else if (pending & 1u << EVENT_FAILED)
		loop_stop(m->loop, 1);
	else if (pending & (1u << EVENT_SHUTDOWN | 1u << EVENT_HALTED))
		loop_stop(m->loop, 0);
	else if (pending & 1u << EVENT_TRIPLE_FAULT)
		do_triple_fault(m);
	else if (pending & 1u << EVENT_RESET)
		do_reset(m);
}

static void on_written(void *ctx, gpa_t gpa, u64 len)
{
	struct machine *m = ctx;

	m->vm.engine->memory_written(m->vm.fd, gpa, len);
}

enum machine_board machine_choose_board(const struct machine_config *config)
{
	if (config->board != BOARD_AUTO)
		return config->board;
	return config->image && !config->firmware && config->image->kind == IMAGE_FLAT ? BOARD_BARE
										       : BOARD_PC;
}

static int build(struct machine *m, struct err *err)
{
	int rc = engine_vm_open(&m->vm, m->config.engine, err);

	if (rc)
		return rc;
	m->mem = mem_new();
	m->bus = m->mem ? bus_new(&m->vm, m->mem, m->loop) : NULL;
	if (!m->bus)
		return err_set(err, ENOMEM, "out of memory");
	bus_set_request_hook(m->bus, on_request, m);
	if (m->vm.engine->memory_written)
		mem_set_written_hook(m->mem, on_written, m);
	rc = machine_make_vm(m, err);
	if (!rc)
		rc = machine_make_vcpus(m, err);
	if (!rc)
		rc = board_build(m, err);
	if (!rc)
		rc = machine_load(m, err);
	if (!rc && m->config.timed)
		machine_open_stats(m);
	return rc;
}

struct machine *machine_new(const struct machine_config *config, struct loop *loop, struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	m->config = *config;
	m->board = machine_choose_board(config);
	m->loop = loop;
	m->vm.fd = m->vm.sys_fd = -1;
	m->event.work.fn = on_event;
	m->event.machine = m;
	if (build(m, err)) {
		machine_free(m);
		return NULL;
	}
	return m;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_pause(m->vcpu[i]);
	/* The ring is a page of a vCPU's mapping. */
	if (m->bus)
		bus_set_coalesced_ring(m->bus, NULL);
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_free(m->vcpu[i]);
	loop_cancel(m->loop, &m->event.work);
	board_free(m);
	machine_close_stats(m);
	bus_free(m->bus);
	engine_vm_close(&m->vm);
	mem_free(m->mem);
	free(m->supported);
	free(m);
}

int machine_start(struct machine *m, struct err *err)
{
	for (u32 i = 0; i < m->vcpus; i++) {
		int rc = vcpu_start(m->vcpu[i]);

		if (rc)
			return err_set(err, -rc, "cannot start a thread: %s", strerror(-rc));
	}
	bus_lock(m->bus);
	devices_start(m->bus);
	bus_unlock(m->bus);
	m->started = true;
	m->last_reset_ns = clock_now_ns();
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_resume(m->vcpu[i]);
	return 0;
}

static void pause_vcpus(struct machine *m)
{
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_pause(m->vcpu[i]);
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_wait_paused(m->vcpu[i]);
	bus_drain_coalesced(m->bus);
}

static void resume_vcpus(struct machine *m)
{
	__atomic_store_n(&m->halted, 0, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < m->vcpus; i++)
		vcpu_resume(m->vcpu[i]);
}

void machine_pause(struct machine *m)
{
	bool drained;

	if (m->paused || !m->started)
		return;
	m->paused = true;
	pause_vcpus(m);
	bus_lock(m->bus);
	devices_pause(m->bus);
	drained = devices_drained(m->bus);
	bus_unlock(m->bus);
	/* Completions of requests in flight may need this thread's loop. */
	while (!drained) {
		loop_run_once(m->loop, NSEC_PER_MSEC);
		bus_lock(m->bus);
		drained = devices_drained(m->bus);
		bus_unlock(m->bus);
	}
}

void machine_resume(struct machine *m)
{
	if (!m->paused)
		return;
	m->paused = false;
	bus_lock(m->bus);
	devices_resume(m->bus);
	bus_unlock(m->bus);
	resume_vcpus(m);
}

bool machine_paused(const struct machine *m)
{
	return m->paused;
}

int machine_reset(struct machine *m)
{
	struct err err;
	int rc;

	pause_vcpus(m);
	bus_lock(m->bus);
	devices_reset(m->bus);
	if (m->pci)
		pci_host_reset(m->pci);
	rc = machine_reset_chips(m);
	bus_unlock(m->bus);
	if (rc) {
		log_error("reset: the engine refuses a register: %s", strerror(-rc));
		return rc;
	}
	rc = machine_load(m, &err);
	if (rc) {
		log_error("reset: %s", err.text);
		return rc;
	}
	m->last_reset_ns = clock_now_ns();
	if (!m->paused)
		resume_vcpus(m);
	return 0;
}

bool machine_powerdown(struct machine *m)
{
	bool heard;

	if (!m->pm)
		return false;
	bus_lock(m->bus);
	heard = pm_power_button_enabled(m->pm);
	pm_power_button(m->pm);
	bus_unlock(m->bus);
	return heard;
}

struct bus *machine_bus(struct machine *m)
{
	return m->bus;
}

u32 machine_vcpu_count(const struct machine *m)
{
	return m->vcpus;
}

struct vcpu *machine_vcpu(struct machine *m, u32 index)
{
	return m->vcpu[index];
}

enum machine_board machine_board(const struct machine *m)
{
	return m->board;
}
