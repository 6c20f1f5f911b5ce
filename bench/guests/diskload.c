/*
 * The whole user land of the virtio benchmark: load the modules of /modules/order, run every case
 * on /dev/vda and on the network card, say what came out, end the run.
 *
 * A case prints "BEGIN name" and "END name requests nanoseconds" on the console, so that the host
 * can read its own clocks at both.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECONDS	    2ull /* of a case */
#define MAX_DEPTH   16
#define FRAME	    64
#define WINDOW	    32
#define ETHER_LOCAL 0x88b5 /* for experiments, IEEE 802 */

struct ring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
};

struct load {
	const char *name;
	unsigned int depth, size;
	int write, random;
};

static const struct load loads[] = {
	{"rand-read-4k-1", 1, 4096, 0, 1},	  {"rand-read-4k-16", 16, 4096, 0, 1},
	{"rand-write-4k-1", 1, 4096, 1, 1},	  {"rand-write-4k-16", 16, 4096, 1, 1},
	{"seq-read-128k-4", 4, 128 * 1024, 0, 0}, {"seq-write-128k-4", 4, 128 * 1024, 1, 0},
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static _Noreturn void finish(void)
{
	fflush(stdout);
	sleep(1); /* the serial port's buffer */
	if (!iopl(3))
		outb(0, 0xf4);
	for (;;)
		pause();
}

static _Noreturn void die(const char *what)
{
	printf("FAILED %s: %s\n", what, strerror(errno));
	finish();
}

static void load_modules(void)
{
	char path[256], name[128];
	FILE *order = fopen("/modules/order", "r");
	int fd;

	while (order && fscanf(order, "%127s", name) == 1) {
		snprintf(path, sizeof(path), "/modules/%s.ko", name);
		fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			die(path);
		close(fd);
	}
	if (order)
		fclose(order);
}

/* ---- disk ---- */

static void *map(int fd, size_t size, off_t offset)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);

	if (p == MAP_FAILED)
		die("mmap of io_uring");
	return p;
}

