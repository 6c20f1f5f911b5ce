/*
 * User-mode networking: libslirp's TCP/IP stack between the guest and the host's sockets. Needs no
 * root. The stack is not thread-safe, so it has a thread of its own, which also runs the loop that
 * the front end is called on.
 *
 * Invariants:
 * 1. The stack is touched only by the link's thread (and before it starts, after it ended).
 * 2. Frames for the stack wait in a ring of SLOTS frames, guarded by lock; when it is full the
 *    front end waits (sender_waits) until half of it is free.
 * 3. A frame that the front end does not take goes to the backlog, and while that is not empty the
 *    stack's sockets are not polled: the host's peers are slowed by TCP, and datagrams wait in the
 *    kernel. What the stack still sends then (answers to the guest's own frames) is dropped when
 *    the backlog is full.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/log.h"
#include "net/net_int.h"
#include "net/user_int.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/plugin.h"
#include "os/thread.h"

#define SLOTS	    256
#define BACKLOG_MAX 256
#define SPARE_FDS   128
#define MOST_FDS    8192 /* each connection of the guest's is one, and memory of the host's kernel */

struct backlog_frame {
	struct list link;
	u32 len;
	u8 data[];
};

struct user_timer {
	struct loop_timer timer;
	struct user *user;
	SlirpTimerId id;
	void *opaque;
};

struct user {
	struct net net;
	const struct slirp_api *api;
	Slirp *slirp;
	struct user_forwards forwards;
	struct loop *loop;
	struct thread thread;
	bool quit, quiet; /* the link's thread */
	/* to the stack */
	pthread_mutex_t lock;
	pthread_cond_t quieted;
	u8 *slots;
	u32 slot_size, slot_len[SLOTS];
	u32 head, tail;
	bool sender_waits;
	struct loop_work input, resume, stop;
	/* to the guest */
	struct list backlog;
	u32 backlog_len;
	u64 dropped;
	/* poll set of this turn */
	struct pollfd *fds;
	u32 nfds, max_fds;
	int last_fd; /* that connections from the host may take */
	bool full;   /* it is taken */
};

static struct user *user_of(struct net *net)
{
	return container_of(net, struct user, net);
}

/* ---- the stack's callbacks ---- */

static bool deliver(struct user *u, const void *data, u32 len)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct net_frame frame = {.iov = &iov, .niov = 1, .len = len};

	return u->quiet || net_deliver(&u->net, 0, &frame, 1) == 1;
}

static ssize_t send_packet(const void *data, size_t len, void *opaque)
{
	struct user *u = opaque;
	struct backlog_frame *f;

	if (len < NET_MIN_FRAME || len > NET_MAX_FRAME)
		return (ssize_t)len;
	if (list_empty(&u->backlog) && deliver(u, data, (u32)len))
		return (ssize_t)len;
	f = u->backlog_len < BACKLOG_MAX ? malloc(sizeof(*f) + len) : NULL;
	if (!f) {
		u->dropped++;
		return (ssize_t)len;
	}
	f->len = (u32)len;
	memcpy(f->data, data, len);
	list_add_tail(&u->backlog, &f->link);
	u->backlog_len++;
	return (ssize_t)len;
}

static void guest_error(const char *msg, void *opaque)
{
	log_guest("network: %s", msg);
}

/* What a guest can make the library say. */
static void library_line(const char *text)
{
	log_guest("network: %s", text);
}

static int64_t clock_ns(void *opaque)
{
	return (int64_t)clock_now_ns();
}

static void timer_fired(struct loop_timer *timer)
{
	struct user_timer *t = container_of(timer, struct user_timer, timer);

	t->user->api->handle_timer(t->user->slirp, t->id, t->opaque);
}

static void *timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->user = opaque;
	t->id = id;
	t->opaque = cb_opaque;
	loop_timer_init(t->user->loop, &t->timer, timer_fired);
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		loop_timer_disarm(&t->timer);
	free(t);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		loop_timer_arm(&t->timer, (u64)expire_ms * NSEC_PER_MSEC);
}

