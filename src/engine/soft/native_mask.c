/*
 * Vector instructions that touch memory by element: masked moves and gathers. An element that is
 * masked out is not accessed and cannot fault. SDM vol. 2: MASKMOVQ, MASKMOVDQU, VMASKMOV,
 * VPMASKMOV, VPGATHER, VGATHER.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/native_int.h"

static bool element_masked_in(const u8 *mask, unsigned int i, unsigned int size)
{
	return mask[i * size + size - 1] & 0x80;
}

/* Nothing of memory, nor of its segment, matters when no element is. */
static bool any_masked_in(const u8 *mask, unsigned int len, unsigned int size)
{
	for (unsigned int i = 0; i < len / size; i++)
		if (element_masked_in(mask, i, size))
			return true;
	return false;
}

/* ---- VMASKMOV: element size 4, or 8 by W or opcode ---- */

static void vmaskmov_load(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size)
{
	unsigned int len = u->vexl ? 32 : 16;
	const u8 *mask = vec_ptr(vcpu, u->vreg);
	u8 data[32] = {0};
	u64 linear;

	vcpu->uop = u;
	check_avx(vcpu);
	linear = any_masked_in(mask, len, size) ? uop_linear(vcpu, u, len, ACCESS_READ) : 0;
	for (unsigned int i = 0; i < len / size; i++) {
		if (!element_masked_in(mask, i, size))
			continue;
		mem_read_bytes(vcpu, linear + i * size, data + i * size, size);
	}
	memcpy(vec_ptr(vcpu, u->reg), data, 32);
}

static void vmaskmov_store(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int size)
{
	unsigned int len = u->vexl ? 32 : 16;
	const u8 *mask = vec_ptr(vcpu, u->vreg), *data = vec_ptr(vcpu, u->reg);
	u64 linear;

	vcpu->uop = u;
	check_avx(vcpu);
	linear = any_masked_in(mask, len, size) ? uop_linear(vcpu, u, len, ACCESS_WRITE) : 0;
	for (unsigned int i = 0; i < len / size; i++)
		if (element_masked_in(mask, i, size))
			mem_probe_write(vcpu, linear + i * size, size);
	for (unsigned int i = 0; i < len / size; i++)
		if (element_masked_in(mask, i, size))
			mem_write_bytes(vcpu, linear + i * size, data + i * size, size);
}

static const struct uop *vmaskmov_load4(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vmaskmov_load(vcpu, u, 4);
	return u + 1;
}

static const struct uop *vmaskmov_load8(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vmaskmov_load(vcpu, u, 8);
	return u + 1;
}

static const struct uop *vmaskmov_store4(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vmaskmov_store(vcpu, u, 4);
	return u + 1;
}

static const struct uop *vmaskmov_store8(struct kvm_vcpu *vcpu, const struct uop *u)
{
	vmaskmov_store(vcpu, u, 8);
	return u + 1;
}

/* 2C to 2F: PS and PD, load and store; 8C, 8E: by W. */
static int vmaskmov_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	bool integer = insn->opcode >= 0x80;
	bool store = integer ? insn->opcode == 0x8e : insn->opcode >= 0x2e;
	bool wide = integer ? u->rexw : insn->opcode & 1;

	if (!native_host_has(vcpu, integer ? F_AVX2 : F_AVX))
		return -EINVAL;
	if (store)
		u->fn = wide ? vmaskmov_store8 : vmaskmov_store4;
	else
		u->fn = wide ? vmaskmov_load8 : vmaskmov_load4;
	return 0;
}

const struct operation oper_vmaskmov = {
	.name = "vmaskmov", .any = vmaskmov_load4, .build = vmaskmov_build};

/* ---- MASKMOVQ, MASKMOVDQU: bytes, to [rDI] ---- */

static void maskmov_bytes(struct kvm_vcpu *vcpu, const struct uop *u, const u8 *data,
			  const u8 *mask, unsigned int len)
{
	u64 linear = seg_linear(vcpu, u->seg, vcpu->ctl.gpr[RDI] & size_mask(u->asize), len,
				ACCESS_WRITE);

	mem_check_alignment(vcpu, linear, 8);
	mem_probe_write(vcpu, linear, len); /* whatever the mask: the manuals allow it */
	for (unsigned int i = 0; i < len; i++)
		if (mask[i] & 0x80)
			mem_write(vcpu, linear + i, 1, data[i]);
}

