#!/usr/bin/env python3
"""Latency tails of a steady half load while the engine evicts, expires and grows tables, beside those of an idle engine.

The same open-loop load, half GET and half SET, in turn on two servers. `idle`: the keys are there, fit the memory and have no
deadline, so that every SET writes over a value. `all`: every round begins with nothing, so that tables grow (to some two keys
each) until the budget is full after about a second; there is room for half of the keys, so that every other SET evicts a key;
and they live one to three seconds.

    cargo build --release
    bench/tail.py                             # 40,000 requests a second over 50 connections, 7 rounds of 6 s
    bench/tail.py --rate 20000 --rounds 15

Prints medians over the rounds, the ratio of the two within each round, and what the engine of `all` did. Needs two CPUs: one for
the servers, one for the load.
"""

import argparse
import json
import statistics
import subprocess

from servers import ONE_PORT, Client, Server

# name: (memory, keys, what else the load is told)
WAYS = {
    "idle": ("1GB", 50_000, []),
    "all": ("8MB", 50_000, ["--ttl", "1s-3s", "--no-prefill"]),
}
QUANTILES = ("p50", "p99", "p99.9")
DONE = ("evicted_keys", "expired_keys")


def measure(name, server, client, options):
    _, keys, extra = WAYS[name]
    command = [options.generator, "--target", f"127.0.0.1:{server.port}", "--rate", str(options.rate), "--json"]
    command += ["--connections", "50", "--cpus", str(options.load_cpu), "--mix", "get=1,set=1", "--keys", str(keys)]
    command += ["--value-size", "200", "--duration", f"{options.seconds}s", "--warmup", "0s", *extra]
    if name == "all":
        client.socket.sendall(b"FLUSHALL ASYNC\r\n")
        client.input.readline()
    run = subprocess.run(command, capture_output=True, text=True)
    if not run.stdout:
        raise SystemExit(f"ringfence-bench: exit {run.returncode}: {run.stderr.strip()}")
    latency = json.loads(run.stdout)["run"]["latency_us"]
    return {quantile: latency[quantile] for quantile in QUANTILES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--ringfence", default="target/release/ringfence")
    parser.add_argument("--generator", default="target/release/ringfence-bench")
    options = parser.parse_args()
    servers = {}
    try:
        for name, (memory, _, _) in WAYS.items():
            command = [options.ringfence, "--port", "{port}", "--cpus", str(options.server_cpu), "--memory", memory]
            server = Server(name, command + ONE_PORT, options.server_cpu)
            servers[name] = (server, Client(server.port))
            server.stop()
        rounds = [one_round(servers, options, number) for number in range(options.rounds)]
        client = servers["all"][1]
        servers["all"][0].go_on()
        done = client.info("stats")
    finally:
        for server, _ in servers.values():
            server.end()
    print(f"{'':8}{'idle us':>10}{'all us':>10}{'ratio':>8}{'spread':>14}")
    for quantile in QUANTILES:
        idle, all_ = (statistics.median(r[name][quantile] for r in rounds) for name in WAYS)
        ratios = sorted(r["all"][quantile] / r["idle"][quantile] for r in rounds)
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
        print(f"{quantile:8}{idle:10.1f}{all_:10.1f}{statistics.median(ratios):8.2f}{spread:>14}")
    print(", ".join(f"{name} {done[name]}" for name in DONE))


def one_round(servers, options, number):
    results = {}
    # Each is first in every other round.
    for name, (server, client) in list(servers.items())[:: 1 if number % 2 else -1]:
        server.go_on()
        results[name] = measure(name, server, client, options)
        server.stop()
    return results


if __name__ == "__main__":
    main()
