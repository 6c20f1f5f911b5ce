/* The translator from inside: what its files share. The design is in translate.c. */
#ifndef SOFT_TRANSLATE_INT_H
#define SOFT_TRANSLATE_INT_H

#include "engine/soft/code_memory.h"
#include "engine/soft/cpu.h"
#include "engine/soft/emit.h"
#include "engine/soft/flags.h"
#include "engine/soft/native_int.h"
#include "engine/soft/translate.h"

/* ---- what an operation is ---- */

enum tr_kind {
	TR_CALL,  /* the interpreter's function is called */
	TR_LEAVE, /* an end that the interpreter does */
	TR_NOP,
	TR_MOV,
	TR_MOVZX, /* sub: size of the source */
	TR_MOVSX,
	TR_LEA,
	TR_ALU, /* sub: E_ADD to E_CMP */
	TR_TEST,
	TR_UNARY, /* sub: TR_INC... */
	TR_IMUL,
	TR_IMUL3,
	TR_MUL,	   /* sub: 4 MUL, 5 IMUL */
	TR_SHIFT,  /* sub: /n of the group */
	TR_DOUBLE, /* SHLD, SHRD. sub: opcode byte (with an immediate) */
	TR_CMOV,
	TR_SETCC,
	TR_XCHG,
	TR_XADD,
	TR_CMPXCHG,
	TR_BIT,	 /* sub: 4 BT, BTS, BTR, BTC */
	TR_SCAN, /* sub: opcode byte */
	TR_BSWAP,
	TR_CBW,
	TR_CWD,
	TR_CARRY, /* CLC, STC, CMC. sub: opcode byte */
	TR_PUSH,
	TR_PUSH_IMM,
	TR_POP,
	TR_POP_FRAME, /* LEAVE */
	TR_NATIVE,    /* a vector instruction (translate_native.c) */
	TR_COUNT,     /* POPCNT, TZCNT, LZCNT. sub: opcode byte */
	TR_VEX,	      /* from here: translate_bits.c. sub: TR_ANDN... */
	TR_MULX,
	TR_RORX,
	TR_ADX, /* sub: TR_ADCX, TR_ADOX */
	TR_CRC32,
	TR_MOVBE,
	TR_DIV, /* sub: TR_UDIV, TR_IDIV */
	TR_JMP, /* from here: ends */
	TR_JCC,
	TR_FALL,
	TR_CALL_NEAR,
	TR_RET,
	TR_JMP_RM,
	TR_CALL_RM,
};

enum { TR_NOT = 2, TR_NEG = 3, TR_INC = 0x80, TR_DEC = 0x81 };
enum {
	TR_ANDN,
	TR_BEXTR,
	TR_BZHI,
	TR_SHLX,
	TR_SARX,
	TR_SHRX,
	TR_PDEP,
	TR_PEXT,
	TR_BLSR,
	TR_BLSMSK,
	TR_BLSI,
};
enum { TR_ADCX, TR_ADOX };
enum { TR_UDIV = 6, TR_IDIV = 7 };

/* Is it one of translate_bits.c? */
static inline bool tr_is_bits(unsigned int kind)
{
	return kind >= TR_VEX && kind <= TR_DIV;
}

struct tr_class {
	uop_fn *fn;
	u8 kind, sub, form, size;
};

#define TR_CLASSES 4096u /* of the hash: twice what there are, at least */

/* ---- one block under translation ---- */

/* An access of a uop to memory. */
enum { MEM_NONE, MEM_READ, MEM_WRITE };

struct tr_uop {
	const struct uop *u;
	uop_fn *fn; /* the interpreter's, of this uop alone */
	u8 kind, sub, form, size;
	u8 mem;			    /* MEM_* of an inline access: it may fault */
	u16 reads;		    /* flags (X86_*) */
	u16 writes;		    /* flags it gives a value whatever happens */
	u16 touches;		    /* ... or may give */
	u16 live;		    /* flags that somebody reads after it */
	u16 regs;		    /* guest registers it may write, a bit each */
	struct native_form form_of; /* TR_NATIVE */
};

