#include "rows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/soft/decode.h"
#include "engine/soft/native_tab.h"
#include "engine/soft/opcodes.h"

/* By row: how often in 32-bit and 64-bit code, on registers and on memory, by operand size. */
struct row_count {
	u32 seen[2];	 /* by code size: 32, 64 */
	u32 operand[2];	 /* by ModRM: register, memory */
	u32 size[4];	 /* SIZE_* of non-byte forms */
	u32 prefixed[2]; /* with LOCK; with REP */
};

#define NATIVE_MAX 2048 /* of native_table */

struct rows {
	struct row_count row[DECODER_ROWS];
	u32 native[NATIVE_MAX][2][2]; /* by legacy and VEX coding; on registers, on memory */
};

/* native_table by map and opcode: 1 + the first entry, and after each the next. */
static u16 first_native[4][256], next_native[NATIVE_MAX];

static struct decoder decoder;

size_t rows_size(void)
{
	return sizeof(struct rows);
}

int rows_init(void)
{
	if (native_table_len > NATIVE_MAX)
		return -ENOSPC;
	for (unsigned int i = native_table_len; i--;) {
		u16 *head = &first_native[native_table[i].map][native_table[i].op];

		next_native[i] = *head;
		*head = (u16)(i + 1);
	}
	return decoder_init(&decoder);
}

/* The prefix that chooses among vector instructions, as VEX.pp. */
static unsigned int vector_prefix(const struct insn *insn)
{
	if (insn->vex)
		return insn->vexpp;
	return insn->rep == REP_F3 ? 2 : insn->rep == REP_F2 ? 3 : insn->opsize ? 1 : 0;
}

static void note_native(struct rows *rows, const struct insn *insn)
{
	unsigned int map = insn->map >= MAP_VEX1 ? insn->map - MAP_VEX1 + 1 : insn->map;
	bool vex = insn->vex, mem = insn->modrm < 0xc0;

	if (map < 1 || map > 3)
		return;
	for (unsigned int i = first_native[map][insn->opcode]; i; i = next_native[i - 1]) {
		const struct native_desc *d = &native_table[i - 1];

		if (d->pfx != vector_prefix(insn) || !(vex ? d->vex : d->leg) ||
		    (d->digit != N_DIGIT_NONE && d->digit != (insn->modrm >> 3 & 7)) ||
		    (mem ? d->flags & N_RO : d->flags & N_MO))
			continue;
		rows->native[i - 1][vex][mem]++;
		return;
	}
}

static unsigned int size_of(const struct insn *insn, bool mode64)
{
	if (mode64 && insn->rex & 8)
		return SIZE_64;
	return insn->opsize ? SIZE_16 : SIZE_32;
}

static void note(struct rows *rows, const struct insn *insn, bool mode64)
{
	struct row_count *r = &rows->row[insn->row - opcode_rows];

	r->seen[mode64]++;
	if (insn->row->format >= FMT_RM)
		r->operand[insn->modrm < 0xc0]++;
	r->size[size_of(insn, mode64)]++;
	r->prefixed[0] += insn->lock;
	r->prefixed[1] += insn->rep != REP_NONE;
	note_native(rows, insn);
}

void rows_note(struct rows *rows, const struct diff_case *c, const struct gen_insns *insns)
{
	bool mode64 = !c->start.code32;
	struct insn insn;

	for (unsigned int i = 0; i < insns->n; i++) {
		unsigned int at = c->code_off + insns->off[i];

		/* Some generators put several where one is counted. */
		while (at < c->code_off + insns->off[i + 1] && at < CODE_SIZE) {
			unsigned int mode = mode64 ? MODE_64 : MODE_32 | MODE_STACK32 | MODE_FLAT;

			if (decode_insn(&decoder, &insn, c->code + at, CODE_SIZE - at, mode))
				break;
			note(rows, &insn, mode64);
			at += insn.len;
		}
	}
}

/* ---- what is not for user code here ---- */

