"""Work of the Python interpreter and its C libraries, with results that are the same everywhere."""
import array, collections, decimal, fractions, hashlib, json, math, random, re, sqlite3, struct, \
    subprocess, threading, zlib


def pi(digits):
    """Machin's formula in whole numbers."""
    unity = 10 ** (digits + 10)

    def arctan(x):
        total = term = unity // x
        n, sign = 3, -1
        while term:
            term //= x * x
            total += sign * (term // n)
            n, sign = n + 2, -sign
        return total
    return 4 * (4 * arctan(5) - arctan(239)) // 10 ** 10


def is_prime(n):
    """Miller and Rabin with fixed bases."""
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for base in (2, 3, 5, 7, 11, 13):
        x = pow(base, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def threads():
    """A counter under a lock, and a queue without one."""
    lock, total, queue = threading.Lock(), [0], collections.deque()

    def work(k):
        for i in range(500):
            with lock:
                total[0] += i
            queue.append(k)
    all_threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in all_threads:
        t.start()
    for t in all_threads:
        t.join()
    return total[0], len(queue)


def database():
    db = sqlite3.connect(":memory:")
    db.execute("create table t (a integer, b real, c text)")
    r = random.Random(7)
    db.executemany("insert into t values (?, ?, ?)",
                   [(i, r.random(), hashlib.md5(b"%d" % i).hexdigest()) for i in range(2000)])
    return db.execute("select count(*), round(sum(b), 9), max(c) from t where a % 7 = 3").fetchall()


assert str(pi(60)) == "3141592653589793238462643383279502884197169399375105820974944"
assert is_prime(2 ** 521 - 1) and not is_prime(2 ** 523 - 1)
assert hashlib.sha256(b"abc").hexdigest().startswith("ba7816bf8f01cfea")
print(hashlib.sha256(str(pi(1000)).encode()).hexdigest())
r = random.Random(1)
numbers = [r.gauss(0, 1) for _ in range(5000)]
print(f"{math.fsum(numbers):.12g} {math.fsum(x * x for x in numbers):.12g} {sorted(numbers)[17]:.12g}")
print([f"{f(0.7):.12g}" for f in (math.sin, math.tan, math.exp, math.log, math.sqrt, math.erf)])
decimal.getcontext().prec = 60
print(decimal.Decimal(2).sqrt(), decimal.Decimal(3).ln(), fractions.Fraction(355, 113) ** 9)
text = json.dumps([{"n": i, "x": x, "s": str(x)[::-1]} for i, x in enumerate(numbers[:500])])
assert json.dumps(json.loads(text)) == text
packed = zlib.compress(text.encode(), 9)
assert zlib.decompress(packed).decode() == text
print(zlib.crc32(text.encode()), zlib.adler32(text.encode()), len(packed))
print(len(re.findall(r"(\d)(\d)\2\1", text)), re.sub(r"[^3]+", "", text)[:40])
print(hashlib.sha512(struct.pack("<500d", *numbers[:500])).hexdigest()[:32],
      sum(array.array("f", numbers)).hex()[:14])
print(threads(), database())
print(subprocess.run(["sort", "-n"], input="\n".join(str(r.randrange(9 ** 9)) for _ in range(500)),
                     text=True, capture_output=True).stdout[:100])
