/*
 * Messages to standard error. Six calls; every one keeps errno, may be called from any thread,
 * never blocks for long and prefixes the role of the thread ("bothy[vcpu0]: ..."). Lines end
 * with CR LF while a raw terminal is ours.
 *
 * What a guest, an image or a peer can provoke goes through log_guest(), which lets each call
 * site through ten times a second at most and says how many lines it held back.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Everything up to this level is printed; LOG_INFO at first. */
void log_set_level(enum log_level level);
/* The calling thread's prefix; name must outlive the thread (os/thread.h sets it). */
void log_set_role(const char *name);
/* Raw-terminal mode: end lines with "\r\n". */
void log_set_crlf(bool on);
/* Lines go to this function as well or instead (tests, monitor); NULL for standard error. */
void log_set_sink(void (*sink)(enum log_level level, const char *line));

void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_errno(const char *fmt, ...) PRINTF_LIKE(1, 2); /* an error, with ": strerror(errno)" */
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_debug_line(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* On hot paths: one comparison while nobody wants to see it. */
extern enum log_level log_max_level;
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (unlikely(log_max_level >= LOG_DEBUG))                                          \
			log_debug_line(__VA_ARGS__);                                               \
	} while (0)

struct log_limit {
	u64 window_ns; /* start of the current second */
	u32 count;     /* lines in it */
	u32 dropped;   /* held back since the last one printed */
};

void log_guest_limited(struct log_limit *limit, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_guest(...)                                                                             \
	do {                                                                                       \
		static struct log_limit limit_;                                                    \
		log_guest_limited(&limit_, __VA_ARGS__);                                           \
	} while (0)

#endif
