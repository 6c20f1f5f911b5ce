/*
 * usage: diff [--seed N] [--count N] [--only REGEX] [--corpus FILE] [--seconds N] [--reports N]
 * [--dump] [--rows]
 *
 * Runs generated cases on the host CPU and in softkvm and compares what they leave. A difference is
 * reduced to the shortest prefix of instructions that shows it, and reported with its seed and
 * bytes;
 * `--seed S --count 1` runs it again. --rows: rows of the opcode tables that no case had are
 * errors. --only takes cases whose code, in hexadecimal, matches. Lines of a corpus: seed, 32 or
 * 64, code in hexadecimal; # starts a comment.
 *
 * The work is done in a child, so that a case that breaks the process is a result too.
 */
#include <errno.h>
#include <getopt.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "gen.h"
#include "rows.h"

#define ARITH	    0x8d5ull
#define RFLAGS_MASK (ARITH | 0x400 | 0x100 | 0x10000 | 0x40000 | 0x4000 | 0x200000)

/* What the child tells, in shared memory. */
struct progress {
	u64 next; /* case to run */
	u64 ran, skipped, different, crashed;
	u64 vectors[32];
};

static struct rows *rows; /* shared, too */

struct options {
	u64 seed, count;
	unsigned int seconds;
	unsigned int reports; /* differences to describe */
	const char *only, *corpus, *engine;
	bool dump; /* show registers of each run */
	bool rows; /* tell which rows of the opcode tables had no case; more: an error */
	regex_t re;
};

struct report {
	char text[2048];
	unsigned int len;
};

