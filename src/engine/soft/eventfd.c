/*
 * ioeventfd and irqfd: api.rst, KVM_IOEVENTFD and KVM_IRQFD.
 *
 * The library keeps a duplicate of each eventfd, so that the program may close its own; which
 * eventfd is meant when one is taken back is told by the program's descriptor number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/endian.h"
#include "engine/soft/irq.h"
#include "os/event.h"
#include "os/file.h"

/* A duplicate of an eventfd. -EBADF, or -EINVAL for what is no anonymous file. */
static int eventfd_dup(int fd)
{
	struct stat st;
	int dup;

	if (fstat(fd, &st))
		return -EBADF;
	if (st.st_mode & S_IFMT)
		return -EINVAL;
	dup = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return dup < 0 ? -errno : dup;
}

/* ---- ioeventfd ---- */

struct ioeventfd {
	struct io_device dev;
	struct list link;
	enum kvm_bus bus;
	u64 addr;
	u32 len; /* 0: any */
	bool match_data;
	u64 datamatch;
	int fd, user_fd;
};

static int ioeventfd_write(struct kvm_vcpu *vcpu, struct io_device *dev, u64 addr, u32 len,
			   const void *val)
{
	struct ioeventfd *e = container_of(dev, struct ioeventfd, dev);

	if (addr != e->addr || (e->len && len != e->len))
		return -EOPNOTSUPP;
	if (e->match_data && load_le(val, len) != e->datamatch)
		return -EOPNOTSUPP;
	event_signal(e->fd);
	return 0;
}

static const struct io_device_ops ioeventfd_ops = {.write = ioeventfd_write};

static enum kvm_bus ioeventfd_bus(u32 flags)
{
	return flags & KVM_IOEVENTFD_FLAG_PIO ? KVM_PIO_BUS : KVM_MMIO_BUS;
}

static int check_ioeventfd(const struct kvm_ioeventfd *args)
{
	u64 end;

	if (args->len != 0 && args->len != 1 && args->len != 2 && args->len != 4 && args->len != 8)
		return -EINVAL;
	if (add_overflows(&end, args->addr, args->len))
		return -EINVAL;
	if (args->flags & ~(u32)(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO |
				 KVM_IOEVENTFD_FLAG_DEASSIGN))
		return -EINVAL;
	if (!args->len && (args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return -EINVAL;
	return 0;
}

/* Would one access fire both? */
static bool ioeventfds_collide(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->bus == b->bus && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len &&
		 (!a->match_data || !b->match_data || a->datamatch == b->datamatch)));
}

static struct ioeventfd *ioeventfd_new(const struct kvm_ioeventfd *args, int fd)
{
	struct ioeventfd *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->dev.ops = &ioeventfd_ops;
	e->bus = ioeventfd_bus(args->flags);
	e->addr = args->addr;
	e->len = args->len;
	e->match_data = args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	e->datamatch = args->datamatch;
	e->fd = fd;
	e->user_fd = args->fd;
	return e;
}

static int assign_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args)
{
	struct ioeventfd *e, *other;
	int rc = check_ioeventfd(args), fd;

	if (rc)
		return rc;
	fd = eventfd_dup(args->fd);
	if (fd < 0)
		return fd;
	e = ioeventfd_new(args, fd);
	if (!e) {
		rc = -ENOMEM;
		goto out;
	}
	list_for_each_entry (other, &kvm->arch->ioeventfds, link)
		if (ioeventfds_collide(e, other))
			rc = -EEXIST;
	if (!rc)
		rc = kvm_io_bus_register(kvm, e->bus, e->addr, e->len, &e->dev);
	if (!rc) {
		list_add(&kvm->arch->ioeventfds, &e->link);
		return 0;
	}
out:
	close(fd);
	free(e);
	return rc;
}

static void ioeventfd_free(struct kvm *kvm, struct ioeventfd *e)
{
	kvm_io_bus_unregister(kvm, &e->dev);
	list_del(&e->link);
	close(e->fd);
	free(e);
}

static int deassign_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args)
{
	bool match_data = args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	struct ioeventfd *e;

	if (fcntl(args->fd, F_GETFD) < 0)
		return -EBADF;
	list_for_each_entry (e, &kvm->arch->ioeventfds, link) {
		if (e->bus != ioeventfd_bus(args->flags) || e->user_fd != args->fd ||
		    e->addr != args->addr || e->len != args->len || e->match_data != match_data ||
		    (match_data && e->datamatch != args->datamatch))
			continue;
		ioeventfd_free(kvm, e);
		return 0;
	}
	return -ENOENT;
}

int kvm_ioeventfd(struct kvm *kvm, const struct kvm_ioeventfd *args)
{
	int rc;

	pthread_mutex_lock(&kvm->lock);
	rc = args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? deassign_ioeventfd(kvm, args)
						       : assign_ioeventfd(kvm, args);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}

/* ---- irqfd; the lists are under irq_lock ---- */

struct irqfd {
	struct list link, bucket;
	u32 gsi;
	int fd, user_fd;
	int resample_fd; /* -1: none */
};

static void irqfd_fire_locked(struct kvm *kvm, const struct irqfd *i)
{
	if (i->resample_fd >= 0) {
		kvm_set_irq_locked(kvm, IRQ_SOURCE_RESAMPLE, i->gsi, 1);
	} else {
		kvm_set_irq_locked(kvm, IRQ_SOURCE_USER, i->gsi, 1);
		kvm_set_irq_locked(kvm, IRQ_SOURCE_USER, i->gsi, 0);
	}
}

