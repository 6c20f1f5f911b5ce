/* What a back end is: one const struct net_class in its own file, one line in backends.def. */
#ifndef NET_NET_INT_H
#define NET_NET_INT_H

#include "net/net.h"

struct net_class {
	const char *name;    /* the TYPE of --net */
	const char *summary; /* one line for help */
	size_t size;	     /* of the instance, whose first member is struct net */
	/* The back end's own keys and the structure they fill (zeroed, defaults set, freed by
	 * net_open()). */
	const struct opt *options;
	size_t config_size;
	/* Whether the configuration makes sense, as far as that shows without opening anything;
	 * what init() would say. May be NULL. */
	int (*check)(const void *config, struct err *err);
	/* Fill pairs and caps (1 and 0 before), and pair_loop[] where it is not `loop`; open what
	 * it takes. On failure free() is called, which must stand a half-made instance. */
	int (*init)(struct net *net, const void *config, struct err *err);
	/* As net_send(); the frames have been checked against caps and the link is up. */
	u32 (*send)(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n);
	/* As net_receive_resume(): any thread. */
	void (*resume)(struct net *net, unsigned int pair);
	void (*set_offloads)(struct net *net, u32 mask);    /* may be NULL */
	void (*set_pairs)(struct net *net, unsigned int n); /* may be NULL */
	void (*attached)(struct net *net, bool client);	    /* somebody listens; may be NULL */
	/* The calls of the same name; may be NULL, all of them. */
	u64 (*vhost_features)(const struct net *net);
	int (*vhost_set_memory)(struct net *net, const struct net_memory *memory, unsigned int n);
	int (*vhost_start)(struct net *net, unsigned int pair, u64 features,
			   const struct net_vring ring[2]);
	void (*vhost_stop)(struct net *net, unsigned int pair, u16 base[2]);
	void (*stop)(struct net *net); /* may be NULL */
	void (*free)(struct net *net); /* may be NULL */
};

struct net {
	const struct net_class *class;
	struct loop *loop; /* the main one */
	struct loop *pair_loop[NET_MAX_PAIRS];
	unsigned int pairs, active_pairs;
	u32 caps, receive_offloads;
	u32 mtu;		  /* largest packet that it carries; 0: the back end has no idea */
	struct net_client client; /* receive NULL: nobody */
	bool link_down;		  /* the back end's own state */
	bool unplugged, unplug_wanted;
	struct loop_work plug_work;
	bool stopped;
	/* Written by one thread each (net_send() may come from several, one at a time). */
	struct {
		u64 tx_frames, tx_bytes, tx_dropped, rx_frames, rx_bytes, rx_dropped;
	} stats[NET_MAX_PAIRS];
};

#define NET(class) extern const struct net_class class;
#include "net/backends.def"
#undef NET

const struct net_class *net_class_lookup(const char *name);

/* An instance of the class; for constructors beside net_open(). */
int net_new(struct net **out, const struct net_class *class, struct loop *loop, const void *config,
	    struct err *err);

/*
 * For back ends: hand frames to the client, on the thread of net_loop(net, pair). Returns how many
 * are dealt with (taken, or dropped because nobody listens or the link is down); keep the rest and
 * stop reading until resume().
 */
u32 net_deliver(struct net *net, unsigned int pair, const struct net_frame *frames, u32 n);
/* For back ends: send() took too few and takes frames again. Same thread. */
void net_deliver_sendable(struct net *net, unsigned int pair);

#endif
