"""img: what an image costs where wall time is too noisy: instructions, memory, and NBD to one client.

Beside qemu-img and qemu-nbd; part_storage has the rates and conversions. Instructions are user-mode
ones a request (callgrind, by the difference of two run lengths). A ratio above 1 means that bothy
takes less, or is faster; the last column compares processor time, which other work on the machine
changes less.
"""
import os, re, resource, shutil, statistics, subprocess, time
from common import row
from part_start import peak

FEW, MANY = 1000, 4000
NBD_COUNT = 20000


class Images:
    def __init__(self, bench):
        self.bench = bench
        self.dir = os.path.join(bench.dir, "img")
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def new(self, name, size, *options, fmt="qcow2"):
        path = self.path(name)
        if os.path.exists(path):
            os.unlink(path)
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, path, *([size] if size else [])],
                       check=True)
        return path

    def commands(self, fmt, *args):
        """The same requests with both programs: cache write-back, queue on io_uring."""
        return {"bothy": [self.bench.bothy, "img", "bench", "-f", fmt, *args],
                "qemu": ["qemu-img", "bench", "-f", fmt, "-t", "writeback", "-i", "io_uring", *args]}


def instructions(p, name, fmt, make, *args):
    each = {}
    for who in ("bothy", "qemu"):
        counts = []
        for count in (FEW, MANY):
            cmd = p.commands(fmt, "-c", str(count), "-d", "16", "-s", "4096", *args, make())[who]
            counts.append(p.bench.callgrind(cmd, limit=12, attempts=3))
        each[who] = (counts[1] - counts[0]) / (MANY - FEW) if None not in counts else None
    row(name, *(f"{each[w]:.0f}" if each[w] else "-" for w in each),
        f"{each['qemu'] / each['bothy']:.2f}" if all(each.values()) else "-")


def all_instructions(p):
    full = p.new("full.qcow2", "256M", "-o", "preallocation=full")
    raw = p.path("full.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", "-S", "0", full, raw], check=True)
    row("user instructions a request", "bothy", "qemu-img", "ratio")
    instructions(p, "raw read, scattered", "raw", lambda: raw, "-S", "24576")
    instructions(p, "qcow2 read, warm", "qcow2", lambda: full, "-S", "24576")
    instructions(p, "qcow2 allocating write", "qcow2", lambda: p.new("new.qcow2", "1G"), "-w",
                 "-S", "65536")


def children_cpu():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def large(p):
    """How opening, and reads all over it, grow with an image of which a quarter is allocated."""
    row("a quarter allocated, depth 16, 4 KiB", "bothy", "qemu-img", "ratio", "processor")
    for size in (4, 64, 1024):
        image = p.new("large.qcow2", f"{size // 4}G", "-o", "preallocation=metadata")
        subprocess.run(["qemu-img", "resize", "-q", image, f"{size}G"], check=True)
        for name, args in ((f"{size} GiB: open and one read", ["-c", "1"]),
                           (f"{size} GiB: 20000 reads, all over it",
                            ["-c", "20000", "-S", str((size << 30) // 4 // 20000 // 512 * 512)])):
            cmds = p.commands("qcow2", *args, "-d", "16", "-s", "4096", image)
            runs, cpus = ({who: [] for who in cmds} for _ in range(2))
            for _ in range(3):
                for who, cmd in cmds.items():
                    before = children_cpu()
                    runs[who].append(p.bench.wall(cmd, 1))
                    cpus[who].append(children_cpu() - before)
            seconds = {who: statistics.median(r) for who, r in runs.items()}
            cpu = {who: min(r) for who, r in cpus.items()}
            memory = {who: peak(p.bench, cmd) / 1024 for who, cmd in cmds.items()}
            row(name + ", ms", *(f"{s * 1e3:.1f}" for s in seconds.values()),
                f"{seconds['qemu'] / seconds['bothy']:.2f}", f"{cpu['qemu'] / cpu['bothy']:.2f}")
            row("    peak MiB", *(f"{m:.1f}" for m in memory.values()),
                f"{memory['qemu'] / memory['bothy']:.2f}")


def served(server, socket, write):
    """Seconds that one client (qemu-img bench) takes with a server, and the server's processor time."""
    p = subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if os.path.exists(socket):
                break
            time.sleep(0.05)
        out = subprocess.run(["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(NBD_COUNT), "-d",
                              "16", "-s", "4096", "-S", "24576", *(["-w"] if write else []),
                              f"nbd+unix:///?socket={socket}"], capture_output=True, text=True,
                             timeout=60)
        m = re.search(r"completed in ([0-9.]+) seconds", out.stdout)
        if not m:
            raise RuntimeError(out.stderr.strip())
        p.terminate()
        use = os.wait4(p.pid, 0)[2]
        p.returncode = 0
        return float(m.group(1)), use.ru_utime + use.ru_stime
    finally:
        if p.returncode is None:
            p.kill()
            p.wait()
        if os.path.exists(socket):
            os.unlink(socket)


def nbd(p):
    image = p.path("full.qcow2")
    row("NBD, one client, 16 deep, 4 KiB", "bothy serve", "qemu-nbd", "ratio", "processor")
    for name, write in (("thousand reads a second", False), ("thousand writes a second", True)):
        best, cpu = {}, {}
        for _ in range(3):
            socket = p.path("socket")
            for who, server in (
                    ("bothy", [p.bench.bothy, "img", "serve", "-f", "qcow2", "-t", "-k", socket, image]),
                    ("qemu", ["qemu-nbd", "-f", "qcow2", "-t", "-k", socket, "--cache=writeback",
                              "--aio=io_uring", image])):
                s, c = served(server, socket, write)
                best[who] = min(best.get(who, s), s)
                cpu[who] = min(cpu.get(who, c), c)
        row(name, *(f"{NBD_COUNT / best[w] / 1e3:.1f}" for w in ("bothy", "qemu")),
            f"{best['qemu'] / best['bothy']:.2f}", f"{cpu['qemu'] / cpu['bothy']:.2f}")


def run(bench):
    if not shutil.which("qemu-img") or not shutil.which("qemu-nbd"):
        print("   (no qemu-img, qemu-nbd: Debian package qemu-utils)")
        return
    p = Images(bench)
    try:
        all_instructions(p)
        large(p)
        nbd(p)
    finally:
        shutil.rmtree(p.dir, ignore_errors=True)
