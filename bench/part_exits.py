"""exits: what one costs, beside a bare KVM_RUN loop that handles nothing.

Instructions are user-mode ones of the monitor (callgrind), by the difference of two run lengths;
wall time likewise. QEMU runs the same loop as its firmware.
"""
import math
from common import row

FEW, MANY = 1000, 6000
WALL = 20000


def measure(bench, make, wall=WALL):
    us = (bench.wall(make(wall), 3) - bench.wall(make(0), 3)) / wall * 1e6
    if math.isnan(us):
        return us, None
    a, b = bench.callgrind(make(FEW)), bench.callgrind(make(MANY))
    return us, None if a is None or b is None else (b - a) / (MANY - FEW)


def show(name, us, instructions, base):
    row(name, "-" if instructions is None else f"{instructions:.0f}", f"{us:.2f}",
        f"{us / base:.2f}" if base else "-")


def run(bench):
    engines = bench.engines()
    base = {}
    row("", "instructions", "us each", "against bare")
    if "kvm" in engines:
        bare = bench.program("bare", "bare.c")
        for kind in ("pio", "mmio", "coalesced"):
            extra = ["coalesced"] if kind == "coalesced" else []
            # The end of a VM with a coalesced zone takes 7 to 23 ms: more rounds drown that.
            us, n = measure(bench, lambda n: [bare, bench.guest(kind), str(n), *extra],
                            WALL * 10 if extra else WALL)
            base[kind] = us
            show(f"bare {kind}", us, n, us)
    base["scratch"] = base.get("pio")
    for engine in engines:
        for kind in ("pio", "scratch", "mmio"):
            us, n = measure(bench, lambda n: [bench.bothy, "run", "--engine", engine, "--reg",
                                              f"rcx={n}", bench.guest(kind)])
            show(f"bothy {engine} {kind}", us, n, base.get(kind) if engine == "kvm" else None)
    if "kvm" not in engines or not bench.have_qemu():
        return
    for machine in ("microvm", "pc"):
        for kind in ("pio", "mmio"):
            us, n = measure(bench, lambda n: [*bench.qemu(machine), "-bios", bench.guest(kind, n)])
            show(f"QEMU {machine} {kind}", us, n, base[kind])
