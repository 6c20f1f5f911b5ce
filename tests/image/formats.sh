#!/bin/sh
# What an image may say of itself, and what is done about it: bitmaps, feature bits, names of other
# files, chains, locks, and formats that nobody named.
set -u
bothy=${BOTHY_BUILD:?}/bothy
for p in qemu-img qemu-io qemu-nbd; do
	command -v $p >/dev/null || { echo "SKIP: $p is missing (Debian package qemu-utils)"; exit 77; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/bothy-formats-XXXXXX") || exit 1
cd "$dir" || exit 1
server=
trap '[ -z "$server" ] || kill $server 2>/dev/null; cd /; rm -rf "$dir"' EXIT
within="timeout 60"
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"
# field FILE OFFSET BYTES: a big-endian number; poke FILE OFFSET HEX
field() { python3 -c 'import sys; f = open(sys.argv[1], "rb"); f.seek(int(sys.argv[2])); print(int.from_bytes(f.read(int(sys.argv[3])), "big"))' "$@"; }
poke() { python3 -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(int(sys.argv[2])); f.write(bytes.fromhex(sys.argv[3]))' "$@"; }

head -c 3000000 /dev/urandom >disk
truncate -s 8M disk
cp disk reference

# Bitmaps: kept to the last byte by whoever only looks, given up (and said so) by who writes.
ok "image" qemu-img convert -f raw -O qcow2 disk b.qcow2
ok "bitmap" qemu-img bitmap --add -g 64k b.qcow2 one
ok "granted" qemu-img bitmap --enable b.qcow2 one
cp b.qcow2 before
ok "look" "$bothy" img info b.qcow2
has "bitmaps: 1"
ok "check" "$bothy" img check b.qcow2
ok "read" "$bothy" img convert -f qcow2 -O raw b.qcow2 copy
ok "map" "$bothy" img map b.qcow2
same b.qcow2 before "who only looked changed the image"
ok "write" "$bothy" img bench -w -c 10 b.qcow2
[ "$(field b.qcow2 88 8)" = 0 ] || { echo "FAILED: the bitmaps pass for consistent"; failed=1; }
ok "not shown" "$bothy" img info b.qcow2
hasnt "bitmaps:"
qemu-img check b.qcow2 >out 2>&1
case $? in 0 | 3) ;; *) echo "FAILED: check after bitmaps"; cat out; failed=1 ;; esac
# Unknown autoclear bits: cleared by a write, kept otherwise. Unknown compatible bits stay.
ok "image" "$bothy" img create -q -f qcow2 a.qcow2 8M
poke a.qcow2 80 8000000000000000
poke a.qcow2 88 4000000000000000
cp a.qcow2 before
ok "look" "$bothy" img check a.qcow2
same a.qcow2 before "autoclear bits of an image that was only read"
ok "write" "$bothy" img bench -w -c 1 a.qcow2
[ "$(field a.qcow2 88 8)" = 0 ] || { echo "FAILED: an unknown autoclear bit survived a write"; failed=1; }
[ "$(field a.qcow2 80 1)" = 128 ] || { echo "FAILED: a compatible bit was lost"; failed=1; }

# Unknown incompatible bits are refused by the name that the image has for them.
ok "image" qemu-img create -q -f qcow2 u.qcow2 1M
python3 - <<-'PY'
	import struct
	f = open("u.qcow2", "r+b")
	head = bytearray(f.read(65536))
	at, = struct.unpack(">I", head[100:104])
	head[at:at + 56] = struct.pack(">II", 0x6803f857, 48) + bytes([0, 9]) + b"flux capacitor".ljust(46, b"\0")
	head[at + 56:at + 64] = bytes(8)
	head[72:80] = struct.pack(">Q", 1 << 9)
	f.seek(0)
	f.write(head)
PY
no 1 "named bit" "$bothy" img info u.qcow2
has "flux capacitor"
for crypt in 1 7; do
	ok "image" qemu-img create -q -f qcow2 c.qcow2 1M
	poke c.qcow2 32 0000000$crypt
	no 1 "crypt $crypt" "$bothy" img info c.qcow2
	has "is encrypted with"
done

