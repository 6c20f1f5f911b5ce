#!/bin/sh
# A convert that is interrupted, killed or runs out of space leaves nothing half done under the
# target's name, and what was there before as it was; a write into an image that cannot grow fails
# and leaves the image consistent.
set -u
bothy=${BOTHY_BUILD:?}/bothy
if ! command -v qemu-img >/dev/null; then
	echo "SKIP: qemu-img is missing (Debian package qemu-utils)"
	exit 77
fi
dir=$(mktemp -d "$BOTHY_BUILD/stop-test-XXXXXX") || exit 1
mounted='' loop=''
trap '[ -z "$mounted" ] || umount "$dir/small"; [ -z "$loop" ] || losetup -d "$loop"; rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"
bad() {
	echo "FAILED: $*"
	[ ! -s out ] || cat out
	failed=1
}

# ---- signals ----

# Packing half a gigabyte on one thread takes long enough to be met in the middle.
seq 1 12000000 >disk
for i in 1 2 3 4; do cat disk; done >big
mv big disk

# One run, stopped as soon as its temporary file has grown. What is left of it is in `left`.
stopped() {
	sig=$1
	for try in 1 2 3 4 5; do
		"$bothy" img convert -c -m 1 -f raw -O qcow2 disk target >out 2>&1 &
		pid=$!
		for wait in $(seq 1 2000); do
			size=$(cat target.?????? 2>/dev/null | head -c 600000 | wc -c)
			[ "$size" -ge 500000 ] && break
			kill -0 $pid 2>/dev/null || break
			sleep 0.01
		done
		kill -"$sig" $pid 2>/dev/null
		wait $pid
		status=$?
		left=$(ls target.?????? 2>/dev/null)
		rm -f target.??????
		[ $status -ne 0 ] && return
		# It was done already.
		rm -f target
		[ -z "$old" ] || echo "$old" >target
	done
	bad "SIG$sig: never met it in the middle"
}

for old in "" "what was there"; do
	for sig in INT TERM HUP KILL; do
		rm -f target
		[ -z "$old" ] || echo "$old" >target
		stopped $sig
		if [ -z "$old" ]; then
			[ ! -e target ] || bad "SIG$sig left a target"
		else
			[ "$(cat target)" = "$old" ] || bad "SIG$sig changed the target"
		fi
		[ $sig = KILL ] && continue
		[ $status -eq 1 ] || bad "SIG$sig: status $status"
		grep -q interrupted out || bad "SIG$sig: nothing said"
		[ -z "$left" ] || bad "SIG$sig left $left"
	done
done
rm -f target

# Verbs that change an image in its place: whenever the signal comes, all of it is done, or the image
# is as it was.
head -c 40000000 disk >part
"$bothy" img convert -f raw -O qcow2 -o cluster_size=4k part base.qcow2
"$bothy" img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 over.qcow2
qemu-io -f qcow2 -c "write -P 7 1M 20M" over.qcow2 >out
qemu-img convert -f qcow2 -O raw over.qcow2 over.raw
cp base.qcow2 first.qcow2
cp over.qcow2 second.qcow2
for delay in 0 0.01 0.02 0.04 0.08 0.16; do
	for verb in commit "rebase -b part -F raw" "snapshot -d one" "snapshot -c two" "resize +1G"; do
		cp first.qcow2 base.qcow2
		cp second.qcow2 over.qcow2
		"$bothy" img snapshot -c one over.qcow2
		# shellcheck disable=SC2086 # words
		set -- $verb
		name=$1
		shift
		size=
		[ "$name" != resize ] || { size=$1; shift; }
		# shellcheck disable=SC2086 # may be none
		"$bothy" img "$name" "$@" over.qcow2 $size >out 2>&1 &
		pid=$!
		sleep $delay
		kill -TERM $pid 2>/dev/null
		wait $pid
		status=$?
		case $status in
		0 | 143) ;;
		1) grep -q "over.qcow2: interrupted" out || bad "$verb: status 1" ;;
		*) bad "$verb: status $status" ;;
		esac
		for image in over base; do
			qemu-img check -q -f qcow2 $image.qcow2 >out 2>&1
			code=$?
			[ $code -eq 0 ] || [ $code -eq 3 ] || bad "$verb after $delay s: check of $image: $code"
		done
		[ "$name" = resize ] || qemu-img compare -q -f qcow2 -F raw over.qcow2 over.raw >out 2>&1 ||
			bad "$verb after $delay s: contents"
	done
done

# ---- a file that may not grow ----

head -c 8000000 /dev/urandom >noise
for fmt in raw qcow2 qed; do
	for old in "" "what was there"; do
		rm -f target
		[ -z "$old" ] || echo "$old" >target
		(ulimit -f 4000 && exec "$bothy" img convert -f raw -O $fmt noise target) >out 2>&1
		status=$?
		[ $status -eq 1 ] || bad "limit, $fmt: status $status"
		grep -q "target.*too large" out || bad "limit, $fmt: nothing said"
		[ "$(cat target 2>/dev/null)" = "$old" ] || bad "limit, $fmt: the target changed"
		[ -z "$(ls target.?????? 2>/dev/null)" ] || bad "limit, $fmt: something is left"
	done
done

# ---- a write into an image that cannot grow ----

written() {
	for fmt in qcow2 qed; do
		for o in cluster_size=4k cluster_size=64k; do
			rm -f "$1/image"
			qemu-img create -q -f $fmt -o $o "$1/image" 64M || bad "create"
			$2 "$bothy" img bench -f $fmt -w --pattern 5 -c 3000 -d 16 "$1/image" >out 2>&1
			[ $? -eq 1 ] || bad "$1, $fmt, $o: no error"
			grep -q "$3" out || bad "$1, $fmt, $o: not '$3'"
			qemu-img check -q -f $fmt "$1/image" >out 2>&1
			status=$?
			[ $status -eq 0 ] || [ $status -eq 3 ] || bad "$1, $fmt, $o: check $status"
			# What can be read is zeros or what was written.
			qemu-img convert -f $fmt -O raw "$1/image" back >out 2>&1 || bad "read back"
			[ -z "$(tr -d '\000\005' <back | head -c 1)" ] || bad "$1, $fmt: noise"
		done
	done
}

limited() {
	(ulimit -f 8000 && exec "$@")
}
written . limited "File too large"

mkdir small
if mount -t tmpfs -o size=4m tmpfs small 2>/dev/null; then
	mounted=1
	written small "" "No space left"
	for fmt in raw qcow2 qed; do
		rm -f small/*
		"$bothy" img convert -f raw -O $fmt noise small/target >out 2>&1
		status=$?
		[ $status -eq 1 ] || bad "full, $fmt: status $status"
		grep -q "No space left" out || bad "full, $fmt: nothing said"
		[ -z "$(ls small)" ] || bad "full, $fmt: left $(ls small)"
	done
else
	echo "(no mount allowed here: the full file system was left out)"
fi

# ---- a block device has one user as well ----

truncate -s 8M back
if loop=$(losetup -f --show back 2>/dev/null); then
	qemu-img create -q -f qcow2 "$loop" 4M || bad "create on a device"
	hold qcow2 "$loop"
	"$bothy" img bench -w -c 1 -f qcow2 "$loop" >out 2>&1 && bad "a device in use was written"
	grep -q "in use by another program" out || bad "nothing said of the device in use"
	release
	"$bothy" img bench -w -c 1 -f qcow2 "$loop" >out 2>&1 || bad "a device that is free again"
else
	loop=
	echo "(no loop device here: its lock was left out)"
fi
exit $failed
