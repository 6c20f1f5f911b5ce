"""Network: iperf3 between a stock Debian kernel and the host, beside QEMU's TCG.

virtio-net, e1000 and RTL8139 (8139cp) over user NAT, a tap device, a stream and a datagram socket;
the same kernel, initramfs and back end for both, one after the other in one run, the better of two.
Two ratios stand in each line: of the rates, where above 1 means that bothy is faster, and of the CPU
time (user and system, of the whole monitor, guest code included) for a byte or a packet, where less
than 1 means that bothy is cheaper. The latter suffers less from other work on the machine. (Guest and
peer are on the same processors as the rest, so that the rate is that of the slowest of the three.)

Exits a packet are counted in a run of their own over user NAT: the accesses to the card's registers
that trap, divided by the packets that the guest's driver counts, acknowledgements included. bothy
says so itself (--stats); QEMU by its trace of memory regions, without those that it coalesces on KVM.
"""
import os, re, signal, shutil, subprocess, tempfile, time
from common import QEMU, SRC, row

CARDS = {"virtio_net": "virtio", "e1000": "e1000", "8139cp": "rtl8139"}
QEMU_CARDS = {"virtio": "virtio-net-pci", "e1000": "e1000", "rtl8139": "rtl8139"}
CASES = {"tcp-up": "TCP from the guest", "tcp-down": "TCP to the guest",
         "udp-up": "64 bytes from the guest", "udp-down": "64 bytes to the guest"}
BACKENDS = ("user", "tap", "stream", "dgram")
TICK = os.sysconf("SC_CLK_TCK")


