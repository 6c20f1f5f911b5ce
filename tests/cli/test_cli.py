#!/usr/bin/env python3
"""bothy as a user meets it: small guests, options, errors, signals, the terminal.

Every check runs on each engine that is usable here; the errors need none.
"""
import os, pty, re, select, shutil, signal, subprocess, sys, tempfile, time

BOTHY = os.path.join(os.environ["BOTHY_BUILD"], "bothy")
WORK = tempfile.mkdtemp(prefix="bothy-cli-")
failures = []
checks = 0

# mov dx,0x3f8; add al,bl; add al,'0'; out dx,al; mov al,'\n'; out dx,al; hlt
ADD = bytes.fromhex("baf80300d80430eeb00aeef4")
# mov al,21; out 0xf4,al; hlt
EXIT43 = bytes.fromhex("b015e6f4f4")
# 1: jmp 1b
SPIN = bytes.fromhex("ebfe")
# lidt of an empty table, then int3: a triple fault
TRIPLE = bytes.fromhex("2e0f011e0810cc90000000000000")
# 1: mov dx,0x3fd; in al,dx; test al,1; jz 1b; mov dx,0x3f8; in al,dx; out dx,al; cmp al,'q'; jne 1b; hlt
ECHO = bytes.fromhex("bafd03eca80174f8baf803ecee3c7175eff4")
# rep outsb of 8 bytes at 0x1010 to 0x3f8
STRING = bytes.fromhex("be1010b90800baf803f36ef490909090") + b"strings\n"


