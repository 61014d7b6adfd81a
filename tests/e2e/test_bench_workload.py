"""What is asked for, as the server sees it: traces, presets, distributions, sizes and times to live."""

import collections
import lzma
import random
import re
import socket
import struct
import time

import pytest

from bench import PASSED, TWO_THREADS, Redis, Running, bench, counted

ALONE = ["--closed", "--connections", 1]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(redis_server):
    redis_server.empty()
    return redis_server


def skewed_ids(count, seed):
    """Ids of which some come again and again, far apart and in any order."""
    draw = random.Random(seed)
    return [int(draw.paretovariate(0.3)) * 2_654_435_761 % 2**32 for _ in range(count)]


def as_be32(ids):
    return struct.pack(f">{len(ids)}I", *ids)


def as_text(ids, sizes):
    return "".join(f"{time} {id} {size}\n" for time, (id, size) in enumerate(zip(ids, sizes))).encode()


def as_oracle_general(ids, sizes):
    return b"".join(struct.pack("<IQIq", time, id, size, -1) for time, (id, size) in enumerate(zip(ids, sizes)))


def hits_of_a_dictionary(ids):
    seen, hits = set(), 0
    for id in ids:
        hits += id in seen
        seen.add(id)
    return hits


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "xz"])
def test_a_trace_hits_and_misses_as_a_dictionary_does(server, packed, tmp_path):
    """Nothing is evicted: a request hits if its key was asked for before, and a miss is followed by a write."""
    ids = skewed_ids(5000, seed=1)
    trace = tmp_path / ("requests.be32.xz" if packed else "requests.be32")
    trace.write_bytes(lzma.compress(as_be32(ids)) if packed else as_be32(ids))
    done = counted(*server.target, *ALONE, "--trace", trace)
    hits, keys = hits_of_a_dictionary(ids), len(set(ids))
    assert 1000 < hits < 4000, "the trace has both"
    assert (done.counts["hits"], done.counts["misses"]) == (hits, 5000 - hits)
    assert done.run["hit_ratio"] == done.run["hit_ratio_expected"] == pytest.approx(hits / 5000, abs=1e-6)
    calls = server.calls()
    # The first contact reads one key.
    assert (calls["get"] - 1, calls["set"]) == (5000, keys)
    with server.client() as client:
        assert client.dbsize() == keys


@pytest.mark.parametrize(
    "pace", [["--closed"], ["--rate", 20_000], ["--closed", *TWO_THREADS]], ids=["closed", "open", "on two threads"],
)
def test_a_trace_on_many_connections_asks_for_the_same_keys(server, pace, tmp_path):
    """How often is decided by the trace; a key that is asked for twice at once may be missed twice."""
    ids = skewed_ids(5000, seed=2)
    trace = tmp_path / "requests.be32"
    trace.write_bytes(as_be32(ids))
    done = counted(*server.target, *pace, "--connections", 20, "--pipeline", 4, "--trace", trace)
    hits, keys = hits_of_a_dictionary(ids), len(set(ids))
    assert server.calls()["get"] - 1 == 5000 == done.counts["hits"] + done.counts["misses"]
    assert hits - 500 <= done.counts["hits"] <= hits and done.counts["violations"] == 0
    with server.client() as client:
        assert client.dbsize() == keys


@pytest.mark.parametrize("name, write", [("requests.txt", as_text), ("requests.oracleGeneral.bin", as_oracle_general)])
def test_values_have_the_sizes_of_the_trace(server, name, write, tmp_path):
    ids = skewed_ids(2000, seed=3)
    draw = random.Random(4)
    size_of = {id: draw.choice([1, 7, 8, 23, 24, 100, 5000]) for id in ids}
    trace = tmp_path / name
    trace.write_bytes(write(ids, [size_of[id] for id in ids]))
    counted(*server.target, *ALONE, "--trace", trace)
    # Keys are numbered by first appearance.
    order = list(dict.fromkeys(ids))
    with server.client() as client:
        sizes = [client.strlen(f"key:{number:012}") for number in range(len(order))]
    assert sizes == [size_of[id] for id in order]


def test_a_part_of_a_trace(server, tmp_path):
    """--requests ends it early."""
    ids = skewed_ids(5000, seed=5)
    trace = tmp_path / "requests.be32"
    trace.write_bytes(as_be32(ids))
    done = counted(*server.target, *ALONE, "--trace", trace, "--requests", 1200)
    assert done.counts["hits"] + done.counts["misses"] == 1200
    assert done.counts["hits"] == hits_of_a_dictionary(ids[:1200])


def test_presets_are_listed_with_what_they_stand_for():
    done = bench("--preset", "list")
    assert (done.code, done.err) == (PASSED, ""), done
    names = re.findall(r"^([a-z0-9-]+): .+\n    (--keys .+)$", done.out, re.MULTILINE)
    assert len(names) * 2 == len(done.out.splitlines())
    assert {"object-cache", "ycsb-a", "twitter-cluster-18"} <= {name for name, _ in names}
    assert len([name for name, _ in names if name.startswith("twitter-cluster-")]) >= 5


