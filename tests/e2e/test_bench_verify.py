"""Replies that cannot be true are told, named, and fail the run; those that can be are not accused.

The lies are real ones: a second client changes what the server has while the load runs.
"""

import contextlib
import shutil
import signal
import time

import pytest

from bench import FAILED, TWO_THREADS, Memcached, Nginx, Redis, Running, bench, counted
from conftest import Server

KEYS = 20
# The load, for as long as the meddling takes; its keys are written often.
LOAD = ["--closed", "--connections", 4, "--keys", KEYS, "--value-size", 200, "--warmup", "0s", "--duration", "600ms"]
OFTEN = ["--mix", "get=9,set=1"]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(redis_server):
    redis_server.empty()
    return redis_server


def key(number):
    return f"key:{number:012}"


def under_way(server):
    """Whether all keys have been written and the load has begun."""
    calls = server.calls()
    return calls.get("set", 0) >= KEYS and calls.get("get", 0) + calls.get("mget", 0) > 100


def lied_to(server, meddle, *more, load=(*LOAD, *OFTEN)):
    """What is printed of a load during which `meddle` is called again and again with another client."""
    with server.client() as client, Running(*server.target, *load, *more) as running:
        running.until(lambda: under_way(server))
        turn = 0
        while running.process.poll() is None:
            meddle(client, turn)
            turn += 1
            time.sleep(0.004)
        return running.end()


def assert_told(done, *words, kind="wrong replies"):
    """It fails, and one of the lines about wrong replies has all of `words`."""
    assert (done.code, done.err) == (FAILED, ""), done
    _, _, told = done.out.partition("\nreplies that were wrong, lost or errors:\n")
    examples, _, verdict = told.partition("\n\n")
    assert any(all(word in line for word in words) for line in examples.splitlines()), done
    assert verdict.startswith("not valid\n") and f"  {kind}: " in verdict, done


@pytest.mark.parametrize("size", [5, 24, 200, 3000])
def test_a_value_that_something_else_wrote(server, size):
    done = lied_to(server, lambda client, turn: client.set(key(turn % KEYS), b"?" * size))
    assert_told(done, "the value of key:0000000000")


def test_something_else_is_named_as_such(server):
    done = lied_to(server, lambda client, turn: client.set(key(turn % KEYS), b"?" * 200))
    assert_told(done, "the value of key:0000000000", "is not a value of this tool", '(it begins with "????')


def test_a_value_of_another_key(server):
    done = lied_to(server, lambda client, turn: client.copy(key(turn % 10), key(turn % 10 + 10), replace=True))
    assert_told(done, "the value of key:00000000001", "belongs to another key")


def test_a_stale_value(server):
    early = {}

    def meddle(client, turn):
        if turn < KEYS:
            early[turn] = client.get(key(turn))
        elif turn >= 2 * KEYS:
            # Each key has been written many times since.
            client.set(key(turn % KEYS), early[turn % KEYS])

    assert_told(lied_to(server, meddle), "the value of key:0000000000", "is stale: it carries write ", "acknowledged")


def test_a_torn_value(server):
    def meddle(client, turn):
        one, other = key(turn % KEYS), key((turn + 1) % KEYS)
        client.setrange(one, 100, client.getrange(other, 100, 149))

    assert_told(lied_to(server, meddle), "the value of key:0000000000", "is torn: it begins as write ")


def test_a_value_that_is_cut_off(server):
    def meddle(client, turn):
        client.set(key(turn % KEYS), client.getrange(key(turn % KEYS), 0, 120))

    assert_told(lied_to(server, meddle), "the value of key:0000000000", "is 121 bytes long", "had the length 200")


@pytest.mark.parametrize("mix", ["get=1", "mget=1"])
def test_a_value_that_outlives_its_deadline(server, mix):
    """Each key is written once, to live for a second, and somebody makes it live on."""
    load = ["--closed", "--connections", 4, "--keys", KEYS, "--mix", mix, "--ttl", "1s", "--duration", "1500ms"]
    done = lied_to(server, lambda client, turn: client.persist(key(turn % KEYS)), load=[*load, "--warmup", "0s"])
    assert_told(done, "the value of key:0000000000", "has expired: its deadline was ", "before the read was sent")


@pytest.mark.parametrize("protocol, stall", [("resp2", 0.7), ("resp3", 1.2)])
def test_replies_that_never_come(server, protocol, stall):
    """The server stands still for longer than a reply may take; then also for longer than a new connection may take."""
    shape = ["--rate", 500, "--connections", 2, "--keys", KEYS, "--warmup", "0s", "--timeout", "500ms"]
    target = ["--target", f"127.0.0.1:{server.port}", "--protocol", protocol]
    with Running(*target, *shape, "--duration", "1800ms") as running:
        running.until(lambda: under_way(server))
        server.stall(stall)
        done = running.end()
    assert_told(done, "lost: no reply to a ", f"from 127.0.0.1:{server.port} within ", kind="lost replies")
    assert "requests were never answered" in done.out, done


