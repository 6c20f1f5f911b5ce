#!/bin/sh
# Ceph disks, on a cluster of one node that keeps all in memory and lives in a folder.
set -u
bothy=${BOTHY_BUILD:?}/bothy
dir=$(mktemp -d "${TMPDIR:-/tmp}/bothy-rbd-XXXXXX") || exit 1
cd "$dir" || exit 1
pids=
trap 'for p in $pids; do kill -9 $p 2>/dev/null; done; cd /; rm -rf "$dir"' EXIT
within="timeout 60"
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"

# shellcheck source=tests/image/ceph.sh
. "$BOTHY_SRC/tests/image/ceph.sh"
rbd create --size 64 disks/one && rbd create --size 16 disks/two &&
	rbd create --size 16 --image-feature layering disks/plain || skip images

head -c 5000000 /dev/urandom >disk
truncate -s 64M disk
conf=":conf=$CEPH_CONF"

# Write, and look at it with Ceph's own tool.
ok "convert to" "$bothy" img convert -n -f raw -O raw disk rbd:disks/one$conf
ok "compare" "$bothy" img compare -f raw -F raw disk rbd:disks/one
ok "export" rbd export --no-progress disks/one out.raw
ok "the same" cmp disk out.raw
ok "convert from" "$bothy" img convert -f raw -O qcow2 rbd:disks/one from.qcow2
ok "from is the same" "$bothy" img compare -f qcow2 -F raw from.qcow2 disk
ok "info" "$bothy" img info -f raw rbd:disks/one
has "virtual size: 64 MiB"
# Map: what was never written is a hole (the feature fast-diff makes this quick).
ok "map" "$bothy" img map --json -f raw rbd:disks/one
has '"zero": true'
has '"data": true'
# In flight together, through a queue, flushed in between.
ok "bench" "$bothy" img bench -w -f raw -c 2000 -d 32 --random --flush-interval 100 rbd:disks/two
ok "bench reads" "$bothy" img bench -f raw -c 2000 -d 32 --random rbd:disks/two
# Through the NBD server: discard, zeros, FUA.
"$bothy" img serve -k sock -t -f raw rbd:disks/one >serve.out 2>&1 &
server=$!
pids="$pids $server"
n=0
until [ -S sock ] || [ $n -gt 100 ]; do
	sleep 0.1
	n=$((n + 1))
done
if command -v qemu-io >/dev/null; then
	uri="nbd+unix:///?socket=$dir/sock"
	ok "operations" qemu-io -f raw -c "write -P 5 1M 64k" -c "write -z -u 2M 1M" -c "write -z 3M 64k" \
		-c "write -f -P 6 20M 4k" -c "discard 4M 4M" -c flush -c "read -P 5 1M 64k" \
		-c "read -P 0 2M 1M" -c "read -P 0 3M 64k" -c "read -P 6 20M 4k" "$uri"
fi
# The lock: nobody else writes, until the owner is gone.
no 1 "second writer" "$bothy" img bench -w -f raw -c 1 rbd:disks/one
has "in use"
ok "reader" "$bothy" img bench -f raw -c 1 rbd:disks/one
ok "without the lock" "$bothy" img info --share -f raw rbd:disks/one
kill $server
wait $server 2>/dev/null
ok "after it" "$bothy" img bench -w -f raw -c 1 rbd:disks/one
ok "advisory lock" "$bothy" img bench -w -f raw -c 10 rbd:disks/plain
rbd lock add disks/plain somebody >/dev/null 2>&1
no 1 "locked by somebody" "$bothy" img bench -w -f raw -c 1 rbd:disks/plain
has "in use"
# A format on top, which grows what it stands on.
rbd create --size 1 disks/grow
qemu-img create -q -f qcow2 small.qcow2 32M 2>/dev/null || "$bothy" img create -q -f qcow2 small.qcow2 32M
ok "put qcow2" rbd import --no-progress small.qcow2 disks/image
ok "fill qcow2" "$bothy" img bench -w -f qcow2 -c 500 -s 64k -d 8 rbd:disks/image
ok "check qcow2" "$bothy" img check -f qcow2 rbd:disks/image
ok "resize" "$bothy" img resize -q -f raw rbd:disks/two 24M
ok "resized" "$bothy" img info -f raw rbd:disks/two
has "virtual size: 24 MiB"
no 1 "shrink" "$bothy" img resize -q -f raw rbd:disks/two 8M
ok "shrink when told" "$bothy" img resize -q -f raw --shrink rbd:disks/two 8M
# Snapshots are read-only.
rbd snap create --no-progress disks/one@before
ok "change" "$bothy" img bench -w -f raw -c 100 rbd:disks/one
ok "snapshot" "$bothy" img convert -f raw -O raw rbd:disks/one@before before.raw
ok "export it" rbd export --no-progress disks/one@before theirs.raw
ok "same snapshot" cmp before.raw theirs.raw
no 1 "write to it" "$bothy" img bench -w -f raw -c 1 rbd:disks/one@before
# Addresses that are none, and what is not there.
for bad in rbd: rbd:disks rbd:disks/ rbd:/one rbd:disks/one:x=y rbd:disks/one:conf=; do
	no 1 "address $bad" "$bothy" img info -f raw "$bad"
done
no 1 "no pool" "$bothy" img info -f raw rbd:nope/one
no 1 "no image" "$bothy" img info -f raw rbd:disks/nope
no 1 "no configuration" "$bothy" img info -f raw rbd:disks/one:conf=/nowhere
exit $failed