@pytest.mark.parametrize("preset", ["twitter-cluster-18", "object-cache", "feed", "counters"])
def test_a_preset_runs_and_options_beside_it_win(server, preset):
    done = counted(*server.target, "--preset", preset, "--keys", 2000, "--rate", 3000, "--requests", 1500)
    assert done.counts["answered"] == 1500 and done.counts["violations"] == 0
    assert done.report["setup"]["preset"].startswith(preset)
    assert done.report["setup"]["keys"].startswith("2000, ")
    with server.client() as client:
        assert 1900 < client.dbsize() <= 2000


def test_a_preset_is_the_options_that_it_lists(server):
    """Written out, with the same seed, they ask for the same: the keys and the sizes of their values."""
    listed = dict(re.findall(r"^([a-z0-9-]+): .+\n    (--keys .+)$", bench("--preset", "list").out, re.MULTILINE))
    options = listed["twitter-cluster-18"].split()
    options[options.index("--keys") + 1] = "500"
    stored = []
    for workload in (options, ["--preset", "twitter-cluster-18", "--keys", "500"]):
        server.empty()
        counted(*server.target, *ALONE, *workload, "--seed", 7, "--requests", 2000)
        with server.client() as client:
            stored.append({key: client.strlen(key) for key in client.keys()})
    assert len(stored[0]) > 400 and stored[0] == stored[1]


class Monitor:
    """Every command that the server is sent, as it sees them."""

    def __init__(self, server):
        self.connection = socket.create_connection(("127.0.0.1", server.port), 10)
        self.connection.settimeout(10)
        self.lines = self.connection.makefile("rb")
        self.connection.sendall(b"MONITOR\r\n")
        assert self.lines.readline() == b"+OK\r\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.connection.close()

    def keys(self, command, count):
        """The keys of the next `count` commands of that name."""
        pattern = re.compile(rb'\] "%s" "(key:[0-9]+)' % command)
        found = []
        while len(found) < count:
            match = pattern.search(self.lines.readline())
            if match:
                found.append(match[1].decode())
        return found


DRAWS = 20_000


def drawn(server, keys, distribution, seed=11):
    """How often each key was asked for, the most frequent first."""
    load = ["--mix", "set=1", "--keys", keys, "--distribution", distribution, "--seed", seed, "--value-size", 8]
    with Monitor(server) as monitor:
        with Running(*server.target, *ALONE, "--pipeline", 100, *load, "--requests", DRAWS, "--json") as running:
            found = monitor.keys(b"SET", DRAWS)
            assert running.end().code == PASSED
    return [count for _, count in collections.Counter(found).most_common()]


def chi_square(counts, shares):
    """How far the counts are from what these shares of all draws come to. All shares are large enough for that."""
    assert min(shares) * DRAWS > 5 and len(counts) <= len(shares)
    expected = [share / sum(shares) * DRAWS for share in shares]
    padded = counts + [0] * (len(shares) - len(counts))
    return sum((found - wanted) ** 2 / wanted for found, wanted in zip(padded, expected))


KEYS = 100
# Exceeded by one in a million fair samples: a chi-square of 99 degrees of freedom.
LIMIT = 180


def zipf(alpha):
    return [1 / rank**alpha for rank in range(1, KEYS + 1)]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_keys_are_asked_for_by_zipfs_law(server, alpha):
    counts = drawn(server, KEYS, f"zipf:{alpha}")
    assert sum(counts) == DRAWS
    assert chi_square(counts, zipf(alpha)) < LIMIT, counts
    # The same counts are far from what a law close to it would have given.
    assert chi_square(counts, zipf(alpha - 0.1)) > LIMIT
    assert chi_square(counts, zipf(alpha + 0.1)) > LIMIT


def test_keys_are_asked_for_alike(server):
    counts = drawn(server, KEYS, "uniform")
    assert chi_square(counts, [1] * KEYS) < LIMIT, counts


def test_a_hot_spot_is_as_hot_as_was_asked_for(server):
    """A tenth of the keys gets 90 % of the requests, and all within it are alike."""
    counts = drawn(server, KEYS, "hotspot:10%:90%")
    assert chi_square(counts, [9] * 10 + [1 / 9] * 90) < LIMIT, counts
    # Four standard deviations.
    assert abs(sum(counts[:10]) - 0.9 * DRAWS) < 4 * (DRAWS * 0.9 * 0.1) ** 0.5


def test_the_same_seed_asks_for_the_same_in_the_same_order(server):
    def sequence(seed):
        load = ["--mix", "get=1,set=1", "--no-prefill", "--keys", 1000, "--seed", seed, "--requests", 2000]
        with Monitor(server) as monitor:
            counted(*server.target, *ALONE, *load)
            return monitor.keys(b"SET", 900)

    first = sequence(1)
    assert sequence(1) == first != sequence(2)


