"""Every protocol, against a real server that speaks it: all values come back right, and none is missing."""

import pytest

from bench import Memcached, Nginx, Redis, bench, counted
from conftest import Server

KEYS = 300
VALUES = {"tiny": "1-30", "usual": "64", "mixed": "30:50,1KiB:40,20KiB:10", "scattered": "lognormal:500B:1"}
MIX = ["--mix", "get=7,set=2,delete=1", "--keys", KEYS]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One of each, started when it is first asked for."""
    running = {}
    kinds = {"redis": Redis, "memcached": Memcached, "nginx": Nginx, "ringfence": Server}

    def server(name):
        if name not in running:
            folder = tmp_path_factory.mktemp(name)
            running[name] = kinds[name](folder / "log" if name == "ringfence" else folder)
        return running[name]

    yield server
    for instance in running.values():
        instance.stop()


SPEAKERS = [
    ("redis", "resp2"),
    ("redis", "resp3"),
    ("ringfence", "resp2"),
    ("ringfence", "resp3"),
    ("memcached", "memcache-text"),
    ("memcached", "memcache-meta"),
    ("nginx", "http"),
]


def target(servers, server, protocol):
    return ["--target", f"127.0.0.1:{servers(server).port}", "--protocol", protocol]


@pytest.mark.parametrize("server, protocol", SPEAKERS)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_what_was_written_comes_back(servers, server, protocol, values):
    """Keys are deleted and written meanwhile, so hits and misses both occur, each where it must."""
    pace = ["--closed", "--connections", 4, "--requests", 3000, "--value-size", values]
    done = counted(*target(servers, server, protocol), *MIX, *pace)
    counts = done.counts
    assert counts["answered"] == counts["sent"] == 3000
    assert counts["hits"] > 1000 and counts["misses"] > 50, counts
    assert counts["violations"] == counts["errors"] == counts["lost"] == counts["leftovers"] == 0


@pytest.mark.parametrize("server, protocol", SPEAKERS)
@pytest.mark.parametrize("depth", [1, 4])
def test_hits_are_those_that_were_expected(servers, server, protocol, depth):
    """Nothing expires and nothing is evicted: whatever was written is found."""
    pace = ["--rate", 8000, "--connections", 6, "--pipeline", depth, "--requests", 2000]
    done = counted(*target(servers, server, protocol), "--mix", "get=3,set=1", "--keys", KEYS, *pace)
    assert done.run["hit_ratio"] == done.run["hit_ratio_expected"] == 1, done
    assert done.counts["misses"] == 0 and done.counts["answered"] == 2000


@pytest.mark.parametrize("server, protocol", [s for s in SPEAKERS if s[1] != "http"])
def test_reads_of_several_keys(servers, server, protocol):
    """Some of the keys are missing, and those that are there stand where they belong."""
    pace = ["--closed", "--connections", 3, "--pipeline", 2, "--requests", 2000]
    mix = ["--mix", "mget=4,set=2,delete=1", "--mget-keys", 9, "--keys", KEYS]
    done = counted(*target(servers, server, protocol), *mix, *pace)
    several = done.run["by_kind_us"]["mget"]["count"]
    assert done.counts["hits"] + done.counts["misses"] == 9 * several
    assert done.counts["misses"] > 100 and done.counts["violations"] == 0


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("pace", [["--closed"], ["--rate", 3000]], ids=["closed", "open"])
def test_http_connections_that_the_server_ends_in_order_are_replaced(servers, depth, pace):
    """nginx closes a connection behind its fiftieth reply, whatever was asked behind that."""
    shape = ["--connections", 5, "--pipeline", depth, "--requests", 4000, "--warmup", "0s"]
    done = counted(*target(servers, "nginx", "http"), *MIX, *shape, *pace)
    counts = done.counts
    assert counts["answered"] == counts["sent"] == 4000
    assert counts["lost"] == counts["errors"] == counts["violations"] == 0
    # The first five are not counted again: they were opened before.
    assert 4000 // 50 - 5 <= counts["connects"] <= 4000 // 50 + 5 + 5, counts


def test_sizes_on_the_servers_disk_are_those_that_were_asked_for(tmp_path):
    with Nginx(tmp_path) as nginx:
        counted(*nginx.target, "--keys", 200, "--value-size", "10:1,1000:1", "--requests", 1, "--closed")
        sizes = nginx.sizes()
    assert len(sizes) == 200 and set(sizes.values()) == {10, 1000}
    assert all(name.startswith("key:") and len(name) == 16 for name in sizes)


def test_names_of_keys_in_a_path(servers):
    """Reserved characters in a key are written so that they do not end the path."""
    names = ["--key-prefix", "a/b?c#d%e&ü:", "--key-size", 40]
    done = counted(*target(servers, "nginx", "http"), *MIX, *names, "--requests", 1000, "--closed")
    assert done.counts["hits"] > 500 and done.counts["errors"] == done.counts["violations"] == 0


@pytest.mark.parametrize("server, protocol", SPEAKERS)
def test_a_report_for_people(servers, server, protocol):
    done = bench(*target(servers, server, protocol), "--keys", KEYS, "--closed", "--requests", 500).passed()
    lines = done.out.splitlines()
    assert f"protocol          {protocol}" in lines and "requests      500 answered of 500 sent" in lines, done
    assert "failures      0 errors, 0 lost requests, 0 wrong replies" in lines and lines[-1] == "valid", done
