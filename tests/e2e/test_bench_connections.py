"""Connections by the thousand, and connections that come and go: none is left out, and no request is lost."""

import resource
import time

import pytest

from bench import Redis, bench, counted
from conftest import Server

MANY = 10_000


@pytest.fixture
def many_files():
    """As many descriptors as the host allows, handed down to the server and to the load as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard == resource.RLIM_INFINITY or hard >= MANY + 200, (
        f"{MANY} connections need more than {hard} file descriptors: raise `ulimit -Hn`"
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def opened(server):
    with server.client() as client:
        return client.info("stats")["total_connections_received"]


def test_ten_thousand_connections_to_ringfence(many_files, tmp_path):
    server = Server(tmp_path / "log", ["--set", f"limits.connections={MANY + 100}"])
    try:
        # Opened at such a rate, they do not fill the listen backlog of an untuned host.
        shape = ["--connections", MANY, "--connect-rate", 5000, "--keys", 1000, "--rate", 5000, "--duration", "2s"]
        done = counted("--target", f"127.0.0.1:{server.port}", *shape, "--arrivals", "fixed", "--warmup", "0s")
        counts = done.counts
        assert counts["connects"] == done.run["connect_us"]["count"] == MANY
        # Each of them has asked at least once: they take turns.
        # A moment on the edge belongs to either side.
        assert counts["answered"] == counts["sent"] and 9_999 <= counts["sent"] <= 10_001, counts
        assert counts["lost"] == counts["unsent"] == counts["errors"] == counts["violations"] == counts["misses"] == 0
        assert server.metric("ringfence_connections_accepted_total") >= MANY
    finally:
        status = server.stop()
    assert status == 0, server.log()


def test_ten_thousand_connections_that_are_all_busy(many_files, tmp_path):
    """Far more replies arrive than there are buffers for: each connection gets its turn, and none waits for ever."""
    server = Server(tmp_path / "log", ["--set", f"limits.connections={MANY + 100}"])
    try:
        shape = ["--connections", MANY, "--connect-rate", 5000, "--closed", "--pipeline", 8, "--keys", 1000]
        done = counted("--target", f"127.0.0.1:{server.port}", *shape, "--duration", "2s", "--warmup", "0s")
        counts = done.counts
        # Who gets no turn loses its requests after --timeout.
        assert counts["answered"] == counts["sent"] >= 8 * MANY
        assert counts["lost"] == counts["errors"] == counts["violations"] == counts["misses"] == 0, counts
    finally:
        status = server.stop()
    assert status == 0, server.log()


def test_more_connections_than_the_server_takes(tmp_path):
    """The server closes those that are too many, and that is said instead of a run on fewer."""
    with Redis(tmp_path, "--maxclients", "40") as server:
        done = bench(*server.target, "--connections", 60, "--duration", "500ms")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert "max number of clients" in done.err or "closed the connection" in done.err, done


@pytest.mark.parametrize(
    "pace",
    [["--closed"], ["--closed", "--pipeline", 8], ["--rate", 6000], ["--rate", 6000, "--pipeline", 8]],
    ids=["closed", "closed, in batches", "open", "open, several under way"],
)
def test_connections_that_are_replaced_after_ten_requests(server, pace):
    server.empty()
    before = opened(server)
    load = ["--keys", 500, "--connections", 10, "--reconnect", 10, "--requests", 5000, "--warmup", "0s"]
    done = counted(*server.target, *load, *pace)
    counts = done.counts
    # Each serves ten requests, and with several under way some more, since those are waited for.
    each = 10 + (8 if "--pipeline" in pace else 0)
    assert 5000 // each - 20 <= counts["connects"] <= 5000 // 10 + 10, counts
    assert counts["answered"] == counts["sent"] == 5000 and counts["misses"] == 0
    assert counts["lost"] == counts["errors"] == counts["violations"] == 0
    # Those that were open from the start, those that wrote all keys, the first contact, and the client that asks here.
    assert counts["connects"] <= opened(server) - before <= counts["connects"] + 10 + 500 // 10 + 20
    assert done.run["connect_us"]["count"] == counts["connects"]


def test_connections_are_replaced_after_writing_ahead_as_well(server):
    """A memcached or a Redis that is filled first is filled by connections that come and go too."""
    server.empty()
    before = opened(server)
    counted(
        *server.target, "--keys", 1000, "--connections", 5, "--reconnect", 20, "--requests", 1, "--closed",
        "--mix", "get=1",
    )
    assert server.calls()["set"] == 1000 and opened(server) - before > 5


@pytest.mark.parametrize("protocol, pace", [("resp2", ["--closed"]), ("resp3", ["--rate", 5000])])
def test_storms_replace_all_connections_at_once(server, pace, protocol):
    load = ["--keys", 500, "--connections", 100, "--storm", "250ms", "--duration", "1100ms", "--warmup", "0s"]
    done = counted("--target", f"127.0.0.1:{server.port}", "--protocol", protocol, *load, *pace)
    counts = done.counts
    # Four storms: at 0.25, 0.5, 0.75 and 1 second.
    assert counts["connects"] == 400, counts
    assert counts["answered"] == counts["sent"] > 2000 and counts["misses"] == 0
    assert counts["lost"] == counts["unsent"] == counts["errors"] == counts["violations"] == 0
    stormy = [interval["at_s"] for interval in done.run["intervals"] if interval["counts"]["connects"]]
    assert stormy == [0.25, 0.5, 0.75, 1.0]


def test_latencies_cover_the_time_in_which_there_is_no_connection(server):
    """In an open loop a request that is due in a storm waits for a connection, and that is part of its latency."""
    load = ["--keys", 500, "--connections", 50, "--connect-rate", 250, "--storm", "700ms", "--duration", "1s"]
    done = counted(*server.target, *load, "--rate", 1000, "--arrivals", "fixed", "--warmup", "0s")
    # The last of fifty gets its turn after a fifth of a second; the first at once, and they share the load.
    assert abs(done.counts["answered"] - 1000) <= 1 and done.counts["connects"] == 50
    slow = done.run["intervals"][2]
    assert slow["at_s"] == 0.5 and slow["counts"]["answered"] > 200


@pytest.mark.parametrize("rate", [100, 400])
def test_connections_are_opened_at_the_rate_that_was_asked_for(server, rate):
    begin = time.monotonic()
    counted(*server.target, "--keys", 10, "--connections", 50, "--connect-rate", rate, "--requests", 100, "--closed")
    took = time.monotonic() - begin
    assert 49 / rate <= took < 49 / rate + 1.5, took


def test_how_long_connecting_takes_is_told(server):
    done = counted(*server.target, "--keys", 10, "--connections", 30, "--requests", 100, "--closed")
    connect = done.run["connect_us"]
    assert connect["count"] == done.counts["connects"] == 30 and 5 < connect["min"] <= connect["p50"] < 1_000_000
