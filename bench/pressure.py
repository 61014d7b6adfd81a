#!/usr/bin/env python3
"""Whether the budget is the budget: peak memory and hit ratio of servers whose load changes under them.

Every server gets the same budget and, one after the other, the same phases:

    100 B, 1 KiB, 100 KiB, 1 KiB, 100 B   a working set of 60 % of the budget in values of this size: one pass of GET,
                                          and SET on a miss, then the hit ratio of a second pass
    overwrite                             values of 100 keys in 101 written again, from 50 B to 20 KiB
    expire                                half of the keys with a TTL of half a second, filled three times
    connections                           9,990 connections with pipelines of 8, made by ringfence-bench

    cargo build --release
    bench/pressure.py --memory 64                         # MiB; against redis-server
    bench/pressure.py --memory 1024 --server 'valkey=valkey-server --port {port} --maxmemory {bytes} …'

The target: a peak of at most 1.02 times the budget and 8 MiB, and hit ratios of 1.
"""

import argparse
import os
import random
import subprocess
import time

from servers import ONE_PORT, Client, Server, status

SIZES = [100, 1024, 100 * 1024, 1024, 100]
PART = 0.6
OVERHEAD = 60


def shift(client, size, budget, phase):
    pairs = [(b"k%d:%010d" % (phase, n), size) for n in range(int(budget * PART / (size + OVERHEAD)))]
    client.sets(client.gets(pairs))
    missed = client.gets(pairs)
    return 1 - len(missed) / len(pairs)


def overwrite(client, budget):
    chance = random.Random(1)
    keys = [b"o:%010d" % n for n in range(int(budget * PART / 7000))]
    pairs = []
    for _ in range(5):
        pairs = [(key, int(50 * 400 ** chance.random())) for n, key in enumerate(keys) if n % 101]
        client.sets(pairs)
    return 1 - len(client.gets(pairs)) / len(pairs)


def expire(client, budget):
    count = int(budget * PART / (200 + OVERHEAD))
    for turn in range(3):
        client.sets([(b"e%d:%09d" % (turn, n), 200) for n in range(0, count, 2)], ttl_ms=500)
        client.sets([(b"l:%010d" % n, 200) for n in range(1, count, 2)])
        time.sleep(0.7)
    lasting = [(b"l:%010d" % n, 200) for n in range(1, count, 2)]
    return 1 - len(client.gets(lasting)) / len(lasting)


def connections(server, program):
    command = [program, "--target", f"127.0.0.1:{server.port}", "--protocol", "resp2", "--closed", "--connections", "9990"]
    command += ["--pipeline", "8", "--duration", "5s", "--mix", "get=5,set=5", "--keys", "10000", "--cpus", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"   ringfence-bench: exit {done.returncode}: {done.stderr.strip()[-300:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--memory", type=int, default=64, help="the budget in MiB")
    parser.add_argument("--ringfence", default=os.path.join(root, "target/release/ringfence"))
    parser.add_argument("--generator", default=os.path.join(root, "target/release/ringfence-bench"))
    parser.add_argument("--policy", default="s3fifo", help="Ringfence's eviction policy")
    parser.add_argument("--server", action="append", metavar="NAME=COMMAND", help="a peer; {port} and {bytes} are filled in")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    budget = arguments.memory << 20
    ringfence = [arguments.ringfence, "--memory", str(budget), "--port", "{port}", "--cpus", "0"]
    ringfence += [*ONE_PORT, "--set", "log.level=error"]
    ringfence += ["--set", f"eviction={arguments.policy}", "--set", "limits.connections=11000"]
    servers = {"ringfence": ringfence}
    if not arguments.no_peers:
        peers = arguments.server or [
            "redis=redis-server --port {port} --bind 127.0.0.1 --save '' --maxmemory {bytes} --maxmemory-policy allkeys-lru"
        ]
        for peer in peers:
            name, command = peer.split("=", 1)
            servers[name] = [word.strip("'").replace("{bytes}", str(budget)) for word in command.split()]
    allowed = budget * 1.02 + (8 << 20)
    for name, command in servers.items():
        server = Server(name, command, 0)
        try:
            client = Client(server.port)
            print(f"{name}, budget {arguments.memory} MiB")
            phases = [(f"{size} B", lambda s=size, n=n: shift(client, s, budget, n)) for n, size in enumerate(SIZES)]
            phases += [("overwrite", lambda: overwrite(client, budget)), ("expire", lambda: expire(client, budget))]
            phases += [("connections", lambda: connections(server, arguments.generator))]
            for phase, run in phases:
                ratio = run()
                peak = status(server, "VmHWM")
                hits = "" if ratio is None else f"hit ratio {ratio:.4f}"
                print(f"   {phase:12} {hits:18} resident {status(server, 'VmRSS') / 2**20:7.1f} MiB, peak {peak / 2**20:7.1f}", flush=True)
            verdict = "within" if peak <= allowed else "OVER"
            print(f"   peak {peak / 2**20:.1f} MiB = {peak / budget:.3f} of the budget: {verdict} {allowed / 2**20:.1f} MiB")
        finally:
            server.end()


if __name__ == "__main__":
    main()
