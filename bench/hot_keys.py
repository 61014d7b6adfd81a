#!/usr/bin/env python3
"""What copies of hot keys buy: two cores, plain clients, keys chosen by Zipf(1.3).

With Zipf(1.3) one request in four is for the same key. Plain clients do not know who owns it, so half of the
connections ask the core that does not. Without copies that core sends these requests to the owner; with them it answers
itself. Both ways are measured in turn, in every round.

    cargo build --release
    bench/hot_keys.py                         # pipelines of 1 and 16, 10 and 100 GET for each SET, and GET alone
    bench/hot_keys.py --alpha 1.1 --rounds 7

Per request: CPU time of the server, forwards between its cores, and reads that copies answered; then how much of the
server's time its busier core had (50 % is even), and how many requests a second that core can take with all of its
time, which is what the server can do as a whole. Needs two CPUs, which the server's cores share with the load.
"""

import argparse
import os
import statistics
import subprocess

from servers import ONE_PORT, Client, Server

WAYS = {"without": "0%", "with": "5%"}
LOADS = [(mix, pipeline) for mix in ("get=10,set=1", "get=100,set=1", "get=1") for pipeline in (1, 16)]
KEYS = 100_000


def core_seconds(pid):
    """Time on a CPU of the threads that serve keys, by their CPU."""
    seconds = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as f:
            cpus = next(line.split()[1] for line in f if line.startswith("Cpus_allowed_list"))
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            seconds[cpus] = seconds.get(cpus, 0) + int(f.read().split()[0]) / 1e9
    return [seconds.get(cpu, 0) for cpu in ("0", "1")]


def counted(client):
    numbers = client.info("stats")
    names = ("cross_core_forwards_total", "hot_key_copy_reads_total", "total_commands_processed")
    return [numbers[name] for name in names]


def measure(server, client, options, mix, pipeline):
    command = [options.generator, "--target", f"127.0.0.1:{server.port}", "--closed", "--connections", "50"]
    command += ["--pipeline", str(pipeline), "--mix", mix, "--keys", str(KEYS), "--distribution", f"zipf:{options.alpha}"]
    command += ["--duration", f"{options.seconds}s", "--warmup", "1s", "--cpus", "0,1"]
    before, begun = counted(client), core_seconds(server.process.pid)
    run = subprocess.run(command, capture_output=True, text=True)
    after, ended = counted(client), core_seconds(server.process.pid)
    if run.returncode != 0:
        raise SystemExit(f"ringfence-bench: exit {run.returncode}: {run.stderr.strip()}")
    forwards, reads, requests = (new - old for old, new in zip(before, after))
    used = [new - old for old, new in zip(begun, ended)]
    return {
        "us": sum(used) / requests * 1e6,
        "forwards": forwards / requests,
        "reads": reads / requests,
        "busier": max(used) / sum(used),
        "limit": requests / max(used),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--ringfence", default=os.path.join(root, "target/release/ringfence"))
    parser.add_argument("--generator", default=os.path.join(root, "target/release/ringfence-bench"))
    parser.add_argument("--alpha", type=float, default=1.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    servers = {}
    try:
        for way, share in WAYS.items():
            command = [options.ringfence, "--memory", "512MB", "--port", "{port}", "--cpus", "0,1", *ONE_PORT]
            servers[way] = Server(way, [*command, "--set", f"cores.copy_share={share}", "--set", "log.level=error"], "0,1")
        clients = {way: Client(server.port) for way, server in servers.items()}
        print(f"{'mix':14}{'pipeline':>8}  {'copies':8}{'us/request':>11}{'ratio':>7}{'forwards':>10}{'by copy':>9}{'busier core':>13}{'at most/s':>11}{'ratio':>7}")
        for mix, pipeline in LOADS:
            rounds = []
            for _ in range(options.rounds):
                rounds.append({way: measure(servers[way], clients[way], options, mix, pipeline) for way in WAYS})
            for way in WAYS:
                middle = {key: statistics.median(r[way][key] for r in rounds) for key in rounds[0][way]}
                ratio, more = (
                    statistics.median(r[way][key] / r["without"][key] for r in rounds) for key in ("us", "limit")
                )
                print(
                    f"{mix:14}{pipeline:8}  {way:8}{middle['us']:11.3f}{ratio:7.2f}"
                    f"{middle['forwards']:10.3f}{middle['reads']:9.3f}{middle['busier']:13.0%}{middle['limit']:11.0f}{more:7.2f}",
                    flush=True,
                )
    finally:
        for server in servers.values():
            server.end()


if __name__ == "__main__":
    main()
