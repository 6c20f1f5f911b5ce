"""start: from the start of the process to the guest's first port write, and the memory it takes.

The guest writes the debug-exit port at once, so the whole life of the process is measured. Resident
memory is the peak of the process (getrusage), guest RAM included: the guest touches one page.
"""
import subprocess
from common import row


def peak(bench, cmd):
    """Peak resident KiB of a command."""
    p = subprocess.run([bench.program("peak", "peak.c"), *cmd], capture_output=True, text=True)
    return int(p.stdout)


def libraries(program):
    out = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return sum("=>" in line for line in out.splitlines())


def show(bench, name, cmd, base):
    seconds = bench.wall(cmd, 15)
    instructions = bench.callgrind(cmd)
    row(name, f"{seconds * 1e3:.2f}", f"{seconds / base:.1f}" if base else "1.0",
        f"{instructions / 1e6:.2f}" if instructions else "-", f"{peak(bench, cmd) / 1024:.1f}")
    return seconds


def run(bench):
    engines = bench.engines()
    guest = bench.guest("nothing")
    base = None
    print("   shared libraries of bothy:", libraries(bench.bothy))
    row("", "ms", "against bare", "M instructions", "peak MiB")
    if "kvm" in engines:
        base = show(bench, "bare", [bench.program("bare", "bare.c"), guest, "0"], None)
    for engine in engines:
        show(bench, f"bothy {engine}",
             [bench.bothy, "run", "--engine", engine, "--serial", "null", "--reg", "rcx=0", guest], base)
    if "kvm" in engines and bench.have_qemu():
        for machine in ("microvm", "pc"):
            show(bench, f"QEMU {machine}", [*bench.qemu(machine), "-bios", bench.guest("nothing", 0)], base)
