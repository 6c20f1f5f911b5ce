/*
 * Lengths of instructions as the assembler makes them (decode.tab: mode, bytes), and what is no
 * instruction. With an argument, a file of such lines is checked instead.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/soft/opcodes.h"
#include "rig.h"

static struct decoder decoder;
static u32 covered[DECODER_ROWS]; /* by row: opcodes whose part of the index has it */

static int setup(void **state)
{
	return decoder_init(&decoder);
}

static unsigned int mode_of(int bits)
{
	return bits == 64 ? MODE_64 : bits == 32 ? MODE_32 | MODE_STACK32 : MODE_16;
}

static int decode(int bits, const u8 *bytes, unsigned int avail, struct insn *insn)
{
	return decode_insn(&decoder, insn, bytes, avail, mode_of(bits));
}

static unsigned int parse_hex(const char *s, u8 *bytes)
{
	unsigned int n = 0, byte;
	int used;

	while (n < INSN_BYTES && sscanf(s, "%2x%n", &byte, &used) == 1) {
		bytes[n++] = (u8)byte;
		s += used;
	}
	return n;
}

/* Whole, it decodes to its length whatever follows; cut anywhere, it asks for more. */
static int check_line(const char *line)
{
	u8 bytes[32];
	struct insn insn;
	unsigned int n;
	int bits = atoi(line), rc;

	memset(bytes, 0xcc, sizeof(bytes));
	n = parse_hex(line + 3, bytes);
	rc = decode(bits, bytes, INSN_BYTES, &insn);
	if (rc || insn.len != n) {
		fprintf(stderr, "%s: result %d, length %u, not %u\n", line, rc, insn.len, n);
		return 1;
	}
	for (unsigned int i = 0; i < n; i++) {
		rc = decode(bits, bytes, i, &insn);
		if (rc != -EAGAIN) {
			fprintf(stderr, "%s cut at %u: result %d\n", line, i, rc);
			return 1;
		}
	}
	return 0;
}

static unsigned int check_file(const char *path, unsigned int *lines)
{
	FILE *f = fopen(path, "r");
	char line[128];
	unsigned int bad = 0;

	*lines = 0;
	if (!f)
		return 1;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		bad += (unsigned int)check_line(line);
		(*lines)++;
	}
	fclose(f);
	return bad;
}

static void test_lengths(void **state)
{
	char path[512];
	unsigned int lines;

	snprintf(path, sizeof(path), "%s/tests/unit/soft/decode.tab", getenv("BOTHY_SRC"));
	assert_int_equal(check_file(path, &lines), 0);
	assert_true(lines > 1000);
}

#define DECODE(bits, insn, ...) decode(bits, (const u8[32]){__VA_ARGS__}, INSN_BYTES, insn)

static void test_invalid(void **state)
{
	struct insn i;

	/* LOCK: no memory destination; not a lockable operation; allowed */
	assert_int_equal(DECODE(64, &i, 0xf0, 0x01, 0xd8), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x03, 0x18), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x39, 0x18), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x89, 0x18), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x90), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x01, 0x18), 0);
	assert_int_equal(DECODE(64, &i, 0xf0, 0x48, 0x0f, 0xc7, 0x08), 0);
	/* gone in 64-bit mode */
	assert_int_equal(DECODE(64, &i, 0x06), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x27), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x60), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x82, 0xc0, 0), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x9a), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xd4, 10), -EINVAL);
	assert_int_equal(DECODE(32, &i, 0x27), 0);
	/* UD2, UD0, and groups' empty places */
	assert_int_equal(DECODE(64, &i, 0x0f, 0x0b), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x0f, 0xff, 0xc0), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xc6, 0xc8, 0), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x8f, 0xc8), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xfe, 0xd0), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xff, 0xf8), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x8d, 0xc0), -EINVAL);
	/* VEX: with 66, LOCK or REX before it; map 0; in 32-bit code LES */
	assert_int_equal(DECODE(64, &i, 0x66, 0xc5, 0xf8, 0x77), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0x48, 0xc5, 0xf8, 0x77), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xc4, 0xe0, 0x78, 0x77), -EINVAL);
	assert_int_equal(DECODE(64, &i, 0xc5, 0xf8, 0x77), 0);
	assert_int_equal(DECODE(32, &i, 0xc5, 0x38), 0);
	assert_int_equal(i.vex, 0);
}

