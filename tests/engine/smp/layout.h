/* What the guest and its monitor agree on. Guest-physical, mapped one to one but for WINDOW. */
#ifndef SMP_LAYOUT_H
#define SMP_LAYOUT_H

#define SMP_CPUS 4

#define PML4	   0x10000u
#define PDPT	   0x11000u
#define PAGE_DIR   0x12000u
#define WINDOW_DIR 0x13000u
#define WINDOW_PT  0x14000u
#define GDT	   0x15000u
#define CODE	   0x100000u
#define STACKS	   0x300000u /* 16 KiB each */
#define FUNCTION   0x400003u /* its immediate is aligned */
#define FRAME0	   0x500000u /* what WINDOW shows, alternately */
#define FRAME1	   0x501000u
#define RAM	   0x1000000u
#define LOGGED	   0x20000000u /* a slot with a dirty log, of LOGGED_PAGES */
#define COMING	   0x30000000u /* a slot that comes and goes, of a page */
#define WINDOW	   0x40000000u /* linear */

#define LOGGED_PAGES 64

#define IPI_VECTOR 0x41
#define MSI_VECTOR 0x51

/* Ports: a processor is done; a fact is not so (line number in EAX); an exception (vector). */
#define PORT_DONE  0xf0
#define PORT_FALSE 0xf1
#define PORT_FAULT 0xf2
#define PORT_PING  0xf3 /* an exit, for its own sake */

#endif