__attribute__((format(printf, 2, 3))) static void say(struct report *r, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(r->text + r->len, sizeof(r->text) - r->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		r->len = min(r->len + (unsigned int)n, (unsigned int)sizeof(r->text) - 1);
}

static void compare_word(struct report *r, const char *name, u64 host, u64 soft)
{
	if (host != soft)
		say(r, " %s host %llx soft %llx;", name, (unsigned long long)host,
		    (unsigned long long)soft);
}

static void compare_bytes(struct report *r, const char *name, int n, const u8 *host, const u8 *soft,
			  unsigned int len)
{
	if (!memcmp(host, soft, len))
		return;
	say(r, " %s", name);
	if (n >= 0)
		say(r, "%d", n);
	say(r, " host ");
	for (unsigned int i = len; i--;)
		say(r, "%02x", host[i]);
	say(r, " soft ");
	for (unsigned int i = len; i--;)
		say(r, "%02x", soft[i]);
	say(r, ";");
}

static void compare_fpu(struct report *r, const u8 *h, const u8 *s, bool code32)
{
	unsigned int regs = code32 ? 8 : 16;

	compare_bytes(r, "fcw", -1, h, s, 2);
	compare_bytes(r, "fsw", -1, h + 2, s + 2, 2);
	compare_bytes(r, "ftw", -1, h + 4, s + 4, 1);
	for (int i = 0; i < 8; i++)
		compare_bytes(r, "st", i, h + 32 + 16 * i, s + 32 + 16 * i, 10);
	for (unsigned int i = 0; i < regs; i++)
		compare_bytes(r, "xmm", (int)i, h + 160 + 16 * i, s + 160 + 16 * i, 16);
	for (unsigned int i = 0; i < regs; i++)
		compare_bytes(r, "ymmh", (int)i, h + 576 + 16 * i, s + 576 + 16 * i, 16);
}

/* MXCSR_MASK in an FXSAVE image: the host may have AMD's MM bit. */
static bool mxcsr_mask_byte(const u8 *h, const u8 *s, unsigned int i)
{
	return i >= 30 && h[i] == 2 && s[i] == 0 && h[i - 1] == 0xff && h[i - 2] == 0xff &&
	       !h[i + 1];
}

static void compare_memory(struct report *r, const u8 *h, const u8 *s)
{
	for (unsigned int i = 0; i < DATA_SIZE; i++) {
		unsigned int from = i & ~15u;

		if (h[i] == s[i] || mxcsr_mask_byte(h, s, i))
			continue;
		say(r, " mem %x", DATA_BASE + from);
		compare_bytes(r, "", -1, h + from, s + from, 16);
		return;
	}
}

/* Linux hides from user code whether a page of its own half is present. */
static u32 visible_error(const struct diff_state *s)
{
	return s->vector == 14 && s->cr2 >= 0x7ffffffff000 ? s->error | 1 : s->error;
}

/*
 * ---- what may differ ----
 *
 * Where the manuals leave it to the processor, and the host's takes the other way.
 */

/* An undefined opcode at the end of the last page: #UD, or the fetch of what might follow it. */
static bool fetch_or_undefined(const struct diff_state *h, const struct diff_state *s)
{
	const struct diff_state *pf = h->vector == 14 ? h : s, *ud = pf == h ? s : h;

	return pf->vector == 14 && ud->vector == 6 && pf->error & 0x10 &&
	       pf->cr2 == CODE_BASE + CODE_SIZE && h->rip == s->rip;
}

/* The code at s->rip, at least 16 bytes, past its legacy and REX prefixes. */
static const u8 *code_at(const struct diff_case *c, const struct diff_state *s, u8 buf[32])
{
	u64 off = s->rip - CODE_BASE;
	const u8 *p = buf;

	memset(buf, 0, 32);
	if (off < CODE_SIZE)
		memcpy(buf, c->code + off, min(CODE_SIZE - off, (u64)31));
	while (p < buf + 14 && *p && strchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3", *p))
		p++;
	if (!c->start.code32 && (*p & 0xf0) == 0x40)
		p++;
	return p;
}

/* AMD's processors do not check the alignment of SHA operands, ignore W of VPERMQ and VPERMPD, and
 * have a bit in MXCSR that softkvm reserves. */
static bool host_is_lenient(const struct diff_case *c, const struct diff_state *h,
			    const struct diff_state *s)
{
	u8 buf[32];
	const u8 *p = code_at(c, s, buf);

	if (h->vector == s->vector && h->rip == s->rip)
		return false;
	if (s->vector == 13 && (p[0] == 0xc4 ? p[3] : p[0] == 0xc5 ? p[2] : p[1]) == 0xae)
		return true; /* LDMXCSR, FXRSTOR, XRSTOR with the MM bit */
	if (s->vector == 13 && p[0] == 0x0f)
		return (p[1] == 0x38 && p[2] >= 0xc8 && p[2] <= 0xcd) ||
		       (p[1] == 0x3a && p[2] == 0xcc);
	if (h->rip == s->rip && (h->vector == 14 || h->vector == 17) && (s->vector | 1) == 13 &&
	    (p[0] & 0xf8) == 0xd8)
		return true; /* page or limit: the order of several accesses */
	return s->vector == 6 && p[0] == 0xc4 && (p[1] & 0x1f) == 3 && (p[2] & 0x87) == 5 &&
	       p[3] <= 1;
}

/* INT1 is intercepted by some hypervisors under the host, and then reported before itself. */
static bool int1_reported_early(const struct diff_case *c, const struct diff_state *h,
				const struct diff_state *s)
{
	return h->vector == 1 && s->vector == 1 && s->rip == h->rip + 1 &&
	       h->rip - CODE_BASE < CODE_SIZE && c->code[h->rip - CODE_BASE] == 0xf1;
}

/* PUSHA or a far CALL that faults in its middle: what it has written. */
static bool partial_push(const struct diff_case *c, const struct diff_state *h)
{
	u8 buf[32];
	const u8 *p = code_at(c, h, buf);
	bool far_call = p[0] == 0x9a || (p[0] == 0xff && (p[1] & 0x38) == 0x18);

	return c->start.code32 && h->vector == 14 && (p[0] == 0x60 || far_call);
}

/* RETF with another RPL: AMD's processors read the outer stack (which bytes to drop may misalign,
 * or which may not be there) before they look at the selector. */
static bool far_order(const struct diff_case *c, const struct diff_state *h,
		      const struct diff_state *s)
{
	u8 buf[32], op = *code_at(c, s, buf);

	return h->rip == s->rip && (h->vector == 17 || h->vector == 14) && s->vector == 13 &&
	       (op == 0xca || op == 0xcb);
}

/* XRSTOR whose header is bad, and whose rest is not there: which is looked at first. */
static bool xrstor_order(const struct diff_case *c, const struct diff_state *h,
			 const struct diff_state *s)
{
	u8 buf[32];
	const u8 *p = code_at(c, s, buf);

	return h->rip == s->rip && h->vector + s->vector == 13 + 14 && p[0] == 0x0f &&
	       p[1] == 0xae && (p[2] & 0x38) == 0x28;
}

/* FXSAVE and FXRSTOR off their 16 bytes with alignment checks on: #AC or #GP, as the processor
 * likes. */
static bool fx_alignment(const struct diff_case *c, const struct diff_state *h,
			 const struct diff_state *s)
{
	u8 buf[32];
	const u8 *p = code_at(c, s, buf);

	return h->rip == s->rip && h->vector + s->vector == 13 + 17 && p[0] == 0x0f &&
	       p[1] == 0xae && (p[2] & 0x38) < 0x10;
}

/* C6 and C7 with a ModRM.reg that is not defined, behind so many prefixes that with an immediate
 * they would be too long: whether they have one. */
static bool too_long_or_undefined(const struct diff_case *c, const struct diff_state *h,
				  const struct diff_state *s)
{
	u8 buf[32];
	const u8 *p = code_at(c, s, buf);

	return h->rip == s->rip && h->vector == 13 && s->vector == 6 && (p[0] & 0xfe) == 0xc6 &&
	       p[1] & 0x38 && p - buf >= 5;
}

static bool may_differ(const struct diff_case *c, const struct diff_state *h,
		       const struct diff_state *s)
{
	return fetch_or_undefined(h, s) || host_is_lenient(c, h, s) ||
	       int1_reported_early(c, h, s) || far_order(c, h, s) || xrstor_order(c, h, s) ||
	       fx_alignment(c, h, s) || too_long_or_undefined(c, h, s);
}

/* The order in which an instruction of several accesses (FRSTOR, XRSTOR) makes them. */
static bool same_page_of_many(const struct diff_case *c, const struct diff_state *h,
			      const struct diff_state *s)
{
	u8 buf[32];
	const u8 *p = code_at(c, s, buf);

	return (h->cr2 ^ s->cr2) < PAGE_SIZE &&
	       (p[0] == 0xdd || p[0] == 0xd9 || (p[0] == 0x0f && p[1] == 0xae));
}

/* DPPS, DPPD: which of their steps raises. */
static bool is_dot_product(const struct diff_case *c, const struct diff_state *h)
{
	u8 buf[32];
	const u8 *p = code_at(c, h, buf);

	return (p[0] == 0x0f && p[1] == 0x3a && (p[2] & 0xfe) == 0x40) ||
	       (p[0] == 0xc4 && (p[1] & 0x1f) == 3 && (p[3] & 0xfe) == 0x40);
}

/*
 * With overflow or underflow unmasked, PE tells whether the result with an unbounded exponent is
 * inexact; in softkvm, whether the masked one is.
 */
static u32 mxcsr_mask(const struct diff_case *c, const struct diff_state *h)
{
	u32 mxcsr;

	memcpy(&mxcsr, h->xsave + 24, 4);
	if (h->vector == 19 && is_dot_product(c, h))
		return ~0x3fu;
	return h->vector == 19 && mxcsr & 0x18 & ~(mxcsr >> 7) ? ~0x20u : ~0u;
}

/* A fault in REP CMPS and SCAS: the flags are those from before the instruction (SDM, as softkvm
 * has it); on AMD's processors now these, now those of the last comparison. */
static u64 rflags_mask(const struct diff_case *c, const struct diff_state *h)
{
	u8 buf[32], op = *code_at(c, h, buf) & 0xfe;
	bool fault = h->vector >= 12 && h->vector <= 17;

	return fault && (op == 0xa6 || op == 0xae) ? RFLAGS_MASK & ~ARITH : RFLAGS_MASK;
}

/* ---- comparing ---- */

static void compare(struct report *r, const struct diff_case *c, const struct diff_state *h,
		    const struct diff_state *s)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

	u32 mxcsr_h, mxcsr_s;

	r->len = 0;
	r->text[0] = 0;
	if (may_differ(c, h, s))
		return;
	if (h->vector != s->vector) {
		say(r, " vector host %u at %llx soft %u at %llx", h->vector,
		    (unsigned long long)h->rip, s->vector, (unsigned long long)s->rip);
		return;
	}
	if (h->vector == 13 || h->vector == 14 || h->vector == 12)
		compare_word(r, "error", visible_error(h), visible_error(s));
	if (h->vector == 14 && !same_page_of_many(c, h, s))
		compare_word(r, "cr2", h->cr2, s->cr2);
	compare_word(r, "rip", h->rip, s->rip);
	compare_word(r, "code32", h->code32, s->code32);
	/* a trap after, or the fetch after, an instruction that leaves flags undefined */
	if (h->vector != 1 && (h->vector != 14 || h->cr2 != CODE_BASE + CODE_SIZE))
		compare_word(r, "rflags", h->rflags & rflags_mask(c, h),
			     s->rflags & rflags_mask(c, h));
	for (int i = 0; i < 16; i++)
		compare_word(r, names[i], h->gpr[i], s->gpr[i]);
	memcpy(&mxcsr_h, h->xsave + 24, 4);
	memcpy(&mxcsr_s, s->xsave + 24, 4);
	compare_word(r, "mxcsr", mxcsr_h & mxcsr_mask(c, h), mxcsr_s & mxcsr_mask(c, h));
	compare_fpu(r, h->xsave, s->xsave, h->code32);
	if (!partial_push(c, h))
		compare_memory(r, host_data(), soft_data());
}

/* ---- running ---- */

enum result { EQUAL, DIFFERENT, SKIPPED };

static void dump(const char *name, const struct diff_state *s)
{
	printf("%s: vector %u error %x cr2 %llx rip %llx rflags %llx\n", name, s->vector, s->error,
	       (unsigned long long)s->cr2, (unsigned long long)s->rip,
	       (unsigned long long)s->rflags);
	for (int i = 0; i < 16; i++)
		printf("%16llx%s", (unsigned long long)s->gpr[i], i % 4 == 3 ? "\n" : " ");
}

static enum result run_both(const struct options *o, const struct diff_case *c, struct report *r,
			    u32 *vector)
{
	struct diff_state host, soft;

	host_run(c, &host);
	*vector = host.vector;
	if (host.vector == VECTOR_SKIP)
		return SKIPPED;
	soft_run(c, &soft);
	if (o->dump) {
		dump("start", &c->start);
		dump("host", &host);
		dump("soft", &soft);
	}
	compare(r, c, &host, &soft);
	return r->len ? DIFFERENT : EQUAL;
}

static void print_code(const struct diff_case *c, unsigned int from, unsigned int to)
{
	for (unsigned int i = from; i < to && i < c->code_len; i++)
		printf("%02x", c->code[c->code_off + i]);
}

/* The first instruction after which the two sides differ. */
static void reduce(const struct options *o, const struct diff_case *c,
		   const struct gen_insns *insns, struct report *r, u32 vector)
{
	static struct diff_case cut;
	struct report last;
	unsigned int i;
	u32 cut_vector;

	for (i = 0; i + 1 < insns->n; i++) {
		cut = *c;
		memset(cut.code + c->code_off + insns->off[i + 1], 0xcc,
		       c->code_len - insns->off[i + 1]);
		if (run_both(o, &cut, &last, &cut_vector) != DIFFERENT)
			continue;
		*r = last;
		vector = cut_vector;
		break;
	}
	printf("DIFF seed %llu %u insn ", (unsigned long long)c->seed, c->start.code32 ? 32 : 64);
	print_code(c, insns->off[i], insns->off[i + 1]);
	printf(" (%u of %u)", i + 1, insns->n);
	printf("\n    code ");
	print_code(c, 0, insns->off[i + 1]);
	printf("\n    vector %u;%s\n", vector, r->text);
	fflush(stdout);
}

static bool selected(const struct options *o, const struct diff_case *c)
{
	char hex[2 * 1024 + 1];
	unsigned int n = min(c->code_len, 1024u);

	if (!o->only)
		return true;
	for (unsigned int i = 0; i < n; i++)
		sprintf(hex + 2 * i, "%02x", c->code[c->code_off + i]);
	hex[2 * n] = 0;
	return !regexec(&o->re, hex, 0, NULL, 0);
}

static void run_case(const struct options *o, const struct diff_case *c,
		     const struct gen_insns *insns, struct progress *p)
{
	struct report r;
	u32 vector = 0;

	switch (run_both(o, c, &r, &vector)) {
	case SKIPPED:
		p->skipped++;
		return;
	case DIFFERENT:
		p->different++;
		if (p->different <= o->reports)
			reduce(o, c, insns, &r, vector);
		break;
	case EQUAL:
		break;
	}
	p->ran++;
	if (vector < 32)
		p->vectors[vector]++;
}

static void generate(struct diff_case *c, u64 seed, struct gen_insns *insns)
{
	gen_state(c, seed, gen_is_code32(seed));
	gen_code(c, seed, insns);
}

static bool parse_corpus_line(const char *line, struct diff_case *c, struct gen_insns *insns)
{
	unsigned long long seed;
	unsigned int bits;
	int at = 0;

	if (sscanf(line, "%llu %u %n", &seed, &bits, &at) < 2 || !at)
		return false;
	gen_state(c, seed, bits == 32);
	c->code_len = 0;
	for (const char *p = line + at;
	     sscanf(p, "%2hhx", &c->code[c->code_off + c->code_len]) == 1; p += 2)
		if (++c->code_len + c->code_off == CODE_SIZE)
			break;
	if (c->code_off + c->code_len < CODE_SIZE)
		c->code[c->code_off + c->code_len] = 0xcc;
	insns->n = 1;
	insns->off[0] = 0;
	insns->off[1] = c->code_len;
	return c->code_len > 0;
}

static int replay_corpus(const struct options *o, struct progress *p)
{
	static struct diff_case c;
	struct gen_insns insns;
	char line[4096];
	FILE *f = fopen(o->corpus, "re");

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f))
		if (line[0] != '#' && parse_corpus_line(line, &c, &insns))
			run_case(o, &c, &insns, p);
	fclose(f);
	return 0;
}

