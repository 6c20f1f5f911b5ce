# Sourced by the tests of this folder: what a command must do.
#
# `within` may be "timeout 60", put before each command (not before functions of the shell, which
# no program can run). A test ends with `exit $failed`.
# shellcheck disable=SC2034 # failed is for who sources this
within=${within:-}
failed=0
fail() {
	echo "FAILED: $*"
	failed=1
}
# ok LABEL COMMAND...: must succeed. Its output is in `out`.
ok() {
	label=$1
	shift
	if ! $within "$@" >out 2>&1; then
		fail "$label: $*"
		cat out
	fi
}
# no STATUS LABEL COMMAND...: must exit with STATUS.
no() {
	want=$1 label=$2
	shift 2
	$within "$@" >out 2>&1
	got=$?
	if [ $got -ne "$want" ]; then
		fail "$label: status $got, not $want: $*"
		cat out
	fi
}
# has PATTERN, hasnt PATTERN: is it in the output of the last one?
has() { grep -q -- "$1" out || { fail "no '$1' in:"; cat out; }; }
hasnt() { ! grep -q -- "$1" out || { fail "'$1' in:"; cat out; }; }
# same FILE FILE WHAT: equal, else WHAT has happened.
same() { cmp -s "$1" "$2" || fail "$3"; }
# hold FORMAT IMAGE: another program writes to it, until `release`. Whoever looked for its lock by
# taking one could keep it from starting, so it says itself that it is there.
hold() {
	rm -f hold.in
	mkfifo hold.in
	stdbuf -oL qemu-io -f "$1" "$2" <hold.in >hold.out 2>&1 &
	holder=$!
	exec 3>hold.in
	echo "read 0 512" >&3
	for _ in $(seq 600); do
		grep -q "read 512/512" hold.out && return
		kill -0 $holder 2>/dev/null || break
		sleep 0.1
	done
	fail "qemu-io does not hold $2:"
	cat hold.out
}
release() {
	exec 3>&-
	wait $holder
}
