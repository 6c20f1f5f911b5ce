#!/bin/sh
# bothy img beside qemu-img: what one makes the other must understand.
set -u
bothy=${BOTHY_BUILD:?}/bothy
if ! command -v qemu-img >/dev/null; then
	echo "SKIP: qemu-img is missing (Debian package qemu-utils)"
	exit 77
fi
dir=$(mktemp -d "${BOTHY_BUILD:-.}/img-test-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"

# A disk with data, zeros and a hole.
head -c 3000000 /dev/urandom >disk
head -c 1000000 /dev/zero >>disk
yes "some text that compresses well" | head -c 5000000 >>disk
truncate -s 16M disk

# create
for o in '' cluster_size=512 cluster_size=2M compat=0.10 refcount_bits=1 refcount_bits=64 \
	extended_l2=on lazy_refcounts=on compression_type=zstd preallocation=metadata \
	preallocation=falloc preallocation=full cluster_size=4k,preallocation=metadata; do
	ok "create $o" "$bothy" img create -q -f qcow2 -o "$o" new.qcow2 64M
	ok "check $o" qemu-img check -q new.qcow2
	ok "own check $o" "$bothy" img check -q new.qcow2
	ok "zeros $o" qemu-img compare -q new.qcow2 -f qcow2 -F raw /dev/null
done
ok "create huge" "$bothy" img create -q -f qcow2 huge.qcow2 1T
ok "check huge" qemu-img check -q huge.qcow2
ok "create raw" "$bothy" img create -q new.raw 10M
[ "$(stat -c %s new.raw)" = 10485760 ] || { echo "FAILED: size of a raw image"; failed=1; }
no 1 "cluster size" "$bothy" img create -f qcow2 -o cluster_size=3k bad 1M
no 2 "unknown option" "$bothy" img create -f qcow2 -o clustersize=64k bad 1M
has cluster_size
# What cannot be made leaves alone what is there; an option that means nothing to the format is an
# error.
cp disk precious
for o in cluster_size=3k refcount_bits=3 compat=0.10,refcount_bits=8 extended_l2=on,cluster_size=4k \
	data_file_raw=on backing_fmt=raw data_file=precious encrypt.format=luks \
	encrypt.format=luks,encrypt.key-file=/none cluster_size=512,size=8E \
	preallocation=full,backing_file=disk,backing_fmt=raw; do
	no 1 "create -o $o" "$bothy" img create -f qcow2 -o $o precious 1T
	same disk precious "create -o $o destroyed an image"
done
for o in qed:cluster_size=3k qed:table_size=3 raw:preallocation=metadata luks:size=1M; do
	no 1 "create $o" "$bothy" img create -f "${o%%:*}" -o "${o#*:}" precious 1G
	same disk precious "create $o destroyed an image"
done
for o in raw:cluster_size=64k raw:compat=1.1 raw:data_file=x qed:preallocation=full \
	qcow2:table_size=4 luks:cluster_size=64k vmdk:size=1M; do
	no 2 "create $o" "$bothy" img create -f "${o%%:*}" -o "${o#*:}" precious 1G
	same disk precious "create $o destroyed an image"
	has "${o%%:*}"
done
no 1 "own backing file" "$bothy" img create -f qcow2 -b ./precious -F raw precious
same disk precious "create destroyed its backing file"

# convert there and back
for o in cluster_size=64k cluster_size=512 extended_l2=on compat=0.10 refcount_bits=8; do
	ok "convert $o" "$bothy" img convert -f raw -O qcow2 -o $o disk a.qcow2
	ok "compare $o" qemu-img compare -q -f raw -F qcow2 disk a.qcow2
	ok "check $o" qemu-img check -q a.qcow2
	ok "own compare $o" "$bothy" img compare -q -f raw -F qcow2 disk a.qcow2
	ok "convert back $o" "$bothy" img convert -f qcow2 -O raw a.qcow2 back
	ok "cmp $o" cmp disk back
done
for t in zlib zstd; do
	for c in 4k 64k 2M; do
		ok "compress $t $c" "$bothy" img convert -c -f raw -O qcow2 \
			-o compression_type=$t,cluster_size=$c disk c.qcow2
		[ $c = 2M ] || [ "$(stat -c %s c.qcow2)" -lt 4000000 ] ||
			{ echo "FAILED: not compressed"; failed=1; }
		ok "check $t $c" qemu-img check -q c.qcow2
		ok "compare $t $c" qemu-img compare -q -f raw -F qcow2 disk c.qcow2
		ok "theirs $t $c" qemu-img convert -c -f raw -O qcow2 \
			-o compression_type=$t,cluster_size=$c disk q.qcow2
		ok "own compare $t $c" "$bothy" img compare -q -f raw -F qcow2 disk q.qcow2
		ok "own check $t $c" "$bothy" img check -q q.qcow2
	done
done
cp disk other
printf x | dd of=other bs=1 seek=7654321 conv=notrunc 2>/dev/null
no 1 "difference" "$bothy" img compare -f raw -F qcow2 other a.qcow2
has 7654321

# The target of convert: what is no regular file is not replaced, nor is an image in use; links are
# followed, rights are kept.
mkfifo pipe
ln -s gone dangling
mkdir folder
for t in pipe folder dangling disk nbd://localhost/x folder/none/x; do
	no 1 "convert to $t" "$bothy" img convert -f raw -O raw disk $t
	has "$t: "
done
has "No such file"
[ -p pipe ] || fail "a pipe was replaced"
if mknod null c 1 3 2>/dev/null; then
	no 1 "convert to a device" "$bothy" img convert -f raw -O raw disk null
	[ -c null ] || fail "a device was replaced"
fi
no 1 "no such format" "$bothy" img convert -f raw -O vmdk disk x.vmdk
has "format vmdk"
echo old >real
chmod 640 real
ln -s real link
ok "convert through a link" "$bothy" img convert -f raw -O raw disk link
[ -L link ] || fail "a link was replaced"
same disk real "convert through a link wrote something else"
[ "$(stat -c %a real)" = 640 ] || fail "rights of the target: $(stat -c %a real)"
(umask 077 && "$bothy" img convert -f raw -O raw disk private) || fail "convert with an umask"
[ "$(stat -c %a private)" = 600 ] || fail "rights of a new target: $(stat -c %a private)"
ok "image in use" qemu-img create -q -f qcow2 used.qcow2 1M
hold qcow2 used.qcow2
inode=$(stat -c %i used.qcow2)
no 1 "convert to an image in use" "$bothy" img convert -f raw -O qcow2 disk used.qcow2
has "in use"
release
[ "$(stat -c %i used.qcow2)" = "$inode" ] || fail "an image in use was replaced"
rm -f pipe dangling link real null

# More of convert: what cannot be read, a limit, a target of zeros, the sources' cache.
ok "image" "$bothy" img convert -f raw -O qcow2 disk torn.qcow2
python3 - <<-'PY'
	import struct
	f = open("torn.qcow2", "r+b")
	f.seek(40); f.seek(struct.unpack(">Q", f.read(8))[0])
	l2 = struct.unpack(">Q", f.read(8))[0] & 0xfffffffffffe00
	f.seek(l2 + 8 * 3); e = struct.unpack(">Q", f.read(8))[0]
	f.seek(l2 + 8 * 3); f.write(struct.pack(">Q", e | 0x200))  # no place for a cluster
PY
no 1 "torn" "$bothy" img convert -O raw torn.qcow2 torn.raw
[ -e torn.raw ] && fail "a torn image was converted"
ok "salvage" "$bothy" img convert --salvage -O raw torn.qcow2 torn.raw
has "lost: 65536 bytes at 196608"
cp disk want.raw
dd if=/dev/zero of=want.raw bs=64k seek=3 count=1 conv=notrunc 2>/dev/null
same torn.raw want.raw "salvage is not all but what was lost"
ok "with a limit" "$bothy" img convert -r 1G -T none -W -f raw -O qcow2 disk limited.qcow2
ok "limited" qemu-img compare -q -f raw -F qcow2 disk limited.qcow2
ok "target" qemu-img create -q -f raw zeros.raw 20M
ok "zeros" "$bothy" img convert -n --target-is-zero -f qcow2 -O raw limited.qcow2 zeros.raw
ok "as told" qemu-img compare -q -f raw -F raw disk zeros.raw
no 2 "zeros of a new one" "$bothy" img convert --target-is-zero -O raw limited.qcow2 zeros.raw
no 2 "sparse" "$bothy" img convert -S 1000 -O raw limited.qcow2 zeros.raw

# qed
ok "create qed" "$bothy" img create -q -f qed new.qed 1G
ok "check qed" qemu-img check -q -f qed new.qed
ok "convert qed" "$bothy" img convert -f raw -O qed -o cluster_size=16k,table_size=2 disk a.qed
ok "compare qed" qemu-img compare -q -f raw -F qed disk a.qed
ok "check a.qed" qemu-img check -q -f qed a.qed
ok "qed to raw" "$bothy" img convert -f qed -O raw a.qed back
ok "cmp qed" cmp disk back
ok "grow qed" "$bothy" img resize -q -f qed a.qed +8M
no 1 "shrink qed" "$bothy" img resize -q -f qed --shrink a.qed 1M
ok "qed overlay" qemu-img create -q -f qed -b disk -F raw over.qed
ok "qed overlay compare" "$bothy" img compare -q -f qed -F raw over.qed disk
python3 - <<-'PY'
	import struct
	f = open("a.qed", "r+b")
	h = f.read(64)
	l1 = struct.unpack("<Q", h[40:48])[0]
	f.seek(l1); l2 = struct.unpack("<Q", f.read(8))[0]
	f.seek(l2 + 8); f.write(struct.pack("<Q", 12345))
	f.seek(16); f.write(struct.pack("<Q", 2))  # and it was not closed
PY
no 2 "qed error" "$bothy" img check -q -f qed a.qed
ok "qed mends itself" "$bothy" img bench -f qed -w -c 10 -o 4M a.qed
no 3 "qed only leaks" qemu-img check -q -f qed a.qed

# overlays: info opens nothing, map and compare follow, rebase and commit
ok "base" "$bothy" img convert -f raw -O qcow2 disk base.qcow2
ok "overlay" "$bothy" img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
no 1 "backing without format" "$bothy" img create -q -f qcow2 -b base.qcow2 bad
ok "write" qemu-io -f qcow2 -c "write -P 7 1M 300k" -c "write -z 5M 1M" over.qcow2
ok "reference" qemu-img convert -f qcow2 -O raw over.qcow2 over.raw
ok "compare overlay" "$bothy" img compare -q -f qcow2 -F raw over.qcow2 over.raw
ok "convert overlay" "$bothy" img convert -f qcow2 -O raw over.qcow2 over2.raw
ok "cmp" cmp over.raw over2.raw
ok "info" "$bothy" img info --json over.qcow2
has '"backing-filename": "base.qcow2"'
ok "three" "$bothy" img create -q -f qcow2 -b over.qcow2 -F qcow2 three.qcow2
ok "chain" "$bothy" img info --backing-chain --output=json three.qcow2
mv out json
ok "names of the chain" python3 -c 'import json
assert [i["filename"] for i in json.load(open("json"))] == ["three.qcow2", "over.qcow2", "base.qcow2"]'
ok "chain of text" "$bothy" img info --backing-chain three.qcow2
[ "$(grep -c ^image: out)" = 3 ] || fail "--backing-chain: $(grep ^image: out)"
ok "circle" "$bothy" img rebase -u -b three.qcow2 -F qcow2 three.qcow2
no 1 "info of a circle" "$bothy" img info --backing-chain three.qcow2
has "circle"
mv base.qcow2 hidden
ok "info without base" "$bothy" img info over.qcow2
ok "check without base" "$bothy" img check over.qcow2
no 1 "read without base" "$bothy" img convert -f qcow2 -O raw over.qcow2 x.raw
[ -e x.raw ] && { echo "FAILED: a failed convert left its target"; failed=1; }
mv hidden base.qcow2
no 1 "no-backing" "$bothy" img convert --no-backing -f qcow2 -O raw over.qcow2 x.raw
has "names a backing file"
ok "new base" qemu-img convert -f raw -O qcow2 -c other base2.qcow2
ok "rebase" "$bothy" img rebase -f qcow2 -b base2.qcow2 -F qcow2 over.qcow2
ok "rebased" qemu-img compare -q -f qcow2 -F raw over.qcow2 over.raw
ok "check rebased" qemu-img check -q over.qcow2
ok "flatten" "$bothy" img rebase -f qcow2 -b "" over.qcow2
ok "flat" qemu-img compare -q -f qcow2 -F raw over.qcow2 over.raw
ok "overlay 2" "$bothy" img create -q -f qcow2 -b base.qcow2 -F qcow2 over3.qcow2
ok "write 2" qemu-io -f qcow2 -c "write -P 9 2M 100k" -c "write -z 6M 1M" over3.qcow2
ok "reference 2" qemu-img convert -f qcow2 -O raw over3.qcow2 over3.raw
# not while another overlay shows what lies below
ok "overlay beside it" qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 beside.qcow2
hold qcow2 beside.qcow2
no 1 "commit into a base in use" "$bothy" img commit -f qcow2 -q over3.qcow2
has "base.qcow2: is in use by another program (--share"
release
ok "commit" "$bothy" img commit -f qcow2 -q over3.qcow2
ok "committed" qemu-img compare -q -f qcow2 -F raw base.qcow2 over3.raw
ok "overlay shows it" qemu-img compare -q -f qcow2 -F raw over3.qcow2 over3.raw
ok "check base" qemu-img check -q base.qcow2
ok "check overlay" qemu-img check -q over3.qcow2
ok "delta" "$bothy" img convert -f qcow2 -O qcow2 -B base.qcow2 -F qcow2 over3.qcow2 over4.qcow2
ok "delta shows it" qemu-img compare -q -f qcow2 -F raw over4.qcow2 over3.raw

# map, as they see it
for i in a.qcow2 over4.qcow2 disk; do
	fmt=qcow2
	[ $i = disk ] && fmt=raw
	qemu-img map --output=json -f $fmt $i >theirs
	"$bothy" img map --json -f $fmt $i >ours
	ok "map $i" python3 - theirs ours <<-'PY'
		import json, sys
		def spans(name):
		    out = []
		    for e in json.load(open(name)):
		        key = (e["data"], e["zero"], e.get("offset", 0) - e["start"] if e["data"] else 0)
		        if out and out[-1][1] == key and out[-1][0][1] == e["start"]:
		            out[-1] = ((out[-1][0][0], e["start"] + e["length"]), key)
		        else:
		            out.append(((e["start"], e["start"] + e["length"]), key))
		    return out
		a, b = spans(sys.argv[1]), spans(sys.argv[2])
		if a != b:
		    print([x for x in a if x not in b][:5], [x for x in b if x not in a][:5])
		    sys.exit(1)
	PY
done

# What an image says is data: no control characters on the terminal, JSON that can be parsed.
ok "image" qemu-img create -q -f qcow2 -b disk -F raw bent.qcow2
ok "snapshot" qemu-img snapshot -c SNAPNAME bent.qcow2
python3 - <<-'PY'
	d = open("bent.qcow2", "rb").read()
	d = d.replace(b"SNAPNAME", b'\x1b[2J\xff\xc2\x9b"').replace(b"disk", b"\x1b[3m", 1)
	open("bent.qcow2", "wb").write(d)
PY
for v in info "snapshot -l" map check "convert -O raw"; do
	target=
	[ "$v" = "convert -O raw" ] && target=bent.raw
	# shellcheck disable=SC2086 # words
	"$bothy" img $v bent.qcow2 $target >out 2>&1
	[ -s out ] || fail "$v of a bent image says nothing"
	LC_ALL=C grep -q "$(printf '[\033\233]')" out && fail "$v: control characters"
done
"$bothy" img info --output=json bent.qcow2 >json || fail "JSON of a bent image"
ok "parses" python3 -c 'import json
s = json.load(open("json"))["snapshots"][0]["name"]
assert s == "\x1b[2J\ufffd\x9b\"", repr(s)'

# Output that does not arrive is an error; --output is one of two; options of one letter as getopt
# has them.
for v in info check map "measure -O qcow2" "info --json"; do
	# shellcheck disable=SC2086 # words
	"$bothy" img $v a.qcow2 >/dev/full 2>out && fail "$v to a full disk"
done
{ sleep 0.5; "$bothy" img info a.qcow2 2>out; } | true
[ -s out ] && fail "a reader that has gone is told of: $(cat out)"
for v in info check map measure; do
	ok "$v --output=json" "$bothy" img $v --output=json a.qcow2
	python3 -c 'import json; json.load(open("out"))' || fail "$v --output=json: no JSON"
	no 2 "$v --output=xml" "$bothy" img $v --output=xml a.qcow2
done
ok "grouped" "$bothy" img convert -qpO qcow2 -fraw disk grouped.qcow2
ok "grouped compare" "$bothy" img compare -qfraw disk -Fqcow2 grouped.qcow2
no 2 "no such letter" "$bothy" img check -qz a.qcow2
has "option -z"
no 2 "one dash" "$bothy" img check -format raw a.qcow2
has "mean --format"

# snapshots, ours and theirs
ok "image" "$bothy" img convert -f raw -O qcow2 disk s.qcow2
ok "snapshot 1" "$bothy" img snapshot -c one s.qcow2
ok "check 1" qemu-img check -q s.qcow2
ok "write" qemu-io -f qcow2 -c "write -P 1 0 2M" -c "discard 8M 1M" s.qcow2
ok "after 1" qemu-img convert -f qcow2 -O raw s.qcow2 after1
ok "their snapshot" qemu-img snapshot -c two s.qcow2
ok "write" qemu-io -f qcow2 -c "write -P 2 1M 2M" s.qcow2
ok "snapshot 3" "$bothy" img snapshot -c three s.qcow2
ok "check 3" qemu-img check -q s.qcow2
ok "list" "$bothy" img snapshot s.qcow2
has two
no 1 "twice" "$bothy" img snapshot -c two s.qcow2
ok "view" "$bothy" img convert -f qcow2 -O raw -l one s.qcow2 view
ok "view is" cmp view disk
ok "measure a view" "$bothy" img measure -l one -O qcow2 s.qcow2
ok "view by name" "$bothy" img convert -O raw -l snapshot.name=one s.qcow2 view
ok "view is" cmp view disk
ok "apply two" "$bothy" img snapshot -a two s.qcow2
ok "is two" qemu-img compare -q -f qcow2 -F raw s.qcow2 after1
ok "check two" qemu-img check -q s.qcow2
ok "their apply" qemu-img snapshot -a three s.qcow2
ok "apply one" "$bothy" img snapshot -a one s.qcow2
ok "is one" "$bothy" img compare -q -f qcow2 -F raw s.qcow2 disk
ok "delete two" "$bothy" img snapshot -d two s.qcow2
ok "check after delete" qemu-img check -q s.qcow2
ok "delete one" qemu-img snapshot -d one s.qcow2
ok "delete three" "$bothy" img snapshot -d three s.qcow2
ok "check at last" qemu-img check -q s.qcow2
ok "is still one" "$bothy" img compare -q -f qcow2 -F raw s.qcow2 disk
no 1 "no such" "$bothy" img snapshot -a nope s.qcow2
# one too many for narrow refcounts: nothing is left of it
for bits in 1 2; do
	ok "image" "$bothy" img convert -f raw -O qcow2 -o refcount_bits=$bits,cluster_size=4k disk n.qcow2
	ok "a packed one" qemu-io -f qcow2 -c "write -c -P 3 15M 4k" -c "write -c -P 4 15400k 4k" n.qcow2
	for i in 1 2 3; do
		"$bothy" img snapshot -c $i n.qcow2 >out 2>&1 || has "too narrow"
		ok "check of $i" qemu-img check -q n.qcow2
	done
	no 1 "too many" "$bothy" img snapshot -c four n.qcow2
	ok "contents" qemu-io -f qcow2 -c "read -P 3 15M 4k" -c "read -P 4 15400k 4k" n.qcow2
done
# of other sizes: back to the smaller one and to the larger
ok "image" "$bothy" img convert -f raw -O qcow2 -o cluster_size=4k disk s.qcow2
ok "small" "$bothy" img snapshot -c small s.qcow2
ok "grow" "$bothy" img resize -q s.qcow2 40M
ok "write" qemu-io -f qcow2 -c "write -P 3 30M 1M" s.qcow2
ok "reference" qemu-img convert -f qcow2 -O raw s.qcow2 large.raw
ok "large" qemu-img snapshot -c large s.qcow2
ok "apply small" "$bothy" img snapshot -a small s.qcow2
ok "check small" qemu-img check -q s.qcow2
ok "is small" qemu-img compare -q -f qcow2 -F raw s.qcow2 disk
ok "size small" qemu-img info s.qcow2
has "(16777216 bytes)"
ok "apply large" "$bothy" img snapshot -a large s.qcow2
ok "check large" qemu-img check -q s.qcow2
ok "is large" qemu-img compare -q -f qcow2 -F raw s.qcow2 large.raw
ok "size large" qemu-img info s.qcow2
has "(41943040 bytes)"

# resize
ok "image" "$bothy" img create -q -f qcow2 -o cluster_size=512 r.qcow2 1M
ok "fill" qemu-io -f qcow2 -c "write -P 5 0 1M" r.qcow2
ok "grow" "$bothy" img resize -q r.qcow2 +600M
ok "check grown" qemu-img check -q r.qcow2
ok "use the end" qemu-io -f qcow2 -c "write -P 6 600M 1M" -c "read -P 5 0 1M" -c "read -P 0 1M 1M" r.qcow2
ok "check used" qemu-img check -q r.qcow2
no 1 "shrink" "$bothy" img resize -q r.qcow2 512k
ok "shrink" "$bothy" img resize -q --shrink r.qcow2 512k
ok "check shrunk" qemu-img check -q r.qcow2
ok "contents" qemu-io -f qcow2 -c "read -P 5 0 512k" r.qcow2
ok "info" "$bothy" img info --json r.qcow2
has '"virtual-size": 524288'
ok "less" "$bothy" img resize -q --shrink r.qcow2 -256k
ok "info" "$bothy" img info --json r.qcow2
has '"virtual-size": 262144'
no 1 "less than nothing" "$bothy" img resize -q --shrink r.qcow2 -1G

for p in metadata falloc full; do
	for o in cluster_size=64k cluster_size=512 extended_l2=on; do
		ok "image" "$bothy" img create -q -f qcow2 -o $o p.qcow2 1000000
		ok "fill" qemu-io -f qcow2 -c "write -P 5 0 976k" p.qcow2
		ok "grow $p $o" "$bothy" img resize -q --preallocation=$p p.qcow2 4M
		ok "check $p $o" qemu-img check -q p.qcow2
		ok "zeros $p $o" qemu-io -f qcow2 -c "read -P 5 0 976k" -c "read -P 0 977k 3000k" p.qcow2
		hasnt "verification failed"
		[ $p = metadata ] || [ "$(stat -c %b p.qcow2)" -ge 8192 ] || fail "$p $o takes no space"
	done
done
for p in falloc full; do
	ok "raw" "$bothy" img create -q p.raw 1M
	ok "grow raw $p" "$bothy" img resize -q -f raw --preallocation $p p.raw 4M
	[ "$(stat -c %b p.raw)" -ge 6144 ] || fail "raw $p takes no space"
done
no 1 "raw has no metadata" "$bothy" img resize -q -f raw --preallocation metadata p.raw 5M

# check and repair: leaks, wrong counts, a broken table
ok "image" "$bothy" img convert -f raw -O qcow2 disk k.qcow2
python3 - <<-'PY'
	import struct
	f = open("k.qcow2", "r+b")
	h = f.read(104)
	rt, l1 = struct.unpack(">Q", h[48:56])[0], struct.unpack(">Q", h[40:48])[0]
	f.seek(rt); block = struct.unpack(">Q", f.read(8))[0]
	f.seek(block + 2 * 40); f.write(b"\0\3")  # a leak (and COPIED is wrong)
	f.seek(block + 2 * 50); f.write(b"\0\0")  # a cluster in use, counted as free
PY
no 2 "theirs finds it" qemu-img check -q k.qcow2
no 2 "finds it" "$bothy" img check -q k.qcow2
ok "repair" "$bothy" img check --repair all k.qcow2
ok "check repaired" qemu-img check -q k.qcow2
ok "contents" qemu-img compare -q -f raw -F qcow2 disk k.qcow2
python3 - <<-'PY'
	import struct
	f = open("k.qcow2", "r+b")
	h = f.read(104)
	rt = struct.unpack(">Q", h[48:56])[0]
	f.seek(0, 2); end = f.tell()
	f.write(b"x" * 65536)
	f.seek(rt); block = struct.unpack(">Q", f.read(8))[0]
	f.seek(block + 2 * (end // 65536)); f.write(b"\0\1")
PY
no 3 "leak" "$bothy" img check -q k.qcow2
ok "mend leak" "$bothy" img check -q -r leaks k.qcow2
ok "no leak" qemu-img check -q k.qcow2
# Each kind of bad entry is found as they find it, and is gone after the repair.
bent() { # WHAT
	ok "image" "$bothy" img convert -c -f raw -O qcow2 -o cluster_size=4k disk bent.qcow2
	case $1 in sub-*) ok "image" "$bothy" img convert -f raw -O qcow2 -o extended_l2=on disk bent.qcow2 ;; esac
	ok "snapshot" "$bothy" img snapshot -c one bent.qcow2
	ok "write" qemu-io -f qcow2 -c "write -P 1 8M 64k" bent.qcow2
	python3 - "$1" <<-'PY'
		import os, struct, sys
		f = open("bent.qcow2", "r+b")
		def get(at):
		    f.seek(at)
		    return struct.unpack(">Q", f.read(8))[0]
		def put(at, v):
		    f.seek(at)
		    f.write(struct.pack(">Q", v))
		l1, rt, sn, mask = get(40), get(48), get(64), 0xfffffffffffe00
		packed, normal = get(l1) & mask, (sys.argv[1][:3] != "sub" and get(l1 + 8 * 4) & mask)
		what = sys.argv[1]
		if what == "l2-reserved":
		    put(normal, get(normal) | 1 << 57)
		elif what == "l2-unaligned":
		    put(normal, get(normal) | 0x200)
		elif what == "l1-reserved":
		    put(l1 + 32, get(l1 + 32) | 4)
		elif what == "sub-nowhere":
		    put(packed + 200 * 16 + 8, 5)
		elif what == "sub-both":
		    put(packed + 8, 1 << 32 | 1)
		elif what == "l1-nowhere":
		    put(l1 + 40, 1 << 63)
		elif what == "l1-snapshots":
		    put(l1 + 32, 1 << 63 | sn)
		elif what == "l1-l1":
		    put(l1 + 32, 1 << 63 | l1)
		elif what == "table-reserved":
		    put(rt + 8, 1)
		elif what == "packed-copied":
		    put(packed, get(packed) | 1 << 63)
		elif what == "packed-behind":
		    put(packed + 8, 1 << 62 | os.stat("bent.qcow2").st_size * 16)
	PY
}
for w in l2-reserved l2-unaligned l1-reserved l1-nowhere l1-snapshots l1-l1 table-reserved packed-copied \
	packed-behind sub-nowhere sub-both; do
	bent $w
	no 2 "theirs finds $w" qemu-img check -q bent.qcow2
	no 2 "finds $w" "$bothy" img check -q bent.qcow2
	ok "repair of $w" "$bothy" img check -q -r all bent.qcow2
	ok "repaired $w" qemu-img check -q bent.qcow2
	ok "snapshot after $w" qemu-img convert -f qcow2 -O raw -l one bent.qcow2 view
done
# the dirty bit: an image that was not closed, its counts not written
ok "image" "$bothy" img convert -f raw -O qcow2 -o lazy_refcounts=on disk d.qcow2
python3 - <<-'PY'
	import struct
	f = open("d.qcow2", "r+b")
	h = f.read(104)
	f.seek(72); f.write(struct.pack(">Q", 1))
	rt = struct.unpack(">Q", h[48:56])[0]
	f.seek(rt); block = struct.unpack(">Q", f.read(8))[0]
	f.seek(block + 2 * 20); f.write(b"\0" * 100)
PY
ok "repairs itself" "$bothy" img bench -w -c 100 d.qcow2
ok "check" qemu-img check -q d.qcow2

# refused, by name
ok "image" qemu-img create -q -f qcow2 x.qcow2 1M
python3 -c 'f = open("x.qcow2", "r+b"); f.seek(79); f.write(b"\x40")'
no 1 "unknown bit" "$bothy" img info x.qcow2
has "feature"
ok "image" qemu-img create -q -f qcow2 l.qcow2 1M
python3 -c 'f = open("l.qcow2", "r+b"); f.seek(35); f.write(b"\x02")'
no 1 "LUKS" "$bothy" img info l.qcow2
has LUKS
ok "data file" qemu-img create -q -f qcow2 -o data_file=gone.raw e.qcow2 1M
rm -f gone.raw
ok "info opens no data file" "$bothy" img info e.qcow2

# measure, bench
ok "measure" "$bothy" img measure -O qcow2 --size 1G
theirs=$(qemu-img measure -O qcow2 --size 1G | head -1)
has "$theirs"
ok "measure full" "$bothy" img measure -O qcow2 -o preallocation=full --size 1G
has "$(qemu-img measure -O qcow2 -o preallocation=full --size 1G | head -1)"
ok "measure nothing" "$bothy" img measure -O qcow2 --size 0
no 2 "measure two things" "$bothy" img measure --size 1G a.qcow2
for o in cluster_size=512 cluster_size=2M extended_l2=on refcount_bits=64; do
	ok "measure $o" "$bothy" img measure -f raw -O qcow2 -o $o --output json disk
	ok "convert $o" "$bothy" img convert -f raw -O qcow2 -o $o disk measured.qcow2
	"$bothy" img measure -f raw -O qcow2 -o $o --json disk >json
	python3 -c 'import json, os, sys
sys.exit(os.stat("measured.qcow2").st_size > json.load(open("json"))["required"])' ||
		fail "$o: larger than measured"
done
ok "bench read" "$bothy" img bench -c 2000 a.qcow2
ok "bench write" "$bothy" img bench -c 2000 -w --random --flush-interval 100 a.qcow2
ok "check after bench" qemu-img check -q a.qcow2
no 2 "verb" "$bothy" img nonsense
ok "help" "$bothy" img -h
no 2 "port" "$bothy" img serve -p 99999 disk
no 1 "bench behind the end" "$bothy" img bench -f raw -o 1T disk
no 2 "overlay of unknown size" "$bothy" img create -u -f qcow2 -b none -F raw bad
exit $failed
