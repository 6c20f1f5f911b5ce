#!/bin/sh
# LUKS beside qemu-img and cryptsetup: what one makes the others must open, read and check.
set -u
bothy=${BOTHY_BUILD:?}/bothy
if ! command -v qemu-img >/dev/null; then
	echo "SKIP: qemu-img is missing (Debian package qemu-utils)"
	exit 77
fi
if [ ! -f "$BOTHY_BUILD/bothy-crypto.so" ]; then
	echo "SKIP: built without libcrypto (Debian package libssl-dev)"
	exit 77
fi
dir=$(mktemp -d "${BOTHY_BUILD:-.}/luks-test-XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
# shellcheck source=tests/image/words.sh
. "${BOTHY_SRC:?}/tests/image/words.sh"

cs() { command -v cryptsetup >/dev/null; }

printf 'a long passphrase' >key
printf 'another passphrase' >key2
printf 'a long passphrase\n' >keynl
secret() { echo "--object secret,id=k,file=key"; }
spec_qcow2() { echo "driver=qcow2,file.driver=file,file.filename=$1,encrypt.key-secret=k"; }
their_check() { qemu-img check -q $(secret) --image-opts "$(spec_qcow2 "$1")"; }
# QEMU measures its own speed, and gives up on a machine that is busy: then what it was to show is
# not shown.
measured() {
	label=$1
	shift
	for try in 1 2 3 4 5; do
		"$@" >out 2>&1 && return 0
		grep -q "accurate CPU usage" out || break
	done
	if grep -q "accurate CPU usage" out; then
		echo "NOTE: not shown, QEMU cannot measure this machine's speed: $label"
	else
		ok "$label" "$@"
	fi
	return 1
}
spec_luks() { echo "driver=luks,file.driver=file,file.filename=$1,key-secret=k"; }

head -c 3000000 /dev/urandom >disk
head -c 1000000 /dev/zero >>disk
yes "some text" | head -c 2000000 >>disk
truncate -s 8M disk
fast=encrypt.format=luks,encrypt.key-file=key,encrypt.iter-time=10

# ours, read and written by QEMU
for o in cluster_size=64k cluster_size=512 extended_l2=on compat=0.10 encrypt.cipher-alg=aes-128 \
	encrypt.hash-alg=sha1 encrypt.hash-alg=sha512 refcount_bits=1; do
	ok "convert $o" "$bothy" img convert -O qcow2 -o "$fast,$o" -f raw disk a.qcow2
	ok "compare $o" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
		"$(spec_qcow2 a.qcow2)"
	ok "check $o" their_check a.qcow2
	ok "own check $o" "$bothy" img check -q a.qcow2
	ok "their writes $o" qemu-io $(secret) --image-opts "$(spec_qcow2 a.qcow2)" \
		-c "write -P 7 1000448 300k" -c "write -z 2M 1M" -c "discard 4M 1M" -c "write -P 9 7M 1k"
	ok "their copy $o" qemu-img convert $(secret) --image-opts -O raw "$(spec_qcow2 a.qcow2)" theirs
	ok "our copy $o" "$bothy" img convert --key-file key -f qcow2 -O raw a.qcow2 ours
	ok "same $o" cmp ours theirs
	ok "check after $o" "$bothy" img check -q a.qcow2
done
ok "nothing in clear" sh -c '! grep -q "some text" a.qcow2'

# theirs, read and written by us
for o in encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64 \
	encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256 \
	extended_l2=on,encrypt.hash-alg=sha512 cluster_size=4k; do
	measured "qemu makes $o" qemu-img create -q $(secret) -f qcow2 \
		-o "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10,$o" q.qcow2 8M ||
		continue
	ok "we write $o" "$bothy" img convert -n -f raw -O qcow2 -o encrypt.key-file=key disk q.qcow2
	ok "they compare $o" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
		"$(spec_qcow2 q.qcow2)"
	ok "we compare $o" "$bothy" img compare --key-file key -f qcow2 -F raw q.qcow2 disk
	ok "they check $o" their_check q.qcow2
done

[ -f q.qcow2 ] || "$bothy" img convert -f raw -O qcow2 -o "$fast" disk q.qcow2

# overlays, snapshots, resize, measure
ok "overlay" "$bothy" img create -q -f qcow2 -b q.qcow2 -F qcow2 -o "$fast" -u over.qcow2 8M
ok "overlay write" qemu-io $(secret) --image-opts \
	"$(spec_qcow2 over.qcow2),backing.encrypt.key-secret=k" -c "write -P 3 512 1k" -c "write -P 4 5M 100k"
ok "overlay copy" qemu-img convert $(secret) --image-opts -O raw \
	"$(spec_qcow2 over.qcow2),backing.encrypt.key-secret=k" theirs
ok "overlay ours" "$bothy" img compare --key-file key -f qcow2 -F raw over.qcow2 theirs
ok "commit" "$bothy" img commit -q --key-file key -f qcow2 over.qcow2
ok "committed" qemu-img compare $(secret) --image-opts driver=raw,file.filename=theirs \
	"$(spec_qcow2 q.qcow2)"
ok "snapshot" "$bothy" img snapshot -c one -f qcow2 q.qcow2
ok "change" qemu-io $(secret) --image-opts "$(spec_qcow2 q.qcow2)" -c "write -P 5 0 3M"
ok "apply" "$bothy" img snapshot -a one -f qcow2 q.qcow2
ok "applied" "$bothy" img compare --key-file key -f qcow2 -F raw q.qcow2 theirs
ok "grow" "$bothy" img resize -q --key-file key -f qcow2 q.qcow2 9M
ok "grown" qemu-io $(secret) --image-opts "$(spec_qcow2 q.qcow2)" -c "read -P 0 8M 1M"
ok "checked" their_check q.qcow2
ok "preallocate" "$bothy" img create -q -f qcow2 -o "$fast,preallocation=metadata" p.qcow2 8M
ok "preallocated zeros" qemu-io $(secret) --image-opts "$(spec_qcow2 p.qcow2)" -c "read -P 0 0 8M"
ok "write into it" "$bothy" img convert -n -f raw -O qcow2 -o encrypt.key-file=key disk p.qcow2
ok "compare it" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
	"$(spec_qcow2 p.qcow2)"
no 1 "full preallocation" "$bothy" img create -f qcow2 -o "$fast,preallocation=full" p2.qcow2 8M
no 1 "compressed" "$bothy" img convert -c -O qcow2 -o "$fast" -f raw disk c.qcow2
ok "external data" "$bothy" img convert -O qcow2 -o "$fast,data_file=x.data" -f raw disk x.qcow2
ok "external read" "$bothy" img compare --key-file key -f qcow2 -F raw x.qcow2 disk
ok "external theirs" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
	"$(spec_qcow2 x.qcow2)"

# raw LUKS
for o in encrypt.cipher-alg=aes-256 encrypt.cipher-alg=aes-128,encrypt.hash-alg=sha512; do
	ok "raw luks $o" "$bothy" img convert -f raw -O luks \
		-o "encrypt.key-file=key,encrypt.iter-time=10,$o" disk a.luks
	ok "raw compare $o" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
		"$(spec_luks a.luks)"
	if cs; then
		ok "cryptsetup passes $o" cryptsetup luksOpen --test-passphrase --key-file key a.luks
		no 2 "cryptsetup refuses $o" cryptsetup luksOpen --test-passphrase --key-file key2 a.luks
		ok "luksDump" cryptsetup luksDump a.luks
		has "xts-plain64"
	fi
done
measured "theirs" qemu-img create -q $(secret) -f luks -o key-secret=k,iter-time=10 q.luks 8M ||
	cp a.luks q.luks
ok "fill theirs" "$bothy" img convert -n -f raw -O luks -o encrypt.key-file=key disk q.luks
ok "compare theirs" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
	"$(spec_luks q.luks)"
ok "found out" "$bothy" img info --json q.luks
has '"format": "luks"'
has '"cipher-alg": "aes-256"'
ok "parts of sectors" "$bothy" img convert --key-file key -f luks -O raw q.luks back
ok "cmp" cmp disk back
if cs; then
	truncate -s 10M c.luks
	ok "cryptsetup makes" cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 \
		--key-file key --cipher aes-xts-plain64 --key-size 256 c.luks
	ok "opened" "$bothy" img convert -n -f raw -O luks -o encrypt.key-file=key disk c.luks
	ok "theirs" qemu-img compare $(secret) --image-opts driver=raw,file.filename=disk \
		"$(spec_luks c.luks)"
	truncate -s 20M c2.luks
	ok "luks2" cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
		--key-file key c2.luks
	no 1 "luks2 refused" "$bothy" img convert --key-file key -f luks -O raw c2.luks back
	has "version 2"
	# what cryptsetup says of the header inside a qcow2 image
	python3 - a.qcow2 <<-'PY'
		import struct, sys
		f = open(sys.argv[1], "rb").read()
		at = struct.unpack(">I", f[100:104])[0] if struct.unpack(">I", f[4:8])[0] >= 3 else 72
		while True:
		    kind, n = struct.unpack(">II", f[at:at + 8])
		    if kind == 0x0537be77:
		        off, size = struct.unpack(">QQ", f[at + 8:at + 24])
		        open("inner.luks", "wb").write(f[off:off + size] + bytes(1 << 20))
		        break
		    at += 8 + (n + 7) // 8 * 8
	PY
	ok "inner header" cryptsetup luksOpen --test-passphrase --key-file key inner.luks
	ok "inner dump" cryptsetup luksDump inner.luks
fi

# every key slot: a key of its own in each of the eight, then slots wiped
if cs; then
	for n in 1 2 3 4 5 6 7; do
		printf 'key of slot %s' $n >slot$n
		ok "slot $n" cryptsetup luksAddKey -q --key-file key --key-slot $n \
			--pbkdf-force-iterations 1000 c.luks slot$n
	done
	for n in 1 2 3 4 5 6 7; do
		ok "open by slot $n" "$bothy" img compare --key-file slot$n -f luks -F raw c.luks disk
	done
	ok "slots shown" "$bothy" img info c.luks
	has "key slots 0 1 2 3 4 5 6 7"
	ok "slot 0 off" cryptsetup luksKillSlot -q --key-file slot5 c.luks 0
	no 2 "old key" "$bothy" img compare --key-file key -f luks -F raw c.luks disk
	ok "another" "$bothy" img compare --key-file slot7 -f luks -F raw c.luks disk
	ok "header of ours" cryptsetup luksAddKey -q --key-file key --key-slot 6 \
		--pbkdf-force-iterations 1000 a.luks slot6
	ok "their slot in ours" "$bothy" img compare --key-file slot6 -f luks -F raw a.luks disk
fi
if measured "amend" qemu-img amend $(secret) --object secret,id=n,file=key2 -o \
	"encrypt.new-secret=n,encrypt.state=active,encrypt.keyslot=7,encrypt.iter-time=10" \
	--image-opts "$(spec_qcow2 q.qcow2)"; then
	ok "by the amended slot" "$bothy" img compare --key-file key2 -f qcow2 -F raw q.qcow2 theirs
fi

# keys: none, wrong, with a newline, from a descriptor, empty
no 1 "no key" "$bothy" img convert -f qcow2 -O raw a.qcow2 back
has "encrypt.key-file"
no 1 "wrong key" "$bothy" img convert --key-file key2 -f qcow2 -O raw a.qcow2 back
has "does not open"
no 1 "newline" "$bothy" img convert --key-file keynl -f qcow2 -O raw a.qcow2 back
has "newline"
ok "descriptor" sh -c "\"$bothy\" img convert --key-file /dev/fd/3 -f qcow2 -O raw a.qcow2 back 3<key"
ok "pipe" sh -c "printf 'a long passphrase' | \"$bothy\" img convert --key-file /dev/stdin -f qcow2 -O raw a.qcow2 back"
: >empty
no 1 "empty" "$bothy" img convert --key-file empty -f qcow2 -O raw a.qcow2 back
ok "info needs no key" "$bothy" img info a.qcow2
has "encrypted: yes"
ok "check needs no key" "$bothy" img check a.qcow2

# damaged and hostile headers end in an error, soon, and never in a crash
cat >damage.py <<'PY'
import struct, sys
src, dst, at, what = sys.argv[1:5]
b = bytearray(open(src, "rb").read())
at = int(at)
v = bytes.fromhex(what)
b[at:at + len(v)] = v
open(dst, "wb").write(b)
PY
# version, payload, key bytes, digest iterations, state, iterations, material, stripes of slot 0
for d in 6:0003 104:00000000 104:ffffffff 108:00000000 108:ffffffff 108:00000041 164:00000000 \
	208:00000001 212:00000000 248:00000000 248:ffffffff 252:00000000 252:ffffffff \
	8:ffffffff 40:00 72:72697065; do
	python3 damage.py a.luks bad.luks "${d%%:*}" "${d#*:}"
	no 1 "header $d" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
done
python3 damage.py a.luks bad.luks 352 00ac71f3000003e8"$(printf %064d 0)0000000800000fa0"
no 1 "slots overlap" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
has overlap
python3 damage.py a.luks bad.luks 5000 00
no 1 "key material" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
has "does not open"
# four thousand million iterations: refused, not computed
begin=$(date +%s)
python3 damage.py a.luks bad.luks 212 ffffffff
no 1 "iteration bomb" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
has "iterations"
python3 damage.py a.luks bad.luks 164 7fffffff
no 1 "digest bomb" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
[ $(($(date +%s) - begin)) -lt 60 ] || { echo "FAILED: a bomb went off"; failed=1; }
head -c 300 a.luks >bad.luks
no 1 "cut off" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
head -c 100000 a.luks >bad.luks
no 1 "no payload" "$bothy" img convert --key-file key -f luks -O raw bad.luks back
exit $failed