static void test_long(void **state)
{
	u8 b[32];
	struct insn i;

	memset(b, 0x66, sizeof(b));
	b[14] = 0x90;
	assert_int_equal(decode(64, b, INSN_BYTES, &i), 0);
	assert_int_equal(i.len, 15);
	b[14] = 0x66;
	b[15] = 0x90;
	assert_int_equal(decode(64, b, INSN_BYTES, &i), -E2BIG);
	/* an immediate of two bytes that ends with the fifteenth, and one beyond it */
	b[12] = 0xb8;
	assert_int_equal(decode(64, b, INSN_BYTES, &i), 0);
	assert_int_equal(i.len, 15);
	b[12] = 0x66;
	b[13] = 0xb8;
	assert_int_equal(decode(64, b, INSN_BYTES, &i), -E2BIG);
}

static void test_fields(void **state)
{
	struct kvm_vcpu v = {0};
	struct insn i;
	struct uop u;

	/* mov r12d, [r13+r14*4-8] */
	assert_int_equal(DECODE(64, &i, 0x47, 0x8b, 0x64, 0xb5, 0xf8), 0);
	assert_int_equal(decode_uop(&v, &i, 0, &u), 0);
	assert_int_equal(u.reg, 8 * R12);
	assert_int_equal(u.base, 8 * R13);
	assert_int_equal(u.index, 8 * R14);
	assert_int_equal(u.scale, 2);
	assert_int_equal(u.disp, -8);
	assert_int_equal(u.osize, SIZE_32);
	assert_int_equal(u.amode, AM_INDEX);
	/* add dh, [rip+0x10] at 5: six bytes long */
	assert_int_equal(DECODE(64, &i, 0x02, 0x35, 0x10, 0, 0, 0), 0);
	assert_int_equal(decode_uop(&v, &i, 5, &u), 0);
	assert_int_equal(u.reg, 8 * RDX + 1);
	assert_int_equal(u.base, UOP_RIP);
	assert_int_equal(u.disp, 0x10 + 5 + 6);
	/* the same with REX is SIL */
	assert_int_equal(DECODE(64, &i, 0x40, 0x02, 0x35, 0x10, 0, 0, 0), 0);
	assert_int_equal(decode_uop(&v, &i, 5, &u), 0);
	assert_int_equal(u.reg, 8 * RSI);
	/* mov ax, [bp+di+0x1234] */
	assert_int_equal(DECODE(16, &i, 0x8b, 0x83, 0x34, 0x12), 0);
	assert_int_equal(decode_uop(&v, &i, 0, &u), 0);
	assert_int_equal(u.base, 8 * RBP);
	assert_int_equal(u.index, 8 * RDI);
	assert_int_equal(u.seg, SEG_SS);
	assert_int_equal(u.disp, 0x1234);
	/* mov rax, gs:[0x28] */
	assert_int_equal(DECODE(64, &i, 0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0), 0);
	assert_int_equal(decode_uop(&v, &i, 0, &u), 0);
	assert_int_equal(u.amode, AM_SEG);
	assert_int_equal(u.seg, SEG_GS);
	assert_int_equal(u.base, UOP_ZERO);
	/* a void REX: 48 66 01 d8 is add ax, bx */
	assert_int_equal(DECODE(64, &i, 0x48, 0x66, 0x01, 0xd8), 0);
	assert_int_equal(decode_uop(&v, &i, 0, &u), 0);
	assert_int_equal(u.osize, SIZE_16);
}

/* Each opcode's part of the index holds the rows that cover it, all of them, in their order. */
static void test_index(void **state)
{
	for (unsigned int key = 0; key < MAP_COUNT * 256; key++) {
		int last = -1;

		assert_true(decoder.start[key] <= decoder.start[key + 1]);
		for (unsigned int i = decoder.start[key]; i < decoder.start[key + 1]; i++) {
			const struct opcode *row = &opcode_rows[decoder.row[i]];

			assert_true((int)decoder.row[i] > last);
			last = decoder.row[i];
			assert_int_equal(row->map, key >> 8);
			assert_in_range(key & 255, row->first, row->last);
			covered[last]++;
		}
	}
	for (unsigned int i = 0; i < opcode_row_count; i++)
		assert_int_equal(covered[i], opcode_rows[i].last - opcode_rows[i].first + 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lengths), cmocka_unit_test(test_invalid),
		cmocka_unit_test(test_long),	cmocka_unit_test(test_fields),
		cmocka_unit_test(test_index),
	};
	unsigned int lines, bad;

	if (argc > 1) {
		setup(NULL);
		bad = check_file(argv[1], &lines);
		printf("%u of %u lines differ\n", bad, lines);
		return bad != 0;
	}
	return cmocka_run_group_tests(tests, setup, NULL);
}
