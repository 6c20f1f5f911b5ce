"""storage: disk images beside qemu-img, medians of runs in turn, O_DIRECT where requests are measured.

Requests are 4 KiB, 32 in flight. A ratio above 1 means that bothy is faster; the last column compares
the least processor time of the runs (user and system, without that of one request alone), which other
work on the machine and a slow disk change less.
"""
import os, re, resource, shutil, statistics, subprocess, time
from common import row

COUNT = 20000
RUNS = 3


def timed(cmd):
    """What it printed, and the processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(cmd, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_of(cmd):
    out, cpu = timed(cmd)
    return float(re.search(r"completed in ([0-9.]+) seconds", out).group(1)), cpu


def ratio(a, b):
    return f"{a / b:.2f}" if b > 0 else "-"


class Part:
    def __init__(self, bench):
        self.bench = bench
        self.dir = os.path.join(bench.dir, "storage")
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def qemu_img(self, *args):
        subprocess.run(["qemu-img", *args], check=True, stdout=subprocess.DEVNULL)

    def requests(self, name, fmt, make, write, step, count=COUNT):
        """make(path) prepares an image; both programs get one of their own, in turn."""
        wall, cpu = {"bothy": [], "qemu": []}, {"bothy": [], "qemu": []}
        for _ in range(RUNS):
            for who in ("qemu", "bothy"):
                image = self.path(f"{who}.img")
                make(image)
                if who == "qemu":
                    cmd = ["qemu-img", "bench", "-f", fmt, "-t", "none", "-i", "io_uring"]
                else:
                    cmd = [self.bench.bothy, "img", "bench", "-f", fmt, "--cache", "none"]
                cmd += (["-w"] if write else []) + ["-d", "32", "-s", "4096", "-S", str(step), image]
                one = seconds_of(cmd + ["-c", "1"])[1]
                make(image)
                s, c = seconds_of(cmd + ["-c", str(count)])
                wall[who].append(s)
                cpu[who].append(max(c - one, 0))
        w = {who: statistics.median(v) for who, v in wall.items()}
        c = {who: min(v) for who, v in cpu.items()}
        row(name, *(f"{count / w[who] / 1e3:.1f}" for who in ("bothy", "qemu")),
            ratio(w["qemu"], w["bothy"]), ratio(c["qemu"], c["bothy"]))
        return w["bothy"], c["bothy"]

    def whole(self, name, args):
        wall, cpu = {"bothy": [], "qemu": []}, {"bothy": [], "qemu": []}
        for _ in range(RUNS):
            for who in ("qemu", "bothy"):
                if os.path.exists(args[-1]):
                    os.unlink(args[-1])
                cmd = ["qemu-img"] if who == "qemu" else [self.bench.bothy, "img"]
                seconds = []
                cpu[who].append(timed_wall([*cmd, *args], seconds))
                wall[who] += seconds
        w = {who: statistics.median(v) for who, v in wall.items()}
        c = {who: min(v) for who, v in cpu.items()}
        row(name, *(f"{w[who] * 1e3:.0f} ms" for who in ("bothy", "qemu")),
            ratio(w["qemu"], w["bothy"]), ratio(c["qemu"], c["bothy"]))


def timed_wall(cmd, seconds):
    start = time.monotonic()
    cpu = timed(cmd)[1]
    seconds.append(time.monotonic() - start)
    return cpu


def requests(p):
    full, spread = p.path("full.qcow2"), p.path("spread.qcow2")
    p.qemu_img("create", "-f", "qcow2", "-o", "preallocation=full", full, "512M")
    p.qemu_img("create", "-f", "qcow2", "-o", "preallocation=metadata", spread, "256G")
    p.qemu_img("convert", "-f", "qcow2", "-O", "raw", "-S", "0", full, p.path("full.raw"))

    def once(make):
        return lambda image: os.path.exists(image) and os.path.samefile(make, image) or relink(make, image)

    def relink(source, image):
        if os.path.exists(image):
            os.unlink(image)
        os.link(source, image)

    def fresh(*options):
        def make(image):
            if os.path.exists(image):
                os.unlink(image)
            p.qemu_img("create", "-f", "qcow2", *options, image, *([] if "-b" in options else ["8G"]))
        return make

    def sparse(image):
        if os.path.exists(image):
            os.unlink(image)
        p.qemu_img("create", "-f", "raw", image, "8G")

    overlay = ["-b", full, "-F", "qcow2"]
    row("thousand requests a second", "bothy", "qemu-img", "ratio", "processor")
    raw = p.requests("raw read", "raw", once(p.path("full.raw")), False, 24 * 1024)
    warm = p.requests("qcow2 read", "qcow2", once(full), False, 24 * 1024)
    row("    of raw, the same in bothy", ratio(raw[0], warm[0]), "", "", ratio(raw[1], warm[1]))
    p.requests("qcow2 read, 256 GiB, cold L2", "qcow2", once(spread), False, 13107200)
    p.requests("    another table each time", "qcow2", once(spread), False, 3 * 512 * 1048576 + 4096,
               512)
    p.requests("raw write, sparse", "raw", sparse, True, 65536)
    p.requests("qcow2 allocating write", "qcow2", fresh(), True, 65536)
    p.requests("overlay write, 64K", "qcow2", fresh(*overlay), True, 24 * 1024)
    p.requests("overlay write, 128K extended_l2", "qcow2",
               fresh("-o", "extended_l2=on,cluster_size=128K", *overlay), True, 24 * 1024)


def whole(p):
    disk = p.path("disk.raw")
    with open(disk, "wb") as out:
        for _ in range(8):
            for name in ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/bin/gcc"):
                if os.path.exists(name):
                    with open(name, "rb") as f:
                        shutil.copyfileobj(f, out)
        out.truncate(1 << 30)
    row("", "bothy", "qemu-img", "ratio", "processor")
    for name, source, sf, tf, extra in (
            ("raw to qcow2", disk, "raw", "qcow2", []),
            ("qcow2 to raw", p.path("kept.qcow2"), "qcow2", "raw", []),
            ("raw to qcow2, zlib", disk, "raw", "qcow2", ["-c"]),
            ("raw to qcow2, zstd", disk, "raw", "qcow2", ["-c", "-o", "compression_type=zstd"])):
        if name == "qcow2 to raw":
            p.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, source)
        args = ["convert", "-f", sf, "-O", tf, "-t", "unsafe", *extra, source, p.path("target")]
        p.whole(name, args)
    image = p.path("target")
    p.whole("create 1 TiB", ["create", "-q", "-f", "qcow2", "-o", "size=1T", image])


def run(bench):
    if not shutil.which("qemu-img"):
        print("   (no qemu-img: Debian package qemu-utils)")
        return
    p = Part(bench)
    try:
        requests(p)
        whole(p)
    finally:
        shutil.rmtree(p.dir, ignore_errors=True)
