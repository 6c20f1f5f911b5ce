/*
 * The translator: host code for blocks that are entered often.
 *
 * It is no back end of its own but takes the place of single blocks in the interpreter's chain: the
 * function of a block's first uop counts entries, and then becomes the stub that enters the block's
 * code. So whatever is cold, rare, or executed alone (stepping, device accesses, MODE_ONE) stays
 * the interpreter's, every mixture works, and there is one set of operations, one block cache and
 * one way to forget. interpreter_ops and translator_ops (exec.c) differ in the threshold alone.
 *
 * 1. Code belongs to one vCPU, and is written and executed on its thread (or while it is parked).
 * 2. In host code the guest's general registers are in host registers (tr_host[]) or in the vCPU,
 *    the arithmetic flags as translate_block.c says; for C functions all of it is in the vCPU.
 * 3. An operation that has no code here is called, by a copy of its uop; one that the code cannot
 *    finish (a TLB miss) likewise, from its start. Faults unwind from there as they always do.
 * 4. A dropped block's entry becomes a jump to the interpreter, for the links that lead to it;
 *    struct block.code likewise. Code under execution leaves after the call that dropped something.
 * 5. When the arena is full, all blocks go, and the code with them.
 */
#include "engine/soft/translate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/ops_branch.h"
#include "engine/soft/translate_int.h"

_Static_assert(offsetof(struct block, code) + sizeof(void *) == offsetof(struct block, uop),
	       "struct block.code is right before uop[0]");

static struct translator *translator_of(const struct kvm_vcpu *vcpu)
{
	return vcpu_cpu(vcpu)->translator;
}

static struct block *block_of(const struct uop *u)
{
	return container_of(u, struct block, uop[0]);
}

static const void *code_at(const struct translator *x, u32 at)
{
	return x->arena.rx + at;
}

static uop_fn *function_at(const struct translator *x, u32 at)
{
	return (uop_fn *)(uintptr_t)(x->arena.rx + at);
}

/* ---- hot blocks ---- */

/* Everything was dropped: nothing of the block may be touched. */
static const struct uop *start_over(struct kvm_vcpu *vcpu)
{
	blocks_drop_all(vcpu);
	vcpu->uop = &uop_between;
	return NULL;
}

/* The first hot block: until then a vCPU costs nothing. */
static bool start(struct kvm_vcpu *vcpu)
{
	struct translator *x = translator_of(vcpu);
	const struct blocks *b = &vcpu_cpu(vcpu)->blocks;

	if (code_memory_map(&x->arena, "softkvm-code", TR_ARENA)) {
		x->threshold = ~0u;
		return false;
	}
	tr_stubs_init(x);
	tr_classes_init(x);
	for (u32 i = 0; i < BLOCK_BUCKETS; i++)
		for (struct block *block = b->bucket[i]; block; block = block->next)
			block->code = code_at(x, x->untranslated);
	return true;
}

static const struct uop *count_entry(struct kvm_vcpu *vcpu, const struct uop *u)
{
	struct translator *x = translator_of(vcpu);
	struct block *block = block_of(u);
	struct uop *first = &block->uop[0];
	int rc;

	if (++block->entries < x->threshold)
		return block->first(vcpu, u);
	first->fn = block->first;
	if (!x->arena.rx && !start(vcpu))
		return u;
	rc = tr_block(vcpu, block);
	if (rc == -ENOSPC)
		return start_over(vcpu);
	if (!rc) {
		block->translated = true;
		first->fn = function_at(x, x->enter);
		if (vcpu->stat)
			vcpu->stat->blocks_translated++;
	}
	return u;
}

void translate_block_made(struct kvm_vcpu *vcpu, struct block *block)
{
	struct translator *x = translator_of(vcpu);
	const u8 flat = MODE_FLAT | MODE_STACK32;

	if (!x)
		return;
	if (x->arena.rx)
		block->code = code_at(x, x->untranslated);
	if (block->mode & MODE_ONE)
		return;
	if ((block->mode & MODE_SIZE) != MODE_64 && (block->mode & flat) != flat)
		return;
	block->first = block->uop[0].fn;
	block->uop[0].fn = count_entry;
}

static void patch(struct translator *x, u32 at, u32 to)
{
	u32 rel = to - at - 4;

	memcpy(x->arena.rw + at, &rel, sizeof(rel));
}

void translate_block_dropped(struct kvm_vcpu *vcpu, struct block *block)
{
	struct translator *x = translator_of(vcpu);

	if (!x || !block->translated)
		return;
	x->arena.rw[block->direct] = 0xe9;
	patch(x, block->direct + 1, block->dropped_code);
	block->code = code_at(x, x->untranslated);
	block->translated = false;
}

void translate_all_dropped(struct kvm_vcpu *vcpu)
{
	struct translator *x = translator_of(vcpu);

	if (x)
		x->used = x->fixed;
}

/* ---- what the stubs call: ctl.rip is true, registers are in the vCPU ---- */

const struct uop *translate_link(struct kvm_vcpu *vcpu, struct tr_edge *edge)
{
	struct translator *x = translator_of(vcpu);
	struct blocks *b = &vcpu_cpu(vcpu)->blocks;
	u32 drops = b->drops;
	const struct uop *to;

	vcpu->uop = &uop_between;
	if (__atomic_load_n(&vcpu->exit_request, __ATOMIC_ACQUIRE))
		return NULL;
	to = blocks_enter(vcpu);
	if (to && drops == b->drops && block_of(to)->translated)
		patch(x, edge->jump,
		      block_of(to)->gpa2 == NO_GPA ? block_of(to)->direct : edge->cached);
	return to;
}

const struct uop *translate_lookup(struct kvm_vcpu *vcpu)
{
	vcpu->uop = &uop_between;
	if (__atomic_load_n(&vcpu->exit_request, __ATOMIC_ACQUIRE))
		return NULL;
	return blocks_enter(vcpu);
}

/* ---- life ---- */

int translate_init(struct kvm_vcpu *vcpu, u32 threshold)
{
	struct translator *x;

	if (!threshold)
		return 0;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->threshold = threshold;
	vcpu_cpu(vcpu)->translator = x;
	return 0;
}

void translate_free(struct kvm_vcpu *vcpu)
{
	struct translator *x = translator_of(vcpu);

	if (!x)
		return;
	code_memory_unmap(&x->arena);
	free(x);
	vcpu_cpu(vcpu)->translator = NULL;
}