static void poll_fd_noted(int fd, void *opaque)
{
	/* The poll set is made anew at each turn. */
}

static void notify(void *opaque)
{
	/* Called on the thread that polls next anyway. */
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_ns,
	.timer_new_opaque = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = poll_fd_noted,
	.unregister_poll_fd = poll_fd_noted,
	.notify = notify,
};

/* ---- the thread ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;

	if (u->nfds + 1 >= u->max_fds) {
		u32 max = u->max_fds ? 2 * u->max_fds : 64;
		struct pollfd *grown = realloc(u->fds, max * sizeof(*grown));

		if (!grown)
			return -1;
		u->fds = grown;
		u->max_fds = max;
	}
	u->fds[u->nfds] = (struct pollfd){
		.fd = fd,
		.events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) |
				  (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
				  (events & SLIRP_POLL_PRI ? POLLPRI : 0)),
	};
	return (int)u->nfds++;
}

static bool is_listening(int fd)
{
	socklen_t len = sizeof(int);
	int on = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) && on;
}

/* New descriptors get the lowest number that is free. */
static bool is_short_of_fds(const struct user *u)
{
	int fd;

	if (fcntl(u->last_fd, F_GETFD) < 0)
		return false;
	fd = fcntl(loop_fd(u->loop), F_DUPFD_CLOEXEC, 0);
	if (fd >= 0)
		close(fd);
	return fd < 0 || fd > u->last_fd;
}

/* With few descriptors left nobody is let in: the others need them, and a connection that cannot be
 * accepted would be reported for ever. */
static int add_socket(int fd, int events, void *opaque)
{
	struct user *u = opaque;

	return add_poll(fd, u->full && is_listening(fd) ? 0 : events, u);
}

