/*
 * The decoder.
 *
 * 1. No byte past `avail`, and none past the fifteenth, is read.
 * 2. Length follows from the row's format alone, so a row decides operands and length together.
 */
#include <errno.h>
#include <string.h>

#include "engine/soft/decode.h"
#include "engine/soft/opcodes.h"

struct cursor {
	const u8 *bytes;
	unsigned int pos, avail;
	int error;
};

static u8 peek(struct cursor *c)
{
	if (c->error)
		return 0;
	if (c->pos >= INSN_BYTES) {
		c->error = -E2BIG;
		return 0;
	}
	if (c->pos >= c->avail) {
		c->error = -EAGAIN;
		return 0;
	}
	return c->bytes[c->pos];
}

static u8 next(struct cursor *c)
{
	u8 b = peek(c);

	c->pos += !c->error;
	return b;
}

static void skip(struct cursor *c, unsigned int n)
{
	while (n-- && !c->error)
		next(c);
}

/* Legacy prefixes and REX: SDM vol. 2, 2.1.1 and 2.2.1. A REX not right before the opcode is void;
 * ES, CS, SS and DS overrides are ignored in 64-bit mode. */
static void decode_prefixes(struct cursor *c, struct insn *insn)
{
	bool mode64 = (insn->mode & MODE_SIZE) == MODE_64;

	for (;;) {
		u8 b = peek(c);

		if (c->error)
			return;
		switch (b) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			if (!mode64)
				insn->seg = (b >> 3) & 3;
			break;
		case 0x64:
		case 0x65:
			insn->seg = b & 7;
			break;
		case 0x66:
			insn->opsize = true;
			break;
		case 0x67:
			insn->addrsize = true;
			break;
		case 0xf0:
			insn->lock = true;
			break;
		case 0xf2:
			insn->rep = REP_F2;
			break;
		case 0xf3:
			insn->rep = REP_F3;
			break;
		default:
			if (!mode64 || (b & 0xf0) != 0x40)
				return;
			insn->rex = b;
			next(c);
			continue;
		}
		insn->rex = 0;
		next(c);
	}
}

/* VEX: SDM vol. 2, 2.3.5. vvvv is stored uninverted. Returns false where C4 and C5 are LES, LDS. */
static bool decode_vex(struct cursor *c, struct insn *insn)
{
	bool mode64 = (insn->mode & MODE_SIZE) == MODE_64;
	u8 first = peek(c), p;

	if (c->error || (first != 0xc4 && first != 0xc5))
		return false;
	if (!mode64) {
		struct cursor ahead = *c;

		next(&ahead);
		p = peek(&ahead);
		if (ahead.error) {
			c->error = ahead.error;
			return false;
		}
		if ((p & 0xc0) != 0xc0)
			return false;
	}
	insn->vex_off = (u8)c->pos;
	next(c);
	p = next(c);
	if (insn->rex || insn->opsize || insn->lock || insn->rep) {
		c->error = c->error ? c->error : -EINVAL;
		return true;
	}
	insn->rex = 0x40 | (p & 0x80 ? 0 : 4);
	if (first == 0xc5) {
		insn->vex = 2;
		insn->map = MAP_VEX1;
	} else {
		insn->vex = 3;
		insn->rex |= (p & 0x40 ? 0 : 2) | (p & 0x20 ? 0 : 1);
		if ((p & 0x1f) < 1 || (p & 0x1f) > 3)
			c->error = c->error ? c->error : -EINVAL;
		insn->map = MAP_VEX1 + (p & 0x1f) - 1;
		p = next(c);
		insn->rex |= p & 0x80 ? 8 : 0;
	}
	if (!mode64) /* W selects there too: FMA, shifts */
		insn->rex &= 0x48;
	insn->vvvv = (~p >> 3) & 15;
	insn->vexl = (p >> 2) & 1;
	insn->vexpp = p & 3;
	return true;
}

static void decode_opcode(struct cursor *c, struct insn *insn)
{
	if (decode_vex(c, insn)) {
		insn->opcode_off = (u8)c->pos;
		insn->opcode = next(c);
		return;
	}
	insn->map = MAP_1;
	insn->opcode_off = (u8)c->pos;
	insn->opcode = next(c);
	if (insn->opcode != 0x0f)
		return;
	insn->map = MAP_0F;
	insn->opcode_off = (u8)c->pos;
	insn->opcode = next(c);
	if (insn->opcode != 0x38 && insn->opcode != 0x3a)
		return;
	insn->map = insn->opcode == 0x38 ? MAP_0F38 : MAP_0F3A;
	insn->opcode_off = (u8)c->pos;
	insn->opcode = next(c);
}

