#!/bin/sh
# bothy img serve and the NBD client, against each other and against other people's.
set -u
bothy=${BOTHY_BUILD:?}/bothy
for p in qemu-img qemu-nbd; do
	if ! command -v $p >/dev/null; then
		echo "SKIP: $p is missing (Debian package qemu-utils)"
		exit 77
	fi
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/bothy-nbd-XXXXXX") || exit 1
cd "$dir" || exit 1
server=
trap '[ -n "$server" ] && kill $server 2>/dev/null; cd /; rm -rf "$dir"' EXIT
within="timeout 60"
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"

# start SOCKET COMMAND...: a server in the background
start() {
	sock=$1
	shift
	"$@" >server.log 2>&1 &
	server=$!
	# A busy machine may take its time.
	for _ in $(seq 600); do
		[ -S "$sock" ] && return
		kill -0 $server 2>/dev/null || break
		sleep 0.1
	done
	echo "FAILED: no server: $*"
	cat server.log
	failed=1
}
finish() {
	kill $server 2>/dev/null
	wait $server 2>/dev/null
	server=
}

head -c 3000000 /dev/urandom >disk
truncate -s 8M disk
uri="nbd+unix:///x?socket=$dir/sock"
ok "image" qemu-img convert -f raw -O qcow2 disk image.qcow2

# Our server, their clients.
start sock "$bothy" img serve -k sock -x x -t image.qcow2
ok "their info" qemu-img info "$uri"
has "virtual size: 8 MiB"
ok "their compare" qemu-img compare -q -f raw -F raw "$uri" disk
ok "their writes" qemu-io -f raw -c "write -P 5 1M 64k" -c "write -z -u 2M 1M" -c "write -f -P 6 4M 4k" \
	-c "discard 5M 1M" -c flush -c "read -P 5 1M 64k" -c "read -P 0 2M 1M" -c "read -P 6 4M 4k" "$uri"
no 1 "behind the end" qemu-io -f raw -c "read 8M 512" "$uri"
no 1 "another export" qemu-img info "nbd+unix:///y?socket=$dir/sock"
ok "their map" qemu-img map --output=json -f raw "$uri"
has '"zero": true'
if command -v nbdinfo >/dev/null; then
	ok "nbdinfo" nbdinfo "$uri"
	has "can_multi_conn: true"
	ok "nbdinfo map" nbdinfo --map "$uri"
	has "hole,zero"
	ok "nbdinfo list" nbdinfo --list "$uri"
fi
command -v nbdcopy >/dev/null && {
	ok "nbdcopy" nbdcopy --connections=4 "$uri" copy
	ok "ours of the same" "$bothy" img convert -f raw -O raw "$uri" copy2
	ok "cmp" cmp copy copy2
}
# Nonsense, and a client that never says anything: others are still served.
python3 - "$dir/sock" <<-'PY'
	import os, socket, struct, sys
	keep = []
	for junk in (b"", b"\0\0\0\3", b"\0\0\0\3" + os.urandom(64),
	        b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 7, 0xffffffff),
	        b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 7, 6) + b"\xff\xff\xff\xff\0\0",
	        b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 1, 0) + os.urandom(28),
	        b"\0\0\0\3" + b"IHAVEOPT" + struct.pack(">II", 1, 0)
	        + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 0xffffffff)):
	    s = socket.socket(socket.AF_UNIX)
	    s.connect(sys.argv[1])
	    s.sendall(junk)
	    keep.append(s) if len(keep) < 3 else s.close()
	s = socket.socket(socket.AF_UNIX)
	s.settimeout(20)
	s.connect(sys.argv[1])
	assert s.recv(18)[:8] == b"NBDMAGIC"
PY
[ $? = 0 ] || { echo "FAILED: nonsense"; failed=1; }
ok "still there" qemu-img info "$uri"
finish
ok "check" qemu-img check -q image.qcow2

