/*
 * The block cache.
 *
 * 1. A granule's bit is set before its bytes are read for decoding, and a write finds the bit after
 *    it (or before, with the writer's own blocks dropped before its next instruction): so no block
 *    outlives the bytes it was made of by more than the instruction that changed them; on another
 *    vCPU, by more than the time to its next block end, which is what the architecture leaves to
 *    cross-modifying code anyway.
 * 2. Guest bytes are copied before they are looked at: other vCPUs may change them meanwhile.
 * 3. A block is entered in the tables only when it is whole.
 */
#include "engine/soft/blocks.h"

#include <asm/processor-flags.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/cpu.h"
#include "engine/soft/exec.h"
#include "engine/soft/io.h"
#include "engine/soft/ops_branch.h"
#include "engine/soft/translate.h"

static struct blocks *blocks_of(const struct kvm_vcpu *vcpu)
{
	return &vcpu_cpu(vcpu)->blocks;
}

/* ---- the map of pages with code ---- */

/* The word of a page, or NULL where no page near it ever had code. */
static u64 *granule_word(struct kvm *kvm, u64 gpa)
{
	struct code_map *code = kvm->code;
	u64 gfn = gpa >> PAGE_SHIFT, *leaf;

	if (gfn >= CODE_LEAVES * CODE_LEAF_PAGES)
		return NULL;
	leaf = __atomic_load_n(&code->leaf[gfn / CODE_LEAF_PAGES], __ATOMIC_ACQUIRE);
	return leaf ? &leaf[gfn % CODE_LEAF_PAGES] : NULL;
}

