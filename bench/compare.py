#!/usr/bin/env python3
"""CPU per operation of Ringfence beside the servers that are installed, in one interleaved run.

Each server is pinned to one CPU and the load (redis-benchmark) to another; every
round measures all servers in turn while the others are stopped, so that a noisy
machine disturbs all alike. The figure to compare is CPU time per operation, taken
from the scheduler's own account of all the server's threads: with one CPU for the
load, operations per second are mostly the load's own limit.

    cargo build --release
    bench/compare.py                        # pipelines of 1, 16 and 64, against redis-server
    bench/compare.py --loads p16,p64 --rounds 7 --server valkey=/usr/bin/valkey-server
    bench/compare.py --loads all --server valkey=/usr/bin/valkey-server

At the end stands what each load may cost at most, as a part of what it costs the best peer of the run, and
whether it does. The exit code is 1 if any costs more.

Needs redis-benchmark and redis-server (tests/run installs them) and two CPUs.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time

from servers import ONE_PORT, Server, cpu_seconds

# name: (connections, pipeline, value bytes, keys, share of SET, what it may cost beside the best peer)
LOADS = {
    "p1": (50, 1, 64, 100_000, 1 / 11, 0.80),
    "p1c500": (500, 1, 64, 100_000, 1 / 11, 0.80),
    "p16": (50, 16, 64, 100_000, 1 / 11, 0.55),
    "p64": (50, 64, 64, 100_000, 1 / 11, 0.50),
    "p16set": (50, 16, 64, 100_000, 1.0, 0.55),
    "big": (50, 1, 4096, 100_000, 1 / 11, 0.85),
    "1m": (50, 16, 64, 1_000_000, 0.0, 0.50),
    "10m": (50, 16, 64, 10_000_000, 0.0, 0.50),
    "mget": (50, 1, 64, 10_000_000, 0.0, 0.45),
}
# Keys that one MGET of the load of that name reads.
MGET_KEYS = 32
# What a load reaches at most, to ask for about the right number of requests.
RATE = {"p1": 130_000, "p1c500": 110_000, "big": 100_000, "mget": 40_000, "p64": 2_500_000}
RATE_PIPELINED = 1_200_000
# Filling is done once, with few connections and deep pipelines.
FILL = ["-c", "20", "-P", "64"]


def benchmark(server, load_cpu, test, requests, load, shape=None):
    connections, pipeline, size, keys, _, _ = LOADS[load]
    command = ["taskset", "-c", str(load_cpu), "redis-benchmark", "-p", str(server.port), "-n", str(requests)]
    command += (shape or ["-c", str(connections), "-P", str(pipeline)]) + ["-d", str(size), "-r", str(keys), "--csv"]
    command += ["mget", *["key:__rand_int__"] * MGET_KEYS] if test == "mget" else ["-t", test]
    begin, used = time.monotonic(), cpu_seconds(server.process.pid)
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode != 0:
        sys.exit(f"redis-benchmark against {server.name} failed: {run.stderr or run.stdout}")
    used = cpu_seconds(server.process.pid) - used
    row = run.stdout.strip().splitlines()[-1].replace('"', "").split(",")
    return {"cpu": used, "seconds": time.monotonic() - begin, "p50": float(row[4]), "p99": float(row[6])}


def measure(server, load_cpu, load, seconds):
    sets = LOADS[load][4]
    total = int(RATE.get(load, RATE_PIPELINED) * seconds)
    read = "mget" if load == "mget" else "get"
    parts = [(t, int(total * share)) for t, share in (("set", sets), (read, 1 - sets)) if share > 0]
    runs = [benchmark(server, load_cpu, test, n, load) for test, n in parts]
    operations = sum(n for _, n in parts)
    return {
        "us": sum(r["cpu"] for r in runs) / operations * 1e6,
        "rate": operations / sum(r["seconds"] for r in runs),
        "p50": max(r["p50"] for r in runs),
        "p99": max(r["p99"] for r in runs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="p1,p16,p64", help=f"all, or of {', '.join(LOADS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long one measurement takes")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument(
        "--ringfence", action="append", default=[], metavar="[NAME=]PATH",
        help="a build of Ringfence; several are compared with one another (default target/release/ringfence)",
    )
    parser.add_argument("--idle", default="adaptive", help="Ringfence's idle mode")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=PATH", help="another redis-like server")
    options = parser.parse_args()
    loads = list(LOADS) if options.loads == "all" else options.loads.split(",")
    for load in loads:
        if load not in LOADS:
            parser.error(f"there is no load {load}: choose of {', '.join(LOADS)}")
    for tool in ("redis-server", "redis-benchmark", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed: tests/run installs what is needed")
    quiet = ["--port", "{port}", "--save", "", "--appendonly", "no"]
    commands = {"redis": ["redis-server", *quiet]}
    commands |= {name: [path, *quiet] for name, path in (s.split("=", 1) for s in options.server)}
    for build in options.ringfence or ["target/release/ringfence"]:
        name, _, path = build.rpartition("=")
        command = [path, "--port", "{port}", "--idle", options.idle, "--memory", "3GB"]
        commands[name or "ringfence"] = command + ONE_PORT
    servers = []
    try:
        for name, command in commands.items():
            servers.append(Server(name, command, options.server_cpu))
        print(f"{'load':8}{'server':12}{'us/op':>8}{'ratio':>7}{'spread':>13}{'ops/s':>11}{'p50 ms':>8}{'p99 ms':>8}")
        peers = 1 + len(options.server)
        ratios = {load: run_load(servers, load, options) for load in loads}
    finally:
        for server in servers:
            server.end()
    sys.exit(0 if verdicts(servers, peers, ratios) else 1)


def verdicts(servers, peers, ratios):
    """Prints what each build costs beside the best peer, in the same rounds, and answers whether all is met."""
    met = True
    print(f"\n{'load':8}{'server':12}{'best peer':12}{'at most':>8}{'is':>7}")
    for load, rounds in ratios.items():
        middle = [statistics.median(r[i] for r in rounds) for i in range(len(servers))]
        best = min(range(peers), key=lambda i: middle[i])
        for i in range(peers, len(servers)):
            ratio = statistics.median(r[i] / r[best] for r in rounds)
            ok = ratio <= LOADS[load][5]
            met &= ok
            word = "met" if ok else "MISSED"
            print(f"{load:8}{servers[i].name:12}{servers[best].name:12}{LOADS[load][5]:8.2f}{ratio:7.2f}  {word}")
    return met


def run_load(servers, load, options):
    keys = LOADS[load][3]
    for server in servers:
        benchmark(server, options.load_cpu, "set", 3 * keys, load, FILL)
    for server in servers:
        server.stop()
    rounds = []
    for _ in range(options.rounds):
        results = []
        for server in servers:
            server.go_on()
            time.sleep(0.1)
            results.append(measure(server, options.load_cpu, load, options.seconds))
            server.stop()
        rounds.append(results)
    for server in servers:
        server.go_on()
    for i, server in enumerate(servers):
        middle = {key: statistics.median(r[i][key] for r in rounds) for key in rounds[0][i]}
        ratios = sorted(r[i]["us"] / r[0]["us"] for r in rounds)
        print(
            f"{load:8}{server.name:12}{middle['us']:8.3f}{statistics.median(ratios):7.2f}"
            f"{f'{ratios[0]:.2f}-{ratios[-1]:.2f}':>13}{middle['rate']:11.0f}{middle['p50']:8.3f}{middle['p99']:8.3f}",
            flush=True,
        )
    return [[result["us"] / results[0]["us"] for result in results] for results in rounds]


if __name__ == "__main__":
    main()
