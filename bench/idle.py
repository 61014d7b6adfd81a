#!/usr/bin/env python3
"""What it costs to wait for requests, and what waiting costs them: Ringfence's idle modes beside redis-server.

Two loads, each against all servers in turn in every round. `one`: one connection in a closed loop, against `idle = "busy"`,
whose core never sleeps: what latency is left. `tenth`: about a tenth of what a core can do, in an open loop over 50
connections, against `adaptive` and `park`: what the CPU pays for each request that wakes it. With `--floor` there is also a
server that does as little as one can and never sleeps: what of the latency is the kernel's and the machine's.

    cargo build --release
    bench/idle.py
    cargo build --release --example floor && bench/idle.py --floor target/release/examples/floor

Prints medians over the rounds and their ratios to redis-server within each round, beside what they may be. Needs redis-server
(tests/run installs it) and two CPUs: one for the servers, one for the load.
"""

import argparse
import json
import shlex
import subprocess

from servers import ONE_PORT

# load: (what the generator is told, the modes, what is compared and how much of redis's it may be)
LOADS = {
    "one": (["--closed", "--connections", "1"], ["busy"], {"p50_us": 0.35, "p99_us": 0.40}),
    "tenth": (["--connections", "50"], ["adaptive", "park"], {"cpu_us_per_request": 1.10}),
}


def contenders(modes, options):
    yield "redis", ["redis-server", "--port", "{port}", "--save", "", "--appendonly", "no"]
    for mode in modes:
        command = [options.ringfence, "--port", "{port}", "--cpus", str(options.server_cpu), "--memory", "1GB"]
        yield mode, command + ["--idle", mode] + ONE_PORT
    if options.floor and "busy" in modes:
        yield "floor", [options.floor, "--port", "{port}", "--idle", "busy"]


def measure(load, options):
    told, modes, limits = LOADS[load]
    command = [options.generator, *told, *([] if "--closed" in told else ["--rate", str(options.rate)])]
    command += ["--mix", "get=1", "--keys", "100000", "--value-size", "64", "--no-verify", "--json"]
    command += ["--duration", f"{options.seconds}s", "--rounds", str(options.rounds)]
    command += ["--cpus", str(options.load_cpu), "--server-cpus", str(options.server_cpu)]
    for name, server in contenders(modes, options):
        command += ["--against", f"{name}={shlex.join(server).replace(shlex.quote('{port}'), '{port}')}"]
    run = subprocess.run(command, capture_output=True, text=True)
    if not run.stdout:
        raise SystemExit(f"ringfence-bench: exit {run.returncode}: {run.stderr.strip()}")
    for contender in json.loads(run.stdout)["comparison"]["contenders"]:
        for figure, limit in limits.items():
            values = contender["figures"][figure]
            ratio, name = values["ratio_to_first"], contender["name"]
            spread = f"{values['min']:.1f}-{values['max']:.1f}"
            verdict = f"{limit:8.2f}  {'met' if ratio <= limit else 'MISSED'}" if name in modes else ""
            print(f"{load:7}{figure:20}{name:10}{values['median']:9.1f}{spread:>16}{ratio:7.2f}{verdict}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="one,tenth")
    parser.add_argument("--rate", type=int, default=9_000, help="requests a second of `tenth`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--ringfence", default="target/release/ringfence")
    parser.add_argument("--floor", help="the example `floor`")
    parser.add_argument("--generator", default="target/release/ringfence-bench")
    options = parser.parse_args()
    print(f"{'load':7}{'figure':20}{'server':10}{'us':>9}{'spread':>16}{'ratio':>7}{'at most':>8}")
    for load in options.loads.split(","):
        measure(load, options)


if __name__ == "__main__":
    main()