static void note_leaf(struct code_map *code, u64 index)
{
	u64 end = __atomic_load_n(&code->leaves_end, __ATOMIC_RELAXED);

	while (end <= index &&
	       !__atomic_compare_exchange_n(&code->leaves_end, &end, index + 1, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* The same, made when it is not there; NULL without memory. */
static u64 *granule_word_make(struct kvm *kvm, u64 gpa)
{
	struct code_map *code = kvm->code;
	u64 gfn = gpa >> PAGE_SHIFT, *word = granule_word(kvm, gpa), *leaf, *none = NULL;

	if (likely(word) || gfn >= CODE_LEAVES * CODE_LEAF_PAGES)
		return word;
	note_leaf(code, gfn / CODE_LEAF_PAGES);
	leaf = calloc(CODE_LEAF_PAGES, sizeof(*leaf));
	if (leaf && !__atomic_compare_exchange_n(&code->leaf[gfn / CODE_LEAF_PAGES], &none, leaf,
						 false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		free(leaf);
	return granule_word(kvm, gpa);
}

static u64 granule_mask(u64 gpa, u64 len)
{
	unsigned int first = (gpa & (PAGE_SIZE - 1)) / 64;
	unsigned int last = ((gpa & (PAGE_SIZE - 1)) + len - 1) / 64;

	return MASK(last, first);
}

bool blocks_page_has_code(struct kvm *kvm, u64 gpa)
{
	const u64 *word = granule_word(kvm, gpa);

	return word && __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

/* [gpa, gpa + len), in one page, is about to be decoded. */
static void mark_code(struct kvm_vcpu *vcpu, u64 gpa, unsigned int len)
{
	u64 *word = granule_word_make(vcpu->kvm, gpa), mask = granule_mask(gpa, len);

	if (unlikely(!word))
		exit_internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION);
	if (likely((__atomic_load_n(word, __ATOMIC_RELAXED) & mask) == mask))
		return;
	/* With one vCPU, the first mark of a page has done all there is to do. */
	if (__atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST) &&
	    __atomic_load_n(&vcpu->kvm->nr_vcpus, __ATOMIC_RELAXED) == 1)
		return;
	if (mmu_protect_code(vcpu, gpa & ~(PAGE_SIZE - 1)))
		exec_pass_boundary(vcpu);
}

/* ---- dropping ---- */

static u32 bucket_of(u64 gpa)
{
	return (u32)((gpa * 0x9e3779b97f4a7c15ULL) >> 49) & (BLOCK_BUCKETS - 1);
}

static u32 page_bucket(u64 gpa)
{
	return (u32)(gpa >> PAGE_SHIFT) & (BLOCK_BUCKETS - 1);
}

static void unlink_block(struct block **p, size_t next, const struct block *block)
{
	while (*p && *p != block)
		p = (struct block **)((char *)*p + next);
	if (*p)
		*p = *(struct block **)((char *)*p + next);
}

static void drop_block(struct kvm_vcpu *vcpu, struct block *block)
{
	struct blocks *b = blocks_of(vcpu);

	unlink_block(&b->bucket[bucket_of(block->gpa)], offsetof(struct block, next), block);
	unlink_block(&b->page[page_bucket(block->gpa)], offsetof(struct block, next_page), block);
	if (block->gpa2 != NO_GPA)
		unlink_block(&b->second[page_bucket(block->gpa2)],
			     offsetof(struct block, next_second), block);
	block->dropped = true;
	for (unsigned int i = 0; i < block->uops; i++)
		block->uop[i].fn = branch_dropped;
	translate_block_dropped(vcpu, block);
	b->drops++;
}

static void drop_page(struct kvm_vcpu *vcpu, u64 page)
{
	struct blocks *b = blocks_of(vcpu);
	struct block *block, *next;

	for (block = b->page[page_bucket(page)]; block; block = next) {
		next = block->next_page;
		if ((block->gpa & ~(PAGE_SIZE - 1)) == page)
			drop_block(vcpu, block);
	}
	for (block = b->second[page_bucket(page)]; block; block = next) {
		next = block->next_second;
		if (block->gpa2 == page)
			drop_block(vcpu, block);
	}
	b->drops++;
}

void blocks_drop_all(struct kvm_vcpu *vcpu)
{
	struct blocks *b = blocks_of(vcpu);

	b->drops++;
	if (!b->used)
		return; /* there are no blocks, so nothing points at one */
	memset(b->jump, 0, sizeof(b->jump));
	memset(b->bucket, 0, sizeof(b->bucket));
	memset(b->page, 0, sizeof(b->page));
	memset(b->second, 0, sizeof(b->second));
	b->used = 0;
	translate_all_dropped(vcpu);
}

static void ask_flush(struct kvm_vcpu *vcpu, u64 page)
{
	struct blocks *b = blocks_of(vcpu);

	pthread_mutex_lock(&b->flush_lock);
	if (b->flush_count < FLUSH_QUEUE)
		b->flush_page[b->flush_count++] = page;
	else
		b->flush_all = true;
	pthread_mutex_unlock(&b->flush_lock);
	kvm_make_request(vcpu, KVM_REQ_CODE_FLUSH);
}

static void ask_others(struct kvm *kvm, struct kvm_vcpu *self, u64 page)
{
	u32 n = __atomic_load_n(&kvm->nr_vcpus, __ATOMIC_ACQUIRE);

	for (u32 i = 0; i < n; i++)
		if (kvm->vcpus[i] && kvm->vcpus[i] != self && kvm->vcpus[i]->cpu)
			ask_flush(kvm->vcpus[i], page);
}

void blocks_flush_requested(struct kvm_vcpu *vcpu)
{
	struct blocks *b = blocks_of(vcpu);

	pthread_mutex_lock(&b->flush_lock);
	if (b->flush_all)
		for (u32 i = 0; i < BLOCK_BUCKETS; i++)
			while (b->page[i])
				drop_block(vcpu, b->page[i]);
	for (u32 i = 0; i < b->flush_count; i++)
		drop_page(vcpu, b->flush_page[i]);
	b->flush_count = 0;
	b->flush_all = false;
	pthread_mutex_unlock(&b->flush_lock);
}

/* The page has code and it is being changed: forget it, here and everywhere. */
static void forget_page(struct kvm *kvm, struct kvm_vcpu *self, u64 gpa, u64 len)
{
	u64 *word = granule_word(kvm, gpa), page = gpa & ~(PAGE_SIZE - 1);

	if (!word || !(__atomic_load_n(word, __ATOMIC_SEQ_CST) & granule_mask(gpa, len)))
		return;
	__atomic_store_n(word, 0, __ATOMIC_SEQ_CST);
	if (self)
		drop_page(self, page);
	ask_others(kvm, self, page);
}

void blocks_written(struct kvm_vcpu *vcpu, u64 gpa, unsigned int len)
{
	forget_page(vcpu->kvm, vcpu, gpa, len);
}

void blocks_memory_written(struct kvm *kvm, u64 gpa, u64 len)
{
	while (len) {
		u64 n = min(len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));

		forget_page(kvm, NULL, gpa, n);
		gpa += n;
		len -= n;
	}
}

void blocks_flush_slot(struct kvm *kvm, u64 gpa, u64 len)
{
	for (u32 i = 0; i < kvm->nr_vcpus; i++)
		if (kvm->vcpus[i] && kvm->vcpus[i]->cpu)
			blocks_drop_all(kvm->vcpus[i]);
}

/* ---- the jump cache's tags ---- */

void blocks_update_tags(struct kvm_vcpu *vcpu)
{
	const struct blocks *b = blocks_of(vcpu);
	u64 low = vcpu->mode | (vcpu->ctl.cpl == 3 ? 0x80u : 0);

	vcpu->jump_tag[0] = (u64)b->generation[0] << 32 | (u32)vcpu_mmu(vcpu)->asn << 8 | low;
	vcpu->jump_tag[1] = (u64)b->generation[1] << 32 | low;
}

static void new_generation(struct blocks *b, unsigned int half)
{
	memset(b->filter[half], 0, sizeof(b->filter[half]));
	if (!++b->generation[half]) {
		memset(b->jump, 0, sizeof(b->jump));
		b->generation[half] = 1;
	}
}

void blocks_mapping_changed(struct kvm_vcpu *vcpu)
{
	new_generation(blocks_of(vcpu), 0);
	new_generation(blocks_of(vcpu), 1);
	blocks_update_tags(vcpu);
}

void blocks_space_changed(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->ctl.cr4 & X86_CR4_PGE))
		new_generation(blocks_of(vcpu), 1);
	blocks_update_tags(vcpu);
}

static u32 filter_bit(u64 linear)
{
	return (u32)((linear >> PAGE_SHIFT) * 0x9e3779b1u >> 15) % PAGE_FILTER;
}

void blocks_page_changed(struct kvm_vcpu *vcpu, u64 linear)
{
	struct blocks *b = blocks_of(vcpu);

	if (!bitmap_test(b->filter[linear >> 63], filter_bit(linear)))
		return;
	new_generation(b, linear >> 63);
	blocks_update_tags(vcpu);
}

/* The jump cache is going to have code of this page, if it may. */
static bool remember_page(struct kvm_vcpu *vcpu, u64 linear)
{
	if (linear >> 63 && vcpu->ctl.cr4 & X86_CR4_PGE && !mmu_is_global(vcpu, linear))
		return false;
	bitmap_set(blocks_of(vcpu)->filter[linear >> 63], filter_bit(linear));
	return true;
}

static void remember_jump(struct kvm_vcpu *vcpu, struct jump_entry *e, const struct block *block)
{
	u64 rip = vcpu->ctl.rip;

	if (!remember_page(vcpu, rip))
		return;
	if (block->gpa2 != NO_GPA &&
	    !remember_page(vcpu, ((rip | (PAGE_SIZE - 1)) + 1) & vcpu_mmu(vcpu)->linear_mask))
		return;
	*e = (struct jump_entry){rip, vcpu->jump_tag[rip >> 63], block->uop, 0};
}

/* ---- building ---- */

OP(ud)
{
	raise_ud(vcpu);
}

/* More than 15 bytes. */
OP(too_long)
{
	raise_gp(vcpu, 0);
}

struct build {
	struct kvm_vcpu *vcpu;
	struct block *block;
	u64 linear, gpa;
	const u8 *host; /* of the first byte */
	unsigned int off, count, slot;
	unsigned int max;
	bool one;
	u8 bytes[INSN_BYTES];
};

enum step { STEP_MORE, STEP_END, STEP_AGAIN, STEP_NO_SLOT };

static struct block *new_block(struct kvm_vcpu *vcpu)
{
	struct blocks *b = blocks_of(vcpu);
	size_t most = sizeof(struct block) + (BLOCK_MAX + 3) * sizeof(struct uop);

	if (b->used + most > BLOCK_ARENA)
		blocks_drop_all(vcpu);
	return (struct block *)(b->arena + b->used);
}

static void close_with(struct build *s, const struct operation *op)
{
	struct uop *u = &s->block->uop[s->slot++];

	*u = (struct uop){.fn = op->any,
			  .off = (u16)s->off,
			  .nr = (u8)s->count,
			  .mode64 = (s->block->mode & MODE_SIZE) == MODE_64};
}

/* May the block's end go straight on in the next block? See ops_branch.c. */
static bool chains(u8 mode)
{
	const u8 flat = MODE_FLAT | MODE_STACK32;

	return (mode & MODE_SIZE) == MODE_64 || (mode & flat) == flat;
}

static void close_falling(struct build *s)
{
	bool mode64 = (s->block->mode & MODE_SIZE) == MODE_64;

	branch_make_fall(&s->block->uop[s->slot], s->off, s->count, mode64,
			 !s->one && chains(s->block->mode));
	branch_link(&s->block->uop[s->slot], s->gpa & (PAGE_SIZE - 1));
	s->slot++;
}

/* The instruction goes on in the next page: fetch the rest. */
static bool fetch_rest(struct build *s, unsigned int have)
{
	struct kvm_vcpu *vcpu = s->vcpu;
	unsigned int rest = INSN_BYTES - have;
	u64 gpa, linear = (s->linear + have) & vcpu_mmu(vcpu)->linear_mask;
	const u8 *host = mmu_fetch(vcpu, linear, &gpa);

	if (!host)
		return false;
	mark_code(vcpu, gpa, rest);
	guest_copy(s->bytes + have, host, rest);
	s->block->gpa2 = gpa;
	return true;
}

static void fuse(struct uop *compare, unsigned int cc)
{
	uop_fn *fused = branch_fuse(compare->fn, cc);

	if (fused)
		compare->fn = fused;
}

static enum step build_one(struct build *s)
{
	struct kvm_vcpu *vcpu = s->vcpu;
	const struct decoder *d = &((struct code_map *)vcpu->kvm->code)->decoder;
	unsigned int have =
		(unsigned int)min((u64)INSN_BYTES, PAGE_SIZE - (s->gpa & (PAGE_SIZE - 1)) - s->off);
	struct uop *u = &s->block->uop[s->slot];
	struct insn insn;
	int rc;

	mark_code(vcpu, s->gpa + s->off, have);
	guest_copy(s->bytes, s->host + s->off, have);
	rc = decode_insn(d, &insn, s->bytes, have, s->block->mode);
	if (rc == -EAGAIN) {
		if (s->off) {
			close_falling(s);
			return STEP_END;
		}
		if (!fetch_rest(s, have))
			return STEP_NO_SLOT;
		rc = decode_insn(d, &insn, s->bytes, INSN_BYTES, s->block->mode);
	}
	if (!rc) {
		rc = decode_uop(vcpu, &insn, s->off, u);
		if (rc == -ENOMEM)
			return STEP_AGAIN;
	}
	if (rc) {
		close_with(s, rc == -E2BIG ? &oper_too_long : &oper_ud);
		s->off += insn.len;
		return STEP_END;
	}
	u->nr = (u8)s->count++;
	s->slot++;
	s->off += insn.len;
	if (insn.row->oper->ends) {
		if (s->one)
			u->fn = insn.row->oper->any;
		branch_link(u, s->gpa & (PAGE_SIZE - 1));
		if (s->slot > 1 && branch_is_jcc(u))
			fuse(u - 1, u->vreg);
		return STEP_END;
	}
	return STEP_MORE;
}

static void enter_in_tables(struct blocks *b, struct block *block, unsigned int slots)
{
	struct block **bucket = &b->bucket[bucket_of(block->gpa)];
	struct block **page = &b->page[page_bucket(block->gpa)];

	b->used += (sizeof(*block) + slots * sizeof(struct uop) + 63) & ~63UL;
	block->next = *bucket;
	*bucket = block;
	block->next_page = *page;
	*page = block;
	if (block->gpa2 != NO_GPA) {
		page = &b->second[page_bucket(block->gpa2)];
		block->next_second = *page;
		*page = block;
	}
}

/* NULL: no slot is there. */
static struct block *build(struct kvm_vcpu *vcpu, u64 linear, u64 gpa, const u8 *host, u8 mode)
{
	struct blocks *b = blocks_of(vcpu);
	struct build s = {.vcpu = vcpu, .linear = linear, .gpa = gpa, .host = host};
	enum step step;
	u32 drops;

	s.one = mode & MODE_ONE;
	s.max = s.one ? 1 : BLOCK_MAX;
again:
	s.block = new_block(vcpu);
	*s.block = (struct block){.gpa = gpa, .gpa2 = NO_GPA, .mode = mode};
	s.off = s.count = s.slot = 0;
	drops = b->drops;
	do {
		step = build_one(&s);
		if (step == STEP_MORE && (s.count == s.max || s.block->gpa2 != NO_GPA ||
					  (gpa & (PAGE_SIZE - 1)) + s.off == PAGE_SIZE)) {
			close_falling(&s);
			step = STEP_END;
		}
	} while (step == STEP_MORE);
	if (step == STEP_NO_SLOT)
		return NULL;
	if (step == STEP_AGAIN)
		blocks_drop_all(vcpu);
	if (step == STEP_AGAIN || drops != b->drops)
		goto again;
	s.block->bytes = (u16)s.off;
	s.block->uops = (u8)s.slot;
	enter_in_tables(b, s.block, s.slot + 1);
	translate_block_made(vcpu, s.block);
	return s.block;
}

/* ---- looking up ---- */

static struct block *find(struct blocks *b, u64 gpa, u8 mode)
{
	struct block *block = b->bucket[bucket_of(gpa)];

	while (block && (block->gpa != gpa || block->mode != mode))
		block = block->next;
	return block;
}

/* A block over a page boundary is right only while its second page is the same. */
static bool second_page_same(struct kvm_vcpu *vcpu, const struct block *block, u64 linear)
{
	u64 gpa, rest = PAGE_SIZE - (linear & (PAGE_SIZE - 1));

	mmu_fetch(vcpu, (linear + rest) & vcpu_mmu(vcpu)->linear_mask, &gpa);
	return gpa == block->gpa2;
}

/* guess: the first uop of what was there the last time, or NULL. */
static struct block *lookup(struct kvm_vcpu *vcpu, u64 linear, u8 mode, const struct uop *guess)
{
	struct blocks *b = blocks_of(vcpu);
	struct block *block;
	const u8 *host;
	u64 gpa;

	host = mmu_fetch(vcpu, linear, &gpa);
	if (!host)
		return NULL;
	if (guess) {
		block = container_of(guess, struct block, uop[0]);
		if (block->gpa == gpa && block->mode == mode && !block->dropped &&
		    block->gpa2 == NO_GPA)
			return block;
	}
	block = find(b, gpa, mode);
	if (block && (block->gpa2 == NO_GPA || second_page_same(vcpu, block, linear)))
		return block;
	if (block)
		drop_block(vcpu, block);
	return build(vcpu, linear, gpa, host, mode);
}

/* Blocks know nothing of CS: its limit is checked here, outside the modes where it cannot matter.
 */
static struct block *lookup_checked(struct kvm_vcpu *vcpu, u8 mode)
{
	const struct segment *cs = &vcpu->ctl.seg[SEG_CS];
	u64 rip = vcpu->ctl.rip;
	struct block *block;

	if (rip > cs->limit)
		raise_gp(vcpu, 0);
	block = lookup(vcpu, (u32)(cs->base + rip), mode, NULL);
	if (block && rip + block->bytes - 1 > cs->limit) {
		block = lookup(vcpu, (u32)(cs->base + rip), mode | MODE_ONE, NULL);
		if (block && rip + block->bytes - 1 > cs->limit)
			raise_gp(vcpu, 0);
	}
	return block;
}

static bool free_of_limits(u8 mode)
{
	return (mode & MODE_SIZE) == MODE_64 || mode & MODE_FLAT;
}

const struct uop *blocks_enter(struct kvm_vcpu *vcpu)
{
	u64 rip = vcpu->ctl.rip;
	struct jump_entry *e = &blocks_of(vcpu)->jump[jump_index(rip)];
	struct block *block;

	if (!free_of_limits(vcpu->mode)) {
		block = lookup_checked(vcpu, vcpu->mode);
		return block ? block->uop : exec_no_code(vcpu);
	}
	if (e->rip == rip && e->tag == vcpu->jump_tag[rip >> 63] && e->uop->fn != branch_dropped)
		return e->uop;
	block = lookup(vcpu, rip, vcpu->mode, e->rip == rip ? e->uop : NULL);
	if (!block)
		return exec_no_code(vcpu);
	remember_jump(vcpu, e, block);
	return block->uop;
}

const struct uop *blocks_enter_one(struct kvm_vcpu *vcpu)
{
	u8 mode = vcpu->mode | MODE_ONE;
	struct block *block;

	block = free_of_limits(mode) ? lookup(vcpu, vcpu->ctl.rip, mode, NULL)
				     : lookup_checked(vcpu, mode);
	return block ? block->uop : exec_no_code(vcpu);
}

/* ---- life ---- */

void *map_lazily(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int blocks_vm_init(struct kvm *kvm)
{
	struct code_map *code = map_lazily(sizeof(*code));
	int rc;

	if (!code)
		return -ENOMEM;
	code->leaf = map_lazily(CODE_LEAVES * sizeof(*code->leaf));
	rc = code->leaf ? decoder_init(&code->decoder) : -ENOMEM;
	kvm->code = code;
	if (rc)
		blocks_vm_free(kvm);
	return rc;
}

/* Only the pages of the array that were ever written can hold one. */
static void free_leaves(struct code_map *code)
{
	for (u64 i = 0; i < code->leaves_end; i++)
		free(code->leaf[i]);
	munmap(code->leaf, CODE_LEAVES * sizeof(*code->leaf));
}

void blocks_vm_free(struct kvm *kvm)
{
	struct code_map *code = kvm->code;

	if (!code)
		return;
	if (code->leaf)
		free_leaves(code);
	munmap(code, sizeof(*code));
	kvm->code = NULL;
}

int blocks_init(struct kvm_vcpu *vcpu)
{
	struct blocks *b = blocks_of(vcpu);

	b->arena = map_lazily(BLOCK_ARENA);
	if (!b->arena)
		return -ENOMEM;
	pthread_mutex_init(&b->flush_lock, NULL);
	b->generation[0] = b->generation[1] = 1;
	return 0;
}

void blocks_free(struct kvm_vcpu *vcpu)
{
	struct blocks *b = blocks_of(vcpu);

	if (!b->arena)
		return;
	munmap(b->arena, BLOCK_ARENA);
	b->arena = NULL;
	pthread_mutex_destroy(&b->flush_lock);
}
