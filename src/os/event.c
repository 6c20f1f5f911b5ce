#include "os/event.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int event_new(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void event_signal(int fd)
{
	u64 one = 1;

	/* EAGAIN means that the counter is full: the event is pending already. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

bool event_clear(int fd)
{
	u64 count;

	return read(fd, &count, sizeof(count)) == sizeof(count);
}