def test_sizes_follow_their_weights(server):
    sizes = ["--value-size", "64:70,1KiB:25,10000:5", "--key-size", "16-40"]
    counted(*server.target, *ALONE, "--mix", "get=1", "--keys", 2000, *sizes, "--seed", 5, "--requests", 1)
    with server.client() as client:
        names = client.keys()
        found = collections.Counter(client.strlen(name) for name in names)
    assert set(found) == {64, 1024, 10_000} and sum(found.values()) == 2000
    for size, share in [(64, 0.7), (1024, 0.25), (10_000, 0.05)]:
        assert abs(found[size] - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5, found
    lengths = collections.Counter(map(len, names))
    assert set(lengths) == set(range(16, 41)) and max(lengths.values()) < 2 * 2000 / 25 * 1.5, lengths


def test_times_to_live_are_those_that_were_asked_for(server):
    lives = "100s:50,200s-300s:30,none:20"
    counted(*server.target, *ALONE, "--mix", "get=1", "--keys", 500, "--ttl", lives, "--seed", 5, "--requests", 1)
    with server.client() as client:
        lives = [client.pttl(name) for name in client.keys()]
    without = [life for life in lives if life == -1]
    short = [life for life in lives if 90_000 < life <= 100_000]
    long = [life for life in lives if 190_000 < life <= 300_000]
    assert len(without) + len(short) + len(long) == 500
    assert abs(len(without) - 100) < 45 and abs(len(short) - 250) < 56 and abs(len(long) - 150) < 52


def test_arrivals_are_spaced_as_was_asked_for(server):
    """Seen from the server: even gaps are all alike, those of a Poisson process mostly shorter than their mean."""
    gaps = {}
    for arrivals in ("fixed", "poisson"):
        load = ["--mix", "set=1", "--rate", 500, "--arrivals", arrivals, "--requests", 400, "--connections", 20]
        with Monitor(server) as monitor:
            counted(*server.target, *load, "--keys", 100)
            times = []
            while len(times) < 400:
                line = monitor.lines.readline()
                if b'"SET"' in line:
                    times.append(float(line[1:].split(b" ")[0]))
        gaps[arrivals] = [b - a for a, b in zip(times, times[1:])]
    mean = {arrivals: sum(found) / len(found) for arrivals, found in gaps.items()}
    assert abs(mean["fixed"] - 0.002) < 0.0002, mean
    # Five standard deviations of a mean of 399 exponential gaps.
    assert abs(mean["poisson"] - 0.002) < 5 * 0.002 / 399**0.5, mean
    near = [sum(abs(gap - 0.002) < 0.0004 for gap in found) / 399 for found in gaps.values()]
    # Of exponential gaps a seventh is so near to the mean.
    assert near[0] > 0.6 and near[1] < 0.3, near
    shorter = sum(gap < 0.002 for gap in gaps["poisson"]) / 399
    assert abs(shorter - 0.632) < 0.13, shorter


def test_a_miss_is_filled_if_that_was_asked_for(server):
    load = ["--mix", "get=1", "--keys", 200, "--no-prefill", "--requests", 3000]
    done = counted(*server.target, *ALONE, *load)
    assert done.counts["hits"] == 0 and "set" not in done.run["by_kind_us"]
    done = counted(*server.target, *ALONE, *load, "--fill-on-miss")
    assert done.counts["misses"] == done.run["by_kind_us"]["set"]["count"] == server.calls()["set"] <= 200
    assert done.counts["hits"] == 3000 - done.counts["misses"]


def test_deadlines_are_kept_apart_from_misses(server):
    """Keys expire and are missed then, and that is what was expected."""
    load = ["--mix", "get=9,set=1", "--keys", 100, "--ttl", "100ms-400ms", "--rate", 2000, "--requests", 3000]
    done = counted(*server.target, *load)
    assert done.counts["misses"] > 200 and done.counts["hits"] > 200
    assert abs(done.run["hit_ratio"] - done.run["hit_ratio_expected"]) < 0.05


def test_a_ramp_and_a_warm_up_go_ahead(server):
    begin = time.monotonic()
    load = ["--rate", 1000, "--ramp", "500ms", "--warmup", "250ms", "--duration", "500ms", "--arrivals", "fixed"]
    done = counted(*server.target, *load, "--keys", 100)
    assert time.monotonic() - begin > 1.25
    ahead = sum(interval["counts"]["answered"] for interval in done.run["intervals"] if not interval["measured"])
    # Half of the rate on average, and then all of it.
    assert abs(ahead - 500) <= 5, ahead
    # The first contact reads one key, and each key is written once before.
    calls = server.calls()
    assert calls["get"] - 1 + calls["set"] - 100 == ahead + done.counts["answered"]
