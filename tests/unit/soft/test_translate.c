/*
 * The translator against the interpreter: programs made at random run on both, and must leave the
 * same registers, flags, memory and count of instructions. (engine/diff compares single passes with
 * the host's CPU; here blocks become hot, are linked, cross pages, and are changed under way.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "rig.h"

#define PROGRAMS 3000
#define ROUNDS	 100

/* The whole of it; R15 counts rounds, RDI points to data, RSP to the stack. */
struct program {
	u8 code[4096];
	u32 len;
	u64 random;
};

static u32 draw(struct program *p, u32 below)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (u32)(p->random >> 20) % below;
}

static void put(struct program *p, u32 byte)
{
	p->code[p->len++] = (u8)byte;
}

static void put_all(struct program *p, const u8 *bytes, u32 len)
{
	while (len--)
		put(p, *bytes++);
}

#define PUT(p, ...) put_all(p, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

/* Any register but RSP, RDI and R15. */
static u32 draw_reg(struct program *p)
{
	u32 r;

	do
		r = draw(p, 15);
	while (r == RSP || r == RDI);
	return r;
}

/* Prefixes for operands of `size` bytes. */
static void put_prefix(struct program *p, u32 size, u32 reg, u32 rm)
{
	u32 rex = (size == 8) << 3 | (reg >> 3) << 2 | rm >> 3;

	if (size == 2)
		put(p, 0x66);
	/* without REX, byte registers are AH to BH now and then */
	if (rex || (size == 1 && draw(p, 2)))
		put(p, 0x40 | rex);
}

static u32 draw_size(struct program *p)
{
	static const u8 sizes[] = {1, 2, 4, 4, 4, 8, 8, 8};

	return sizes[draw(p, 8)];
}

/* ModRM of a register, or of [rdi + disp]: near a page's end at times. */
static void put_memory(struct program *p, u32 reg)
{
	put(p, 0x80 | (reg & 7) << 3 | RDI);
	PUT(p, 0, 0, 0, 0);
	p->code[p->len - 4] = (u8)draw(p, 256);
	p->code[p->len - 3] = draw(p, 8) ? 0 : 0x0f;
}