@pytest.mark.parametrize("pace", [["--closed"], ["--rate", 500]], ids=["closed", "open"])
def test_a_server_that_is_silent_for_good_ends_a_run_by_count(pace, tmp_path):
    """No connection comes about any more, and the requests that are left are never made."""
    with Redis(tmp_path) as server:
        shape = ["--protocol", "resp3", "--connections", 2, "--keys", KEYS, "--timeout", "500ms", *pace]
        target = ["--target", f"127.0.0.1:{server.port}"]
        with Running(*target, *shape, "--requests", 10_000_000, "--json") as running:
            running.until(lambda: under_way(server))
            server.process.send_signal(signal.SIGSTOP)
            done = running.end(limit=30)
    assert (done.code, done.err) == (FAILED, "") and done.counts["lost"] > 0, done
    assert any("lost: no reply to a " in example for example in done.run["examples"]), done


@pytest.mark.parametrize("protocol", ["memcache-text", "memcache-meta"])
@pytest.mark.parametrize("mix", ["get=9,set=1", "mget=9,set=1"])
def test_lies_of_memcached(protocol, mix, tmp_path):
    with Memcached(tmp_path) as memcached:
        target = ["--target", f"127.0.0.1:{memcached.port}", "--protocol", protocol, "--mix", mix]
        done = lied_to_memcached(memcached, *target)
    assert_told(done, "the value of key:0000000000", "belongs to another key")


def lied_to_memcached(memcached, *more):
    with Running(*LOAD, *more) as running:
        running.until(lambda: int(memcached.stats()["cmd_get"]) > 100)
        turn = 0
        while running.process.poll() is None:
            value = memcached.value(key(turn % KEYS))
            memcached.ask(f"set {key((turn + 1) % KEYS)} 0 0 {len(value)}\r\n".encode() + value, "STORED")
            turn += 1
        return running.end()


def test_lies_of_an_http_server(tmp_path):
    """A value is exchanged for that of another key behind the server's back."""
    with Nginx(tmp_path) as nginx, Running(*nginx.target, *LOAD, *OFTEN) as running:
        folder = tmp_path / "files" / "v1" / "cache"
        running.until(lambda: folder.exists() and len(list(folder.glob("key:*"))) == KEYS)
        while running.process.poll() is None:
            shutil.copy(folder / key(3), tmp_path / "other")
            (tmp_path / "other").rename(folder / key(4))
        done = running.end()
    assert_told(done, f"the value of {key(4)} belongs to another key")


def test_every_reply_that_is_wrong_is_counted(server):
    """One that is read once in a while and never written again is wrong as often as it is read."""
    load = ["--closed", "--connections", 1, "--keys", KEYS, "--mix", "get=1", "--requests", 5000, "--json"]
    with server.client() as client, Running(*server.target, *load) as running:
        running.until(lambda: under_way(server))
        client.set(key(3), b"?" * 64)
        done = running.end()
    assert done.code == FAILED and done.faults == ["wrong replies"], done
    assert 0 < done.counts["violations"] < 500 and done.counts["answered"] == 5000
    assert done.report["verdict"]["faults"][0]["text"].startswith(f"{done.counts['violations']} replies were wrong")
    assert 1 <= len(done.run["examples"]) <= 10
    assert all(key(3) in example for example in done.run["examples"])
    assert done.run["valid"] is False and done.report["verdict"]["result"] == "invalid"


def test_without_verification_nothing_is_told(server):
    done = lied_to(server, lambda client, turn: client.set(key(turn % KEYS), b"?" * 200), "--no-verify")
    assert done.passed() and "0 wrong replies" in done.out


def test_keys_that_vanish_are_no_lie_but_are_missed(server):
    """A cache may forget. The ratio of hits falls behind what was expected."""
    load = ["--closed", "--connections", 1, "--keys", KEYS, "--mix", "get=1", "--requests", 5000, "--json"]
    with server.client() as client, Running(*server.target, *load) as running:
        running.until(lambda: under_way(server))
        client.delete(*map(key, range(10)))
        done = running.end().passed()
    assert done.counts["violations"] == 0 and done.run["hit_ratio_expected"] == 1
    assert 0.5 <= done.run["hit_ratio"] < 0.99, done.counts


