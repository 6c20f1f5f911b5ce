"""virtio: disk and network of a stock Debian kernel on the software engine, beside QEMU's TCG.

The same kernel, initramfs, image file and cache mode (write-back) for both; the guest measures with
io_uring and O_DIRECT for two seconds a case, on one CPU, and the better of two runs counts. CPU is
user and system time of the whole monitor a request, guest code included; it suffers less from other
work on the machine than the rate. A ratio of rates above 1 means that bothy is faster.
"""
import os, re, shutil, subprocess, tempfile, time
from common import QEMU, row

MODULES = """virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk
             failover net_failover virtio_net af_packet"""
CASES = {
    "rand-read-4k-1": "4 KiB random read, 1 deep", "rand-read-4k-16": "4 KiB random read, 16 deep",
    "rand-write-4k-1": "4 KiB random write, 1 deep", "rand-write-4k-16": "4 KiB random write, 16 deep",
    "seq-read-128k-4": "128 KiB sequential read", "seq-write-128k-4": "128 KiB sequential write",
    "net-64": "64 byte frames there and back",
}
TICK = os.sysconf("SC_CLK_TCK")
DISK = 256 << 20


def initramfs(bench, kernel):
    """The loading program as init, and the modules it needs, in order; what is built in is not there."""
    out = os.path.join(bench.dir, "diskload.cpio")
    found = {}
    for where, _, names in os.walk(os.path.join(os.path.dirname(kernel), "modules")):
        found.update({n.split(".ko")[0]: os.path.join(where, n) for n in names if ".ko" in n})
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(bench.program("diskload", "guests/diskload.c"), os.path.join(d, "init"))
        for name in ("dev", "modules"):
            os.mkdir(os.path.join(d, name))
        with open(os.path.join(d, "modules/order"), "w") as order:
            for name in MODULES.split():
                if name not in found:
                    continue
                target = os.path.join(d, "modules", name + ".ko")
                if found[name].endswith(".xz"):
                    with open(target, "wb") as f:
                        subprocess.run(["xz", "-dc", found[name]], stdout=f, check=True)
                else:
                    shutil.copy(found[name], target)
                order.write(name + "\n")
        subprocess.run(f"cd {d} && find . | cpio --quiet -o -H newc > {out}", shell=True, check=True)
    return out


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def drive(cmd):
    """Run a monitor to its end: {case: (requests a second, CPU us a request)}, and all it printed."""
    results, lines, begun = {}, [], 0
    p = subprocess.Popen(["timeout", "-k", "5", "120", *cmd], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    child = None
    for line in p.stdout:
        lines.append(line.rstrip())
        if child is None:
            with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
                child = f.read().split()[0]
        if re.match(r"BEGIN ", line):
            begun = cpu(child)
        m = re.match(r"END (\S+) (\d+) (\d+)", line)
        if m and int(m.group(2)):
            n = int(m.group(2))
            results[m.group(1)] = (n / int(m.group(3)) * 1e9, (cpu(child) - begun) / n * 1e6)
    p.wait()
    if not any(line.startswith("FINISHED") for line in lines):
        print("   (a run ended early:", " / ".join(lines[-2:]), ")")
    return results, lines


def commands(bench, kernel, initrd, disk):
    append = "console=ttyS0 quiet cryptomgr.notests"
    port = 20000 + os.getpid() % 20000
    yield "bothy", [bench.bothy, "run", "--engine", "soft", "--kernel", kernel, "--initrd", initrd,
                    "--append", append, "--memory", "256M", "--disk", f"{disk},format=raw",
                    "--net", "loopback", "--stats"]
    yield "qemu", [QEMU, "-accel", "tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-display", "none",
                   "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", append,
                   "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
                   "-drive", f"file={disk},format=raw,if=none,id=d,cache=writeback,aio=io_uring",
                   "-device", "virtio-blk-pci,drive=d",
                   "-netdev", f"socket,id=n,udp=127.0.0.1:{port},localaddr=127.0.0.1:{port}",
                   "-device", "virtio-net-pci,netdev=n"]


def better(a, b):
    return {k: (max(a.get(k, v)[0], v[0]), min(a.get(k, v)[1], v[1])) for k, v in {**a, **b}.items()}


def batching(lines):
    """From --stats: requests, notifications and interrupts of each queue that was notified often."""
    numbers = {}
    for line in lines:
        m = re.match(r"\s+(\S+)\s+(queue\d+)_(kicks|requests|interrupts)\s+(\d+)$", line)
        if m:
            numbers.setdefault(m.group(1, 2), {})[m.group(3)] = int(m.group(4))
    for (device, queue), n in numbers.items():
        if n["kicks"] > 100:
            yield f"{device} {queue}", n["requests"], n["kicks"], n["interrupts"]


def run(bench):
    kernel = bench.kernel()
    if not kernel or not bench.have_qemu():
        print("   (needs a kernel and", QEMU + ")")
        return
    initrd = initramfs(bench, kernel)
    disk = os.path.join(bench.dir, "virtio.raw")
    with open(disk, "wb") as f:
        for _ in range(DISK >> 20):
            f.write(os.urandom(4096) * 256)
    best, stats = {"bothy": {}, "qemu": {}}, []
    try:
        for _ in range(2):
            for who, cmd in commands(bench, kernel, initrd, disk):
                results, lines = drive(cmd)
                best[who] = better(results, best[who])
                stats = lines if who == "bothy" else stats
    finally:
        os.unlink(disk)
    row("", "bothy /s", "TCG /s", "bothy CPU us", "TCG CPU us", "ratio")
    for case, name in CASES.items():
        a, b = best["bothy"].get(case), best["qemu"].get(case)
        row(name, *(f"{r[0]:.0f}" if r else "-" for r in (a, b)),
            *(f"{r[1]:.1f}" if r else "-" for r in (a, b)), f"{a[0] / b[0]:.2f}" if a and b else "-")
    print("   (QEMU has no loop-back: its frames go through a UDP socket to itself)")
    row("bothy, all cases", "requests", "notifications", "interrupts", "requests each")
    for name, requests, kicks, interrupts in batching(stats):
        row(name, requests, kicks, interrupts, f"{requests / kicks:.2f}")
