#!/usr/bin/env python3
"""How long a core's turns take while much is to be done at once: turn time and own time, by scenario.

A turn is what a waiting client waits for: everything a core executes between two looks at its sockets, or a slice
of its background work. Its own time is that without the time in which the core's thread was not on a CPU, because
the machine ran something else (src/io/stopwatch.rs says how exact that is). The server is pinned to one CPU, the
load (redis-benchmark) to another. Each scenario has a server of its own:

    set     a full arena under SET alone, every key new
    expire  many keys with the same deadline, while others are read and written
    grow    from no key to many
    flush   FLUSHALL ASYNC of many keys, while others are read and written
    del     DEL, UNLINK, EXISTS and MGET of many keys in one request each, while others are read and written

Times come from /metrics, as differences over the scenario; percentiles are upper bounds of buckets that double. The
verdict: no more than one turn in 10,000 with an own time over 1 ms, and none over 2 ms.

    cargo build --release
    bench/turns.py                          # 10 million keys, 2 GiB: some minutes
    bench/turns.py --quick                  # 1 million keys
    bench/turns.py --no-prefault            # memory is touched as it is used: what the kernel takes for that counts
    bench/turns.py --scenarios grow,flush --keys 5000000

Needs redis-benchmark (tests/run installs it) and two CPUs.
"""

import argparse
import http.client
import re
import shutil
import socket
import subprocess
import sys
import time

from servers import Server, free_port

# Requests per second that a load must reach for its turns to count: fewer turns are short whatever is wrong.
RATE_MIN = 100_000
BACKGROUND_KEYS = 100_000