WORKLOADS = {
    "hot keys, overwritten": ["--mix", "get=5,set=5", "--distribution", "zipf:1.2"],
    "hot keys, in batches": ["--mix", "get=5,set=4,delete=1", "--distribution", "zipf:1.2", "--pipeline", 16],
    "short lives": ["--mix", "get=8,set=2", "--ttl", "1ms-300ms", "--fill-on-miss"],
    "several at once": ["--mix", "mget=4,set=3,delete=1,get=2", "--mget-keys", 12, "--distribution", "zipf:1.2"],
    "sizes from nothing to much": ["--mix", "get=5,set=5", "--value-size", "0-40:50,1KiB:40,40KiB:10"],
    "an open loop": ["--mix", "get=5,set=4,delete=1", "--ttl", "50ms-2s", "--rate", 8000, "--pipeline", 8],
    "two threads on the same keys": ["--mix", "get=5,set=4,delete=1", "--distribution", "zipf:1.2", *TWO_THREADS],
    "connections that come and go": ["--mix", "get=5,set=5", "--reconnect", 20, "--distribution", "zipf:1.2"],
}
# All of it at once, for so long that keys expire.
EVERYTHING = ["--mix", "get=12,mget=2,set=4,delete=1", "--ttl", "1s:40,1s-2s:20,100ms:20,none:20", "--pipeline", 4]
EVERYTHING += ["--distribution", "zipf:1.2", "--value-size", "10-2000", "--reconnect", 500, "--storm", "700ms"]
SPEAKERS = [("redis", "resp2"), ("ringfence", "resp3"), ("memcached", "memcache-text"), ("memcached", "memcache-meta")]


@pytest.fixture(scope="module")
def correct_servers(tmp_path_factory, redis_server):
    folder = tmp_path_factory.mktemp("servers")
    (folder / "memcached").mkdir()
    with contextlib.ExitStack() as running:
        memcached = running.enter_context(Memcached(folder / "memcached"))
        ringfence = Server(folder / "log")
        running.callback(ringfence.stop)
        yield {"redis": redis_server, "memcached": memcached, "ringfence": ringfence}


def assert_not_accused(server, protocol, *arguments):
    target = ["--target", f"127.0.0.1:{server.port}", "--protocol", protocol, "--keys", 500, "--connections", 9]
    # Values of an earlier test may be there: they are intact, and of their keys.
    done = counted(*target, "--no-prefill", "--warmup", "0s", *arguments)
    counts = done.counts
    assert counts["violations"] == counts["errors"] == counts["lost"] == 0, done
    assert done.run["examples"] == [] and counts["hits"] > 100, counts


@pytest.mark.parametrize("server, protocol", SPEAKERS, ids=[protocol for _, protocol in SPEAKERS])
@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_a_server_that_tells_the_truth_is_not_accused(correct_servers, server, protocol, workload):
    pace = [] if "--rate" in workload else ["--closed"]
    assert_not_accused(correct_servers[server], protocol, "--duration", "300ms", *pace, *workload)


@pytest.mark.parametrize("server, protocol", SPEAKERS, ids=[protocol for _, protocol in SPEAKERS])
def test_all_at_once_and_for_longer(correct_servers, server, protocol):
    assert_not_accused(correct_servers[server], protocol, "--closed", "--duration", "2s", *EVERYTHING)


def test_what_an_earlier_run_left_is_no_lie(server):
    """The values are intact and of their keys, and this run has not written them yet."""
    load = ["--closed", "--keys", 2000, "--connections", 4, "--requests", 4000]
    counted(*server.target, *load, "--mix", "get=1")
    done = counted(*server.target, *load, "--mix", "get=9,set=1", "--no-prefill")
    assert done.counts["leftovers"] > 1000 and done.counts["violations"] == 0
    assert done.run["hit_ratio"] == 1 > done.run["hit_ratio_expected"]


def test_what_an_earlier_run_left_may_not_come_back(server):
    """Once this run has written a key, the value of an earlier run is a lie."""
    counted(*server.target, "--closed", "--keys", KEYS, "--mix", "get=1", "--requests", 1, "--value-size", 200)
    with server.client() as client:
        before = [client.get(key(number)) for number in range(KEYS)]
        client.config_resetstat()
    done = lied_to(server, lambda client, turn: client.set(key(turn % KEYS), before[turn % KEYS]))
    assert_told(done, "is of an earlier run, though this run has written the key since")


def test_keys_of_something_else_are_told_with_a_remedy(server):
    with server.client() as client:
        client.mset({key(number): b"a value of an application " * 3 for number in range(KEYS)})
    done = bench(*server.target, "--closed", "--keys", KEYS, "--mix", "get=1", "--no-prefill", "--requests", 100)
    assert_told(done, "is not a value of this tool", "Choose another --key-prefix", "--no-verify")