# The corrupt bit: looked at, read, and not written before it is repaired.
ok "image" qemu-img convert -f raw -O qcow2 disk k.qcow2
poke k.qcow2 79 02
ok "info" "$bothy" img info k.qcow2
has "corrupt: true"
ok "read" "$bothy" img convert -f qcow2 -O raw k.qcow2 copy
same copy reference "a corrupt image read"
no 1 "write" "$bothy" img bench -w -c 1 k.qcow2
has "marked corrupt"
ok "repair" "$bothy" img check --repair all k.qcow2
ok "write" "$bothy" img bench -w -c 1 k.qcow2
ok "check" qemu-img check -q k.qcow2
# It is set when an entry leads into the tables: the write fails, and nothing is overwritten.
ok "image" qemu-img convert -f raw -O qcow2 disk k.qcow2
l1=$(field k.qcow2 40 8)
l2=$(python3 -c 'import sys; print(int(sys.argv[1]) & 0x00fffffffffffe00)' "$(field k.qcow2 "$l1" 8)")
poke k.qcow2 "$l2" "$(printf '80%014x' "$l1")"
no 1 "write into a table" "$bothy" img bench -w -c 1 -s 65536 k.qcow2
[ $(($(field k.qcow2 79 1) & 2)) = 2 ] || { echo "FAILED: the corrupt bit is not set"; failed=1; }
[ "$(python3 -c 'import sys; print(int(sys.argv[1]) & 0x00fffffffffffe00)' "$(field k.qcow2 "$l1" 8)")" = "$l2" ] ||
	{ echo "FAILED: the L1 table was overwritten"; failed=1; }

# Lazy refcounts: theirs left open by a kill, opened by us; the dirty bit goes.
ok "image" qemu-img create -q -f qcow2 -o lazy_refcounts=on z.qcow2 64M
qemu-io -f qcow2 -c "write -P 3 0 8M" -c "flush" -c "abort" z.qcow2 >/dev/null 2>&1
[ $(($(field z.qcow2 79 1) & 1)) = 1 ] || { echo "FAILED: the image is not dirty"; failed=1; }
ok "dirty is said" "$bothy" img info z.qcow2
has "not closed cleanly"
ok "write" "$bothy" img bench -w -c 1 -o 32M z.qcow2
[ "$(field z.qcow2 79 1)" = 0 ] || { echo "FAILED: still dirty"; failed=1; }
ok "contents" qemu-io -f qcow2 -c "read -P 3 0 8M" z.qcow2
ok "check" qemu-img check -q z.qcow2

# External data files, also raw ones.
ok "data file" "$bothy" img convert -f raw -O qcow2 -o data_file=x.data,data_file_raw=on disk x.qcow2
ok "their view" qemu-img compare -q -f raw -F qcow2 disk x.qcow2
same x.data reference "the raw data file is not the disk"
ok "their file" qemu-img create -q -f qcow2 -o data_file=y.data y.qcow2 8M
ok "fill" "$bothy" img convert -n -f raw -O qcow2 disk y.qcow2
ok "compare" qemu-img compare -q -f raw -F qcow2 disk y.qcow2
mv y.data elsewhere
ok "info without it" "$bothy" img info y.qcow2
ok "check without it" "$bothy" img check y.qcow2
no 1 "read without it" "$bothy" img convert -f qcow2 -O raw y.qcow2 copy
# A name is a file's name, whatever it looks like.
ok "address as a name" qemu-img create -q -u -f qcow2 -b 'json:{"driver":"file","filename":"/etc/passwd"}' -F raw j.qcow2 8M
no 1 "no address" "$bothy" img convert -f qcow2 -O raw j.qcow2 copy
has "No such file"

# Chains of different formats, and of many; a circle.
ok "raw" cp disk chain0
ok "qed" qemu-img create -q -f qed -b chain0 -F raw chain1
ok "qcow2" "$bothy" img create -q -f qcow2 -b chain1 -F qed chain2
ok "write 1" qemu-io -f qed -c "write -P 1 1M 100k" chain1
ok "write 2" qemu-io -f qcow2 -c "write -P 2 1100k 100k" chain2
ok "v2 on top" "$bothy" img create -q -f qcow2 -o compat=0.10,cluster_size=4k -b chain2 -F qcow2 chain3
ok "write 3" qemu-io -f qcow2 -c "write -P 3 1124k 1k" chain3
ok "their copy" qemu-img convert -f qcow2 -O raw chain3 theirs
ok "our copy" "$bothy" img convert -f qcow2 -O raw chain3 ours
same ours theirs "a chain of formats"
n=0
cp disk deep-0
while [ $n -lt 100 ]; do
	"$bothy" img create -q -u -f qcow2 -b deep-$n -F "$([ $n = 0 ] && echo raw || echo qcow2)" deep-$((n + 1)) 8M
	n=$((n + 1))
