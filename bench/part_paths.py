"""paths: what passes the vCPU loop by: doorbells, and interrupts to a halted guest's handler.

Doorbells by port and by memory; interrupts by a write to an eventfd and as the seam signals them.
On each engine; nanoseconds, and against an exit to the monitor on the same engine.
"""
import os, subprocess
from common import HERE, row


def run(bench):
    subprocess.run(["ninja", "-C", bench.build, "bench/bench-paths"], check=True,
                   stdout=subprocess.DEVNULL)
    guest = os.path.join(bench.dir, "paths.bin")
    subprocess.run(["gcc", "-c", os.path.join(HERE, "guests/paths.S"), "-o", guest + ".o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", guest + ".o", guest], check=True)
    row("", "ns", "of a PIO exit")
    for engine in bench.engines():
        make = lambda n: [bench.bothy, "run", "--engine", engine, "--reg", f"rcx={n}",
                          bench.guest("pio")]
        pio = (bench.wall(make(20000), 3) - bench.wall(make(0), 3)) / 20000 * 1e9
        p = subprocess.run([os.path.join(bench.build, "bench/bench-paths"), engine, guest],
                           capture_output=True, text=True, timeout=120)
        for line in p.stdout.splitlines():
            what, ns = line.split()
            row(f"{engine} {what}", ns, f"{float(ns) / pio:.2f}")
        if p.returncode:
            print("   failed:", p.stderr.strip())
