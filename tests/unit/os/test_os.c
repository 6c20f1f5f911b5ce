#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/event.h"
#include "os/file.h"
#include "os/loop.h"
#include "os/plugin.h"
#include "os/thread.h"

static char order[64];
static struct loop *the_loop;

struct named_timer {
	struct loop_timer timer;
	char name;
};

static void on_timer(struct loop_timer *timer)
{
	struct named_timer *t = container_of(timer, struct named_timer, timer);

	order[strlen(order)] = t->name;
	if (t->name == 'z')
		loop_stop(the_loop, 7);
}

static void timers(void **state)
{
	struct named_timer t[6];
	u64 now = clock_now_ns();
	static const int delay[] = {5, 1, 4, 2, 3, 6};

	memset(order, 0, sizeof(order));
	the_loop = loop_new();
	for (int i = 0; i < 6; i++) {
		loop_timer_init(the_loop, &t[i].timer, on_timer);
		t[i].name = i == 5 ? 'z' : (char)('a' + i);
		loop_timer_arm(&t[i].timer, now + (u64)delay[i] * 200000);
	}
	loop_timer_disarm(&t[2].timer);
	loop_timer_arm(&t[1].timer, now + 5 * 200000 + 50000);
	assert_int_equal(loop_run(the_loop), 7);
	assert_string_equal(order, "deabz");
	loop_free(the_loop);
}

struct pair {
	struct loop_watch a, b;
	int calls;
};
static struct pair pair;

static void delete_other(struct loop_watch *w, u32 events)
{
	pair.calls++;
	loop_watch_del(&pair.a);
	loop_watch_del(&pair.b);
}

static void watch_deleted_in_callback(void **state)
{
	the_loop = loop_new();
	pair.a = (struct loop_watch){.fd = event_new(), .fn = delete_other};
	pair.b = (struct loop_watch){.fd = event_new(), .fn = delete_other};
	loop_watch_add(the_loop, &pair.a, EPOLLIN);
	loop_watch_add(the_loop, &pair.b, EPOLLIN);
	event_signal(pair.a.fd);
	event_signal(pair.b.fd);
	loop_run_once(the_loop, 0);
	loop_run_once(the_loop, 0);
	assert_int_equal(pair.calls, 1);
	close(pair.a.fd);
	close(pair.b.fd);
	loop_free(the_loop);
}

static int posts;

static void on_work(struct loop_work *work)
{
	if (++posts < 100)
		loop_post(the_loop, work);
	else
		loop_stop(the_loop, 0);
}

static void *poster(void *arg)
{
	usleep(2000);
	loop_post(the_loop, arg);
	return NULL;
}

static void posted_from_thread(void **state)
{
	struct loop_work work = {.fn = on_work}, cancelled = {.fn = on_work};
	struct thread t = {0};

	the_loop = loop_new();
	loop_post(the_loop, &cancelled);
	loop_cancel(the_loop, &cancelled);
	assert_int_equal(thread_start(&t, THREAD_HELPER, "poster", poster, &work), 0);
	loop_run(the_loop);
	thread_join(&t);
	assert_int_equal(posts, 100);
	loop_free(the_loop);
}

static void *sleeper(void *arg)
{
	char c;
	int *fds = arg;

	return read(fds[0], &c, 1) < 0 && errno == EINTR ? arg : NULL;
}

static void kick_interrupts(void **state)
{
	struct thread t = {0};
	void *result;
	int fds[2];

	thread_init();
	assert_int_equal(pipe(fds), 0);
	thread_start(&t, THREAD_HELPER, "sleeper", sleeper, fds);
	usleep(20000);
	thread_kick(&t);
	pthread_join(t.id, &result);
	assert_ptr_equal(result, fds);
	close(fds[0]);
	close(fds[1]);
}

static void files(void **state)
{
	char path[] = "/tmp/bothy-test-XXXXXX";
	int fd = mkstemp(path);
	struct err err;
	void *data;
	size_t len;

	close(fd);
	assert_int_equal(file_write_all(path, "hello", 5, &err), 0);
	assert_int_equal(file_read_all(path, 5, &data, &len, &err), 0);
	assert_int_equal(len, 5);
	assert_string_equal(data, "hello");
	free(data);
	assert_int_equal(file_read_all(path, 4, &data, &len, &err), -EFBIG);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(file_read_all("/nonexistent", 4, &data, &len, &err), -ENOENT);
	fd = open(path, O_RDWR);
	assert_int_equal(pread_full(fd, path, 6, 0), -EIO);
	close(fd);
	unlink(path);
	fd = memfd_new("t", 8192, false);
	assert_true(fd >= 0);
	assert_int_not_equal(ftruncate(fd, 0), 0);
	fd_close(&fd);
	assert_int_equal(fd, -1);
}

static void missing_plugin(void **state)
{
	struct err err;

	assert_null(plugin_symbol("no-such", "x", &err));
	assert_non_null(strstr(err.text, "no-such"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers),
		cmocka_unit_test(watch_deleted_in_callback),
		cmocka_unit_test(posted_from_thread),
		cmocka_unit_test(kick_interrupts),
		cmocka_unit_test(files),
		cmocka_unit_test(missing_plugin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