/* The host's kernel decides, not its processor; or the two sides differ by right (gen_code.c). */
static bool is_left_out(const char *name)
{
	static const char *const names[] = {
		"syscall", "sysenter",	  "int_n",     "cpuid",	      "rdtsc",	  "rdtscp", "rdpid",
		"rdpmc",   "rdrand",	  "rdseed",    "vmcall",      "sgdt",	  "sidt",   "sldt",
		"str",	   "smsw",	  "in_imm",    "out_imm",     "in_dx",	  "out_dx", "ins",
		"outs",	   "xgetbv",	  "swapgs",    "xsetbv",      "lgdt",	  "lidt",   "lldt",
		"ltr",	   "lmsw",	  "invlpg",    "clts",	      "sysret",	  "wbinvd", "rdmsr",
		"wrmsr",   "hlt",	  "cli",       "sti",	      "sysexit",  "clac",   "stac",
		"invpcid", "mov_from_cr", "mov_to_cr", "mov_from_dr", "mov_to_dr"};

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

static void name_row(const struct opcode *row)
{
	static const char *const maps[MAP_COUNT] = {
		[MAP_1] = "",	       [MAP_0F] = "0f ",     [MAP_0F38] = "0f 38 ",
		[MAP_0F3A] = "0f 3a ", [MAP_VEX1] = "vex1 ", [MAP_VEX2] = "vex2 ",
		[MAP_VEX3] = "vex3 "};

	printf("row %s%02x", maps[row->map], row->first);
	if (row->last != row->first)
		printf("-%02x", row->last);
	if (row->mask)
		printf(" modrm & %02x = %02x", row->mask, row->value);
	printf(" prefixes %x %s:", row->prefixes, row->oper->name);
}

/* What of a row has not been seen; NULL: nothing. */
static const char *lacks(const struct opcode *row, const struct row_count *r)
{
	bool modrm = row->format >= FMT_RM;

	if (!r->seen[0] && !r->seen[1])
		return "never";
	if (!r->seen[1] && !(row->attrs & A_NO64))
		return "not in 64-bit code";
	if (!r->seen[0] && !(row->attrs & (A_ONLY64 | A_W1)))
		return "not in 32-bit code";
	if (modrm && !r->operand[0] && !(row->attrs & A_MEM) && row->mask != 0xff)
		return "not on registers";
	if (modrm && !r->operand[1] && !(row->attrs & (A_REG | A_CR)) && row->mask != 0xff)
		return "not on memory";
	if (row->attrs & A_LOCK && !r->prefixed[0])
		return "not with LOCK";
	return NULL;
}

static unsigned int report_native(const struct rows *rows)
{
	static const char *const prefix[] = {"", "66 ", "f3 ", "f2 "};
	unsigned int lines = 0;

	for (unsigned int i = 0; i < native_table_len; i++) {
		const struct native_desc *d = &native_table[i];

		for (unsigned int form = 0; form < 4; form++) {
			bool vex = form & 2, mem = form & 1;

			if (rows->native[i][vex][mem] || !(vex ? d->vex : d->leg) ||
			    (mem ? d->flags & N_RO : d->flags & N_MO))
				continue;
			printf("vector %smap %u %s%02x /%d: not on %s\n", vex ? "vex " : "", d->map,
			       prefix[d->pfx], d->op, d->digit == N_DIGIT_NONE ? -1 : d->digit,
			       mem ? "memory" : "registers");
			lines++;
		}
	}
	printf("%u vector instructions, %u without a form\n", native_table_len, lines);
	return lines;
}

unsigned int rows_report(const struct rows *rows, bool all)
{
	unsigned int lines = report_native(rows), present = 0;

	for (unsigned int i = 0; i < opcode_rows_len; i++) {
		const struct opcode *row = &opcode_rows[i];
		const char *what = lacks(row, &rows->row[i]);

		if (is_left_out(row->oper->name))
			continue;
		present++;
		if (!what && !all)
			continue;
		name_row(row);
		printf(" %s\n", what ? what : "seen");
		lines += what != NULL;
	}
	printf("%u rows that user code can run, %u without a form\n", present, lines);
	return lines;
}
