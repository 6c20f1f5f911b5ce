/*
 * The translator: blocks that are entered often become host code (translate.c). Belongs to a vCPU;
 * all of it is called on the vCPU's thread, or while the vCPU is parked.
 */
#ifndef SOFT_TRANSLATE_H
#define SOFT_TRANSLATE_H

#include "engine/soft/blocks.h"

/* Entries of a block before it is translated. */
#define TRANSLATE_THRESHOLD 32u

/* threshold 0: no translator. 0 or -errno. */
int translate_init(struct kvm_vcpu *vcpu, u32 threshold);
void translate_free(struct kvm_vcpu *vcpu);

/* What blocks.c owes the translator. A block was made: */
void translate_block_made(struct kvm_vcpu *vcpu, struct block *block);
/* ... is dropped: its code leaves for the interpreter at once. */
void translate_block_dropped(struct kvm_vcpu *vcpu, struct block *block);
/* ... and all of them are gone. */
void translate_all_dropped(struct kvm_vcpu *vcpu);

#endif