# A client of a few lines, for what the others do not show.
cat >client.py <<'PY'
import socket, struct
class Client:
    def __init__(self, path, export=b"x"):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(50)
        self.s.connect(path)
        self.need(18)
        self.s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, len(export)) + export)
        self.size, self.flags = struct.unpack(">QH", self.need(10))
    def need(self, n):
        b = b""
        while len(b) < n:
            got = self.s.recv(n - len(b))
            assert got, "connection closed"
            b += got
        return b
    def ask(self, kind, cookie, at=0, n=0, data=b"", flags=0):
        self.s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, at, n) + data)
    def answer(self):
        magic, error, cookie = struct.unpack(">IIQ", self.need(16))
        assert magic == 0x67446698
        return cookie, error
PY
# Flushed on one connection: what others wrote is on the disk, whatever happens to the server.
"$bothy" img create -q -f qcow2 flushed.qcow2 64M
start sock "$bothy" img serve -k sock -x x -t flushed.qcow2
python3 - "$dir/sock" <<-'PY' || { echo "FAILED: flush of another connection"; failed=1; }
	import sys
	from client import Client
	a, b, c = (Client(sys.argv[1]) for _ in range(3))
	for i in range(20):
	    a.ask(1, 2 * i, i << 21, 4096, b"A" * 4096)
	    b.ask(1, 2 * i + 1, (i << 21) + 65536, 4096, b"B" * 4096)
	assert sorted(a.answer() for _ in range(20)) == [(2 * i, 0) for i in range(20)]
	assert sorted(b.answer() for _ in range(20)) == [(2 * i + 1, 0) for i in range(20)]
	c.ask(3, 7)
	assert c.answer() == (7, 0)
PY
kill -9 $server
wait $server 2>/dev/null
rm -f sock
ok "flushed data" qemu-io -f qcow2 -c "read -P 65 0 4k" -c "read -P 66 64k 4k" \
	-c "read -P 65 38M 4k" -c "read -P 66 39911424 4k" flushed.qcow2
# The second in a row of requests is answered before the first, which is slow; two hundred are all
# answered, with the right data.
if command -v nbdkit >/dev/null; then
	rm -f slow
	nbdkit -U "$dir/slow" -P slow.pid --filter=delay pattern size=8M rdelay=300ms
	start sock "$bothy" img serve -r -k sock -x x -t -f raw "nbd+unix:///?socket=$dir/slow"
	python3 - "$dir/sock" <<-'PY' || { echo "FAILED: requests out of order"; failed=1; }
		import struct, sys
		from client import Client
		c = Client(sys.argv[1])
		c.ask(0, 1, 0, 512)
		c.ask(0, 2, 8 << 20, 512)  # refused at once
		assert c.answer()[0] == 2
		assert c.answer() == (1, 0)
		c.need(512)
		for i in range(200):
		    c.ask(0, i, i * 512, 512)
		seen = set()
		for i in range(200):
		    cookie, error = c.answer()
		    assert error == 0 and cookie not in seen
		    assert c.need(512) == b"".join(struct.pack(">Q", cookie * 512 + k) for k in range(0, 512, 8))
		    seen.add(cookie)
		c.ask(0, 9, 0, 512)
		c.ask(2, 0)  # goodbye: what is in flight is answered first
		assert c.answer() == (9, 0)
	PY
	finish
	kill "$(cat slow.pid)"
fi

# read-only, one client
start sock "$bothy" img serve -k sock -r image.qcow2
no 1 "read-only" qemu-io -f raw -c "write 0 4k" "nbd+unix:///?socket=$dir/sock"
ok "ends with its client" sh -c "for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $server 2>/dev/null || exit 0; sleep 0.3; done; exit 1"
finish