done
ok "deep enough" "$bothy" img compare -f qcow2 -F raw deep-50 disk
no 2 "too deep" "$bothy" img compare -f qcow2 -F raw deep-100 disk
has "too long"
ok "circle" "$bothy" img create -q -u -f qcow2 -b ring2 -F qcow2 ring1 8M
ok "circle" "$bothy" img create -q -u -f qcow2 -b ring1 -F qcow2 ring2 8M
no 1 "circle" "$bothy" img map ring1
has "circle"

# run: nothing that an image names is opened unasked; a raw disk that nobody named is watched.
printf '\260\376\346\144\364' >reset.bin # mov al, 0xfe; out 0x64, al; hlt
run() { timeout 60 "$bothy" run --engine soft --machine pc --no-reboot --net none "$@" reset.bin >out 2>&1 </dev/null; }
run --disk chain3,format=qcow2 && { echo "FAILED: backing unasked"; failed=1; }
has "backing=on"
run --disk x.qcow2,format=qcow2 && { echo "FAILED: data file unasked"; failed=1; }
has "backing=on"
run --disk chain3,format=qcow2,backing=on || { echo "FAILED: backing allowed"; cat out; failed=1; }
run --disk chain3,format=qcow2,backing-file=chain2,backing-format=qcow2 &&
	{ echo "FAILED: the rest of the chain unasked"; failed=1; }
run --disk disk || { echo "FAILED: a disk without a format"; cat out; failed=1; }
has "format=raw"
run --disk disk,format=raw || { echo "FAILED: a raw disk"; cat out; failed=1; }
hasnt "format=raw"

# Locks, both ways round.
ok "image" "$bothy" img convert -f raw -O qcow2 disk l.qcow2
qemu-nbd -k "$dir/sock" -t -f qcow2 l.qcow2 >nbd.out 2>&1 &
server=$!
n=0
until [ -S sock ] || [ $n -gt 100 ]; do
	sleep 0.1
	n=$((n + 1))
done
no 1 "QEMU has it" "$bothy" img bench -w -c 1 l.qcow2
has "in use"
no 1 "QEMU writes" "$bothy" img convert -f qcow2 -O raw l.qcow2 copy
ok "look beside it" "$bothy" img info --share l.qcow2
kill $server
wait $server 2>/dev/null
rm -f sock
"$bothy" img serve -k sock -t l.qcow2 >nbd.out 2>&1 &
server=$!
n=0
until [ -S sock ] || [ $n -gt 100 ]; do
	sleep 0.1
	n=$((n + 1))
done
no 1 "we have it" qemu-io -f qcow2 -c "write 0 512" l.qcow2
has "lock"
kill $server
wait $server 2>/dev/null
server=

# Sizes for people, and a line of progress on a terminal only.
ok "1.5G" "$bothy" img create -q -f qcow2 h.qcow2 1.5G
ok "info" "$bothy" img info h.qcow2
has "virtual size: 1.50 GiB (1610612736 bytes)"
no 2 "no size" "$bothy" img create -f qcow2 h.qcow2 bigly
ok "no terminal" "$bothy" img convert -p -f raw -O qcow2 disk p.qcow2
[ ! -s out ] || { echo "FAILED: progress into a file"; failed=1; }
ok "terminal" python3 - "$bothy" <<-'PY'
	import os, pty, sys
	shown = b""
	def read(fd):
	    global shown
	    data = os.read(fd, 1000)
	    shown += data
	    return data
	status = pty.spawn([sys.argv[1], "img", "convert", "-p", "-f", "raw", "-O", "qcow2", "disk", "p.qcow2"], read)
	assert status == 0 and b"100.0 %" in shown, shown
	assert shown.endswith(b"\r            \r"), shown
PY
exit $failed
