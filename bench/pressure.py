#!/usr/bin/env python3
"""Whether the budget is the budget: peak memory and hit ratio of servers whose load changes under them.

Every server gets the same budget and, one after the other, the same phases:

    100 B, 1 KiB, 100 KiB, 1 KiB, 100 B   a working set of 60 % of the budget in values of this size: one pass of GET,
                                          and SET on a miss, then the hit ratio of a second pass
    overwrite                             values of 100 keys in 101 written again, from 50 B to 20 KiB
    expire                                half of the keys with a TTL of half a second, filled three times
    connections                           10,000 connections with pipelines of 8, made by ringfence-bench

    cargo build --release
    bench/pressure.py --memory 64                         # MiB; against redis-server
    bench/pressure.py --memory 1024 --server 'valkey=valkey-server --port {port} --maxmemory {bytes} …'

The target: a peak of at most 1.02 times the budget and 8 MiB, and hit ratios of 1.
"""

import argparse
import os
import random
import re
import socket
import subprocess
import sys
import time

from compare import Server

SIZES = [100, 1024, 100 * 1024, 1024, 100]
PART = 0.6
OVERHEAD = 60
BATCH = 400
BATCH_BYTES = 4 << 20


class Client:
    """Pipelined GET and SET over one connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb", 1 << 20)

    def sets(self, pairs, ttl_ms=None):
        """Stores values of so many bytes; answers how many were refused."""
        refused = 0
        for batch in batches(pairs):
            out = []
            for key, size in batch:
                tail = b"" if ttl_ms is None else b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(ttl_ms)), ttl_ms)
                words = 3 if ttl_ms is None else 5
                out.append(b"*%d\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (words, len(key), key, size))
                out.append(b"v" * size + b"\r\n" + tail)
            self.socket.sendall(b"".join(out))
            refused += sum(self.input.readline()[:1] != b"+" for _ in batch)
        return refused

    def gets(self, pairs):
        """Reads keys; answers those that were missed."""
        missed = []
        for batch in batches(pairs):
            self.socket.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key) for key, _ in batch))
            for key, size in batch:
                length = int(self.input.readline()[1:])
                if length < 0:
                    missed.append((key, size))
                elif self.input.read(length + 2)[:-2] != b"v" * length:
                    sys.exit(f"{key} answers what was never written")
        return missed


def batches(pairs):
    batch, held = [], 0
    for pair in pairs:
        batch.append(pair)
        held += pair[1]
        if len(batch) == BATCH or held > BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def status(server, field):
    with open(f"/proc/{server.process.pid}/status") as f:
        return int(re.search(rf"{field}:\s+(\d+)", f.read()).group(1)) * 1024


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
    command = [program, "--target", f"127.0.0.1:{server.port}", "--protocol", "resp2", "--closed", "--connections", "10000"]
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
    parser.add_argument("--policy", default="clock", help="Ringfence's eviction policy")
    parser.add_argument("--server", action="append", metavar="NAME=COMMAND", help="a peer; {port} and {bytes} are filled in")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    budget = arguments.memory << 20
    ringfence = [arguments.ringfence, "--memory", str(budget), "--port", "{port}", "--cpus", "0"]
    ringfence += ["--set", "listen.core_port_base=0", "--set", "listen.admin_port=0", "--set", "log.level=error"]
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


main()