/* An inline access that missed: the interpreter does the uop, and the code goes on. */
struct tr_slow {
	u32 jump[6]; /* to here */
	u8 jumps;
	u32 back;
	u8 uop;
	u8 flags_of; /* uop whose flags are recomputed first; TR_NONE: aflags is good */
	bool load_flags;
	bool leave; /* ... and the interpreter does the rest of the block */
};

#define TR_NONE 0xff

/* A way out to a block of the same page. Data in the code arena, beside the block's code. */
struct tr_edge {
	u32 jump;     /* place of the distance, in the arena */
	u32 cached;   /* code that goes there by way of the jump cache */
	u16 page_off; /* of the target */
	u16 unused;
};

/* How the interpreter goes on with the last uop: by fn. */
struct tr_leave {
	const struct uop *uop;
	uop_fn *fn;
	u16 page_off; /* of the block */
};

struct tr_out {
	u32 jump; /* to be linked */
	u32 poll; /* taken when exit_request is set; 0: none */
	u16 page_off;
};

#define TR_UOPS	 (BLOCK_MAX + 3)
#define TR_SLOWS (3 * TR_UOPS)
#define TR_REFS	 3 /* slow paths of a uop, at most */

struct tr {
	struct kvm_vcpu *vcpu;
	struct translator *x;
	struct block *block;
	struct emit e;
	s64 stub_base; /* place of the arena's start, as the emitter sees it */
	u32 page_off;  /* of the block */
	u32 direct;    /* the entry for links */
	bool mode64;
	u8 half;     /* of the address space, where the code was when it was translated */
	u8 ax;	     /* guest register whose value is in RAX as well; or TR_NONE */
	u8 ax_next;  /* ... after the present uop */
	bool called; /* C code has run in this block: poll at its end */
	/* where the guest's arithmetic flags are now */
	bool in_host, in_aflags;
	u8 flags_of;	 /* neither: dead, but for a fault, and these are recomputed; or TR_NONE */
	bool checked[3]; /* SSE, AVX, MXCSR: as the block's instructions want it */
	u8 producer;	 /* the uop that made what is in_host, or TR_NONE */
	unsigned int i, n;
	struct tr_uop op[TR_UOPS];
	u32 copy_ref[TR_UOPS][TR_REFS]; /* places of the distances to the copy of the uop */
	struct tr_slow slow[TR_SLOWS];
	unsigned int slows;
	struct tr_out out[2];
	unsigned int outs;
	u32 leave[4]; /* jumps to the end that the interpreter does */
	unsigned int leaves;
};

/* ---- the translator of a vCPU ---- */

#define TR_ARENA     (32 * MiB)
#define TR_BLOCK_MAX (24 * KiB) /* of code, for one block */

struct translator {
	struct code_memory arena; /* from the first hot block on */
	u32 used;
	u32 fixed; /* the stubs, at the start, are always there */
	u32 threshold;
	/* places of the stubs */
	u32 enter;	  /* uop_fn of a translated block */
	u32 untranslated; /* struct block.code of any other */
	u32 leave;	  /* rax: struct tr_leave */
	u32 call;	  /* rax: copy of the uop */
	u32 call_leave;	  /* likewise; the interpreter goes on after it */
	u32 link;	  /* rax: struct tr_edge */
	u32 lookup_entry; /* rax: struct jump_entry that is not the one */
	u32 lookup;	  /* rdx: rip */
	u32 cached;	  /* likewise, after a look at the jump cache */
	struct tr_class classes[TR_CLASSES];
};

/* ---- registers ---- */

#define X_VCPU X_BP
/* Scratch: RAX (flags are saved through it), RDX (addresses). */

#define VCPU_OFF(member) ((s32)offsetof(struct kvm_vcpu, member))
#define CPU_OFF(member)	 ((s32)offsetof(struct cpu, member))

/* Host register of a guest register, or X_NONE: it stays in the vCPU. */
extern const u8 tr_host[16];

static inline struct opnd op_vcpu(s32 off)
{
	return op_mem(X_VCPU, off);
}