# Their server, our client.
qemu-img convert -f qcow2 -O raw image.qcow2 now
start sock qemu-nbd -k "$dir/sock" -x x -t -e 8 -f qcow2 image.qcow2
ok "our compare" "$bothy" img compare -q -f raw -F raw "$uri" now
qemu-img convert -f raw -O raw "$uri" now2
# What ranges are made of comes over the wire: maps are alike, and holes are not read.
ok "their map of it" qemu-img map --output=json -f raw "$uri"
grep -o '"start": [0-9]*, "length": [0-9]*\|"zero": [a-z]*\|"data": [a-z]*' out >theirs
ok "our map of it" "$bothy" img map --output=json -f raw "$uri"
grep -o '"start": [0-9]*, "length": [0-9]*\|"zero": [a-z]*\|"data": [a-z]*' out >ours
cmp ours theirs || { echo "FAILED: maps differ"; failed=1; }
grep -q '"zero": true' ours || { echo "FAILED: no holes in the map"; failed=1; }
ok "sparse copy" "$bothy" img convert -f raw -O raw "$uri" sparse
ok "sparse is the same" cmp sparse now2
ok "our bench" "$bothy" img bench -w -f raw -c 2000 -d 16 --random --flush-interval 100 "$uri"
ok "convert from" "$bothy" img convert -f raw -O qcow2 "$uri" from.qcow2
ok "the same" qemu-img compare -q -f raw -F qcow2 "$uri" from.qcow2
no 1 "no such export" "$bothy" img convert -f raw -O raw "nbd+unix:///nope?socket=$dir/sock" x
finish
no 1 "server gone" "$bothy" img convert -f raw -O raw "$uri" x
rm -f sock

# Ours on both ends, and a format above the client.
start sock "$bothy" img serve -k sock -x x -t -r -f raw from.qcow2
ok "qcow2 above nbd" "$bothy" img compare -q -f qcow2 -F qcow2 "$uri" from.qcow2
finish

