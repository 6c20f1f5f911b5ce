"""boot: a stock Debian kernel from the start of the process to its init, and to power-off.

On softkvm against QEMU's TCG with the same kernel and initramfs (wall and user CPU time), and in the
instruction-counted nested venue (AMD-V in QEMU, 1 ns = 1 instruction of everything) with exits.
"""
import math, os, re, resource, subprocess, time
from common import QEMU, SRC, row

CMDLINE = "console=ttyS0 quiet"
LIMIT = 200


def timed(cmd):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    try:
        status = subprocess.run(cmd, stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=LIMIT).returncode
    except subprocess.TimeoutExpired:
        status = f"timeout after {LIMIT} s"
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, status


def best(cmd, want, runs=3):
    results = [timed(cmd) for _ in range(runs)]
    good = [r for r in results if r[2] == want]
    if len(good) < runs:
        print("   (failed:", next(r[2] for r in results if r[2] != want), ")")
    return tuple(min(r[i] for r in good) if good else math.nan for i in (0, 1))


def soft(bench, kernel, initrd):
    row("", "wall s", "CPU s", "against TCG")
    for name, extra, status in (("", "", 1), (" cryptomgr.notests", " cryptomgr.notests", 1),
                                (" to power-off", " -- off", 0)):
        base = None
        if bench.have_qemu():
            w, c = best([QEMU, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none",
                         "-m", "512", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
                         "-append", CMDLINE + extra, "-serial", "null",
                         "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"], status)
            base = c
            row("QEMU TCG" + name, f"{w:.2f}", f"{c:.2f}", "1.00")
        for how in ("translator", "interpreter"):
            w, c = best([bench.bothy, "run", "--engine", "soft,exec=" + how, "--kernel", kernel,
                         "--initrd", initrd, "--append", CMDLINE + extra, "--net", "none",
                         "--serial", "null"], status)
            row(how + name, f"{w:.2f}", f"{c:.2f}", f"{c / base:.2f}" if base else "-")


def counted(bench, kernel, initrd):
    line = ("a=$(cut -d' ' -f1 /proc/uptime); bothy run --engine kvm --stats --net none --serial null "
            "--kernel /nested/vmlinuz --initrd /nested/init.cpio "
            f"--append '{CMDLINE}' 2>/tmp/stats; b=$(cut -d' ' -f1 /proc/uptime); echo UPTIME $a $b; "
            "grep -E ' exits |^exits|KVM_EXIT|pf_|pages_' /tmp/stats")
    env = dict(os.environ, BOTHY_SRC=SRC, BOTHY_BUILD=bench.build)
    p = subprocess.run([os.path.join(SRC, "tests/nested/run-nested"), "--icount", "--program",
                        bench.bothy, "--file", f"{initrd}=nested/", line], env=env,
                       capture_output=True, text=True, timeout=400)
    m = re.search(r"UPTIME ([\d.]+) ([\d.]+)", p.stdout)
    if not m:
        print("   (nested venue:", (p.stdout + p.stderr).strip().splitlines()[-1:], ")")
        return
    exits = re.search(r"^ +exits +(\d+)", p.stdout, re.M)
    user = re.search(r"^exits (\d+)", p.stdout, re.M)
    millions = (float(m.group(2)) - float(m.group(1))) * 1000
    row("", "M instructions", "exits (KVM)", "to the monitor")
    row("bothy kvm, counted", f"{millions:.0f}", exits.group(1) if exits else "-",
        user.group(1) if user else "-")
    print("   (the reference: kvmtool 1,834 M and 34,900 exits; QEMU pc 1,998 M and 6,300)")


def run(bench):
    kernel = bench.kernel()
    if not kernel:
        return
    initrd = bench.init_initramfs()
    soft(bench, kernel, initrd)
    counted(bench, kernel, initrd)