static u8 mandatory_prefix(const struct insn *insn)
{
	if (insn->vex)
		return (const u8[]){P_NONE, P_66, P_F3, P_F2}[insn->vexpp];
	if (insn->rep)
		return insn->rep == REP_F2 ? P_F2 : P_F3;
	return insn->opsize ? P_66 : P_NONE;
}

static bool attributes_hold(const struct insn *insn, const struct opcode *row)
{
	bool mode64 = (insn->mode & MODE_SIZE) == MODE_64, mem = insn->modrm < 0xc0;
	u32 a = row->attrs;

	return !((a & A_NO64 && mode64) || (a & A_ONLY64 && !mode64) || (a & A_MEM && !mem) ||
		 (a & A_REG && mem) || (a & A_L0 && insn->vexl) || (a & A_L1 && !insn->vexl) ||
		 (a & A_W0 && insn->rex & 8) || (a & A_W1 && !(insn->rex & 8)) ||
		 (a & A_NOVV && insn->vvvv));
}

/* The first row that matches; reads ModRM when it needs to (without going past it). */
static const struct opcode *lookup_row(const struct decoder *d, struct cursor *c, struct insn *insn)
{
	unsigned int key = insn->map * 256u + insn->opcode, i;
	u8 prefix = mandatory_prefix(insn);

	for (i = d->start[key]; i < d->start[key + 1]; i++) {
		const struct opcode *row = &opcode_rows[d->row[i]];

		if (!(row->prefixes & prefix))
			continue;
		if (row->format >= FMT_RM) {
			insn->modrm = peek(c);
			if (c->error)
				return NULL;
			if ((insn->modrm & row->mask) != row->value)
				continue;
		}
		if (attributes_hold(insn, row))
			return row;
	}
	c->error = -EINVAL;
	return NULL;
}

/* Address size in effect, SIZE_*. */
static unsigned int address_size(const struct insn *insn)
{
	switch (insn->mode & MODE_SIZE) {
	case MODE_64:
		return insn->addrsize ? SIZE_32 : SIZE_64;
	case MODE_32:
		return insn->addrsize ? SIZE_16 : SIZE_32;
	default:
		return insn->addrsize ? SIZE_32 : SIZE_16;
	}
}

static unsigned int operand_size(const struct insn *insn)
{
	u32 a = insn->row->attrs;

	if (a & A_BYTE)
		return SIZE_8;
	switch (insn->mode & MODE_SIZE) {
	case MODE_64:
		if (insn->rex & 8 || a & A_FORCE64)
			return SIZE_64;
		if (insn->opsize)
			return SIZE_16;
		return a & A_DEF64 ? SIZE_64 : SIZE_32;
	case MODE_32:
		return insn->opsize ? SIZE_16 : SIZE_32;
	default:
		return insn->opsize ? SIZE_32 : SIZE_16;
	}
}

static void decode_modrm(struct cursor *c, struct insn *insn)
{
	unsigned int mod, rm;

	insn->modrm_off = (u8)c->pos;
	insn->modrm = next(c);
	mod = insn->modrm >> 6;
	rm = insn->modrm & 7;
	if (mod == 3 || insn->row->attrs & A_CR)
		return;
	if (address_size(insn) == SIZE_16) {
		insn->disp_len = mod == 0 ? (rm == 6 ? 2 : 0) : (u8)mod;
	} else {
		insn->disp_len = mod == 1 ? 1 : mod == 2 ? 4 : 0;
		if (rm == 4) {
			insn->has_sib = true;
			if ((next(c) & 7) == 5 && mod == 0)
				insn->disp_len = 4;
		} else if (rm == 5 && mod == 0) {
			insn->disp_len = 4;
			insn->rip_relative = (insn->mode & MODE_SIZE) == MODE_64;
		}
	}
	insn->disp_off = (u8)c->pos;
	skip(c, insn->disp_len);
}

static u8 immediate_length(const struct insn *insn)
{
	unsigned int osize = operand_size(insn);
	u8 z = osize == SIZE_8 ? 1 : osize == SIZE_16 ? 2 : 4;

	switch (insn->row->format) {
	case FMT_IB:
	case FMT_IBs:
	case FMT_JB:
	case FMT_RM_IB:
	case FMT_EIb:
	case FMT_GEIb:
	case FMT_EGIb:
		return 1;
	case FMT_IW:
		return 2;
	case FMT_ENTER:
		return 3;
	case FMT_OIv:
		return (u8)(1u << osize);
	case FMT_IZ:
	case FMT_AI:
	case FMT_J:
	case FMT_EIz:
	case FMT_GEIz:
		return z;
	case FMT_FAR:
		return z + 2;
	case FMT_AM:
	case FMT_MA:
		return (u8)(1u << address_size(insn));
	default:
		return 0;
	}
}