class Place:
    """A network namespace that goes away with its holder, with three taps and an iperf3 server."""

    def __init__(self, bench, backend):
        self.bench, self.backend = bench, backend
        self.dir = tempfile.mkdtemp(prefix="bench-net-")
        flags = ["-n"] if os.geteuid() == 0 else ["-Urn"]
        self.holder = subprocess.Popen(["unshare", *flags, "sleep", "100000"])
        self.enter = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        if os.geteuid():
            self.enter = ["nsenter", "-t", str(self.holder.pid), "-U", "-n", "--preserve-credentials"]
        self.peers = []
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == own:
            time.sleep(0.01)
        self.run("ip link set lo up")
        if backend != "user":
            for n in (1, 2, 3):
                self.run(f"ip tuntap add t{n} mode tap" + (" vnet_hdr" if backend == "tap" else ""))
                self.run(f"ip addr add 10.0.{n}.2/24 dev t{n}")
                self.run(f"ip link set t{n} up")
        self.server = subprocess.Popen([*self.enter, "iperf3", "-s", "-p", "5201"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(self, command):
        subprocess.run([*self.enter, "sh", "-c", command], check=True)

    def start_peers(self):
        """One for each card, anew for each monitor."""
        self.stop_peers()
        if self.backend in ("stream", "dgram"):
            program = self.bench.program("peer", "peer.c")
            for n in (1, 2, 3):
                other = [f"{self.dir}/v{n}"] if self.backend == "dgram" else []
                self.peers.append(subprocess.Popen(
                    [*self.enter, program, f"{self.dir}/s{n}", f"t{n}", *other]))
            while not all(os.path.exists(f"{self.dir}/s{n}") for n in (1, 2, 3)):
                time.sleep(0.01)

    def stop_peers(self):
        for p in self.peers:
            p.kill()
            p.wait()
        for name in os.listdir(self.dir):
            os.unlink(os.path.join(self.dir, name))
        self.peers = []

    def close(self):
        self.stop_peers()
        for p in (self.server, self.holder):
            p.kill()
            p.wait()
        shutil.rmtree(self.dir)

    def bothy(self, model, n):
        where = {"user": f"user,net=10.0.{n}.0/24,host-loopback=on", "tap": f"tap,ifname=t{n}",
                 "stream": f"stream,path={self.dir}/s{n}",
                 "dgram": f"dgram,local.path={self.dir}/v{n},remote.path={self.dir}/s{n}"}[self.backend]
        return ["--net", f"{where},model={model}"]

    def qemu(self, model, n):
        where = {"user": f"user,net=10.0.{n}.0/24",
                 "tap": f"tap,ifname=t{n},script=no,downscript=no,vhost=off",
                 "stream": f"stream,server=off,addr.type=unix,addr.path={self.dir}/s{n}",
                 "dgram": f"dgram,local.type=unix,local.path={self.dir}/v{n},remote.type=unix,"
                          f"remote.path={self.dir}/s{n}"}[self.backend]
        return ["-netdev", f"{where},id=n{n}", "-device", f"{QEMU_CARDS[model]},netdev=n{n},romfile="]


def kernel(bench):
    """The full kernel: the cloud one has no drivers for old cards."""
    d = os.path.join(bench.build, "kernel-full")
    p = subprocess.run([os.path.join(SRC, "scripts/get-kernel"), d], capture_output=True, text=True,
                       env=dict(os.environ, GET_KERNEL_PACKAGE="linux-image-amd64"))
    if p.returncode:
        print("   (no kernel:", p.stderr.strip().splitlines()[:1], ")")
    return None if p.returncode else d


def initramfs(bench, kernel_dir, seconds, cases, cards=CARDS):
    out = os.path.join(bench.dir, "net.cpio")
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(root + "/etc")
        subprocess.run([SRC + "/scripts/guest-modules", kernel_dir, root, "virtio_pci", "virtio_net",
                        "e1000", "8139cp", "af_packet"], check=True)
        subprocess.run([SRC + "/scripts/guest-programs", root, "iperf3"], check=True)
        shutil.copy(os.path.join(SRC, "bench/guests/net-load"), root + "/etc/rc.test")
        os.chmod(root + "/etc/rc.test", 0o755)
        with open(root + "/etc/net-load.conf", "w") as f:
            f.write(f"SECONDS_A_CASE={seconds}\nCASES='{' '.join(cases)}'\nCARDS='{' '.join(cards)}'\n")
        subprocess.run([SRC + "/scripts/make-initramfs", out, root], check=True)
    return out


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Run:
    """One monitor from start to end; results[card, case] = (rate, CPU seconds for each of it)."""

    def __init__(self, place, cmd):
        self.results, self.lines = {}, []
        place.start_peers()
        self.p = subprocess.Popen([*place.enter, *cmd], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace")
        timer = subprocess.Popen(["sh", "-c", f"sleep 200; kill -9 {self.p.pid}"])
        begun = used = None
        for line in self.p.stdout:
            line = line.strip()
            self.lines.append(line)
            if m := re.match(r"(BEGIN|END) (\S+) (\S+) (\d+) (\d+)", line):
                key = m.group(2, 3)
                used, begun = cpu(self.p.pid) - (begun or 0), cpu(self.p.pid)
                self.case(m.group(1), key, int(m.group(4)) + int(m.group(5)))
            elif m := re.match(r"IPERF .*-([\d.]+) +sec +([\d.]+) ([KMG]?)Bytes +([\d.]+) Kbits.*receiver", line):
                rate = float(m.group(4)) * 1000
                if u := re.search(r"(\d+)/(\d+) \(", line):
                    rate = (int(u.group(2)) - int(u.group(1))) / float(m.group(1))
                if rate and used:
                    self.results[key] = rate, used / rate
            elif line.startswith("TROUBLE"):
                print("   (", key, line, ")")
        self.p.wait()
        timer.kill()
        timer.wait()
        if "FINISHED" not in self.lines:
            print("   (a run ended early:", " / ".join(self.lines[-3:]), ")")

    def case(self, word, key, packets):
        pass


def commands(bench, place, kernel_dir, initrd):
    append = "console=ttyS0 quiet cryptomgr.notests net.ifnames=0"
    common = ["-m", "256", "-kernel", kernel_dir + "/vmlinuz", "-initrd", initrd, "-append", append]
    mine = [bench.bothy, "run", "--engine", "soft", "--memory", "256M", "--kernel",
            kernel_dir + "/vmlinuz", "--initrd", initrd, "--append", append]
    theirs = [QEMU, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-no-reboot",
              "-serial", "stdio", *common]
    for n, model in enumerate(CARDS.values(), 1):
        mine += place.bothy(model, n)
        theirs += place.qemu(model, n)
    return mine, theirs


def better(a, b):
    """The higher rate and, of whichever run, the lower cost: what else the machine did cost both."""
    runs = {k: [r[k] for r in (a, b) if k in r] for k in {**a, **b}}
    return {k: (max(r[0] for r in v), min(r[1] for r in v)) for k, v in runs.items()}


def show(backend, mine, theirs):
    for driver, model in CARDS.items():
        for case, text in CASES.items():
            a, b = mine.get((driver, case)), theirs.get((driver, case))
            unit = 1e6 if case.startswith("tcp") else 1e3
            cells = [f"{r[0] / unit:.1f}" if r else "-" for r in (a, b)]
            cells += [f"{a[i] / b[i]:.2f}" if a and b else "-" for i in (0, 1)]
            row(f"{backend} {model}: {text}", *cells)


def trapped_bothy(run):
    """{card: accesses so far}: asks with SIGUSR1 and reads until the table has come."""
    counts = {}
    run.p.send_signal(signal.SIGUSR1)
    for line in run.p.stdout:
        if m := re.match(r"\s+(?:mmio|pio)\s+\S+\s+(net\d)\S*\s+(\d+) reads\s+(\d+) writes", line):
            counts[m.group(1)] = counts.get(m.group(1), 0) + int(m.group(2)) + int(m.group(3))
        if line.startswith("engine "):
            break
    return counts


# Of QEMU's e1000: the registers whose writes KVM does not coalesce for it.
QEMU_E1000_TRAPPED = {0x20, 0xC0, 0xC8, 0xD0, 0xD8, 0x400, 0x3818}


def trapped_qemu(path, begin, end, model):
    count = 0
    with open(path) as f:
        for line in f:
            m = re.match(r"\d+@([\d.]+):memory_region_ops_(read|write) .*? addr 0x([0-9a-f]+) .*name '([^']*)'", line)
            if not m or not begin <= float(m.group(1)) <= end or not m.group(4).startswith(model):
                continue
            # The address is that of the machine; a BAR is aligned to its size.
            offset = int(m.group(3), 16) & (0x1ffff if model == "e1000" else 0xff)
            count += model != "e1000" or m.group(2) == "read" or offset in QEMU_E1000_TRAPPED
    return count


class Counted(Run):
    """A run that asks `look` at the start and the end of each case; traps[card, case] is (start, end,
    packets)."""

    def __init__(self, place, cmd, look):
        self.look, self.traps = look, {}
        super().__init__(place, cmd)

    def case(self, word, key, packets):
        seen = self.look(self)
        if word == "BEGIN":
            self.start = seen, packets
        else:
            self.traps[key] = self.start[0], seen, packets - self.start[1]


def exits(bench, kernel_dir):
    place = Place(bench, "user")
    try:
        mine, theirs = commands(bench, place, kernel_dir,
                                initramfs(bench, kernel_dir, 1, CASES, ["e1000", "8139cp"]))
        a = Counted(place, mine + ["--stats"], trapped_bothy).traps
        log = place.dir + "/trace"
        trace = ["-msg", "timestamp=on", "-trace", "memory_region_ops_read", "-trace", "memory_region_ops_write", "-D", log]
        b = Counted(place, theirs + trace, lambda run: time.time()).traps
        row("exits a packet", "bothy", "QEMU", "ratio")
        for n, driver in ((1, "e1000"), (2, "8139cp")):
            for case, text in CASES.items():
                each = [None, None]
                if x := a.get((driver, case)):
                    each[0] = (x[1].get(f"net{n}", 0) - x[0].get(f"net{n}", 0)) / max(x[2], 1)
                if x := b.get((driver, case)):
                    each[1] = trapped_qemu(log, x[0], x[1], CARDS[driver]) / max(x[2], 1)
                row(f"{CARDS[driver]}: {text}", *(f"{e:.2f}" if e is not None else "-" for e in each),
                    f"{each[0] / each[1]:.2f}" if all(each) else "-")
    finally:
        place.close()


def run(bench, backends=BACKENDS, seconds=1, cases=tuple(CASES), rounds=2):
    if not shutil.which("iperf3") or not bench.have_qemu() or not shutil.which("ip"):
        print("   (needs iperf3, iproute2 and", QEMU + ")")
        return
    kernel_dir = kernel(bench)
    if not kernel_dir:
        return
    initrd = initramfs(bench, kernel_dir, seconds, cases)
    row("", "bothy", "TCG", "ratio", "CPU ratio")
    for backend in backends:
        try:
            place = Place(bench, backend)
        except subprocess.CalledProcessError as e:
            print(f"   ({backend}: no network namespace or tap device here: {e})")
            continue
        best = [{}, {}]
        try:
            for _ in range(rounds):
                for who, cmd in enumerate(commands(bench, place, kernel_dir, initrd)):
                    best[who] = better(best[who], Run(place, cmd).results)
        finally:
            place.close()
        show(backend, *best)
    exits(bench, kernel_dir)
    print("   (Mbit/s for TCP, 1,000 packets a second for 64 bytes; CPU: seconds a byte or packet)")
