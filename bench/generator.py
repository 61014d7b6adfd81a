#!/usr/bin/env python3
"""What a core of load generator can do: ringfence-bench beside redis-benchmark, in one interleaved run.

Both load the same server in a closed loop, GET of 64-byte values over 100,000 keys, 50 connections, from the
same CPU, one after the other in every round. Requests per second are what was reached; where the server's CPU
is full ("server" near 1.00 cores), they are the server's limit and not the generator's. CPU time per request is the generator's
own cost, and its inverse what a core could offer to a server that is fast enough.

    cargo build --release
    bench/generator.py
    bench/generator.py --server redis --pipelines 1,16,64 --rounds 7

Needs redis-benchmark and redis-server (tests/run installs them) and two CPUs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from servers import ONE_PORT, Server, cpu_seconds

REQUESTS = {1: 80_000, 16: 1_000_000, 64: 2_000_000}


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def redis_benchmark(server, options, pipeline, requests):
    command = ["taskset", "-c", str(options.load_cpu), "redis-benchmark", "-p", str(server.port), "-t", "get"]
    command += ["-n", str(requests), "-c", "50", "-P", str(pipeline), "-d", "64", "-r", "100000", "--csv"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        sys.exit(f"redis-benchmark failed: {run.stderr or run.stdout}")
    return float(run.stdout.strip().splitlines()[-1].replace('"', "").split(",")[1])


def ringfence_bench(server, options, pipeline, requests):
    command = [options.ringfence_bench, "--target", f"127.0.0.1:{server.port}", "--closed", "--mix", "get=1"]
    command += ["--pipeline", str(pipeline), "--requests", str(requests), "--cpus", str(options.load_cpu)]
    command += ["--no-prefill", "--json", *(["--no-verify"] if options.no_verify else [])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        sys.exit(f"ringfence-bench failed: {run.stderr or run.stdout}")
    return json.loads(run.stdout)["run"]["reached_per_s"]


def fill(server, options):
    """Writes every key under both tools' names, which are the same: `key:` and twelve digits."""
    command = [options.ringfence_bench, "--target", f"127.0.0.1:{server.port}", "--requests", "1", "--closed"]
    subprocess.run([*command, "--connections", "1", "--cpus", str(options.load_cpu)], check=True, capture_output=True)


def measure(generator, server, options, pipeline):
    begin, server_before, before = time.monotonic(), cpu_seconds(server.process.pid), children_seconds()
    requests = REQUESTS.get(pipeline, 1_000_000)
    rate = generator(server, options, pipeline, requests)
    return {
        "rate": rate,
        "us": (children_seconds() - before) / requests * 1e6,
        "cores": (cpu_seconds(server.process.pid) - server_before) / (time.monotonic() - begin),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=["ringfence", "redis"], default="ringfence")
    parser.add_argument("--pipelines", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--no-verify", action="store_true", help="ringfence-bench does not check replies")
    parser.add_argument("--ringfence", default="target/release/ringfence")
    parser.add_argument("--ringfence-bench", default="target/release/ringfence-bench")
    options = parser.parse_args()
    ringfence = [options.ringfence, "--port", "{port}", "--memory", "2GB", "--cpus", str(options.server_cpu)]
    ringfence += ONE_PORT
    redis = ["redis-server", "--port", "{port}", "--save", "", "--appendonly", "no"]
    server = Server(options.server, ringfence if options.server == "ringfence" else redis, options.server_cpu)
    generators = {"redis-benchmark": redis_benchmark, "ringfence-bench": ringfence_bench}
    try:
        fill(server, options)
        print(f"{'pipeline':10}{'generator':18}{'requests/s':>12}{'ratio':>7}{'CPU us':>9}{'ratio':>7}{'server':>8}")
        for pipeline in map(int, options.pipelines.split(",")):
            rounds = [
                {name: measure(run, server, options, pipeline) for name, run in generators.items()}
                for _ in range(options.rounds)
            ]
            for name in generators:
                middle = {key: statistics.median(r[name][key] for r in rounds) for key in ("rate", "us", "cores")}
                ratio = {
                    key: statistics.median(r[name][key] / r["redis-benchmark"][key] for r in rounds)
                    for key in ("rate", "us")
                }
                print(
                    f"{pipeline:<10}{name:18}{middle['rate']:12.0f}{ratio['rate']:7.2f}"
                    f"{middle['us']:9.3f}{ratio['us']:7.2f}{middle['cores']:8.2f}",
                    flush=True,
                )
    finally:
        server.end()


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    main()