static struct list *irqfd_bucket(struct kvm *kvm, int user_fd)
{
	return &kvm->arch->irqfd_bucket[(u32)user_fd % IRQFD_BUCKETS];
}

static struct irqfd *irqfd_lookup_locked(struct kvm *kvm, int user_fd)
{
	struct irqfd *i;

	list_for_each_entry (i, irqfd_bucket(kvm, user_fd), bucket)
		if (i->user_fd == user_fd)
			return i;
	return NULL;
}

bool kvm_irqfd_signal(struct kvm *kvm, int fd)
{
	struct irqfd *i;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	i = irqfd_lookup_locked(kvm, fd);
	if (i)
		irqfd_fire_locked(kvm, i);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return i;
}

void kvm_irqfd_ready(struct kvm *kvm, int fd)
{
	struct irqfd *i;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	list_for_each_entry (i, &kvm->arch->irqfds, link) {
		if (i->fd != fd)
			continue;
		if (event_clear(fd))
			irqfd_fire_locked(kvm, i);
		break;
	}
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

/* The guest is done with a GSI: let the line go and ask every source to look again. */
void irqfd_acked_locked(struct kvm *kvm, u32 gsi)
{
	bool lowered = false;
	struct irqfd *i;

	list_for_each_entry (i, &kvm->arch->irqfds, link) {
		if (i->gsi != gsi || i->resample_fd < 0)
			continue;
		if (!lowered)
			kvm_set_irq_locked(kvm, IRQ_SOURCE_RESAMPLE, gsi, 0);
		lowered = true;
		event_signal(i->resample_fd);
	}
}

static void irqfd_free(struct kvm *kvm, struct irqfd *i)
{
	helper_watch(kvm, i->fd, false);
	list_del(&i->link);
	list_del(&i->bucket);
	close(i->fd);
	if (i->resample_fd >= 0)
		close(i->resample_fd);
	free(i);
}

static int add_irqfd_locked(struct kvm *kvm, struct irqfd *new)
{
	if (irqfd_lookup_locked(kvm, new->user_fd))
		return -EBUSY;
	list_add_tail(&kvm->arch->irqfds, &new->link);
	list_add_tail(irqfd_bucket(kvm, new->user_fd), &new->bucket);
	return 0;
}

static int add_irqfd(struct kvm *kvm, struct irqfd *new)
{
	int rc;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	rc = add_irqfd_locked(kvm, new);
	if (!rc) {
		/* Level-triggered: what was signalled before is seen at once. */
		rc = helper_watch(kvm, new->fd, true);
		if (rc) {
			list_del(&new->link);
			list_del(&new->bucket);
		}
	}
	pthread_mutex_unlock(&kvm->arch->irq_lock);
	return rc;
}

static int assign_irqfd(struct kvm *kvm, const struct kvm_irqfd *args)
{
	bool resample = args->flags & KVM_IRQFD_FLAG_RESAMPLE;
	struct irqfd *i;
	int rc;

	if (!irqchip_in_kernel(kvm) || (resample && !pic_in_kernel(kvm)))
		return -EINVAL;
	i = calloc(1, sizeof(*i));
	if (!i)
		return -ENOMEM;
	i->gsi = args->gsi;
	i->user_fd = (int)args->fd;
	i->resample_fd = -1;
	rc = i->fd = eventfd_dup((int)args->fd);
	if (rc >= 0 && resample)
		rc = i->resample_fd = eventfd_dup((int)args->resamplefd);
	if (rc >= 0)
		rc = add_irqfd(kvm, i);
	if (rc < 0) {
		fd_close(&i->fd);
		fd_close(&i->resample_fd);
		free(i);
	}
	return rc;
}

static void deassign_irqfd(struct kvm *kvm, const struct kvm_irqfd *args)
{
	struct irqfd *i, *tmp;

	pthread_mutex_lock(&kvm->arch->irq_lock);
	list_for_each_entry_safe (i, tmp, &kvm->arch->irqfds, link)
		if (i->user_fd == (int)args->fd && i->gsi == args->gsi)
			irqfd_free(kvm, i);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}

int kvm_irqfd(struct kvm *kvm, const struct kvm_irqfd *args)
{
	int rc = 0;

	if (args->flags & ~(u32)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	pthread_mutex_lock(&kvm->lock);
	if (!(args->flags & KVM_IRQFD_FLAG_DEASSIGN))
		rc = assign_irqfd(kvm, args);
	else if (fcntl((int)args->fd, F_GETFD) < 0)
		rc = -EBADF;
	else
		deassign_irqfd(kvm, args);
	pthread_mutex_unlock(&kvm->lock);
	return rc;
}

void kvm_eventfds_free(struct kvm *kvm)
{
	struct ioeventfd *e, *etmp;
	struct irqfd *i, *itmp;

	list_for_each_entry_safe (e, etmp, &kvm->arch->ioeventfds, link)
		ioeventfd_free(kvm, e);
	pthread_mutex_lock(&kvm->arch->irq_lock);
	list_for_each_entry_safe (i, itmp, &kvm->arch->irqfds, link)
		irqfd_free(kvm, i);
	pthread_mutex_unlock(&kvm->arch->irq_lock);
}
