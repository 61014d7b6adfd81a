"""A cluster: each request goes to the node that owns its slot, also while slots move."""

import contextlib
import subprocess

import pytest
import redis

from bench import FAILED, Redis, Running, assert_refused, bench, counted, listening, until
from conftest import Server

FORWARDS = "ringfence_cross_core_forwards_total"
# Three that share the slots, and one more that has none yet.
OWNERS, NODES = 3, 4
# Slots that move in one go.
MOVING = 400
HOT_KEY = "key:000000000007"


@pytest.fixture(scope="module")
def ringfence(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("ringfence") / "log")
    yield server
    server.stop()


@pytest.mark.parametrize("core, protocol", [(0, "resp2"), (1, "resp3")])
@pytest.mark.parametrize("mix", ["get=7,set=2,delete=1", "mget=5,set=4,delete=1"])
def test_no_request_reaches_a_core_that_would_have_to_ask_another(ringfence, core, protocol, mix):
    before = ringfence.metric(FORWARDS)
    target = ["--target", f"127.0.0.1:{ringfence.core_port_base + core}", "--protocol", protocol]
    load = ["--routing", "cluster", "--mix", mix, "--keys", 3000, "--closed", "--connections", 4, "--pipeline", 4]
    done = counted(*target, *load, "--requests", 5000)
    assert ringfence.metric(FORWARDS) == before
    assert done.counts["answered"] == 5000 and done.counts["hits"] > 1000
    assert done.counts["redirected"] == done.counts["errors"] == done.counts["violations"] == 0
    # Each connection of the load is one to each node.
    assert done.counts["connects"] == 2 * 4
    for port in (ringfence.core_port_base, ringfence.core_port_base + 1):
        with redis.Redis(port=port) as client:
            assert client.dbsize() > 500, "both have their part of the keys"
            client.flushall()


def test_without_routing_the_server_asks_the_other_core(ringfence):
    """As a check of the one above: these forwards can be seen."""
    before = ringfence.metric(FORWARDS)
    counted("--target", f"127.0.0.1:{ringfence.port}", "--keys", 3000, "--closed", "--requests", 5000)
    assert ringfence.metric(FORWARDS) > before + 1000


