/* eventfd: a counter that one thread raises and another waits for. Any thread. */
#ifndef OS_EVENT_H
#define OS_EVENT_H

#include "base/types.h"

/* A non-blocking, close-on-exec eventfd, or -errno. The caller closes it. */
int event_new(void);
void event_signal(int fd);
/* Take the count; true when there was one. */
bool event_clear(int fd);

#endif