static int get_revents(int index, void *opaque)
{
	struct user *u = opaque;
	short ev;

	if (index < 0 || (u32)index >= u->nfds)
		return 0;
	ev = u->fds[index].revents;
	return (ev & POLLIN ? SLIRP_POLL_IN : 0) | (ev & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (ev & POLLPRI ? SLIRP_POLL_PRI : 0) | (ev & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (ev & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int poll_timeout(struct user *u, u32 slirp_ms)
{
	s64 ns = loop_wait_ns(u->loop);
	u64 ms = ns < 0 ? ~0ULL : ((u64)ns + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;

	if (slirp_ms != ~0u)
		ms = min(ms, (u64)slirp_ms);
	return ms > 60000 ? 60000 : (int)ms;
}

static void turn(struct user *u)
{
	bool polled = list_empty(&u->backlog) && !u->quiet;
	u32 slirp_ms = ~0u, slirp_fds;
	int rc;

	u->nfds = 0;
	u->full = is_short_of_fds(u);
	if (polled)
		u->api->pollfds_fill(u->slirp, &slirp_ms, add_socket, u);
	if (polled && u->forwards.udp)
		user_udp_fill(u->forwards.udp, add_poll, u);
	slirp_fds = u->nfds;
	if (add_poll(loop_fd(u->loop), SLIRP_POLL_IN, u) < 0)
		slirp_ms = 10; /* out of memory: look at the loop now and then */
	rc = poll(u->fds, u->nfds, poll_timeout(u, slirp_ms));
	u->nfds = slirp_fds;
	if (polled)
		u->api->pollfds_poll(u->slirp, rc < 0, get_revents, u);
	if (polled && u->forwards.udp)
		user_udp_receive(u->forwards.udp, get_revents, u);
	loop_run_once(u->loop, 0);
}

static void *user_main(void *arg)
{
	struct user *u = arg;

	while (!u->quit)
		turn(u);
	return NULL;
}

/* ---- from the guest ---- */

static u32 user_send(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n)
{
	struct user *u = user_of(net);
	u32 sent = 0;

	pthread_mutex_lock(&u->lock);
	for (; sent < n && u->head - u->tail < SLOTS; sent++) {
		u32 slot = u->head % SLOTS;

		if (frames[sent].len > u->slot_size)
			continue; /* larger than the MTU: nobody could have sent it */
		u->slot_len[slot] = frames[sent].len;
		iov_to_buf(frames[sent].iov, frames[sent].niov, 0,
			   u->slots + (size_t)slot * u->slot_size, frames[sent].len);
		u->head++;
	}
	u->sender_waits = sent < n;
	pthread_mutex_unlock(&u->lock);
	if (sent)
		loop_post(u->loop, &u->input);
	return sent;
}

/* The stack connects to whatever a frame names, and these names lead to the host itself: 0.0.0.0/8
 * and 127.0.0.0/8, by IPv6 [::], [::1] and what stands for an address of IPv4. */
static bool is_for_loopback(const u8 *frame, u32 len)
{
	static const u8 zeros[10];

	if (len >= 34 && load_be16(frame + 12) == 0x0800)
		return frame[30] == 0 || frame[30] == 127;
	return len >= 54 && load_be16(frame + 12) == 0x86dd && !memcmp(frame + 38, zeros, 10);
}

static void take_frame(struct user *u, const u8 *frame, u32 len)
{
	if (is_for_loopback(frame, len))
		return;
	if (!u->forwards.udp || !user_udp_input(u->forwards.udp, frame, len))
		u->api->input(u->slirp, frame, (int)len);
}

static void input_work(struct loop_work *work)
{
	struct user *u = container_of(work, struct user, input);
	u32 head, tail;
	bool tell;

	pthread_mutex_lock(&u->lock);
	head = u->head;
	tail = u->tail;
	pthread_mutex_unlock(&u->lock);
	/* [tail, head) is ours until tail moves. */
	for (u32 i = tail; i != head; i++)
		take_frame(u, u->slots + (size_t)(i % SLOTS) * u->slot_size,
			   u->slot_len[i % SLOTS]);
	pthread_mutex_lock(&u->lock);
	u->tail = head;
	tell = u->sender_waits && u->head - u->tail <= SLOTS / 2;
	if (tell)
		u->sender_waits = false;
	pthread_mutex_unlock(&u->lock);
	if (tell && !u->quiet)
		net_deliver_sendable(&u->net, 0);
}

/* ---- to the guest ---- */

static void resume_work(struct loop_work *work)
{
	struct user *u = container_of(work, struct user, resume);

	while (!list_empty(&u->backlog)) {
		struct backlog_frame *f = list_first(&u->backlog, struct backlog_frame, link);

		if (!deliver(u, f->data, f->len))
			return;
		list_del(&f->link);
		u->backlog_len--;
		free(f);
	}
}

static void user_resume(struct net *net, unsigned int pair)
{
	struct user *u = user_of(net);

	loop_post(u->loop, &u->resume);
}

/* ---- life ---- */

static void deliver_datagram(void *ctx, const u8 *data, u32 len)
{
	send_packet(data, len, ctx);
}

static int open_stack(struct user *u, const struct user_config *c, struct err *err)
{
	SlirpConfig config;
	int rc = user_make_config(c, &config, err);
	u64 limit;

	if (rc)
		return rc;
	limit = fd_limit_raise(MOST_FDS);
	u->last_fd =
		limit && limit < INT_MAX ? (int)(limit - min(limit / 2, (u64)SPARE_FDS)) : INT_MAX;
	u->api->set_log(library_line);
	u->slirp = u->api->new (&config, &callbacks, u);
	if (!u->slirp)
		return err_set(err, EINVAL, "libslirp refuses the configuration");
	u->forwards.api = u->api;
	u->forwards.slirp = u->slirp;
	u->forwards.guest = config.vdhcp_start;
	u->forwards.config = &config;
	u->forwards.mtu = (u32)c->mtu;
	u->forwards.deliver = deliver_datagram;
	u->forwards.ctx = u;
	rc = user_add_forwards(&u->forwards, c, err);
	u->forwards.config = NULL;
	return rc;
}

static void stop_work(struct loop_work *work)
{
	struct user *u = container_of(work, struct user, stop);

	pthread_mutex_lock(&u->lock);
	u->quiet = true;
	pthread_cond_signal(&u->quieted);
	pthread_mutex_unlock(&u->lock);
}

static int user_init(struct net *net, const void *config, struct err *err)
{
	const struct user_config *c = config;
	struct user *u = user_of(net);

	pthread_mutex_init(&u->lock, NULL);
	pthread_cond_init(&u->quieted, NULL);
	list_init(&u->backlog);
	u->input.fn = input_work;
	u->resume.fn = resume_work;
	u->stop.fn = stop_work;
	u->api = plugin_symbol("slirp", "slirp_api", err);
	if (!u->api) {
		err_prefix(err, "user networking needs libslirp (package libslirp0)");
		return -ENOENT;
	}
	u->slot_size = (u32)align_up(c->mtu + 18, 64);
	u->slots = malloc((size_t)SLOTS * u->slot_size);
	u->loop = loop_new();
	if (!u->slots || !u->loop)
		return err_set(err, ENOMEM, "out of memory");
	net->pair_loop[0] = u->loop;
	net->mtu = (u32)c->mtu;
	return open_stack(u, c, err);
}

/* The threads start with the first client, so that setting that needs no locks. */
static void user_attached(struct net *net, bool client)
{
	struct user *u = user_of(net);
	int rc = 0;

	if (!client || u->thread.started)
		return;
	for (u32 i = 0; i < u->forwards.relays && !rc; i++)
		rc = relay_start(u->forwards.relay[i]);
	if (rc || thread_start(&u->thread, THREAD_NET, "net-user", user_main, u))
		log_error("network: cannot start a thread");
}

static void user_stop(struct net *net)
{
	struct user *u = user_of(net);

	if (!u->thread.started) {
		u->quiet = true;
		return;
	}
	loop_post(u->loop, &u->stop);
	pthread_mutex_lock(&u->lock);
	while (!u->quiet)
		pthread_cond_wait(&u->quieted, &u->lock);
	pthread_mutex_unlock(&u->lock);
}

static void quit_work(struct loop_work *work)
{
	container_of(work, struct user, stop)->quit = true;
}

static void user_free(struct net *net)
{
	struct user *u = user_of(net);

	if (u->thread.started) {
		u->stop.fn = quit_work;
		loop_post(u->loop, &u->stop);
		thread_join(&u->thread);
	}
	if (u->slirp)
		u->api->cleanup(u->slirp);
	for (u32 i = 0; i < u->forwards.relays; i++)
		relay_free(u->forwards.relay[i]);
	for (u32 i = 0; i < u->forwards.paths; i++)
		sock_unlink(&u->forwards.path[i]);
	user_udp_free(u->forwards.udp);
	while (!list_empty(&u->backlog)) {
		struct backlog_frame *f = list_first(&u->backlog, struct backlog_frame, link);

		list_del(&f->link);
		free(f);
	}
	loop_free(u->loop);
	free(u->slots);
	free(u->fds);
	pthread_cond_destroy(&u->quieted);
	pthread_mutex_destroy(&u->lock);
}

const struct net_class net_user = {
	.name = "user",
	.summary = "the host's network through user-mode NAT, without root",
	.size = sizeof(struct user),
	.options = user_options,
	.config_size = sizeof(struct user_config),
	.check = user_check,
	.init = user_init,
	.send = user_send,
	.resume = user_resume,
	.attached = user_attached,
	.stop = user_stop,
	.free = user_free,
};