int decode_insn(const struct decoder *d, struct insn *insn, const u8 *bytes, unsigned int avail,
		unsigned int mode)
{
	struct cursor c = {.bytes = bytes, .avail = avail};

	*insn = (struct insn){.mode = (u8)mode, .seg = SEG_COUNT};
	decode_prefixes(&c, insn);
	decode_opcode(&c, insn);
	if (!c.error)
		insn->row = lookup_row(d, &c, insn);
	if (!c.error) {
		insn->modrm = 0;
		if (insn->row->format >= FMT_RM)
			decode_modrm(&c, insn);
		insn->imm_off = (u8)c.pos;
		insn->imm_len = immediate_length(insn);
		skip(&c, insn->imm_len);
	}
	insn->len = (u8)c.pos;
	if (c.error)
		return c.error;
	/* LOCK: only where the row allows it, and only with a destination in memory. */
	if (insn->lock && (!(insn->row->attrs & A_LOCK) || insn->modrm >= 0xc0))
		return -EINVAL;
	memcpy(insn->bytes, bytes, insn->len);
	return 0;
}

/* ---- uops ---- */

static u64 load_le(const u8 *p, unsigned int len)
{
	u64 v = 0;

	memcpy(&v, p, len);
	return v;
}

static s64 load_signed(const u8 *p, unsigned int len)
{
	unsigned int shift = 64 - 8 * len;

	return len ? (s64)(load_le(p, len) << shift) >> shift : 0;
}

/* The field of a general register operand: byte registers 4 to 7 without REX are AH to BH. */
static u8 reg_field(const struct insn *insn, unsigned int n, bool byte)
{
	if (byte && !insn->rex && n >= 4)
		return (u8)(8 * (n - 4) + 1);
	return (u8)(8 * n);
}

static void address_16(const struct insn *insn, struct uop *u)
{
	static const u8 base[8] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX};
	static const u8 index[4] = {RSI, RDI, RSI, RDI};
	unsigned int rm = insn->modrm & 7;

	if (rm == 6 && insn->modrm < 0x40) {
		u->base = UOP_ZERO;
		return;
	}
	u->base = 8 * base[rm];
	if (rm < 4)
		u->index = 8 * index[rm];
	if (base[rm] == RBP)
		u->seg = SEG_SS;
}

static void address_32(const struct insn *insn, struct uop *u)
{
	unsigned int mod = insn->modrm >> 6, rm = insn->modrm & 7, n;

	if (insn->has_sib) {
		u8 sib = insn->bytes[insn->modrm_off + 1];

		n = ((sib >> 3) & 7) | (insn->rex & 2) << 2;
		if (n != RSP) {
			u->index = (u8)(8 * n);
			u->scale = sib >> 6;
		}
		rm = sib & 7;
	}
	if (rm == 5 && mod == 0) {
		u->base = insn->rip_relative ? UOP_RIP : UOP_ZERO;
		return;
	}
	n = rm | (insn->rex & 1) << 3;
	u->base = (u8)(8 * n);
	if (n == RSP || n == RBP)
		u->seg = SEG_SS;
}

/* 32-bit code with segments that need no check, and do not move addresses. */
static bool is_flat(const struct insn *insn, const struct uop *u)
{
	return insn->mode & MODE_FLAT && u->asize == SIZE_32 &&
	       (u->seg == SEG_DS || u->seg == SEG_ES || u->seg == SEG_SS);
}

static void uop_address(const struct insn *insn, struct uop *u)
{
	u->mem = 1;
	u->seg = SEG_DS;
	u->index = UOP_ZERO;
	u->disp = (s32)load_signed(insn->bytes + insn->disp_off, insn->disp_len);
	if (insn->row->format == FMT_AM || insn->row->format == FMT_MA) {
		u->base = UOP_ZERO;
		u->disp = (s32)load_signed(insn->bytes + insn->imm_off, min(insn->imm_len, 4));
		u->scale = u->asize == SIZE_32 ? 0 : UOP_MOFFS;
	} else if (u->asize == SIZE_16) {
		address_16(insn, u);
	} else {
		address_32(insn, u);
	}
	if (insn->seg < SEG_COUNT)
		u->seg = insn->seg & 7;
	u->amode = AM_FULL;
	if (is_flat(insn, u))
		u->scale |= UOP_FLAT;
	if (u->asize != SIZE_64 || u->scale == UOP_MOFFS)
		return;
	if (u->base == UOP_RIP &&
	    __builtin_add_overflow(u->disp, (s32)(u->off + u->len), &u->disp)) {
		u->disp = (s32)load_signed(insn->bytes + insn->disp_off, insn->disp_len);
		return;
	}
	u->amode = u->seg == SEG_FS || u->seg == SEG_GS ? AM_SEG
		   : u->index == UOP_ZERO		? AM_BASE
							: AM_INDEX;
}

