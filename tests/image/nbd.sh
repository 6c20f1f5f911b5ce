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
failed=0

ok() {
	label=$1
	shift
	if ! timeout 60 "$@" >out 2>&1; then
		echo "FAILED: $label: $*"
		cat out
		failed=1
	fi
}
no() {
	label=$1
	shift
	if timeout 60 "$@" >out 2>&1; then
		echo "FAILED: $label succeeded: $*"
		failed=1
	fi
}
has() { grep -q -- "$1" out || { echo "FAILED: no '$1' in:"; cat out; failed=1; }; }
# start SOCKET COMMAND...: a server in the background
start() {
	sock=$1
	shift
	"$@" >server.log 2>&1 &
	server=$!
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
		[ -S "$sock" ] && return
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
no "behind the end" qemu-io -f raw -c "read 8M 512" "$uri"
no "another export" qemu-img info "nbd+unix:///y?socket=$dir/sock"
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

# read-only, one client
start sock "$bothy" img serve -k sock -r image.qcow2
no "read-only" qemu-io -f raw -c "write 0 4k" "nbd+unix:///?socket=$dir/sock"
ok "ends with its client" sh -c "for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $server 2>/dev/null || exit 0; sleep 0.3; done; exit 1"
finish

# Their server, our client.
qemu-img convert -f qcow2 -O raw image.qcow2 now
start sock qemu-nbd -k "$dir/sock" -x x -t -e 8 -f qcow2 image.qcow2
ok "our compare" "$bothy" img compare -q -f raw -F raw "$uri" now
ok "our bench" "$bothy" img bench -w -f raw -c 2000 -d 16 --random --flush-interval 100 "$uri"
ok "convert from" "$bothy" img convert -f raw -O qcow2 "$uri" from.qcow2
ok "the same" qemu-img compare -q -f raw -F qcow2 "$uri" from.qcow2
no "no such export" "$bothy" img convert -f raw -O raw "nbd+unix:///nope?socket=$dir/sock" x
finish
no "server gone" "$bothy" img convert -f raw -O raw "$uri" x
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
	nbdkit -U - --filter=error memory 8M error-rate=100% error-pread-rate=100% --run \
		"timeout 60 $bothy img bench -f raw -c 10 \"\$uri\"" >out 2>&1 &&
		{ echo "FAILED: errors of the server went unnoticed"; failed=1; }
	nbdkit -U - --oldstyle memory 8M --run "timeout 60 $bothy img bench -f raw -c 10 \"\$uri\"" \
		>out 2>&1 && { echo "FAILED: oldstyle was taken"; failed=1; }
fi
exit $failed