# Odd servers.
if command -v nbdkit >/dev/null; then
	nbdkit -U - --filter=blocksize-policy memory 8M blocksize-minimum=4096 --run \
		"timeout 60 $bothy img bench -w -f raw -c 200 -d 4 \"\$uri\"" >out 2>&1 ||
		{ echo "FAILED: nbdkit memory"; cat out; failed=1; }
	# 64 GiB of nothing but two pieces: only those are read; a map of 2,000 pieces; extents that
	# come a few at a time, or not at all; replies of the old kind.
	nbdkit -U - --filter=log data data='1 2 3 @0x800000000 4 5 6' size=64G logfile=nbdkit.log --run \
		"timeout 60 $bothy img convert -f raw -O qcow2 \"\$uri\" big.qcow2 && \
		 timeout 60 $bothy img compare -f raw -F qcow2 \"\$uri\" big.qcow2" >out 2>&1 ||
		{ echo "FAILED: nbdkit data"; cat out; failed=1; }
	[ "$(grep -c 'Read id=' nbdkit.log)" -lt 40 ] || { echo "FAILED: holes were read"; failed=1; }
	data=$(i=0; while [ $i -lt 2000 ]; do echo "@$((i * 65536)) $((i % 255 + 1))"; i=$((i + 1)); done)
	nbdkit -U - data data="$data" size=256M --run \
		"$bothy img map --json -f raw \"\$uri\" | grep -c start" >out 2>&1
	[ "$(cat out)" -ge 4000 ] || { echo "FAILED: many extents: $(cat out)"; failed=1; }
	for filter in extentlist=extents noextents; do
		echo "0 1M hole,zero" >extents
		nbdkit -U - --filter="${filter%%=*}" data data="$data" size=256M \
			${filter#noextents} --run "timeout 60 $bothy img convert -f raw -O raw \"\$uri\" k1 && \
			 timeout 60 qemu-img convert -f raw -O raw \"\$uri\" k2 && cmp k1 k2" >out 2>&1 ||
			{ echo "FAILED: nbdkit $filter"; cat out; failed=1; }
	done
	nbdkit -U - --no-sr data data="$data" size=256M --run \
		"timeout 60 $bothy img compare -f raw -F raw \"\$uri\" k2" >out 2>&1 ||
		{ echo "FAILED: simple replies"; cat out; failed=1; }
	nbdkit -U - --filter=error memory 8M error-rate=100% error-pread-rate=100% --run \
		"timeout 60 $bothy img bench -f raw -c 10 \"\$uri\"" >out 2>&1 &&
		{ echo "FAILED: errors of the server went unnoticed"; failed=1; }
	nbdkit -U - --oldstyle memory 8M --run "timeout 60 $bothy img bench -f raw -c 10 \"\$uri\"" \
		>out 2>&1 && { echo "FAILED: oldstyle was taken"; failed=1; }
fi

# Hostile servers: replies and chunks that nobody asked for, or that lie about where they belong.
cat >hostile.py <<'PY'
import os, socket, struct, sys, threading
OPT, REP = b"IHAVEOPT", 0x3e889045565a9
def serve(s, how):
    def need(n):
        b = b""
        while len(b) < n:
            got = s.recv(n - len(b))
            if not got:
                raise EOFError
            b += got
        return b
    s.sendall(b"NBDMAGIC" + OPT + struct.pack(">H", 3))
    need(4)
    while True:
        _, opt, n = struct.unpack(">8sII", need(16))
        need(n)
        def reply(kind, data=b""):
            s.sendall(struct.pack(">QIII", REP, opt, kind, len(data)) + data)
        if opt == 10:
            reply(4, struct.pack(">I", 7) + b"base:allocation")
        if opt == 7:
            reply(3, struct.pack(">HQH", 0, 8 << 20, 0x0d))
        reply(1)
        if opt == 7:
            break
    while True:
        _, flags, kind, cookie, at, n = struct.unpack(">IHHQQI", need(28))
        if kind == 2:
            return
        def chunk(last, what, data):
            s.sendall(struct.pack(">IHHQI", 0x668e33ef, last, what, cookie, len(data)) + data)
        if how == "junk":
            s.sendall(os.urandom(64))
        elif how == "cookie":
            s.sendall(struct.pack(">IHHQI", 0x668e33ef, 1, 0, cookie ^ 1, 0))
        elif how == "simple":
            s.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + bytes(n))
        elif how == "zero-extent" and kind == 7:
            chunk(1, 5, struct.pack(">III", 7, 0, 0))
        elif how == "context" and kind == 7:
            chunk(1, 5, struct.pack(">III", 8, n, 0))
        elif how == "odd-status" and kind == 7:
            chunk(1, 5, b"\0\0\0\7\0\0")
        elif kind == 7:
            chunk(1, 5, struct.pack(">III", 7, 0xffffffff, 0))
        elif how == "outside":
            chunk(1, 1, struct.pack(">Q", at + n) + bytes(512))
        elif how == "before":
            chunk(1, 1, struct.pack(">Q", at - 512) + bytes(512))
        elif how == "huge-hole":
            chunk(1, 2, struct.pack(">QI", at, 0xffffffff))
        elif how == "twice":
            chunk(0, 1, struct.pack(">Q", at) + bytes(n))
            chunk(1, 1, struct.pack(">Q", at) + bytes(n))
        elif how == "short":
            chunk(1, 1, struct.pack(">Q", at) + bytes(512))
        elif how == "status":
            chunk(1, 5, struct.pack(">III", 7, n, 0))
        elif how == "none":
            chunk(0, 0, b"")
        elif how == "long-error":
            chunk(1, 0x8001, struct.pack(">IH", 5, 6) + bytes(1 << 20))
        else:
            chunk(1, 0x8002, struct.pack(">IHQ", 5, 0, at))
l = socket.socket(socket.AF_UNIX)
l.bind(sys.argv[1])
l.listen(8)
def one(s):
    try:
        serve(s, sys.argv[2])
    except (EOFError, OSError):
        pass
    s.close()
while True:
    threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()
PY
for how in junk cookie simple zero-extent context odd-status outside before huge-hole twice short \
	status none long-error error; do
	rm -f bad
	start bad python3 hostile.py bad $how
	timeout 20 "$bothy" img convert -f raw -O raw "nbd+unix:///?socket=$dir/bad" x >out 2>&1
	status=$?
	[ $status = 1 ] || { echo "FAILED: hostile server, $how: status $status"; cat out; failed=1; }
	finish
done
exit $failed
