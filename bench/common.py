"""What the parts of the benchmark share: building guests, running peers, counting instructions."""
import os, re, shutil, statistics, subprocess, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = {"nothing": 0, "pio": 1, "scratch": 2, "mmio": 3, "coalesced": 4}


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
            if p.returncode in (0, 1):
                names.append(name)
            else:
                print(f"   (no engine {name}: {p.stderr.decode().strip()})")
        return names

    def guest(self, kind):
        """A flat real-mode guest of guests/exits.S."""
        out = os.path.join(self.dir, f"{kind}.bin")
        defs = [f"-DKIND_{k.upper()}={v}" for k, v in KINDS.items()]
        subprocess.run(["gcc", "-c", "-x", "assembler-with-cpp", f"-DKIND={KINDS[kind]}", *defs,
                        os.path.join(HERE, "guests/exits.S"), "-o", out + ".o"], check=True)
        subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out + ".o", out], check=True)
        return out

    def bare(self):
        out = os.path.join(self.dir, "bare")
        subprocess.run(["gcc", "-O2", "-static", os.path.join(HERE, "bare.c"), "-o", out],
                       check=True)
        return out

    def callgrind(self, cmd):
        """User-mode instructions of a command, or None without valgrind."""
        if not shutil.which("valgrind"):
            return None
        with tempfile.NamedTemporaryFile() as f:
            p = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={f.name}",
                                "--trace-children=no", *cmd], stdin=subprocess.DEVNULL,
                               capture_output=True, text=True)
            m = re.search(r"Collected : (\d+)", p.stderr)
            return int(m.group(1)) if m else None

    def wall(self, cmd, runs=5):
        """Median wall time of a command in seconds."""
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def row(name, *cells):
    print(f"   {name:34}" + "".join(f"{c:>16}" for c in cells), flush=True)
