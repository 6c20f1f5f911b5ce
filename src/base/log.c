#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_PER_SECOND 10

enum log_level log_max_level = LOG_INFO;
static bool crlf;
static void (*line_sink)(enum log_level level, const char *line);
static _Thread_local const char *role;

void log_set_level(enum log_level level)
{
	log_max_level = level;
}

void log_set_role(const char *name)
{
	role = name;
}

void log_set_crlf(bool on)
{
	crlf = on;
}

void log_set_sink(void (*sink)(enum log_level level, const char *line))
{
	line_sink = sink;
}

/* One write(2) a line, so that lines of different threads do not mix. */
static void emit(enum log_level level, const char *fmt, va_list ap, const char *tail)
{
	static const char *const words[] = {"error: ", "warning: ", "", "debug: "};
	char line[1024];
	size_t room = sizeof(line) - 3;
	int n;

	if (level > log_max_level)
		return;
	n = role ? snprintf(line, room, "bothy[%s]: %s", role, words[level])
		 : snprintf(line, room, "bothy: %s", words[level]);
	n += vsnprintf(line + n, room - (size_t)n, fmt, ap);
	if ((size_t)n < room)
		n += snprintf(line + n, room - (size_t)n, "%s", tail);
	if ((size_t)n >= room)
		n = (int)room - 1;
	if (line_sink) {
		line_sink(level, line);
		return;
	}
	memcpy(line + n, crlf ? "\r\n" : "\n", crlf ? 3 : 2);
	n += crlf ? 2 : 1;
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nobody listens: nothing to be done about it */
}

#define EMIT(level, tail)                                                                          \
	do {                                                                                       \
		int saved_ = errno;                                                                \
		va_list ap_;                                                                       \
		va_start(ap_, fmt);                                                                \
		emit(level, fmt, ap_, tail);                                                       \
		va_end(ap_);                                                                       \
		errno = saved_;                                                                    \
	} while (0)

void log_error(const char *fmt, ...)
{
	EMIT(LOG_ERROR, "");
}

void log_errno(const char *fmt, ...)
{
	char tail[128];

	snprintf(tail, sizeof(tail), ": %s", strerror(errno));
	EMIT(LOG_ERROR, tail);
}

void log_warn(const char *fmt, ...)
{
	EMIT(LOG_WARN, "");
}

void log_info(const char *fmt, ...)
{
	EMIT(LOG_INFO, "");
}

void log_debug_line(const char *fmt, ...)
{
	EMIT(LOG_DEBUG, "");
}

/* Races between threads at one call site cost at worst a line too many or too few. */
static bool limit_allows(struct log_limit *limit, u32 *dropped)
{
	struct timespec ts;
	u64 now, window;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	now = (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
	window = __atomic_load_n(&limit->window_ns, __ATOMIC_RELAXED);
	if (!window || now - window >= 1000000000) {
		__atomic_store_n(&limit->window_ns, now, __ATOMIC_RELAXED);
		__atomic_store_n(&limit->count, 0, __ATOMIC_RELAXED);
	}
	if (__atomic_fetch_add(&limit->count, 1, __ATOMIC_RELAXED) >= LIMIT_PER_SECOND) {
		__atomic_fetch_add(&limit->dropped, 1, __ATOMIC_RELAXED);
		return false;
	}
	*dropped = __atomic_exchange_n(&limit->dropped, 0, __ATOMIC_RELAXED);
	return true;
}

void log_guest_limited(struct log_limit *limit, const char *fmt, ...)
{
	char tail[64] = "";
	u32 dropped;

	if (!limit_allows(limit, &dropped))
		return;
	if (dropped)
		snprintf(tail, sizeof(tail), " (%u lines like this held back)", dropped);
	EMIT(LOG_WARN, tail);
}
