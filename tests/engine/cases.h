/* The cases, and what several of them need. */
#ifndef TEST_ENGINE_CASES_H
#define TEST_ENGINE_CASES_H

#include "rig.h"

#define CASE(name, guest, mode, flags) bool case_##name(struct rig *r);
#include "cases.def"
#undef CASE

/* The ring of coalesced writes. */
struct ring {
	struct kvm_coalesced_mmio_ring *ring;
	u32 max;
};

bool ring_open(struct rig *r, struct ring *ring);
bool ring_empty(const struct ring *ring);
/* Take the next entry, which must be this one. */
bool ring_take(struct rig *r, struct ring *ring, bool pio, u64 addr, u32 len, u64 value);

#endif