/* Where a register operand is: its host register, or its place in the vCPU. AH to BH are always
 * there (the driver sees to it). */
static inline struct opnd tr_guest(u8 field)
{
	u8 host = tr_host[field >> 3];

	return field & 7 || host == X_NONE ? op_vcpu(field) : op_reg(host);
}

/* A host register that holds the operand: its own, or `scratch`, loaded. */
unsigned int tr_value(struct tr *t, u8 field, unsigned int size, unsigned int scratch);
/* The operand itself, or RAX where that has it (32 and 64 bits). */
struct opnd tr_source(struct tr *t, u8 field, unsigned int size);
/* RAX <- the operand (32 and 64 bits). */
void tr_load_ax(struct tr *t, u8 field, unsigned int size);
/* Write `reg` (32 bits: zero-extended already) to a register operand. */
void tr_put(struct tr *t, u8 field, unsigned int size, unsigned int reg);

/* ---- files ---- */

/* translate_class.c */
void tr_classes_init(struct translator *x);
/* Fill op from u; last: u ends the block. */
void tr_classify(const struct kvm_vcpu *vcpu, struct tr_uop *op, const struct uop *u, bool last);
/* Liveness, backwards; all flags are live at the end. */
void tr_liveness(struct tr *t);

/* translate_stubs.c */
void tr_stubs_init(struct translator *x);
void tr_spill(struct emit *e);
void tr_reload(struct emit *e);

/* translate_block.c: 0, or -ENOSPC when the arena is full, or -EINVAL. */
int tr_block(struct kvm_vcpu *vcpu, struct block *block);
/* Flags into aflags; out of it. */
void tr_save_flags(struct tr *t);
/* Flags that the present uop reads into the host's. */
void tr_need_flags(struct tr *t);

/* translate_mem.c */
bool tr_address_is_plain(const struct uop *u);
/* The offset part of the address of u, into reg. */
void tr_lea(struct tr *t, const struct uop *u, unsigned int reg, unsigned int size);
/* RDX: the linear address. */
void tr_address(struct tr *t, const struct uop *u);
/* RDX, a linear address, becomes a host pointer to `bytes` there; returns the jump that is taken
 * when the TLB does not know it. Clobbers the scratch registers and the flags. */
u32 tr_check(struct tr *t, unsigned int bytes, bool write);
/* ... which goes to the slow path. */
void tr_miss(struct tr *t, u32 jump, bool leave);

/* translate_alu.c, translate_data.c: emit the present uop. */
void tr_emit_alu(struct tr *t, const struct tr_uop *op);
void tr_emit_data(struct tr *t, const struct tr_uop *op);
/* translate_bits.c: operand size of an operation that has one function for all. */
u8 tr_size_of(u8 kind, const struct uop *u);
/* Of kinds TR_VEX to TR_DIV. */
bool tr_bits_is_inline(const struct tr_uop *op);
u16 tr_bits_writes(const struct tr_uop *op);
u16 tr_bits_registers(const struct tr_uop *op);
void tr_emit_bits(struct tr *t, const struct tr_uop *op);
/* translate_native.c */
bool tr_native_classify(const struct kvm_vcpu *vcpu, struct tr_uop *op);
/* Bytes of its memory operand. */
unsigned int tr_native_bytes(const struct tr_uop *op);
/* Checks of control registers, before the address; after it; and the instruction. */
bool tr_native_must_check(const struct tr *t, const struct tr_uop *op);
void tr_native_check(struct tr *t, const struct tr_uop *op);
void tr_native_align(struct tr *t, const struct tr_uop *op);
void tr_emit_native(struct tr *t, const struct tr_uop *op);
/* translate_branch.c */
void tr_emit_end(struct tr *t, const struct tr_uop *op);
/* RAX <- the vCPU's struct cpu plus the place of RDX's entry in the jump cache. */
void tr_jump_slot(struct emit *e);

/* translate.c: C code that the stubs call. */
const struct uop *translate_link(struct kvm_vcpu *vcpu, struct tr_edge *edge);
const struct uop *translate_lookup(struct kvm_vcpu *vcpu);

#endif
