"""What the parts of the benchmark share: building guests, running peers, counting instructions."""
import math, os, re, shutil, subprocess, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
SRC = os.path.dirname(HERE)
KINDS = {"nothing": 0, "pio": 1, "scratch": 2, "mmio": 3, "coalesced": 4}
QEMU = "qemu-system-x86_64"


class Bench:
    def __init__(self, build):
        self.build = build
        self.bothy = os.path.join(build, "bothy")
        self.dir = os.path.join(build, "bench")
        os.makedirs(self.dir, exist_ok=True)

    def engines(self):
        """The engines that can be used here."""
        names = []
        for name in ("kvm", "soft"):
            p = subprocess.run([self.bothy, "run", "--engine", name, self.guest("nothing")],
                               capture_output=True, stdin=subprocess.DEVNULL)
            if p.returncode == 1:
                names.append(name)
            else:
                print(f"   (no engine {name}: {p.stderr.decode().strip()})")
        return names

    def guest(self, kind, count=None):
        """A flat real-mode guest of guests/exits.S, or firmware with its own count."""
        out = os.path.join(self.dir, f"{kind}.bin" if count is None else f"{kind}-{count}.rom")
        defs = [f"-DKIND_{k.upper()}={v}" for k, v in KINDS.items()]
        if count is not None:
            defs.append(f"-DCOUNT={count}")
        subprocess.run(["gcc", "-c", "-x", "assembler-with-cpp", f"-DKIND={KINDS[kind]}", *defs,
                        os.path.join(HERE, "guests/exits.S"), "-o", out + ".o"], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out + ".o", out], check=True)
        return out

    def program(self, name, *sources):
        """A static program of this folder."""
        out = os.path.join(self.dir, name)
        subprocess.run(["gcc", "-O2", "-static", *(os.path.join(HERE, s) for s in sources),
                        "-o", out, "-lm"], check=True)
        return out

    def kernel(self):
        """A stock Debian kernel, or None."""
        d = os.path.join(self.build, "kernel")
        p = subprocess.run([os.path.join(SRC, "scripts/get-kernel"), d], capture_output=True, text=True)
        if p.returncode:
            print("   (no kernel:", p.stderr.strip().splitlines()[:1], ")")
            return None
        return os.path.join(d, "vmlinuz")

    def init_initramfs(self):
        """An initramfs whose init ends the run at once."""
        init = self.program("init", "guests/init.c")
        out = os.path.join(self.dir, "init.cpio")
        with tempfile.TemporaryDirectory() as d:
            shutil.copy(init, os.path.join(d, "init"))
            os.mkdir(os.path.join(d, "dev"))
            subprocess.run(f"cd {d} && find . | cpio --quiet -o -H newc > {out}", shell=True,
                           check=True)
        return out

    def qemu(self, machine):
        """A QEMU command of the board, without default devices, with the debug-exit port."""
        return [QEMU, "-accel", "kvm", "-M", machine, "-nodefaults", "-display", "none",
                "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]

    def have_qemu(self):
        return shutil.which(QEMU) is not None

    def callgrind(self, cmd, limit=300, attempts=1):
        """User-mode instructions of a command; None without valgrind or past limit seconds.

        What waits for a helper thread (copies, some allocating writes) may stop for good: valgrind
        seems to keep its own lock in io_uring_enter. Such commands take a low limit and attempts.
        """
        if not shutil.which("valgrind"):
            return None
        for _ in range(attempts):
            with tempfile.NamedTemporaryFile() as f:
                try:
                    p = subprocess.run(["valgrind", "--tool=callgrind", "--smc-check=all",
                                        f"--callgrind-out-file={f.name}", *cmd],
                                       stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                       timeout=limit)
                except subprocess.TimeoutExpired:
                    continue
                m = re.search(r"Collected : (\d+)", p.stderr)
                return int(m.group(1)) if m else None
        return None

    def wall(self, cmd, runs=5):
        """Best wall time of a command in seconds: other work on the machine only adds. Not a number
        when it comes to no end."""
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            try:
                subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, timeout=30)
            except subprocess.TimeoutExpired:
                return math.nan
            times.append(time.perf_counter() - start)
        return min(times)


def row(name, *cells):
    print(f"   {name:34}" + "".join(f"{c:>16}" for c in cells), flush=True)
