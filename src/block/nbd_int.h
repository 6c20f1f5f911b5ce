/* The NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md): numbers on the wire. */
#ifndef BLOCK_NBD_INT_H
#define BLOCK_NBD_INT_H

#include "base/types.h"

#define NBD_MAGIC	     0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC     0x49484156454f5054ULL /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC	     0x3e889045565a9ULL	   /* to an option */
#define NBD_REQUEST_MAGIC    0x25609513u
#define NBD_SIMPLE_MAGIC     0x67446698u
#define NBD_STRUCTURED_MAGIC 0x668e33efu

#define NBD_PORT 10809

/* Handshake flags, both sides. */
enum { NBD_FIXED_NEWSTYLE = 1, NBD_NO_ZEROES = 2 };

/* Transmission flags. */
enum {
	NBD_HAS_FLAGS = 1 << 0,
	NBD_READ_ONLY = 1 << 1,
	NBD_SEND_FLUSH = 1 << 2,
	NBD_SEND_FUA = 1 << 3,
	NBD_SEND_TRIM = 1 << 5,
	NBD_SEND_WRITE_ZEROES = 1 << 6,
	NBD_SEND_DF = 1 << 7,
	NBD_MULTI_CONN = 1 << 8,
};

enum {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED = 8,
	NBD_OPT_LIST_META = 9,
	NBD_OPT_SET_META = 10,
};

#define NBD_REP_ACK	    1u
#define NBD_REP_SERVER	    2u
#define NBD_REP_INFO	    3u
#define NBD_REP_META	    4u
#define NBD_REP_ERROR	    0x80000000u
#define NBD_REP_UNSUPPORTED (NBD_REP_ERROR | 1)
#define NBD_REP_INVALID	    (NBD_REP_ERROR | 3)
#define NBD_REP_UNKNOWN	    (NBD_REP_ERROR | 6)
#define NBD_REP_TOO_BIG	    (NBD_REP_ERROR | 9)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

enum {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

enum {
	NBD_FLAG_FUA = 1 << 0,
	NBD_FLAG_NO_HOLE = 1 << 1,
	NBD_FLAG_DF = 1 << 2,
	NBD_FLAG_ONE = 1 << 3,
	NBD_FLAG_FAST_ZERO = 1 << 4,
};

/* Chunks of structured replies. */
#define NBD_CHUNK_DONE	   1u
#define NBD_CHUNK_NONE	   0u
#define NBD_CHUNK_DATA	   1u
#define NBD_CHUNK_HOLE	   2u
#define NBD_CHUNK_STATUS   5u
#define NBD_CHUNK_ERROR	   0x8001u
#define NBD_CHUNK_IS_ERROR 0x8000u

#define NBD_META_NAME "base:allocation"

/* Extents of base:allocation. */
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };

/* Errors on the wire. */
enum {
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
};

#define NBD_MAX_NAME	4096u
#define NBD_MAX_OPTION	16384u
#define NBD_MAX_REQUEST (32u << 20)

#endif