static u64 seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec;
}

/* Exit status of the child. */
static int child(const struct options *o, struct progress *p)
{
	static struct diff_case c;
	struct gen_insns insns;
	u64 until = seconds_now() + o->seconds;
	int ret = soft_init(o->engine);

	if (ret < 0) {
		printf("SKIP: softkvm: %s\n", strerror(-ret));
		return 77;
	}
	ret = host_init();
	if (ret < 0) {
		printf("SKIP: host runner: %s\n", strerror(-ret));
		return 77;
	}
	if (o->corpus && p->next == 0 && replay_corpus(o, p)) {
		printf("cannot read %s\n", o->corpus);
		return 2;
	}
	for (; p->next < o->count; p->next++) {
		if (o->seconds && !(p->next & 255) && seconds_now() >= until)
			break;
		generate(&c, o->seed + p->next, &insns);
		rows_note(rows, &c, &insns);
		if (selected(o, &c))
			run_case(o, &c, &insns, p);
	}
	return 0;
}

/* ---- the parent ---- */

static void parse_options(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{"seed", required_argument, NULL, 's'},
		{"count", required_argument, NULL, 'n'},
		{"only", required_argument, NULL, 'o'},
		{"corpus", required_argument, NULL, 'c'},
		{"dump", no_argument, NULL, 'd'},
		{"rows", no_argument, NULL, 'w'},
		{"reports", required_argument, NULL, 'r'},
		{"seconds", required_argument, NULL, 't'},
		{"engine", required_argument, NULL, 'e'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 's')
			o->seed = strtoull(optarg, NULL, 0);
		else if (c == 'n')
			o->count = strtoull(optarg, NULL, 0);
		else if (c == 't')
			o->seconds = (unsigned int)strtoul(optarg, NULL, 0);
		else if (c == 'r')
			o->reports = (unsigned int)strtoul(optarg, NULL, 0);
		else if (c == 'd')
			o->dump = true;
		else if (c == 'w')
			o->rows = true;
		else if (c == 'o')
			o->only = optarg;
		else if (c == 'e')
			o->engine = optarg;
		else if (c == 'c')
			o->corpus = optarg;
		else
			exit(2);
	}
	if (o->only && regcomp(&o->re, o->only, REG_EXTENDED | REG_NOSUB)) {
		fprintf(stderr, "--only: not a regular expression\n");
		exit(2);
	}
}