class Ringfence(Server):
    def __init__(self, options, memory):
        self.admin = free_port()
        command = [options.ringfence, "--port", "{port}", "--memory", memory, "--idle", options.idle]
        settings = {"cores.cpus": f"[{options.server_cpu}]", "listen.core_port_base": 0, "listen.admin_port": self.admin}
        settings |= {"listen.memcached_port": 0, "listen.http_port": 0}
        settings["prefault"] = "false" if options.no_prefault else "true"
        if options.log:
            settings["log.level"] = "debug"
        command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        super().__init__("ringfence", command, options.server_cpu, log=options.log)
        # It listens before its memory is touched.
        self.ask("PING")

    def ask(self, *args, timeout=60):
        """One request's reply, as far as its first line; the rest is read and dropped."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as s:
            s.sendall(encode(args) + encode(["PING"]))
            got = b""
            while not got.endswith(b"+PONG\r\n"):
                piece = s.recv(1 << 20)
                if not piece:
                    raise OSError("the connection was closed")
                got = (got + piece) if len(got) < 1 << 16 else got[: 1 << 15] + (got + piece)[-64:]
            return got.split(b"\r\n", 1)[0].decode()

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")}


def encode(args):
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        arg = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(arg), arg))
    return b"".join(parts)


class Load:
    """redis-benchmark, to its end or until it is stopped."""

    def __init__(self, server, options, requests, command, space, connections=50):
        self.words = ["taskset", "-c", str(options.load_cpu), "redis-benchmark", "-p", str(server.port)]
        self.words += ["-n", str(requests), "-c", str(connections), "-P", str(options.pipeline)]
        self.words += ["-r", str(space), "-d", str(options.value), "--csv", *command]
        self.requests, self.begin = requests, time.monotonic()
        self.process = subprocess.Popen(self.words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self):
        out, err = self.process.communicate(timeout=900)
        if self.process.returncode != 0:
            sys.exit(f"redis-benchmark failed: {err or out}")
        self.seconds = time.monotonic() - self.begin
        return self

    def stop(self):
        self.process.kill()
        self.process.communicate()


def fill(server, options, keys):
    """Keys that are nearly all different."""
    return Load(server, options, keys, ["-t", "set"], 10**11).wait()


class Window:
    """What the counters did between its beginning and its end."""

    def __init__(self, server):
        self.server, self.before, self.begin = server, server.metrics(), time.monotonic()

    def end(self):
        self.after, self.seconds = self.server.metrics(), time.monotonic() - self.begin
        return self

    def difference(self, prefix):
        names = [name for name in self.after if name.startswith(prefix)]
        return sum(self.after[n] - self.before.get(n, 0) for n in names)

    def commands(self):
        return self.difference("ringfence_commands_total")

    def histogram(self, name):
        """Counts by upper bound in seconds, not cumulative."""
        cumulative = {}
        for key, value in self.after.items():
            if match := re.match(name + r'_bucket\{core="0",le="(.*)"\}', key):
                bound = float(match[1].replace("+Inf", "inf"))
                cumulative[bound] = value - self.before.get(key, 0)
        below, counts = 0, {}
        for bound in sorted(cumulative):
            counts[bound], below = cumulative[bound] - below, cumulative[bound]
        return counts

    def row(self, kind):
        own = "_own" if kind == "own" else ""
        counts = self.histogram(f"ringfence_turn{own}_duration_seconds")
        total = sum(counts.values())

        def quantile(part):
            below = 0
            for bound, count in counts.items():
                below += count
                if below >= total * part:
                    return bound
            return 0.0

        name = f'ringfence_turn{own}_max_seconds{{core="0"}}'
        highest = max((bound for bound, count in counts.items() if count), default=0.0)
        # The maximum is one since the start: where it is older than the window, the highest bucket bounds it.
        grew = self.after[name] > self.before[name]
        longest = self.after[name] if grew else min(highest, self.after[name])
        return {
            "turns": int(total),
            "p50": quantile(0.5),
            "p9999": quantile(0.9999),
            "max": longest,
            "over1": int(sum(c for b, c in counts.items() if b > 0.001)),
            "over2": int(sum(c for b, c in counts.items() if b > 0.002)),
        }


def scenario_set(server, options):
    record = 16 + options.value + 24
    fill(server, options, int(1.15 * options.memory_bytes / record))
    window = Window(server)
    fill(server, options, options.keys)
    window.end()
    evicted = window.difference("ringfence_evicted_keys_total")
    return window, f"{evicted:,.0f} keys evicted", evicted > options.keys / 2


def scenario_expire(server, options):
    count = min(1_000_000, options.keys)
    fill(server, options, options.keys - count)
    lead = 6 + count / 200_000
    deadline = int((time.time() + lead) * 1000)
    Load(server, options, count, ["set", "due:__rand_int__", "x" * options.value, "PXAT", str(deadline)], 10**11).wait()
    left = deadline / 1000 - time.time()
    if left < 1:
        sys.exit("expire: the keys were not written in time")
    load = Load(server, options, 10**9, ["-t", "set,get"], BACKGROUND_KEYS)
    time.sleep(left - 0.5)
    window = Window(server)
    time.sleep(0.5)
    gone = None
    while gone is None and time.time() < deadline / 1000 + 30:
        time.sleep(0.05)
        if server.metrics()['ringfence_keys_with_expiry{core="0"}'] == 0:
            gone = time.time() - deadline / 1000
    time.sleep(max(0.0, deadline / 1000 + 4 - time.time()))
    window.end()
    load.stop()
    expired = window.difference("ringfence_expired_keys_total")
    return window, f"{expired:,.0f} keys expired, the last at most {gone or 30:.2f} s late", expired > 0.9 * count


def scenario_grow(server, options):
    window = Window(server)
    fill(server, options, options.keys)
    window.end()
    keys = window.after['ringfence_keys{core="0"}']
    return window, f"{keys:,.0f} keys", keys > 0.9 * options.keys


def scenario_flush(server, options):
    fill(server, options, options.keys)
    load = Load(server, options, 10**9, ["-t", "set"], BACKGROUND_KEYS)
    time.sleep(1)
    window = Window(server)
    begin = time.monotonic()
    reply = server.ask("FLUSHALL", "ASYNC")
    took = time.monotonic() - begin
    time.sleep(4)
    window.end()
    load.stop()
    keys = window.after['ringfence_keys{core="0"}']
    return window, f"answered {reply} after {took * 1000:.1f} ms", reply == "+OK" and keys <= BACKGROUND_KEYS


def scenario_del(server, options):
    count = min(1_000_000, options.keys // 4)
    fill(server, options, options.keys - count)
    names = [b"big:%012d" % n for n in range(count)]
    for at in range(0, count, 1000):
        pairs = [word for name in names[at : at + 1000] for word in (name, b"x" * options.value)]
        server.ask("MSET", *pairs)
    load = Load(server, options, 10**9, ["-t", "set"], BACKGROUND_KEYS)
    time.sleep(1)
    window = Window(server)
    half = count // 2
    replies = [server.ask("EXISTS", *names), server.ask("MGET", *names), server.ask("DEL", *names[:half])]
    replies += [server.ask("UNLINK", *names[half:])]
    window.end()
    load.stop()
    right = replies == [f":{count}", f"*{count}", f":{half}", f":{count - half}"]
    return window, f"{count:,} keys in one request; " + ("all answered" if right else f"answered {replies}"), right


SCENARIOS = {
    "set": scenario_set,
    "expire": scenario_expire,
    "grow": scenario_grow,
    "flush": scenario_flush,
    "del": scenario_del,
}


def report(name, window, note, valid):
    """Prints one scenario and answers whether it met the target."""
    rate = window.commands() / window.seconds
    ok = True
    for kind in ("turn", "own"):
        row = window.row(kind)
        within = row["over1"] <= row["turns"] / 10_000 and row["over2"] == 0
        off = window.difference("ringfence_turn_off_cpu_seconds_total")
        verdict = ("met" if within else "MISSED") if kind == "own" else ""
        print(
            f"{name if kind == 'turn' else '':8}{kind:6}{row['turns']:>9,}{row['p50'] * 1e6:>9.0f}{row['p9999'] * 1e6:>9.0f}"
            f"{row['max'] * 1e6:>10.0f}{row['over1']:>7}{row['over2']:>7}"
            f"{off * 1e3 if kind == 'turn' else 0:>10.1f}  {verdict}",
            flush=True,
        )
        ok &= within or kind == "turn"
    if rate < RATE_MIN:
        note += f"; TOO SLOW TO COUNT, {RATE_MIN:,} requests/s are wanted"
    print(f"{'':8}{rate:,.0f} requests/s for {window.seconds:.1f} s; {note}{'' if valid else '; NOT AS INTENDED'}\n", flush=True)
    return ok and valid and rate >= RATE_MIN


def size(text):
    match = re.fullmatch(r"(\d+)(MiB|GiB)", text)
    if not match:
        raise argparse.ArgumentTypeError("a size is a number and MiB or GiB")
    return int(match[1]) << (20 if match[2] == "MiB" else 30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--keys", type=int, help="default 10 million, 1 million with --quick")
    parser.add_argument("--memory", help="of the server; default 2GiB, 256MiB with --quick")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--value", type=int, default=32, help="bytes of a value")
    parser.add_argument("--pipeline", type=int, default=16)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--ringfence", default="target/release/ringfence")
    parser.add_argument("--idle", default="adaptive")
    parser.add_argument("--no-prefault", action="store_true", help="let memory be touched as it is used")
    parser.add_argument("--log", metavar="FILE", help="append the server's log, where turns that took too long are named")
    options = parser.parse_args()
    options.keys = options.keys or (1_000_000 if options.quick else 10_000_000)
    options.memory = options.memory or ("256MiB" if options.quick else "2GiB")
    options.memory_bytes = size(options.memory)
    names = options.scenarios.split(",")
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name}: choose of {', '.join(SCENARIOS)}")
    for tool in ("redis-benchmark", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed: tests/run installs what is needed")
    print(f"{options.keys:,} keys, {options.memory}; times in µs, off CPU in ms")
    print(f"{'':8}{'':6}{'turns':>9}{'p50<=':>9}{'p9999<=':>9}{'max':>10}{'>1ms':>7}{'>2ms':>7}{'off CPU':>10}")
    met = True
    for name in names:
        server = Ringfence(options, options.memory)
        try:
            met &= report(name, *SCENARIOS[name](server, options))
        finally:
            server.end()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
