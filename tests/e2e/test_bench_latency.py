"""A server that stands still is charged for every request that should have been sent meanwhile."""

import pytest

from bench import MEASUREMENTS, PASSED, Redis, Running, counted, longer_than, was_late

STALL = 0.1
RATE = 1000
KEYS = 100
# A latency that a busy machine rarely shows by itself, and the stall always.
DEADLINE = 0.010


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def stalled(server, folder, *arguments, after=RATE // 2):
    """A run in the middle of which the server stands still: its report, its distribution, and for how long it stood."""
    distribution = folder / "run.hgrm"
    for _ in range(MEASUREMENTS):
        server.empty()
        options = ["--mix", "get=1", "--keys", KEYS, "--json", "--hgrm", distribution]
        with Running(*server.target, *options, *arguments) as running:
            running.until(lambda: server.calls().get("get", 0) >= after)
            stood = server.stall(STALL)
            done = running.end()
        if not was_late(done):
            break
    # Late by a few milliseconds or not, what is looked for is a stall of a hundred.
    assert done.code == PASSED or was_late(done), done
    return done.run, distribution.read_text(), stood


@pytest.mark.parametrize("connections, depth", [(1, 1), (4, 1), (4, 16)])
def test_an_open_loop_charges_a_stall_for_all_that_was_due(server, tmp_path, connections, depth):
    shape = ["--connections", connections, "--pipeline", depth]
    pace = ["--rate", RATE, "--arrivals", "fixed", "--duration", "1500ms", "--warmup", "250ms"]
    run, distribution, stood = stalled(server, tmp_path, *shape, *pace)
    # Those that were due when less than the deadline was left of the stall are in time.
    expected = (stood - DEADLINE) * RATE
    least, most = longer_than(distribution, DEADLINE * 1000)
    assert most >= expected - 10 and most >= 75, (least, most, expected, run["latency_us"])
    # A generator that was late adds its own stalls.
    assert not run["valid"] or least <= min(expected + 25, 140), (least, most, expected, run["latency_us"])
    # One in fifteen was due in the stall, so one in a hundred waited for nearly all of it.
    assert run["latency_us"]["p99"] > 0.7 * stood * 1e6, run["latency_us"]
    assert stood * 1e6 * 0.95 < run["latency_us"]["max"] < stood * 1e6 + 100_000, run["latency_us"]
    assert run["counts"]["answered"] == run["counts"]["sent"] == 1500
    assert run["counts"]["unsent"] == run["counts"]["lost"] == 0


def test_service_time_forgets_what_waited_to_be_sent(server, tmp_path):
    """Four connections had four requests under way when the server stood still; the rest waited in the generator."""
    pace = ["--connections", 4, "--rate", RATE, "--arrivals", "fixed", "--duration", "1500ms", "--warmup", "250ms"]
    run, _, stood = stalled(server, tmp_path, *pace)
    service, latency = run["service_us"], run["latency_us"]
    assert service["count"] == latency["count"] == 1500
    assert service["max"] > 0.95 * stood * 1e6, service
    assert service["p99"] < DEADLINE * 1e6 < 70_000 < latency["p99"], (service, latency)


def test_a_closed_loop_shows_a_stall_once(server, tmp_path):
    """The same stall, and the requests that it kept from being sent are missing: coordinated omission."""
    pace = ["--closed", "--connections", 1, "--requests", 8000, "--warmup", "0s"]
    run, distribution, stood = stalled(server, tmp_path, *pace, after=3000)
    least, most = longer_than(distribution, DEADLINE * 1000)
    assert least <= 3 and most >= 1, (least, most, run["latency_us"])
    assert run["latency_us"]["max"] > 0.95 * stood * 1e6
    assert run["latency_us"]["p99"] < DEADLINE * 1e6
    assert run["counts"]["answered"] == 8000 and run["slip_us"] is None


@pytest.mark.parametrize("warmup", ["0s", "100ms", "250ms", "1100ms"])
def test_what_goes_ahead_of_the_measured_time_is_not_counted(server, warmup):
    pace = ["--rate", RATE, "--arrivals", "fixed", "--duration", "500ms", "--warmup", warmup, "--ramp", "50ms"]
    run = counted(*server.target, "--keys", KEYS, *pace).run
    answered = run["counts"]["answered"]
    # A moment on the edge belongs to either side.
    assert 499 <= answered <= 501 and run["measured_s"] == 0.5, run
    assert sum(interval["counts"]["answered"] for interval in run["intervals"] if interval["measured"]) == answered
    assert run["latency_us"]["count"] == answered
    assert all(0 <= interval["at_s"] < 2 for interval in run["intervals"])