def file(name, data):
    path = os.path.join(WORK, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def run(*args, timeout=20, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([BOTHY, *args], capture_output=True, timeout=timeout, **kw)


def check(what, ok, detail=""):
    global checks
    checks += 1
    if not ok:
        failures.append(what)
        print(f"FAILED: {what}: {detail}")


def expect(what, p, status, out=None, err=None):
    check(f"{what}: status", p.returncode == status, f"{p.returncode} not {status}: {p.stderr}")
    if out is not None:
        check(f"{what}: output", p.stdout == out, f"{p.stdout} not {out}")
    if err is not None:
        check(f"{what}: message", re.search(err, p.stderr.decode()), f"{p.stderr} has no {err!r}")


def engines():
    usable = []
    for e in ("kvm", "soft"):
        p = run("run", "--engine", e, file("exit.bin", EXIT43))
        if p.returncode == 43:
            usable.append(e)
        else:
            print(f"note: engine {e}: {p.stderr.decode().strip()}")
    return usable


def guests(e):
    on = ["run", "--engine", e]
    expect("add", run(*on, "--reg", "rax=2", "--reg", "rbx=2", file("add.bin", ADD)), 0, b"4\n")
    expect("add through a pipe", run(*on, "--reg", "rax=3", "--reg", "rbx=5", "/dev/stdin",
                                     stdin=open(file("add.bin", ADD))), 0, b"8\n")
    expect("debug exit", run(*on, file("exit.bin", EXIT43)), 43, b"")
    expect("strings", run(*on, file("string.bin", STRING)), 0, b"strings\n")
    if e != "kvm" or re.search(r"^kvm +fast", run("doctor").stdout.decode(), re.M):
        p = run(*on, file("triple.bin", TRIPLE))
        expect("triple fault", p, 1, b"", r"triple fault[\s\S]*rip [\s\S]*code at rip: cc")
    else:
        print("note: no triple fault on this /dev/kvm: its emulator ignores the limit of the IDT")
    p = run(*on, "--stats", "--trace", "exits=" + os.path.join(WORK, "trace"),
            "--reg", "rax=2", "--reg", "rbx=2", file("add.bin", ADD))
    expect("stats", p, 0, b"4\n", r"KVM_EXIT_IO +2[\s\S]*serial0 +0 reads +2 writes")
    trace = open(os.path.join(WORK, "trace")).read().split("\n")
    check("trace", trace[0] == "0 IO out port=0x3f8 size=1 count=1 data=34" and
          trace[2] == "0 HLT", trace)
    expect("load and entry", run(*on, "--load", "0x8000", "--entry", "0x8002", "--reg", "rax=1",
                                 file("late.bin", b"\xeb\xfe" + ADD)), 0, b"1\n")


def signals(e):
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        p = subprocess.Popen([BOTHY, "run", "--engine", e, file("spin.bin", SPIN)],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        time.sleep(0.5)
        p.send_signal(sig)
        try:
            p.communicate(timeout=10)
            check(f"signal {sig}", p.returncode == 128 + sig, p.returncode)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            check(f"signal {sig}", False, "it went on")
    p = subprocess.Popen([BOTHY, "run", "--engine", e, file("spin.bin", SPIN)],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.5)
    p.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=10)
    check("SIGUSR1 prints statistics", b"exits " in err and b"accesses" in err, err)


def closed_output(e):
    """A reader that goes away does not stop the guest."""
    r, w = os.pipe()
    os.close(r)
    p = run_with_stdout(e, w)
    check("closed stdout", p == 0, p)
    with open("/dev/full", "w") as full:
        p = run_with_stdout(e, full.fileno())
        check("full device", p == 0, p)


def run_with_stdout(e, fd):
    return subprocess.run([BOTHY, "run", "--engine", e, "--reg", "rax=2", file("add.bin", ADD)],
                          stdin=subprocess.DEVNULL, stdout=fd, stderr=subprocess.DEVNULL,
                          timeout=20).returncode


def two_at_once(e):
    args = [BOTHY, "run", "--engine", e, "--reg", "rax=2", "--reg", "rbx=3", file("add.bin", ADD)]
    both = [subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            for _ in range(4)]
    check("four at once", all(p.communicate(timeout=20)[0] == b"5\n" for p in both))


class Terminal:
    """bothy on a terminal of its own."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(BOTHY, [BOTHY, *args])
        self.text = b""

    def send(self, data):
        os.write(self.fd, data)

    def wait_for(self, pattern, timeout=10):
        end = time.time() + timeout
        while not re.search(pattern, self.text):
            left = end - time.time()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return False
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                return bool(re.search(pattern, self.text))
            self.text += data
        return True

    def status(self, timeout=10):
        end = time.time() + timeout
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            select.select([self.fd], [], [], 0.05)
            try:
                self.text += os.read(self.fd, 65536) if select.select([self.fd], [], [], 0)[0] else b""
            except OSError:
                pass
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return "hangs"


def terminal(e):
    t = Terminal("run", "--engine", e, file("echo.bin", ECHO))
    time.sleep(0.3)
    t.send(b"hello")
    check("echo", t.wait_for(b"hello"), t.text)
    t.send(b"\x01h")
    check("Ctrl-A H", t.wait_for(rb"Ctrl-A X +quit"), t.text)
    t.send(b"\x01c")
    check("Ctrl-A C", t.wait_for(rb"\(bothy\) "), t.text)
    t.send(b"nonsense\r")
    check("unknown command", t.wait_for(rb"no command 'nonsense'"), t.text)
    t.send(b"pause\r")
    check("pause", t.wait_for(rb"paused, 1 vCPU"), t.text)
    t.send(b"resume\r")
    check("resume", t.wait_for(rb"running, 1 vCPU"), t.text)
    t.send(b"stats\r")
    check("stats", t.wait_for(rb"KVM_EXIT_IO"), t.text)
    t.send(b"\x01c")
    t.send(b"again\x01\x01")
    check("back to the guest", t.wait_for(rb"again\x01"), t.text)
    t.send(b"q")
    status = t.status()
    check("the guest ends", status == 0, (status, t.text))
    t = Terminal("run", "--engine", e, file("spin.bin", SPIN))
    time.sleep(0.5)
    t.send(b"\x01x")
    check("Ctrl-A X", t.status() == 0, t.text)


def errors():
    short = file("short.bin", b"\x7fELF" + bytes(8))
    big = file("big.bin", bytes(3 << 20))
    kernel = bytearray(4096)
    kernel[0x1fe:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    cut = file("cut-kernel", bytes(kernel))
    for what, args, err in (
        ("no image", ["run"], "nothing to run"),
        ("missing file", ["run", "/nonexistent/x"], "/nonexistent/x: .*No such file"),
        ("directory", ["run", WORK], WORK),
        ("truncated ELF", ["run", short], "short.bin"),
        ("truncated kernel", ["run", "--kernel", cut], "cut-kernel"),
        ("too large a flat binary", ["run", "--memory", "1M", big], "big.bin"),
        ("unknown option", ["run", "--memroy", "1G"], "did you mean --memory"),
        ("bad size", ["run", "--memory", "lots", big], "--memory.*lots.*size"),
        ("no value", ["run", "--memory"], "--memory needs a value"),
        ("bad number", ["run", "--cpus", "0", big], "--cpus.*from 1 to"),
        ("too many cpus", ["run", "--cpus", "100000", big], "--cpus"),
        ("bad engine", ["run", "--engine", "xen", big], "auto, kvm, soft"),
        ("bad register", ["run", "--reg", "foo=1", file("add.bin", ADD)], "foo"),
        ("bad register value", ["run", "--reg", "rax", big], "rax=2"),
        ("missing initrd", ["run", "--initrd", "/nonexistent/i", cut], "initrd|cut-kernel"),
        ("module for a flat binary", ["run", "--initrd", big, file("add.bin", ADD)], "add.bin|flat"),
        ("two images", ["run", big, big], "two images"),
        ("bad trace", ["run", "--trace", "all", big], "exits"),
        ("bad chardev", ["run", "--serial", "carrier-pigeon", file("add.bin", ADD)], "carrier-pigeon"),
        ("missing disk", ["run", "--machine", "pc", "--disk", "/nonexistent/d",
                          file("add.bin", ADD)], "/nonexistent/d"),
        ("bad command", ["rnu"], "rnu"),
        ("memory beyond the CPU", ["run", "--engine", "soft", "--memory", "100000T",
                                   file("add.bin", ADD)], "memory"),
    ):
        p = run(*args)
        expect(what, p, 2, b"", err)
        check(f"{what}: short", len(p.stderr.splitlines()) <= 2, p.stderr)
    p = run("run", "-n", "--rng", "--engine", "soft", file("add.bin", ADD))
    check("an option without its value", p.returncode == 0 and b"engine     soft" in p.stdout,
          p.stdout + p.stderr)
    expect("no command", run(), 2, b"", "command")
    expect("help", run("help"), 0)
    expect("help run", run("help", "run"), 0)
    check("help lists options", b"--memory SIZE" in run("help", "run").stdout)
    expect("version", run("--version"), 0)
    expect("-n with a wrong network", run("run", "-n", "--net", "user,hostfwd=tcp::70000-:22", file("add.bin", ADD)),
           2, b"", r"--net user,hostfwd=tcp::70000-:22: hostfwd=.*127\.0\.0\.1:2222")
    disk = file("disk.raw", b"x" * 65536)
    for spec, why in ((disk + ",nonsense=1", "unknown key 'nonsense'"), ("none.raw", "none.raw: No such file"),
                      (disk + ",format=qed", "is not a QED image"), ("", "no file is named"),
                      (disk + ",format=raw,iops-burst=5", "a burst needs its limit: iops=N")):
        expect("-n with a wrong disk", run("run", "-n", "--disk", spec, file("add.bin", ADD)), 2, b"", "--disk.*" + why)
    expect("-n with a disk", run("run", "-n", "--disk", disk + ",format=raw", file("add.bin", ADD)), 0)
    p = run("run", "-n", "--engine", "soft", "--load", "0x2000", file("add.bin", ADD))
    expect("dry run", p, 0)
    check("dry run says the kind", b"add.bin" in p.stdout and b"bare" in p.stdout, p.stdout)


# A mount namespace whose /dev has only what a program needs; {} makes /dev/kvm, if anything.
OTHER_DEV = f"""
d={WORK}/dev && mkdir -p "$d" && mount -t tmpfs dev "$d" && for n in null zero urandom tty; do
    touch "$d/$n" && mount --bind "/dev/$n" "$d/$n"; done && {{}} && mount --rbind "$d" /dev &&
echo READY && exec "$0" "$@"
"""


def with_kvm(make_kvm, *args):
    """What a command says where /dev/kvm is something else; None where there is no such place."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    p = subprocess.run(["unshare", "--mount", *own, "sh", "-c", OTHER_DEV.format(make_kvm), *args],
                       capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if not p.stdout.startswith("READY\n"):
        print("note: no other /dev:", p.stderr.strip())
        return None
    return p.stdout[6:] + p.stderr


def choice():
    """What doctor and --engine auto say of each state of /dev/kvm; fast: in the nested venue."""
    add = ["run", "--reg", "rax=2", "--reg", "rbx=2", file("add.bin", ADD)]
    os.chmod(WORK, 0o755)
    bothy = shutil.copy(BOTHY, WORK) # where everybody may read it
    # An ordinary user, for whom a mode of 0 means something.
    nobody = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if os.geteuid() == 0:
        nobody += ["--reuid=65534", "--regid=65534", "--clear-groups"]
    for what, make, then, line, auto in (
        ("no /dev/kvm", "true", [], r"^kvm +cannot be used: no /dev/kvm: .*--engine soft",
         "there is no /dev/kvm"),
        ("no permission", 'touch "$d/kvm" && chmod 0 "$d/kvm"', nobody,
         r"^kvm +cannot be used: no permission for /dev/kvm: join the group",
         "no permission for /dev/kvm"),
        ("no device", 'echo >"$d/kvm" && chmod 666 "$d/kvm"', [],
         r"^kvm +cannot be used: /dev/kvm: not a KVM device", "/dev/kvm cannot be used"),
    ):
        text = with_kvm(make, *then, bothy, "doctor")
        if text is None:
            return
        check(what + ": kvm", re.search(line, text, re.M), text)
        check(what + ": auto", re.search(f"^auto +soft: {auto}$", text, re.M), text)
        check(what + ": runs", with_kvm(make, *then, bothy, *add) == "4\n", text)
        text = with_kvm(make, *then, bothy, "run", "-n", *add[1:])
        check(what + ": dry run", auto in text, text)
        text = with_kvm(make, *then, bothy, "run", "--engine", "kvm", *add[1:])
        check(what + ": --engine kvm", re.search(line.split(": ", 1)[1], text), text)
    text = run("doctor").stdout.decode()
    if re.search("^kvm +there, but", text, re.M):
        check("interprets: auto", re.search("^auto +soft: /dev/kvm is there but only interprets$",
                                            text, re.M), text)
    elif re.search("^kvm +fast", text, re.M):
        check("fast: auto", re.search("^auto +kvm: /dev/kvm is there and fast$", text, re.M), text)


def main():
    usable = engines()
    check("an engine is usable", usable)
    errors()
    choice()
    for e in usable:
        for part in (guests, signals, closed_output, two_at_once, terminal):
            before = len(failures)
            part(e)
            for i in range(before, len(failures)):
                failures[i] += f" ({e})"
    subprocess.run(["rm", "-rf", WORK])
    print(f"{checks} checks on {', '.join(usable)}; failed: {failures or 'none'}")
    sys.exit(1 if failures else 0)


main()