/* The transition to MMX stays when the store faults. */
OP(maskmovq)
{
	check_mmx(vcpu);
	mmx_enter(&vcpu->fpu);
	maskmov_bytes(vcpu, u, vcpu->fpu.st[reg_num(u->reg) & 7], vcpu->fpu.st[reg_num(u->rm) & 7],
		      8);
}

OP(maskmovdqu)
{
	check_sse(vcpu);
	maskmov_bytes(vcpu, u, vec_ptr(vcpu, u->reg), vec_ptr(vcpu, u->rm), 16);
}

OP(vmaskmovdqu)
{
	check_avx(vcpu);
	maskmov_bytes(vcpu, u, vec_ptr(vcpu, u->reg), vec_ptr(vcpu, u->rm), 16);
}

/* ---- gathers ---- */

/* Where element i is: base and displacement are in the uop, the index register in its rm. */
static u64 gather_linear(struct kvm_vcpu *vcpu, const struct uop *u, unsigned int i, bool index8,
			 unsigned int size)
{
	const u8 *index = vec_ptr(vcpu, u->rm);
	u64 offset = uop_ea(vcpu, u);
	s32 narrow;
	s64 wide;

	if (index8) {
		memcpy(&wide, index + 8 * i, 8);
	} else {
		memcpy(&narrow, index + 4 * i, 4);
		wide = narrow;
	}
	offset += (u64)wide << u->scale;
	return seg_linear(vcpu, u->seg, offset & size_mask(u->asize), size, ACCESS_READ);
}

/*
 * Element by element, lowest first: each is committed, and its mask cleared, before the next is
 * touched. A fault leaves what was done, and the instruction goes on there when it is restarted.
 */
static void gather(struct kvm_vcpu *vcpu, const struct uop *u, bool index8, unsigned int size)
{
	unsigned int len = u->vexl ? 32 : 16, count = len / (index8 ? 8 : size);
	u8 *mask = vec_ptr(vcpu, u->vreg), *data = vec_ptr(vcpu, u->reg);

	vcpu->uop = u;
	check_avx(vcpu);
	for (unsigned int i = 0; i < count; i++) {
		u64 v;

		if (!element_masked_in(mask, i, size)) {
			memset(mask + i * size, 0, size);
			continue;
		}
		mem_read_bytes(vcpu, gather_linear(vcpu, u, i, index8, size), &v, size);
		memcpy(data + i * size, &v, size);
		memset(mask + i * size, 0, size);
		io_commit(vcpu);
	}
	memset(mask, 0, 32);
	memset(data + count * size, 0, 32 - count * size);
}

static const struct uop *gather_d4(struct kvm_vcpu *vcpu, const struct uop *u)
{
	gather(vcpu, u, false, 4);
	return u + 1;
}

static const struct uop *gather_d8(struct kvm_vcpu *vcpu, const struct uop *u)
{
	gather(vcpu, u, false, 8);
	return u + 1;
}

static const struct uop *gather_q4(struct kvm_vcpu *vcpu, const struct uop *u)
{
	gather(vcpu, u, true, 4);
	return u + 1;
}

static const struct uop *gather_q8(struct kvm_vcpu *vcpu, const struct uop *u)
{
	gather(vcpu, u, true, 8);
	return u + 1;
}

static int gather_build(struct kvm_vcpu *vcpu, const struct insn *insn, struct uop *u)
{
	u8 sib = insn->bytes[insn->modrm_off + 1];
	unsigned int index = (sib >> 3 & 7) | (insn->rex & 2) << 2;
	bool index8 = insn->opcode & 1;

	if (!native_host_has(vcpu, F_AVX2) || !insn->has_sib)
		return -EINVAL;
	if (8 * index == u->reg || 8 * index == u->vreg || u->reg == u->vreg)
		return -EINVAL;
	u->rm = (u8)(8 * index);
	u->scale = sib >> 6;
	u->index = UOP_ZERO;
	u->amode = AM_FULL;
	if (index8)
		u->fn = u->rexw ? gather_q8 : gather_q4;
	else
		u->fn = u->rexw ? gather_d8 : gather_d4;
	return 0;
}

const struct operation oper_gather = {.name = "gather", .any = gather_d4, .build = gather_build};
