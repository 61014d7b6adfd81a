#!/usr/bin/env python3
"""What two cores of one server cost beside two servers of one core: CPU per request, with clients that know the slots and without.

A client that fetches the slot map asks each core for its own keys, so no request crosses from core to core. A plain client
does not know it: with random keys half of its requests belong to the other core and are forwarded. Two servers of one core
each, which know nothing of each other, are what both are compared with. All are measured in turn, in every round, under the same
load: two generators with threads on both CPUs. The cores share their CPUs with it, so that the figures themselves say little.

So that being one of two cores can be told from sharing a CPU, there is also the first core of two alone, with keys of its own and
the load on the other CPU, beside a server of one core that has the same.

    cargo build --release
    bench/two_cores.py                        # pipelines of 1 and 16
    bench/two_cores.py --pipelines 16 --rounds 9

Per request: CPU time of the servers and forwards between cores; medians, and ratios within each round to two servers.
"""

import argparse
import json
import socket
import statistics
import subprocess

from servers import ONE_PORT, Client, Server, cpu_seconds

KEYS = 100_000
QUIETLY = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
# Nothing but the shared port and one for each core.
QUIET = [word for i, word in enumerate(ONE_PORT) if "core_port_base" not in ONE_PORT[i | 1]]
# Connections of each of the two generators. In a cluster they are to each core, and a pipeline is shared out among the cores: half
# of the connections and twice the depth put as many requests into a message and as many before each core as the other ways.
CONNECTIONS = 24
# name: (cores of each server, routing)
WAYS = {"two servers": (1, "plain"), "two cores, routed": (2, "cluster"), "two cores, plain": (2, "plain")}


def free_ports(count):
    """The first of some ports in a row that are free, below those that the system gives out by itself."""
    for first in range(20_000, 30_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise SystemExit("no ports are free between 20000 and 30000")


class Way:
    """The servers of one way: one with two cores, or two with one each."""

    def __init__(self, name, options):
        cores, self.routing = WAYS[name]
        self.servers = []
        for cpus in ["0,1"] if cores == 2 else ["0", "1"]:
            ports = ["--set", f"listen.core_port_base={free_ports(cores) if cores > 1 else 0}"]
            command = [options.ringfence, "--port", "{port}", "--memory", "1GB", "--cpus", cpus, *QUIET, *ports]
            self.servers.append(Server(name, command, cpus))
        self.clients = [Client(server.port) for server in self.servers]
        self.stop()

    def stop(self):
        for server in self.servers:
            server.stop()

    def counted(self):
        numbers = [client.info("stats") for client in self.clients]
        names = ("cross_core_forwards_total", "total_commands_processed")
        used = sum(cpu_seconds(server.process.pid) for server in self.servers)
        return [used, *(sum(n[name] for n in numbers) for name in names)]

    def measure(self, options, pipeline):
        for server in self.servers:
            server.go_on()
        before = self.counted()
        runs = [subprocess.Popen(self.load(options, pipeline, i), **QUIETLY) for i in range(2)]
        for run in runs:
            _, said = run.communicate()
            if run.returncode != 0:
                raise SystemExit(f"ringfence-bench: exit {run.returncode}: {said.strip()}")
        used, forwards, requests = (new - old for old, new in zip(before, self.counted()))
        self.stop()
        return {"us": used / requests * 1e6, "forwards": forwards / requests}

    def load(self, options, pipeline, number):
        target = self.servers[number % len(self.servers)].port
        depth, connections = pipeline, CONNECTIONS
        if self.routing == "cluster":
            connections //= 2
            depth *= 1 if pipeline == 1 else 2
        command = [options.generator, "--target", f"127.0.0.1:{target}", "--closed", "--connections", str(connections)]
        command += ["--cpus", "0,1", "--pipeline", str(depth), "--routing", self.routing, "--no-verify"]
        command += ["--mix", "get=10,set=1", "--keys", str(KEYS), "--value-size", "64", "--key-prefix", f"{number}:"]
        return command + ["--duration", f"{options.seconds}s", "--warmup", "500ms"]


def one_of_two(options, pipeline):
    """The first core of a server of two beside a server of one: both are asked for keys of one slot, which is its."""
    command = [options.generator, "--closed", "--connections", "50", "--pipeline", str(pipeline), "--no-verify", "--json"]
    command += ["--mix", "get=10,set=1", "--keys", str(KEYS), "--value-size", "64", "--key-prefix", "{b}:", "--cpus", "1"]
    command += ["--server-cpus", "0,1", "--rounds", str(2 * options.rounds), "--duration", f"{options.seconds}s"]
    for name, cpus in (("one-core", "0"), ("first-of-two", "0,1")):
        server = [options.ringfence, "--port", "{port}", "--memory", "2GB", "--cpus", cpus, *ONE_PORT]
        command += ["--against", f"{name}={' '.join(server)}"]
    run = subprocess.run(command, capture_output=True, text=True)
    if not run.stdout:
        raise SystemExit(f"ringfence-bench: exit {run.returncode}: {run.stderr.strip()}")
    contenders = json.loads(run.stdout)["comparison"]["contenders"]
    used = [[r["server"]["cpu_us_per_request"] for r in contender["rounds"]] for contender in contenders]
    for contender, mine in zip(contenders, used):
        show(pipeline, contender["name"], statistics.median(mine), 0, sorted(b / a for a, b in zip(used[0], mine)))


def show(pipeline, name, us, forwards, ratios):
    spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
    print(f"{pipeline:8}  {name:18}{us:11.3f}{forwards:10.3f}{statistics.median(ratios):7.2f}{spread:>13}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", default="1,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--ringfence", default="target/release/ringfence")
    parser.add_argument("--generator", default="target/release/ringfence-bench")
    options = parser.parse_args()
    ways = {}
    try:
        for name in WAYS:
            ways[name] = Way(name, options)
        print(f"{'pipeline':>8}  {'':18}{'us/request':>11}{'forwards':>10}{'ratio':>7}{'spread':>13}")
        for pipeline in map(int, options.pipelines.split(",")):
            run_pipeline(ways, options, pipeline)
    finally:
        for way in ways.values():
            for server in way.servers:
                server.end()
    for pipeline in map(int, options.pipelines.split(",")):
        one_of_two(options, pipeline)


def run_pipeline(ways, options, pipeline):
    rounds = [{name: way.measure(options, pipeline) for name, way in ways.items()} for _ in range(options.rounds)]
    for name in ways:
        us, forwards = (statistics.median(r[name][key] for r in rounds) for key in ("us", "forwards"))
        ratios = sorted(r[name]["us"] / r["two servers"]["us"] for r in rounds)
        show(pipeline, name, us, forwards, ratios)


if __name__ == "__main__":
    main()