static void ring_open(struct ring *r, unsigned int depth)
{
	struct io_uring_params p = {0};
	char *sq, *cq;

	r->fd = (int)syscall(SYS_io_uring_setup, depth, &p);
	if (r->fd < 0)
		die("io_uring_setup");
	sq = map(r->fd, p.sq_off.array + p.sq_entries * sizeof(unsigned int), IORING_OFF_SQ_RING);
	cq = map(r->fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
		 IORING_OFF_CQ_RING);
	r->sqe = map(r->fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	r->sq_tail = (void *)(sq + p.sq_off.tail);
	r->sq_mask = (void *)(sq + p.sq_off.ring_mask);
	r->sq_array = (void *)(sq + p.sq_off.array);
	r->cq_head = (void *)(cq + p.cq_off.head);
	r->cq_tail = (void *)(cq + p.cq_off.tail);
	r->cq_mask = (void *)(cq + p.cq_off.ring_mask);
	r->cqe = (void *)(cq + p.cq_off.cqes);
}

static uint64_t next_place(const struct load *l, uint64_t blocks, uint64_t *state)
{
	if (!l->random)
		return (*state)++ % blocks * l->size;
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (*state >> 20) % blocks * l->size;
}

static void push(struct ring *r, const struct io_uring_sqe *sqe)
{
	unsigned int tail = *r->sq_tail, slot = tail & *r->sq_mask;

	r->sqe[slot] = *sqe;
	r->sq_array[slot] = slot;
	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

static void run_load(const struct load *l, int disk, uint64_t size, char *memory)
{
	unsigned int idle[MAX_DEPTH], free_slots = l->depth;
	uint64_t state = 1, done = 0, start, end;
	struct ring r;

	ring_open(&r, MAX_DEPTH);
	for (unsigned int i = 0; i < l->depth; i++)
		idle[i] = i;
	printf("BEGIN %s\n", l->name);
	fflush(stdout);
	start = now();
	for (end = start; end - start < SECONDS * 1000000000; end = now()) {
		unsigned int submit = free_slots, head = *r.cq_head;

		while (free_slots) {
			unsigned int slot = idle[--free_slots];

			push(&r, &(struct io_uring_sqe){
					 .opcode = l->write ? IORING_OP_WRITE : IORING_OP_READ,
					 .fd = disk,
					 .addr = (uintptr_t)memory + slot * l->size,
					 .len = l->size,
					 .off = next_place(l, size / l->size, &state),
					 .user_data = slot,
				 });
		}
		if (syscall(SYS_io_uring_enter, r.fd, submit, 1, IORING_ENTER_GETEVENTS, NULL, 0) <
		    0)
			die("io_uring_enter");
		for (; head != __atomic_load_n(r.cq_tail, __ATOMIC_ACQUIRE); head++, done++) {
			const struct io_uring_cqe *c = &r.cqe[head & *r.cq_mask];

			errno = EIO;
			if (c->res != (int)l->size)
				die(l->name);
			idle[free_slots++] = (unsigned int)c->user_data;
		}
		__atomic_store_n(r.cq_head, head, __ATOMIC_RELEASE);
	}
	printf("END %s %llu %llu\n", l->name, (unsigned long long)done,
	       (unsigned long long)(end - start));
	fflush(stdout);
	close(r.fd); /* cancels or waits for the rest */
}

static void disk_loads(void)
{
	char *memory = mmap(NULL, MAX_DEPTH * 128 * 1024, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	int disk = -1;
	off_t size;

	for (int i = 0; i < 100 && disk < 0; i++) {
		disk = open("/dev/vda", O_RDWR | O_DIRECT);
		if (disk < 0)
			usleep(50000);
	}
	size = disk < 0 ? -1 : lseek(disk, 0, SEEK_END);
	if (size <= 0 || memory == MAP_FAILED)
		die("/dev/vda");
	for (size_t i = 0; i < sizeof(loads) / sizeof(*loads); i++)
		run_load(&loads[i], disk, (uint64_t)size, memory);
	close(disk);
}

/* ---- network: frames that come back ---- */

static int card_open(struct sockaddr_ll *to)
{
	int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETHER_LOCAL));
	struct ifreq ifr = {.ifr_name = "eth0"};

	if (fd < 0 || ioctl(fd, SIOCGIFINDEX, &ifr))
		return -1;
	*to = (struct sockaddr_ll){
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETHER_LOCAL),
		.sll_ifindex = ifr.ifr_ifindex,
		.sll_halen = 6,
		.sll_addr = {255, 255, 255, 255, 255, 255},
	};
	ifr.ifr_flags = IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) || bind(fd, (struct sockaddr *)to, sizeof(*to)))
		return -1;
	return fd;
}

static int wait_frame(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 200) == 1;
}

static void net_load(void)
{
	char frame[FRAME] = {0};
	struct sockaddr_ll to, from;
	socklen_t len;
	unsigned int flying = 0, lost = 0;
	uint64_t done = 0, start, end;
	int fd = card_open(&to);

	if (fd < 0) {
		printf("NO CARD\n");
		return;
	}
	sleep(1); /* for the link, and what the kernel itself sends */
	printf("BEGIN net-64\n");
	fflush(stdout);
	start = now();
	for (end = start; end - start < SECONDS * 1000000000; end = now()) {
		for (; flying < WINDOW; flying++)
			if (sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&to,
				   sizeof(to)) < 0)
				break;
		if (!wait_frame(fd)) {
			lost += flying;
			flying = 0;
		}
		for (len = sizeof(from); flying; len = sizeof(from)) {
			if (recvfrom(fd, frame, sizeof(frame), MSG_DONTWAIT,
				     (struct sockaddr *)&from, &len) < 0)
				break;
			if (from.sll_pkttype == PACKET_OUTGOING)
				continue;
			flying--;
			done++;
		}
	}
	printf("END net-64 %llu %llu\nLOST %u\n", (unsigned long long)done,
	       (unsigned long long)(end - start), lost);
	fflush(stdout);
}

int main(void)
{
	int console;

	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, "");
	console = open("/dev/ttyS0", O_RDWR);
	if (console >= 0)
		dup2(console, 1);
	load_modules();
	disk_loads();
	net_load();
	printf("FINISHED\n");
	finish();
}