def cluster_cli(*arguments):
    call = ["redis-cli", "--cluster", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{call}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The nodes of a real cluster."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]
    with contextlib.ExitStack() as running:
        nodes = []
        for index in range(NODES):
            folder = tmp_path_factory.mktemp(f"node{index}")
            nodes.append(running.enter_context(Node(folder, *options)))
        addresses = [f"127.0.0.1:{node.port}" for node in nodes]
        cluster_cli("create", *addresses[:OWNERS], "--cluster-yes")
        cluster_cli("add-node", addresses[OWNERS], addresses[0])
        until(lambda: all(node.agrees() for node in nodes), seconds=30, pause=0.05)
        yield nodes


class Node(Redis):
    """A node of a cluster, whose bus is on a port of its own."""

    def command(self, *options):
        return [*super().command(*options), "--cluster-port", str(self.port + 1)]

    def __init__(self, folder, *options):
        super().__init__(folder, *options, ports=2)

    def agrees(self):
        with self.client() as client:
            info = client.execute_command("CLUSTER INFO")
            known = client.execute_command("CLUSTER NODES")
        return info["cluster_state"] == "ok" and len(known) == NODES and all(n["connected"] for n in known.values())

    def id(self):
        with self.client() as client:
            return client.execute_command("CLUSTER MYID").decode()


def test_every_node_gets_its_part(cluster):
    for node in cluster:
        node.empty()
    load = ["--routing", "cluster", "--keys", 3000, "--mix", "get=3,mget=1,set=1", "--closed", "--connections", 4]
    done = counted(*cluster[1].target, *load, "--requests", 6000)
    assert done.counts["redirected"] == done.counts["errors"] == done.counts["misses"] == 0
    assert all(node.calls().get("get", 0) > 500 and node.calls().get("mget", 0) > 100 for node in cluster[:OWNERS])
    with_keys = []
    for node in cluster[:OWNERS]:
        with node.client() as client:
            with_keys.append(client.dbsize())
    assert sum(with_keys) == 3000 and min(with_keys) > 500, with_keys


@pytest.mark.parametrize(
    "pace", [["--closed", "--pipeline", 8], ["--rate", 3000, "--pipeline", 2]], ids=["closed", "open"],
)
def test_slots_that_move_under_the_load_are_followed(cluster, pace):
    """Requests are sent on to where the slots are now; no reply is wrong, and no key is missed.

    At first the taker owns no slot, so that it is not in the slot map with which the load begins.
    """
    giver, taker = cluster[0], cluster[OWNERS]
    load = ["--routing", "cluster", "--keys", 4000, "--mix", "get=8,set=2", "--connections", 4]
    time = ["--warmup", "0s", "--duration", "2500ms"]
    for node in cluster:
        node.empty()
    with Running(*giver.target, *load, *pace, *time, "--json") as running:
        running.until(lambda: giver.calls().get("get", 0) > 1000)
        ends = ["--cluster-from", giver.id(), "--cluster-to", taker.id()]
        cluster_cli("reshard", f"127.0.0.1:{giver.port}", *ends, "--cluster-slots", MOVING, "--cluster-yes")
        done = running.end()
    counts = done.counts
    assert counts["redirected"] > 0, done
    assert counts["violations"] == counts["errors"] == counts["lost"] == counts["misses"] == 0, done
    assert taker.calls()["get"] > 0 and taker.calls()["set"] > 0
    assert set(done.faults) <= {"generator late"}, done


def test_a_slot_on_its_way_is_asked_for_at_both_ends(cluster):
    """A key that has gone ahead of its slot is found by ASK, each time anew; those still to go, where they were."""
    load = ["--routing", "cluster", "--keys", 30, "--mix", "get=8,set=2", "--closed", "--connections", 4]
    with Running(*cluster[0].target, *load, "--warmup", "0s", "--duration", "1500ms", "--json") as running:
        with cluster[0].client() as client:
            slot = client.execute_command("CLUSTER KEYSLOT", HOT_KEY)
            ranges = client.execute_command("CLUSTER SLOTS")
        port = next(owner[1] for first, last, owner, *_ in ranges if first <= slot <= last)
        giver = next(node for node in cluster if node.port == port)
        taker = cluster[(cluster.index(giver) + 1) % OWNERS]
        with taker.client() as client:
            client.config_resetstat()
        with giver.client() as giving, taker.client() as taking:
            running.until(lambda: giving.exists(HOT_KEY))
            taking.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", giver.id())
            giving.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", taker.id())
            assert giving.execute_command("MIGRATE", "127.0.0.1", taker.port, HOT_KEY, 0, 1000) == b"OK"
            running.until(lambda: taker.calls().get("asking", 0) > 50)
            for node in (taking, giving):
                node.execute_command("CLUSTER SETSLOT", slot, "NODE", taker.id())
        done = running.end()
    counts = done.passed().counts
    assert counts["redirected"] >= 50
    assert counts["violations"] == counts["errors"] == counts["lost"] == counts["misses"] == 0, done


def test_a_node_without_routing_says_what_to_do(cluster, tmp_path):
    node = cluster[0]
    done = bench(*node.target, "--duration", "1s", "--html", tmp_path / "report.html")
    assert_refused(done, f"127.0.0.1:{node.port} is a node of a cluster", "--routing cluster", files=[tmp_path])


def test_a_server_without_slots_is_no_cluster(tmp_path_factory, tmp_path):
    with Redis(tmp_path_factory.mktemp("alone")) as alone:
        done = bench(*alone.target, "--routing", "cluster", "--csv", tmp_path / "run.csv")
    assert_refused(done, "has no slot map", "--routing plain", files=[tmp_path])


def test_nodes_that_send_a_request_on_in_a_circle():
    """Each says that the other one owns the slot: after so many steps the request has failed, and the load goes on."""
    ports = []

    def answer(connection):
        other = ports[connection.getsockname()[1] == ports[0]]
        with contextlib.suppress(OSError):
            while asked := connection.recv(1 << 16):
                if b"SLOTS" in asked:
                    connection.sendall(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" % ports[0])
                else:
                    connection.sendall(b"-MOVED 7 127.0.0.1:%d\r\n" % other * asked.count(b"GET"))

    with contextlib.ExitStack() as running:
        for _ in range(2):
            port, stop = listening(answer)
            running.callback(stop)
            ports.append(port)
        load = ["--routing", "cluster", "--no-prefill", "--mix", "get=1", "--closed", "--connections", 2]
        done = bench("--target", f"127.0.0.1:{ports[0]}", *load, "--requests", 20, "--json", limit=10)
    assert (done.code, done.faults) == (FAILED, ["errors"]), done
    assert done.counts["errors"] == done.counts["answered"] == 20 and done.counts["redirected"] == 20 * 16
    assert "sent on by node after node" in done.run["examples"][0], done
