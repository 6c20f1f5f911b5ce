# Sourced, in the folder $dir: a Ceph cluster of one node that keeps all in memory and lives there,
# with the pool `disks`, or the test is skipped with the reason. What it starts is in $pids, which
# the test kills at its end.
# shellcheck disable=SC2154 # dir is of who sources this
skip() {
	echo "SKIP: no Ceph cluster here: $1: $(tail -n 1 out 2>/dev/null)"
	exit 77
}

for p in ceph-mon ceph-osd ceph rbd monmaptool; do
	command -v $p >/dev/null || { echo "SKIP: $p is missing: scripts/deps ceph"; exit 77; }
done
[ -f "$BOTHY_BUILD/bothy-rbd.so" ] || { echo "SKIP: built without librbd-dev: scripts/deps ceph"; exit 77; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fsid=6c1e0e46-3a4f-4f6a-9a51-9f8a4f0f1c01 osd=6c1e0e46-3a4f-4f6a-9a51-9f8a4f0f1c02
mkdir mon osd
cat >ceph.conf <<X
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$port]
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
mon data = $dir/mon
osd data = $dir/osd
mon data avail crit = 1
admin socket = $dir/\$name.asok
pid file = $dir/\$name.pid
log file = $dir/\$name.log
public addr = 127.0.0.1
cluster addr = 127.0.0.1
X
export CEPH_CONF="$dir/ceph.conf"
timeout 30 monmaptool --create --addv a "[v2:127.0.0.1:$port]" --fsid $fsid monmap >out 2>&1 || skip monmap
timeout 30 ceph-mon --mkfs -i a --monmap monmap >out 2>&1 || skip "monitor's files"
ceph-mon -i a -f >mon.out 2>&1 &
pids="$!"
timeout 60 ceph osd new $osd >out 2>&1 || skip monitor
timeout 30 ceph-osd -i 0 --mkfs --osd-uuid $osd >out 2>&1 || skip "storage's files"
ceph-osd -i 0 -f >osd.out 2>&1 &
pids="$pids $!"
timeout 60 ceph osd pool create disks 8 >out 2>&1 || skip pool
timeout 60 rbd pool init disks >out 2>&1 || skip storage
