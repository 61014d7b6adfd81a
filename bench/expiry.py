#!/usr/bin/env python3
"""How long after its deadline the memory of a key is given back, of Ringfence and the servers that are installed.

A million keys get TTLs between 1 and 60 seconds, in no order, and are not read again. From the first write on the
server's own count of expired keys is read every few milliseconds. The lag of the n-th key to expire is the time between the
n-th deadline and the moment when the count had reached n.

    cargo build --release
    bench/expiry.py
    bench/expiry.py --load                  # the same on a core that is busy
    bench/expiry.py --keys 200000 --longest 10 --server 'valkey=valkey-server --port {port} --save {empty}'

The target: a lag of at most 100 ms at the 99th percentile.
"""

import argparse
import os
import random
import re
import subprocess
import time

from servers import ONE_PORT, Client, Server

POLL_SECONDS = 0.004
GIVE_UP_SECONDS = 120


def expired(client):
    client.socket.sendall(b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n")
    length = int(client.input.readline()[1:])
    return int(re.search(rb"expired_keys:(\d+)", client.input.read(length + 2)).group(1))


def measure(name, command, options):
    server, load = Server(name, command, 0), None
    try:
        client, chance = Client(server.port), random.Random(1)
        deadlines = []

        def ttl():
            ms = chance.randint(1000, options.longest * 1000)
            deadlines.append(ms)
            return ms

        # Deadlines count from when the batch is sent: a little early, which makes the lag look longer.
        moments, curve = [], []
        pairs = [(b"due:%012d" % n, 32) for n in range(options.keys)]
        for start in range(0, len(pairs), 400):
            sent = time.time()
            client.sets(pairs[start : start + 400], ttl_ms=ttl)
            moments += [sent + ms / 1000 for ms in deadlines[start:]]
            curve.append((time.time(), expired(client)))
        if options.load:
            load = start_load(server.port)
        last = time.time() + options.longest + GIVE_UP_SECONDS
        while curve[-1][1] < len(moments) and time.time() < last:
            time.sleep(POLL_SECONDS)
            curve.append((time.time(), expired(client)))
        moments.sort()
        lags, at = [], 0
        for n, moment in enumerate(moments, 1):
            while at < len(curve) and curve[at][1] < n:
                at += 1
            lags.append((curve[at][0] if at < len(curve) else last) - moment)
        lags.sort()
        part = lambda q: lags[min(len(lags) - 1, int(q * len(lags)))] * 1000
        missing = len(moments) - curve[-1][1]
        left = f", {missing} were never removed" if missing else ""
        print(f"{name:12}{part(0.5):12.1f}{part(0.99):12.1f}{part(1):12.1f}{left}", flush=True)
    finally:
        if load:
            load.kill()
            load.wait()
        server.end()


def start_load(port):
    """SET and GET of other keys from the second CPU, as fast as the server takes them."""
    words = ["taskset", "-c", "1", "redis-benchmark", "-p", str(port), "-t", "set,get", "-l", "-P", "16", "-r", "100000"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--longest", type=int, default=60, help="the longest TTL in seconds")
    parser.add_argument("--load", action="store_true", help="while they expire, a load keeps the server's core busy")
    parser.add_argument("--ringfence", default=os.path.join(root, "target/release/ringfence"))
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND", help="a peer; {port} and {empty} are filled in")
    options = parser.parse_args()
    ringfence = [options.ringfence, "--memory", "1GiB", "--port", "{port}", "--cpus", "0", "--set", "log.level=error"]
    servers = {"ringfence": [*ringfence, *ONE_PORT]}
    for peer in options.server or ["redis=redis-server --port {port} --bind 127.0.0.1 --save {empty}"]:
        name, command = peer.split("=", 1)
        servers[name] = [word.replace("{empty}", "") for word in command.split()]
    print(f"{options.keys} keys with TTLs of 1 to {options.longest} s: lag between deadline and removal, ms")
    print(f"{'server':12}{'p50':>12}{'p99':>12}{'longest':>12}")
    for name, command in servers.items():
        measure(name, command, options)


if __name__ == "__main__":
    main()