static u64 uop_immediate(const struct insn *insn, const struct uop *u)
{
	const u8 *p = insn->bytes + insn->imm_off;

	switch (insn->row->format) {
	case FMT_IB:
	case FMT_IW:
	case FMT_RM_IB:
	case FMT_EGIb:
	case FMT_AM:
	case FMT_MA:
		return load_le(p, insn->imm_len);
	case FMT_J:
	case FMT_JB:
		return u->off + insn->len + (u64)load_signed(p, insn->imm_len);
	case FMT_FAR:
		return load_le(p, insn->imm_len - 2u) | load_le(p + insn->imm_len - 2, 2) << 32;
	case FMT_ENTER:
		return load_le(p, 2) | (u64)p[2] << 32;
	case FMT_E1:
		return 1;
	default:
		return (u64)load_signed(p, insn->imm_len);
	}
}

/* The operation's function for this form, by format; the register fields are made to fit it. */
static uop_fn *choose_fn(const struct insn *insn, struct uop *u)
{
	const struct operation *op = insn->row->oper;
	enum form form;
	u8 t;

	switch (insn->row->format) {
	case FMT_AI:
	case FMT_OIv:
		form = FORM_RI;
		break;
	case FMT_O:
		form = FORM_RR;
		break;
	case FMT_AM:
		form = FORM_RM;
		break;
	case FMT_MA:
		form = FORM_MR;
		break;
	case FMT_EG:
	case FMT_EGIb:
		form = u->mem ? (u->lock ? FORM_LOCK_MR : FORM_MR) : FORM_RR;
		break;
	case FMT_GE:
	case FMT_GEIz:
	case FMT_GEIb:
		form = u->mem ? FORM_RM : FORM_RR;
		if (!u->mem && !op->any) {
			t = u->rm;
			u->rm = u->reg;
			u->reg = t;
		}
		break;
	case FMT_E1:
	case FMT_EIz:
	case FMT_EIb:
		form = u->mem ? (u->lock ? FORM_LOCK_MI : FORM_MI) : FORM_RI;
		break;
	case FMT_E:
		form = u->mem ? (u->lock ? FORM_LOCK_M : FORM_M) : FORM_R;
		break;
	default:
		return op->any;
	}
	return op->any ? op->any : op->fn[form][u->osize];
}

/* Outside 64-bit mode its high bit is ignored; but where there is no operand, all four must be
 * clear. */
static u8 vvvv_field(const struct insn *insn)
{
	return (u8)(8 * (insn->vvvv & ((insn->mode & MODE_SIZE) == MODE_64 ? 15 : 7)));
}

int decode_uop(struct kvm_vcpu *vcpu, const struct insn *insn, unsigned int off, struct uop *u)
{
	const struct opcode *row = insn->row;
	bool byte = row->attrs & A_BYTE;

	*u = (struct uop){
		.off = (u16)off,
		.len = insn->len,
		.osize = operand_size(insn) & 3,
		.asize = address_size(insn) & 3,
		.rep = insn->rep & 3,
		.lock = insn->lock,
		.vexl = insn->vexl & 1,
		.rexw = (insn->rex >> 3) & 1,
		.mode64 = (insn->mode & MODE_SIZE) == MODE_64,
		.base = UOP_ZERO,
		.index = UOP_ZERO,
		.vreg = row->attrs & A_COND ? insn->opcode & 15 : vvvv_field(insn),
		/* of string operations too */
		.seg = (insn->seg < SEG_COUNT ? insn->seg : SEG_DS) & 7,
	};
	if (row->format >= FMT_RM) {
		u->reg = reg_field(insn, ((insn->modrm >> 3) & 7) | (insn->rex & 4) << 1, byte);
		if (insn->modrm >= 0xc0 || row->attrs & A_CR)
			u->rm = reg_field(insn, (insn->modrm & 7) | (insn->rex & 1) << 3,
					  byte || row->attrs & A_EBYTE);
		else
			uop_address(insn, u);
	} else if (row->format == FMT_O || row->format == FMT_OIv) {
		u->rm = reg_field(insn, (insn->opcode & 7) | (insn->rex & 1) << 3, byte);
	} else if (row->format == FMT_AM || row->format == FMT_MA) {
		uop_address(insn, u);
	}
	u->imm = uop_immediate(insn, u);
	u->fn = choose_fn(insn, u);
	if (!u->fn)
		return -EINVAL;
	return row->oper->build ? row->oper->build(vcpu, insn, u) : 0;
}
