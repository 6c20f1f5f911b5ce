/*
 * The decoder alone: any bytes in any mode.
 *
 * Input: a byte of mode, then the bytes of an instruction. They are given to the decoder at the
 * very end of an allocation, so that a sanitizer sees a read past them; what it says must be the
 * same however many more bytes are there, and each shorter piece must ask for more. Then the uop is
 * made.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/soft/rig.h"
#include "engine/soft/decode.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define MORE 17u /* bytes beyond the longest instruction */

static struct rig *rig;
static struct decoder decoder;

static void finish(void)
{
	rig_free(rig);
}

static void init(void)
{
	rig = rig_new();
	atexit(finish);
	if (decoder_init(&decoder))
		abort();
}

static void fail(const char *why, const u8 *bytes, unsigned int n, unsigned int mode)
{
	fprintf(stderr, "%s: mode %x,", why, mode);
	for (unsigned int i = 0; i < n; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fprintf(stderr, "\n");
	abort();
}

/* Decode the first n bytes from a copy that ends with them. */
static int decode(const u8 *bytes, unsigned int n, unsigned int mode, struct insn *insn)
{
	u8 *copy = malloc(n ? n : 1);
	int rc;

	if (!copy)
		abort();
	memcpy(copy, bytes, n);
	memset(insn, 0, sizeof(*insn));
	rc = decode_insn(&decoder, insn, copy, n, mode);
	free(copy);
	return rc;
}

static bool same(const struct insn *a, const struct insn *b)
{
	return a->row == b->row && a->len == b->len && a->map == b->map && a->opcode == b->opcode &&
	       a->modrm == b->modrm && a->disp_off == b->disp_off && a->disp_len == b->disp_len &&
	       a->imm_off == b->imm_off && a->imm_len == b->imm_len && a->rex == b->rex &&
	       a->vex == b->vex && a->vvvv == b->vvvv && a->rep == b->rep && a->seg == b->seg &&
	       a->lock == b->lock && !memcmp(a->bytes, b->bytes, a->len);
}

static void check_lengths(const u8 *bytes, unsigned int mode, int rc, const struct insn *whole)
{
	struct insn part;

	if (whole->len > INSN_BYTES)
		fail("too long", bytes, INSN_BYTES, mode);
	for (unsigned int n = 0; n < INSN_BYTES; n++) {
		int r = decode(bytes, n, mode, &part);

		if (r == -EAGAIN && (rc || n < whole->len))
			continue;
		if (r != rc || (!rc && (n < whole->len || !same(&part, whole))))
			fail("length matters", bytes, n, mode);
		return; /* what is enough stays enough: the next n is like MORE */
	}
}

static bool is_gpr(u8 field)
{
	return field < 16 * 8 && field % 8 == 0;
}

static void check_uop(const u8 *bytes, unsigned int mode, const struct insn *insn)
{
	struct uop u;
	int rc;

	rig->vcpu.mode = (u8)mode;
	rc = decode_uop(&rig->vcpu, insn, 0, &u);
	if (rc == -ENOMEM) { /* as the block cache does when native code has filled its arena */
		blocks_drop_all(&rig->vcpu);
		rc = decode_uop(&rig->vcpu, insn, 0, &u);
	}
	if (rc == -EINVAL)
		return;
	if (rc || !u.fn || u.len != insn->len)
		fail("no operation", bytes, insn->len, mode);
	if (u.mem && u.base != UOP_ZERO && u.base != UOP_RIP && !is_gpr(u.base))
		fail("no such base", bytes, insn->len, mode);
	if (u.mem && u.index != UOP_ZERO && !is_gpr(u.index))
		fail("no such index", bytes, insn->len, mode);
}

static void check(const u8 *bytes, unsigned int mode)
{
	struct insn insn;
	int rc = decode(bytes, INSN_BYTES + MORE, mode, &insn);

	if (rc != 0 && rc != -EINVAL && rc != -E2BIG)
		fail("unknown result", bytes, INSN_BYTES, mode);
	check_lengths(bytes, mode, rc, &insn);
	if (!rc)
		check_uop(bytes, mode, &insn);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static const u8 modes[] = {MODE_16,
				   MODE_16 | MODE_STACK32,
				   MODE_32,
				   MODE_32 | MODE_STACK32,
				   MODE_32 | MODE_STACK32 | MODE_FLAT,
				   MODE_64};
	u8 bytes[INSN_BYTES + MORE] = {0};

	if (size < 2)
		return 0;
	size = min(size, (size_t)1 + INSN_BYTES);
	if (!rig)
		init();
	memcpy(bytes, data + 1, size - 1);
	check(bytes, modes[data[0] % ARRAY_SIZE(modes)]);
	return 0;
}