static void put_modrm(struct program *p, u32 reg, u32 rm, bool memory)
{
	if (memory)
		put_memory(p, reg);
	else
		put(p, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* A row of opcode maps: what it takes. */
enum { SIZES = 1, IMM8 = 2, EXT = 4, NO8 = 8, NOMEM = 16, LOCK = 32, MAP0F = 64, IMMZ = 128 };

static const struct {
	u16 opcode; /* of the forms of 2 to 8 bytes */
	u16 flags;
	u8 ext;
} rows[] = {
	{0x01, 0, 0},
	{0x03, 0, 0},
	{0x09, 0, 0},
	{0x0b, 0, 0},
	{0x11, 0, 0},
	{0x13, 0, 0},
	{0x19, 0, 0},
	{0x1b, 0, 0},
	{0x21, 0, 0},
	{0x23, 0, 0},
	{0x29, 0, 0},
	{0x2b, 0, 0},
	{0x31, 0, 0},
	{0x33, 0, 0},
	{0x39, 0, 0},
	{0x3b, 0, 0},
	{0x85, 0, 0},
	{0x89, 0, 0},
	{0x8b, 0, 0},
	{0x87, 0, 0},
	{0x83, EXT | IMM8 | NO8, 8},
	{0x81, EXT | IMMZ, 8},
	{0xf7, EXT, 2},
	{0xf7, EXT, 3},
	{0xf7, EXT, 4},
	{0xf7, EXT, 5},
	{0xff, EXT, 0},
	{0xff, EXT, 1},
	{0xf7, EXT | IMMZ, 0},
	{0xc7, EXT | IMMZ, 0},
	{0xc1, EXT | IMM8, 8},
	{0xd1, EXT, 8},
	{0xd3, EXT, 8},
	{0xaf, MAP0F | NO8, 0},
	{0x6b, IMM8 | NO8, 0},
	{0x69, IMMZ | NO8, 0},
	{0xa3, MAP0F | NO8 | NOMEM, 0},
	{0xab, MAP0F | NO8 | NOMEM, 0},
	{0xba, MAP0F | NO8 | EXT | IMM8, 9},
	{0xbc, MAP0F | NO8, 0},
	{0xbd, MAP0F | NO8, 0},
	{0xc1, MAP0F, 0},
	{0xb1, MAP0F, 0},
	{0xa4, MAP0F | NO8 | IMM8 | NOMEM, 0},
	{0xac, MAP0F | NO8 | IMM8 | NOMEM, 0},
	{0xb6, MAP0F | NO8, 0},
	{0xb7, MAP0F | NO8, 0},
	{0xbe, MAP0F | NO8, 0},
	{0x40, MAP0F | NO8, 1},
	{0x90, MAP0F | SIZES, 1},
};

/* Flags that the processor does not define must not be looked at. */
static bool leaves_undefined(u32 opcode, u32 flags, u32 reg)
{
	if (flags & MAP0F)
		return opcode == 0xaf || opcode == 0xa4 || opcode == 0xac || opcode == 0xbc ||
		       opcode == 0xbd || opcode == 0xa3 || opcode == 0xab || opcode == 0xba;
	return opcode == 0xc1 || opcode == 0xd3 || opcode == 0x69 || opcode == 0x6b ||
	       (opcode == 0xf7 && reg >= 4);
}

static void put_row(struct program *p)
{
	u32 n = draw(p, ARRAY_SIZE(rows)), flags = rows[n].flags, opcode = rows[n].opcode;
	u32 reg = draw_reg(p), rm = draw_reg(p), size = draw_size(p), i;
	bool memory = !(flags & NOMEM) && draw(p, 3) == 0;

	if (flags & NO8 && size == 1)
		size = 4;
	if (flags & EXT)
		reg = rows[n].ext == 8	 ? draw(p, 8)
		      : rows[n].ext == 9 ? 4 + draw(p, 4)
					 : rows[n].ext;
	else if (rows[n].ext == 1)
		opcode += draw(p, 16); /* CMOVcc, SETcc */
	if (opcode >= 0x90 && opcode < 0xa0 && flags & SIZES)
		size = 1;
	put_prefix(p, size, reg, rm & (memory ? 7 : 15));
	if (flags & MAP0F)
		put(p, 0x0f);
	put(p, size == 1 && !(flags & SIZES) ? opcode - 1 : opcode);
	put_modrm(p, reg, rm, memory);
	for (i = flags & IMM8 ? 1 : flags & IMMZ ? (size > 4 ? 4 : size) : 0; i--;)
		put(p, draw(p, 256));
	if (leaves_undefined(opcode, flags, reg))
		PUT(p, 0x45, 0x85, 0xc0); /* test r8d, r8d */
}

static void put_vector(struct program *p)
{
	static const u8 opcodes[] = {0xfe, 0xd4, 0xef, 0xdb, 0x6f, 0x7f,
				     0xf4, 0x62, 0x74, 0x6e, 0x7e};
	u8 opcode = opcodes[draw(p, sizeof(opcodes))];
	bool memory = (opcode == 0x6f || opcode == 0x7f) && draw(p, 2);

	put(p, memory ? 0xf3 : 0x66);
	PUT(p, 0x0f, opcode);
	put_modrm(p, draw(p, 8), draw(p, 2) * 2, memory);
}

/* ---- general registers with VEX, and what came with them (translate_bits.c) ---- */

enum { VEX_IMM8 = 1, VEX_FLAGS = 2, VEX_DIGIT = 4 };

static const struct {
	u8 map, pp, opcode, digit, flags;
	u16 defined; /* flags, of VEX_FLAGS */
} vex_rows[] = {
	{2, 0, 0xf2, 0, VEX_FLAGS, X86_CF | X86_ZF | X86_SF | X86_OF},		   /* andn */
	{2, 0, 0xf7, 0, VEX_FLAGS, X86_CF | X86_ZF | X86_OF},			   /* bextr */
	{2, 0, 0xf5, 0, VEX_FLAGS, X86_CF | X86_ZF | X86_SF | X86_OF},		   /* bzhi */
	{2, 0, 0xf3, 1, VEX_FLAGS | VEX_DIGIT, X86_CF | X86_ZF | X86_SF | X86_OF}, /* blsr */
	{2, 0, 0xf3, 2, VEX_FLAGS | VEX_DIGIT, X86_CF | X86_ZF | X86_SF | X86_OF}, /* blsmsk */
	{2, 0, 0xf3, 3, VEX_FLAGS | VEX_DIGIT, X86_CF | X86_ZF | X86_SF | X86_OF}, /* blsi */
	{2, 1, 0xf7, 0, 0, 0},							   /* shlx */
	{2, 2, 0xf7, 0, 0, 0},							   /* sarx */
	{2, 3, 0xf7, 0, 0, 0},							   /* shrx */
	{2, 3, 0xf5, 0, 0, 0},							   /* pdep */
	{2, 2, 0xf5, 0, 0, 0},							   /* pext */
	{2, 3, 0xf6, 0, 0, 0},							   /* mulx */
	{3, 3, 0xf0, 0, VEX_IMM8, 0},						   /* rorx */
};

/* Show the flags that are defined, and none of the others: by PUSHF, or by a condition. */
static void put_flags_seen(struct program *p, u16 defined)
{
	u32 r = draw_reg(p), cc = draw(p, 2) ? 2 : 4; /* CF and ZF always are */

	if (draw(p, 2)) {
		PUT(p, 0x9c); /* pushf */
		put_prefix(p, 4, 0, r);
		put(p, 0x58 | (r & 7));
		put_prefix(p, 4, 0, r); /* and r, defined */
		PUT(p, 0x81, 0xe0 | (r & 7), (u8)defined, (u8)(defined >> 8), 0, 0);
	} else {
		put(p, 0x40 | r >> 3); /* setcc r */
		PUT(p, 0x0f, 0x90 | cc | draw(p, 2), 0xc0 | (r & 7));
	}
	PUT(p, 0x45, 0x85, 0xc0); /* test r8d, r8d */
}

static void put_vex(struct program *p)
{
	u32 n = draw(p, ARRAY_SIZE(vex_rows)), reg = draw_reg(p), rm = draw_reg(p);
	u32 flags = vex_rows[n].flags, vvvv = flags & VEX_IMM8 ? 0 : draw_reg(p);
	bool memory = draw(p, 3) == 0;

	if (flags & VEX_DIGIT)
		reg = vex_rows[n].digit;
	put(p, 0xc4);
	put(p, (reg < 8) << 7 | 0x40 | (memory || rm < 8) << 5 | vex_rows[n].map);
	put(p, draw(p, 2) << 7 | (~vvvv & 15) << 3 | vex_rows[n].pp);
	put(p, vex_rows[n].opcode);
	put_modrm(p, reg, rm, memory);
	if (flags & VEX_IMM8)
		put(p, draw(p, 256));
	if (flags & VEX_FLAGS)
		put_flags_seen(p, vex_rows[n].defined);
}

/* prefix, REX, 0F (38) opcode, ModRM */
static void put_prefixed(struct program *p, u32 prefix, u32 size, u32 map38, u32 opcode)
{
	u32 reg = draw_reg(p), rm = draw_reg(p);
	bool memory = draw(p, 3) == 0 || opcode == 0xf0 + 0x100 || opcode == 0xf1 + 0x100;

	if (prefix)
		put(p, prefix);
	put_prefix(p, size, reg, memory ? 0 : rm);
	put(p, 0x0f);
	if (map38)
		put(p, 0x38);
	put(p, opcode);
	put_modrm(p, reg, rm, memory);
}

/* Mostly of a dividend that fits, so that a program comes to its end. */
static void put_division(struct program *p)
{
	u32 sign = draw(p, 2), size = draw_size(p), rm = draw_reg(p);
	bool memory = draw(p, 3) == 0, any = draw(p, 16) == 0;

	if (rm == RAX || rm == RDX)
		rm = RSI;
	if (!any) {
		if (size == 1) {
			PUT(p, 0x98);				/* cwde */
			PUT(p, 0x0f, sign ? 0xbe : 0xb6, 0xc0); /* movsx, movzx eax, al */
		} else if (sign) {
			put_prefix(p, size, 0, 0);
			put(p, 0x99); /* cwd, cdq, cqo */
		} else {
			PUT(p, 0x31, 0xd2); /* xor edx, edx */
		}
		if (!memory) { /* or rm, 0x10 */
			put_prefix(p, 4, 0, rm);
			PUT(p, 0x83, 0xc8 | (rm & 7), 0x10);
		}
	}
	if (size == 2)
		put(p, 0x66);
	put(p, 0x40 | (size == 8) << 3 | (memory ? 0 : rm >> 3));
	put(p, size == 1 ? 0xf6 : 0xf7);
	put_modrm(p, 6 + sign, rm, memory); /* the flags stay, on all back ends */
}

static void put_bits(struct program *p)
{
	u32 wide = draw(p, 2) ? 8 : 4;

	switch (draw(p, 8)) {
	case 0: /* adcx, adox */
		put_prefixed(p, draw(p, 2) ? 0x66 : 0xf3, wide, 1, 0xf6);
		break;
	case 1: { /* crc32 */
		u32 size = draw_size(p);

		put_prefixed(p, 0xf2, size, 1, size == 1 ? 0xf0 : 0xf1);
		break;
	}
	case 2: /* movbe */
		put_prefixed(p, 0, draw(p, 4) ? wide : 2, 1, 0x100 + 0xf0 + draw(p, 2));
		break;
	case 3: { /* popcnt; tzcnt, lzcnt */
		u32 which = draw(p, 3);

		put_prefixed(p, 0xf3, draw(p, 4) ? wide : 2, 0,
			     (const u8[]){0xb8, 0xbc, 0xbd}[which]);
		put_flags_seen(p, which ? X86_CF | X86_ZF : X86_ARITH);
		break;
	}
	case 4:
		put_division(p);
		break;
	default:
		put_vex(p);
		break;
	}
}

static void put_other(struct program *p)
{
	u32 r = draw_reg(p), s = draw_reg(p);

	switch (draw(p, 9)) {
	case 0: /* push, pop */
		put_prefix(p, 4, 0, r);
		put(p, 0x50 | (r & 7));
		put_prefix(p, 4, 0, s);
		put(p, 0x58 | (s & 7));
		break;
	case 1: /* lea r, [s + r * 4 + 1] */
		put(p, 0x48 | (r >> 3) << 2 | (r >> 3) << 1 | s >> 3);
		PUT(p, 0x8d, 0x44 | (r & 7) << 3, 0x80 | (r & 7) << 3 | (s & 7), 1);
		break;
	case 2: /* jump over the next instruction, a mov of 10 bytes */
		PUT(p, 0x70 | draw(p, 16), 10);
		PUT(p, 0x48 | r >> 3, 0xb8 | (r & 7), 1, 2, 3, 4, 5, 6, 7, 8);
		break;
	case 3: /* call the next, and drop its return address */
		PUT(p, 0xe8, 0, 0, 0, 0, 0x48, 0x8d, 0x64, 0x24, 0x08);
		break;
	case 4: /* call over a jump to a ret, which is behind */
		PUT(p, 0xeb, 1, 0xc3, 0xe8, 0xfa, 0xff, 0xff, 0xff);
		break;
	case 5:
		put(p, (const u8[]){0xf5, 0xf8, 0xf9, 0x99, 0x98}[draw(p, 5)]);
		break;
	case 6: /* lea rax, [rip + 2]; jmp rax */
		PUT(p, 0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xff, 0xe0);
		break;
	case 7: /* mov r, [r15 - 3]: #PF in the last round but one, which shows dead flags */
		put(p, 0x49 | (r >> 3) << 2);
		PUT(p, 0x8b, 0x47 | (r & 7) << 3, 0xfd);
		break;
	default: /* bswap */
		put_prefix(p, draw(p, 2) ? 8 : 4, 0, r);
		PUT(p, 0x0f, 0xc8 | (r & 7));
		break;
	}
}

static void make_program(struct program *p, u64 seed)
{
	u32 n, start;

	*p = (struct program){.random = seed * 0x9e3779b97f4a7c15ULL | 1};
	n = 3 + draw(p, 60);
	start = p->len;
	while (n--) {
		u32 what = draw(p, 16);

		if (what == 0)
			put_other(p);
		else if (what == 1)
			put_vector(p);
		else if (what < 6)
			put_bits(p);
		else
			put_row(p);
	}
	PUT(p, 0x49, 0xff, 0xcf, 0x0f, 0x85); /* dec r15; jnz start */
	start -= p->len + 4;
	PUT(p, (u8)start, (u8)(start >> 8), (u8)(start >> 16), (u8)(start >> 24), 0xf4);
}

/* From the same state each time; at: of the code, so that it crosses a page here and there. */
static void run_program(struct rig *rig, const struct program *p, u64 at)
{
	rig_mode(rig, 64);
	memcpy(rig->ram + at, p->code, p->len);
	interpreter_ops.memory_written(&rig->kvm, at, p->len);
	for (u32 i = 0; i < 2 * PAGE_SIZE; i++)
		rig->ram[RIG_DATA + i] = (u8)(i * 7 + (i >> 5));
	for (u64 i = 0; i < 15; i++)
		if (i != RSP)
			rig->vcpu.ctl.gpr[i] = (i + 3) * 0x123456789abcdefULL;
	rig->vcpu.ctl.gpr[RDI] = RIG_DATA;
	rig->vcpu.ctl.gpr[R15] = ROUNDS;
	rig->vcpu.ctl.cr4 |= 3u << 9;
	for (u8 i = 0; i < 8; i++)
		memset(rig->vcpu.fpu.ymm[i], i * 17, 32);
	interpreter_ops.state_changed(&rig->vcpu);
	rig->vcpu.ctl.rip = at;
	rig->vcpu.ctl.instructions = 0;
	assert_int_equal(rig_run(rig), KVM_EXIT_HLT);
}

static void compare(struct rig *a, struct rig *b, u64 seed)
{
	bool same = a->vcpu.ctl.rip == b->vcpu.ctl.rip &&
		    a->vcpu.ctl.rflags == b->vcpu.ctl.rflags &&
		    a->vcpu.ctl.instructions == b->vcpu.ctl.instructions &&
		    !memcmp(a->vcpu.ctl.gpr, b->vcpu.ctl.gpr, sizeof(a->vcpu.ctl.gpr)) &&
		    !memcmp(a->vcpu.fpu.ymm, b->vcpu.fpu.ymm, sizeof(a->vcpu.fpu.ymm)) &&
		    !memcmp(a->ram + RIG_DATA, b->ram + RIG_DATA, 2 * PAGE_SIZE);

	if (same)
		return;
	printf("seed %llu, %s:\n", (unsigned long long)seed, b->kvm.exec->name);
	for (int i = 0; i < 16; i++)
		printf("  %2d %016llx %016llx\n", i, (unsigned long long)a->vcpu.ctl.gpr[i],
		       (unsigned long long)b->vcpu.ctl.gpr[i]);
	printf("  rip %llx %llx rflags %llx %llx instructions %llu %llu\n",
	       (unsigned long long)a->vcpu.ctl.rip, (unsigned long long)b->vcpu.ctl.rip,
	       (unsigned long long)a->vcpu.ctl.rflags, (unsigned long long)b->vcpu.ctl.rflags,
	       (unsigned long long)a->vcpu.ctl.instructions,
	       (unsigned long long)b->vcpu.ctl.instructions);
	fail();
}

static void test_random_loops(void **state)
{
	struct rig *rig[] = {rig_new_with(&interpreter_ops), rig_new_with(&translator_ops),
			     rig_new_with(&eager_ops)};
	struct program p;

	for (u64 seed = 1; seed <= PROGRAMS; seed++) {
		u64 at = RIG_CODE + 0x1000 - seed % 64;

		make_program(&p, seed);
		for (u32 i = 0; i < 3; i++)
			run_program(rig[i], &p, at);
		compare(rig[0], rig[1], seed);
		compare(rig[0], rig[2], seed);
	}
	assert_int_equal(rig[0]->stat.blocks_translated, 0);
	assert_true(rig[1]->stat.blocks_translated > PROGRAMS);
	assert_true(rig[2]->stat.blocks_translated > PROGRAMS);
	for (u32 i = 0; i < 3; i++)
		rig_free(rig[i]);
}

/*
 * A linked loop whose target changes while it runs: at round 50 the guest writes another immediate
 * into the block that the loop goes through.
 *
 * mov ecx, 100; 1: cmp ecx, 50; jne 2f; mov byte [3f+2], 5; 2: jmp 3f; nop...; 3: add eax, 1;
 * dec ecx; jnz 1b; hlt
 */
static void test_linked_code_changes(void **state)
{
	static const u8 code[] = {0xb9, 100,  0,    0,	  0,	0x83, 0xf9, 50,	  0x75, 7,    0xc6,
				  0x05, 0x0a, 0,    0,	  0,	5,    0xeb, 6,	  0x90, 0x90, 0x90,
				  0x90, 0x90, 0x90, 0x83, 0xc0, 1,    0xff, 0xc9, 0x75, 0xe5, 0xf4};
	const struct kvm_exec_ops *exec[] = {&interpreter_ops, &translator_ops, &eager_ops};

	for (u32 i = 0; i < 3; i++) {
		struct rig *rig = rig_new_with(exec[i]);

		rig_mode(rig, 64);
		assert_int_equal(rig_run_code(rig, code, sizeof(code)), KVM_EXIT_HLT);
		/* rounds 100 to 51 add 1, 50 to 1 add 5 */
		assert_int_equal(rig->ram[RIG_CODE + 27], 5);
		assert_int_equal(rig->vcpu.ctl.gpr[RAX], 50 + 50 * 5);
		rig_free(rig);
	}
}

/* What makes flags that nobody reads, and what then changes its operands; where the fault is, when
 * it is not behind that; and the flags that are compared. RBP is negative, RDX and RBX are 0, R9 is
 * 7, and ESI is not 0 until the address is bad. */
static const struct dead {
	u8 len, code[12];
	u8 at, vector;
	u16 flags, expect;
} dead[] = {
	/* add eax, -1: 0 at the end */
	{3, {0x83, 0xc0, 0xff}, 3, PF_VECTOR, X86_ARITH, X86_ZF | X86_CF | X86_PF | X86_AF},
	/* andn eax, ebp, ebp */
	{5, {0xc4, 0xe2, 0x50, 0xf2, 0xc5}, 5, PF_VECTOR, X86_CF | X86_ZF | X86_SF, X86_ZF},
	/* the same; shlx eax, ebp, ebx; */
	{10,
	 {0xc4, 0xe2, 0x50, 0xf2, 0xc5, 0xc4, 0xe2, 0x61, 0xf7, 0xc5},
	 10,
	 PF_VECTOR,
	 X86_CF | X86_ZF | X86_SF,
	 X86_ZF},
	/* cmp edx, 3; mov eax, 12345; div r9d, of which 4 remains */
	{11,
	 {0x83, 0xfa, 3, 0xb8, 0x39, 0x30, 0, 0, 0x41, 0xf7, 0xf1},
	 11,
	 PF_VECTOR,
	 X86_ARITH,
	 X86_CF | X86_SF | X86_AF},
	/* the same; idiv r9d */
	{11,
	 {0x83, 0xfa, 3, 0xb8, 0x39, 0x30, 0, 0, 0x41, 0xf7, 0xf9},
	 11,
	 PF_VECTOR,
	 X86_ARITH,
	 X86_CF | X86_SF | X86_AF},
	/* cmp ebx, 3; not ebx; div esi; test edx, edx */
	{9,
	 {0x83, 0xfb, 3, 0xf7, 0xd3, 0xf7, 0xf6, 0x85, 0xd2},
	 5,
	 DE_VECTOR,
	 X86_ARITH,
	 X86_CF | X86_SF | X86_AF},
};

/* They are right all the same where a fault shows them: in a loop that is hot when its address
 * turns bad. 1: what makes them; mov rdx, [rsi]; test edx, edx; dec ecx; jnz 1b; mov rsi, r8;
 * jmp 1b */
static void check_dead(const struct dead *d, const struct kvm_exec_ops *exec)
{
	static const u8 rest[] = {0x48, 0x8b, 0x16, 0x85, 0xd2, 0xff, 0xc9,
				  0x75, 0,    0x4c, 0x89, 0xc6, 0xeb, 0};
	struct rig *rig = rig_new_with(exec);
	u8 code[64];
	u64 *sp;

	memcpy(code, d->code, d->len);
	memcpy(code + d->len, rest, sizeof(rest));
	code[d->len + 8] = (u8) - (d->len + 9);
	code[d->len + 13] = (u8) - (d->len + 14);
	rig_mode(rig, 64);
	rig->vcpu.ctl.gpr[RSI] = RIG_DATA;
	rig->vcpu.ctl.gpr[RCX] = 100;
	rig->vcpu.ctl.gpr[RAX] = 101;
	rig->vcpu.ctl.gpr[RBP] = 0x80000000;
	rig->vcpu.ctl.gpr[R8] = 1ULL << 45;
	rig->vcpu.ctl.gpr[R9] = 7;
	assert_int_equal(rig_run_code(rig, code, d->len + sizeof(rest)), KVM_EXIT_HLT);
	assert_int_equal(rig->vcpu.ctl.rip, rig_handler(d->vector) + 1);
	sp = (u64 *)(rig->ram + rig->vcpu.ctl.gpr[RSP]) + (d->vector == PF_VECTOR);
	assert_int_equal(sp[0], RIG_CODE + d->at);
	assert_int_equal(sp[2] & d->flags, d->expect);
	rig_free(rig);
}

static void test_flags_at_fault(void **state)
{
	for (u32 i = 0; i < ARRAY_SIZE(dead); i++) {
		check_dead(&dead[i], &interpreter_ops);
		check_dead(&dead[i], &translator_ops);
		check_dead(&dead[i], &eager_ops);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_loops),
		cmocka_unit_test(test_linked_code_changes),
		cmocka_unit_test(test_flags_at_fault),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
