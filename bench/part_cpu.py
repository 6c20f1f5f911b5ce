"""cpu: guest programs on the software engine (translator and interpreter), on QEMU's TCG, and on this machine itself.

The same kernel, initramfs and binaries for both monitors, one vCPU; the native leg runs the same
binaries here. Work is what a program did a second of CPU time of the whole monitor (user and system,
read by the host at the program's begin and end), because wall time is shared with other work on the
machine; what it did a second of the guest's own clock stands beside it. The best of the rounds
counts. A ratio to TCG above 1 means that bothy is faster; the one to native is what is left of the machine.
A result that differs between the legs is an error, and ends the part.
"""
import os, re, shutil, subprocess, tempfile, threading
from common import HERE, QEMU, SRC, row

ROUNDS = 2
MILLISECONDS = 1000
LIMIT = 300  # seconds of one leg
TICK = os.sysconf("SC_CLK_TCK")
PROGRAMS = ["bash", "openssl", "ls", "cat", "head", "wc", "mkdir", "mktemp", "rm", "grep", "sort", "sed",
            "awk", "gzip", "sha256sum", "perl"]
# What a unit is, and how many of them a printed one has.
LOADS = {
    "coremark": ("whole numbers, passes/s", 1), "sha256": ("SHA-256 in C, MB/s", 1e6),
    "qsort": ("qsort, M/s", 1e6), "nbody": ("n-body, k steps/s", 1e3),
    "linpack": ("linear equations, Mflop/s", 1e6), "triad": ("stream triad, GB/s", 1e9),
    "crc32": ("CRC-32 by table, MB/s", 1e6), "divide": ("divisions, M/s", 1e6),
    "x87": ("x87, Mflop/s", 1e6),
    "copy": ("copy 1 MiB, GB/s", 1e9), "copy-short": ("copy 100 bytes, GB/s", 1e9),
    "syscall": ("system calls, k/s", 1e3), "fork-exec": ("fork and exec, /s", 1),
    "pipe": ("pipe there and back, k/s", 1e3), "fault": ("page faults, k/s", 1e3),
    "openssl-sha256": ("openssl sha256, MB/s", 1e6), "openssl-sha512": ("openssl sha512, MB/s", 1e6),
    "openssl-md5": ("openssl md5, MB/s", 1e6),
    "openssl-aes-128-gcm": ("openssl aes-128-gcm, MB/s", 1e6),
    "openssl-chacha20": ("openssl chacha20, MB/s", 1e6), "shell": ("shell load, passes/s", 1),
}


def initramfs(bench, program):
    """The programs over busybox's root; the load instead of a shell."""
    out = os.path.join(bench.dir, "cpuload.cpio")
    with tempfile.TemporaryDirectory() as d:
        for name in ("etc", "bin"):
            os.mkdir(os.path.join(d, name))
        shutil.copy(program, os.path.join(d, "bin/cpuload"))
        shutil.copy(os.path.join(HERE, "guests/shell-load"), os.path.join(d, "bin"))
        script = os.path.join(d, "etc/rc.test")
        with open(script, "w") as f:
            f.write("#!/bin/sh\n"
                    f"cpuload {MILLISECONDS} /bin/shell-load $(sed -n 's/.*loads=//p' /proc/cmdline |"
                    " tr , ' ')\npoweroff -f\n")
        os.chmod(script, 0o755)
        p = subprocess.run([os.path.join(SRC, "scripts/guest-programs"), d, *PROGRAMS],
                           capture_output=True, text=True)
        if p.returncode:
            print("   (" + p.stderr.strip() + ")")
            return None
        subprocess.run([os.path.join(SRC, "scripts/make-initramfs"), out, d], check=True)
    return out


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def drive(cmd, native):
    """Run a leg to its end: {load: (units a CPU second, units a second, sum)}."""
    results, lines, begun = {}, [], 0
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, errors="replace")
    watchdog = threading.Timer(LIMIT, p.kill)
    watchdog.start()
    for line in p.stdout:
        lines.append(line.rstrip())
        if line.startswith("BEGIN "):
            begun = cpu(p.pid)
        m = re.match(r"END (\S+) (\d+) (\d+) (\d+) (\S+)", line)
        if m and int(m.group(2)):
            units, wall = int(m.group(2)), int(m.group(3)) / 1e9
            spent = int(m.group(4)) / 1e9 if native else cpu(p.pid) - begun
            results[m.group(1)] = (units / max(spent, 1 / TICK), units / wall, m.group(5))
    p.wait()
    watchdog.cancel()
    if "FINISHED" not in lines:
        print(f"   ({os.path.basename(cmd[0])} ended early:", " / ".join(lines[-3:]), ")")
    return results


def legs(bench, program, kernel, initrd, loads):
    """Names and commands."""
    append = "console=ttyS0 quiet cryptomgr.notests loads=" + ",".join(loads)
    for name, engine in (("bothy", "soft,exec=translator"), ("interpreter", "soft,exec=interpreter")):
        yield name, [bench.bothy, "run", "--engine", engine, "--kernel", kernel, "--initrd", initrd,
                     "--append", append, "--memory", "512M", "--net", "none"]
    if bench.have_qemu():
        yield "TCG", [QEMU, "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-display", "none",
                      "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", append,
                      "-serial", "stdio"]
    yield "native", [program, str(MILLISECONDS), os.path.join(HERE, "guests/shell-load"), *loads]


def better(a, b):
    """The better of two runs of a leg, load by load."""
    out = dict(a)
    for name, r in b.items():
        old = a.get(name, r)
        out[name] = (max(old[0], r[0]), max(old[1], r[1]), r[2])
    return out


def wrong_sums(best):
    """Loads whose result is not the same everywhere."""
    for load in LOADS:
        sums = {who: r[load][2] for who, r in best.items() if load in r}
        if len(set(sums.values())) > 1:
            yield f"{load}: " + ", ".join(f"{who} {s}" for who, s in sums.items())


def number(r, scale, which):
    return f"{r[which] / scale:.4g}" if r else "-"


def run(bench):
    kernel = bench.kernel()
    if not kernel:
        return
    program = bench.program("cpuload", "guests/cpuload.c", "guests/cpuload_math.c",
                            "guests/cpuload_os.c")
    initrd = initramfs(bench, program)
    if not initrd:
        return
    loads = os.environ.get("BENCH_CPU_LOADS", "").split()
    best = {}
    for _ in range(ROUNDS):
        for who, cmd in legs(bench, program, kernel, initrd, loads):
            best[who] = better(best.get(who, {}), drive(cmd, who == "native"))
    for line in wrong_sums(best):
        raise SystemExit("   wrong result: " + line)
    ratios = [("bothy", "TCG"), ("bothy", "native"), ("interpreter", "TCG"), ("interpreter", "native")]
    ratios = [(w, p) for w, p in ratios if p in best]
    guests = [who for who in best if who != "native"]
    row("work a CPU second", *best, *(f"{w[:6]} : {p}" for w, p in ratios), *(f"{w} clock" for w in guests))
    for load, (name, scale) in LOADS.items():
        if loads and load not in loads:
            continue
        r = {who: best[who].get(load) for who in best}
        row(name, *(number(r[who], scale, 0) for who in best),
            *(f"{r[w][0] / r[p][0]:.2f}" if r[w] and r[p] else "-" for w, p in ratios),
            *(number(r[w], scale, 1) for w in guests))
