#!/usr/bin/env python3
"""Memory that an item takes beside its key and value, of Ringfence and the servers that are installed.

Each server is started empty and gets items with keys of 16 bytes, in order; the figure is how much its resident
memory grew, for each item, less key and value. So all is in it: record, index, alignment, allocator.

    cargo build --release
    bench/overhead.py                             # 2 million items of 64 bytes, without and with a TTL
    bench/overhead.py --items 10000000 --server 'valkey=valkey-server --port {port} --save {empty}'

The target: at most 24 bytes without a TTL and 32 with one.
"""

import argparse
import os
import time

from servers import ONE_PORT, Client, Server, status

TTL_MS = 3_600_000


def measure(name, command, items, size, ttl):
    server = Server(name, command, 0)
    try:
        client = Client(server.port)
        time.sleep(0.5)
        before = status(server, "VmRSS")
        client.sets(((b"key:%012d" % n, size) for n in range(items)), ttl_ms=ttl)
        time.sleep(1)
        return (status(server, "VmRSS") - before) / items - 16 - size
    finally:
        server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--size", type=int, default=64, help="bytes of a value")
    parser.add_argument("--ringfence", default=os.path.join(root, "target/release/ringfence"))
    parser.add_argument("--server", action="append", default=[], metavar="NAME=COMMAND", help="a peer; {port} and {empty} are filled in")
    options = parser.parse_args()
    memory = options.items * (options.size + 80) + (256 << 20)
    ringfence = [options.ringfence, "--memory", str(memory), "--port", "{port}", "--cpus", "0", "--set", "log.level=error"]
    servers = {"ringfence": [*ringfence, *ONE_PORT]}
    for peer in options.server or ["redis=redis-server --port {port} --bind 127.0.0.1 --save {empty}"]:
        name, command = peer.split("=", 1)
        servers[name] = [word.replace("{empty}", "") for word in command.split()]
    print(f"{options.items} items of 16 + {options.size} bytes: bytes beside them, each")
    print(f"{'server':12}{'without TTL':>14}{'with TTL':>12}")
    for name, command in servers.items():
        plain, timed = (measure(name, command, options.items, options.size, ttl) for ttl in (None, TTL_MS))
        print(f"{name:12}{plain:14.1f}{timed:12.1f}", flush=True)


if __name__ == "__main__":
    main()
