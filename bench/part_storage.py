"""storage: disk images beside qemu-img, best of several runs, O_DIRECT where requests are measured.

Requests are 4 KiB, 32 in flight. A ratio above 1 means that bothy is faster.
"""
import os, re, shutil, subprocess
from common import row

COUNT = 20000


def seconds_of(cmd):
    out = subprocess.run(cmd, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    return float(re.search(r"completed in ([0-9.]+) seconds", out).group(1))


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

    def requests(self, name, fmt, make, write, step, runs=2):
        """make(path) prepares an image; both programs get one of their own, in turn."""
        best = {}
        for _ in range(runs):
            for who in ("qemu", "bothy"):
                image = self.path(f"{who}.img")
                make(image)
                common = ["-c", str(COUNT), "-d", "32", "-s", "4096", "-S", str(step), image]
                if who == "qemu":
                    cmd = ["qemu-img", "bench", "-f", fmt, "-t", "none", "-i", "io_uring", "-n"]
                else:
                    cmd = [self.bench.bothy, "img", "bench", "-f", fmt, "--cache", "none"]
                s = seconds_of(cmd + (["-w"] if write else []) + common)
                best[who] = min(best.get(who, s), s)
        row(name, *(f"{COUNT / best[w] / 1e3:.1f}" for w in ("bothy", "qemu")),
            f"{best['qemu'] / best['bothy']:.2f}")

    def whole(self, name, ours, theirs, runs=2):
        best = {}
        for _ in range(runs):
            for who, args in (("qemu", theirs), ("bothy", ours)):
                target = args[-1]
                if os.path.exists(target):
                    os.unlink(target)
                cmd = ["qemu-img"] if who == "qemu" else [self.bench.bothy, "img"]
                s = self.bench.wall([*cmd, *args], 1)
                best[who] = min(best.get(who, s), s)
        row(name, *(f"{best[w]:.2f} s" for w in ("bothy", "qemu")),
            f"{best['qemu'] / best['bothy']:.2f}")


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
    row("thousand requests a second", "bothy", "qemu-img", "ratio")
    p.requests("raw read", "raw", once(p.path("full.raw")), False, 24 * 1024)
    p.requests("qcow2 read", "qcow2", once(full), False, 24 * 1024)
    p.requests("qcow2 read, 256 GiB, cold L2", "qcow2", once(spread), False, 13107200)
    p.requests("raw write, sparse", "raw", sparse, True, 65536, 2)
    p.requests("qcow2 allocating write", "qcow2", fresh(), True, 65536, 2)
    p.requests("overlay write, 64K", "qcow2", fresh(*overlay), True, 24 * 1024, 2)
    p.requests("overlay write, 128K extended_l2", "qcow2",
               fresh("-o", "extended_l2=on,cluster_size=128K", *overlay), True, 24 * 1024, 2)


def whole(p):
    disk = p.path("disk.raw")
    with open(disk, "wb") as out:
        for _ in range(8):
            for name in ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/bin/gcc"):
                if os.path.exists(name):
                    with open(name, "rb") as f:
                        shutil.copyfileobj(f, out)
        out.truncate(1 << 30)
    row("", "bothy", "qemu-img", "ratio")
    for name, source, sf, tf, extra in (
            ("raw to qcow2", disk, "raw", "qcow2", []),
            ("qcow2 to raw", p.path("kept.qcow2"), "qcow2", "raw", []),
            ("raw to qcow2, zlib", disk, "raw", "qcow2", ["-c"]),
            ("raw to qcow2, zstd", disk, "raw", "qcow2", ["-c", "-o", "compression_type=zstd"])):
        if name == "qcow2 to raw":
            p.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, source)
        args = ["convert", "-f", sf, "-O", tf, "-t", "unsafe", *extra, source, p.path("target")]
        p.whole(name, args, args)
    image = p.path("target")
    p.whole("create 1 TiB", ["create", "-q", "-f", "qcow2", "-o", "size=1T", image],
            ["create", "-q", "-f", "qcow2", "-o", "size=1T", image])


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