/* One child until it ends or is broken by a case. Its exit status, or -1 to go on. */
static int run_child(const struct options *o, struct progress *p)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return 2;
	if (pid == 0) {
		status = child(o, p);
		fflush(stdout);
		_exit(status);
	}
	if (waitpid(pid, &status, 0) != pid)
		return 2;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	printf("CRASH seed %llu: signal %d\n", (unsigned long long)(o->seed + p->next),
	       WTERMSIG(status));
	fflush(stdout);
	p->crashed++;
	p->next++;
	return p->crashed > 20 ? 1 : -1;
}

int main(int argc, char **argv)
{
	struct options o = {.seed = (u64)time(NULL) << 20,
			    .count = 1ull << 62,
			    .reports = 50,
			    .engine = "soft"};
	struct progress *p =
		mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int missing;
	int ret;

	rows = mmap(NULL, rows_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || rows == MAP_FAILED)
		return 2;
	parse_options(&o, argc, argv);
	if (o.count == 1ull << 62 && !o.seconds)
		o.seconds = 20;
	if (rows_init())
		return 2;
	printf("seed %llu\n", (unsigned long long)o.seed);
	fflush(stdout);
	do
		ret = run_child(&o, p);
	while (ret < 0);
	printf("%llu cases, %llu skipped, %llu different, %llu crashed; ended by",
	       (unsigned long long)p->ran, (unsigned long long)p->skipped,
	       (unsigned long long)p->different, (unsigned long long)p->crashed);
	for (unsigned int v = 0; v < 32; v++)
		if (p->vectors[v])
			printf(" %u:%llu", v, (unsigned long long)p->vectors[v]);
	printf("\n");
	missing = o.rows ? rows_report(rows, o.dump) : 0;
	if (ret)
		return ret;
	return missing || p->different || p->crashed || !p->ran;
}
