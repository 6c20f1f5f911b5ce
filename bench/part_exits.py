"""exits: what one costs, beside a bare KVM_RUN loop that handles nothing.

Instructions are user-mode ones of the monitor (callgrind), by the difference of two run lengths.
The peers are QEMU's boards with the same guest as firmware image.
"""
import os, subprocess
from common import row

FEW, MANY = 2000, 12000


def per_exit(bench, make, few=FEW, many=MANY):
    a, b = bench.callgrind(make(few)), bench.callgrind(make(many))
    return None if a is None or b is None else (b - a) / (many - few)


def seconds(bench, make):
    a, b = bench.wall(make(0), 3), bench.wall(make(20000), 3)
    return (b - a) / 20000 * 1e6


def run(bench):
    engines = bench.engines()
    row("", "instructions", "us each", "against bare")
    base = {}
    if "kvm" in engines:
        bare = bench.bare()
        for kind in ("pio", "mmio", "coalesced"):
            extra = ["coalesced"] if kind == "coalesced" else []
            make = lambda n: [bare, bench.guest(kind), str(n), *extra]
            base[kind] = seconds(bench, make)
            row(f"bare {kind}", f"{per_exit(bench, make):.0f}", f"{base[kind]:.2f}", "1.00")
    for engine in engines:
        for kind in ("pio", "scratch", "mmio"):
            guest = bench.guest(kind)
            make = lambda n: [bench.bothy, "run", "--engine", engine, "--reg", f"rcx={n}", guest]
            us = seconds(bench, make)
            n = per_exit(bench, make)
            ratio = us / base["mmio" if kind == "mmio" else "pio"] if base else 0
            row(f"bothy {engine} {kind}", f"{n:.0f}" if n else "-", f"{us:.2f}",
                f"{ratio:.2f}" if ratio else "-")
