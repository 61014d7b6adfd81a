"""The search for the highest load that meets an objective, and a load that has to meet one."""

import csv

import pytest

from bench import FAILED, INTERRUPTED, MEASUREMENTS, PASSED, Redis, Running, bench, counted, was_late

LOAD = ["--keys", 500, "--warmup", "100ms"]
STEPS = [*LOAD, "--step", "250ms", "--duration", "500ms", "--connections", 2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def found(server, tmp_path_factory):
    """A search that found something, with its files.

    Half of the requests within 10 ms: that is what an idle server always does, and one beyond its limits never.
    """
    folder = tmp_path_factory.mktemp("search")
    for _ in range(MEASUREMENTS):
        files = ["--csv", folder / "run.csv", "--html", folder / "report.html"]
        done = bench(*server.target, *STEPS, "--slo", "p50=10ms", "--json", *files)
        assert done.err == "", done
        # At worst the generator was late at every rate.
        if done.code == PASSED:
            break
    assert done.code == PASSED, done
    return done, folder


def climb(steps):
    """The rates that a search is to try, given what came of each: it doubles, and then closes in from both sides."""
    met, missed = None, None
    for step in steps:
        if met and missed and missed / met <= 1.05:
            return
        if met and missed:
            rate = (met * missed) ** 0.5
        else:
            rate = 2 * met if met else max(missed / 4, 1) if missed else 1000
        yield rate
        if step["met"]:
            met = max(met or 0, rate)
        else:
            missed = min(missed or rate, rate)


def test_a_search_finds_a_rate(found):
    done, _ = found
    search = done.report["search"]
    steps, best = search["steps"], search["best_per_s"]
    tried = list(climb(steps))
    offered = [step["offered_per_s"] for step in steps]
    assert offered[: len(tried)] == [pytest.approx(rate, abs=0.001) for rate in tried], offered
    for step in steps:
        run = step["run"]
        assert run["offered_per_s"] == step["offered_per_s"] and run["loop"] == "open"
        assert step["met"] == (run["faults"] == []), step["run"]["faults"]
        assert not step["met"] or run["latency_us"]["p50"] <= 10_000
    # The highest that was met is held for the whole time as well; where it does not hold, a little less is tried.
    confirmations = steps[len(tried) :]
    assert confirmations and [step["met"] for step in confirmations] == [False] * (len(confirmations) - 1) + [True]
    assert all(step["run"]["measured_s"] == 0.5 for step in confirmations)
    assert all(step["run"]["measured_s"] == 0.25 for step in steps[: len(tried)])
    assert search["best_step"] == len(steps) - 1 and best == confirmations[-1]["offered_per_s"]
    # Which side was the limit is decided by the lowest rate that was too much.
    limit = min((step for step in steps if not step["met"]), key=lambda step: step["offered_per_s"])
    assert (search["remark"] is not None) == ("generator late" in [fault["kind"] for fault in limit["run"]["faults"]])
    assert best >= 1000 or search["remark"] is not None, done
    assert done.report["objectives"] == [{"percentile": 50.0, "limit_us": 10_000.0}]
    assert done.report["verdict"]["result"] == "passed"
    assert done.report["verdict"]["text"].endswith(" requests/s meet p50 <= 10 ms")


def test_a_search_leaves_its_steps_in_its_files(found):
    done, folder = found
    steps = done.report["search"]["steps"]
    rows = list(csv.DictReader((folder / "run.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == sorted((row["step"] for row in rows), key=int)
    for number, step in enumerate(steps, 1):
        own = [row for row in rows if row["step"] == str(number)]
        assert all(abs(float(row["offered_per_s"]) - step["offered_per_s"]) < 0.001 for row in own)
        assert {row["met"] for row in own} == {str(step["met"]).lower()}
        answered = sum(int(row["answered"]) for row in own if row["measured"] == "true")
        assert answered == step["run"]["counts"]["answered"]
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_search_prints_its_curve(server):
    shorter = ["--step", "200ms", "--duration", "200ms", "--warmup", "0s", "--connections", 1, "--keys", 500]
    for _ in range(MEASUREMENTS):
        done = bench(*server.target, *shorter, "--slo", "p50=3ms,p100=10s")
        if done.code == PASSED:
            break
    assert (done.code, done.err) == (PASSED, ""), done
    lines = [line.split() for line in done.out.splitlines()]
    header = ["offered", "reached", "p50", "p99", "p99.9", "max", "server", "CPU", "verdict"]
    table = lines[lines.index(header) + 1 :]
    table = table[: table.index([])]
    offered = [float(row[0].replace(",", "")) for row in table]
    assert len(table) >= 3 and offered == sorted(offered), done
    best, = [row for row in table if row[-1] == "best"]
    assert f"\n{best[0]} requests/s meet p50 <= 3 ms" in done.out, done


def test_an_objective_that_nothing_meets(server):
    """Not even one request a second is answered within a microsecond."""
    done = bench(*server.target, *STEPS, "--slo", "p50=1us", "--json")
    assert (done.code, done.err) == (FAILED, ""), done
    search = done.report["search"]
    assert search["best_per_s"] is None and search["best_step"] is None
    assert [step["met"] for step in search["steps"]] == [False] * len(search["steps"])
    assert min(step["offered_per_s"] for step in search["steps"]) == 1
    assert done.report["verdict"]["result"] == "missed"
    assert done.report["verdict"]["text"] == "not even 1 requests/s meet p50 <= 1 µs", done


def test_a_search_ends_when_it_is_interrupted(server):
    server.empty()
    with Running(*server.target, *LOAD, "--slo", "p50=10ms", "--step", "1s", "--json") as running:
        running.until(lambda: server.calls().get("get", 0) > 700)
        running.interrupt()
        done = running.end(limit=10)
    assert done.code == INTERRUPTED and "interrupted" in done.faults, done
    assert done.report["search"]["best_per_s"] is None and len(done.report["search"]["steps"]) >= 1
    assert done.report["verdict"]["result"] == "invalid"


def gate(server, objective):
    """A load at a rate that everything serves, with an objective."""
    for _ in range(MEASUREMENTS):
        done = bench(*server.target, *LOAD, "--rate", 1000, "--duration", "500ms", "--slo", objective, "--json")
        if not was_late(done):
            break
    return done


def test_a_gate_that_is_passed(server):
    done = gate(server, "p50=50ms,p99=1s,max=5s")
    assert (done.code, done.err) == (PASSED, ""), done
    assert done.report["verdict"]["result"] == "passed" and done.faults == []
    assert done.report["verdict"]["text"].startswith("valid, objectives met: p50 <= 50 ms"), done
    assert [o["percentile"] for o in done.report["objectives"]] == [50, 99, 100]


def test_a_gate_that_is_missed(server):
    done = gate(server, "p50=1us,max=5s")
    assert (done.code, done.err) == (FAILED, ""), done
    missed = [fault["text"] for fault in done.report["verdict"]["faults"] if fault["kind"] == "objective missed"]
    assert len(missed) == 1 and missed[0].startswith("p50 is "), done


def overloaded(server, rate, *arguments):
    """A load of one connection, which takes one request after the other, at a rate far beyond that."""
    load = ["--keys", 500, "--connections", 1, "--rate", rate, "--warmup", "0s", "--duration", "500ms", "--json"]
    done = bench(*server.target, *load, *arguments)
    assert (done.code, done.err) == (FAILED, "") and "server overloaded" in done.faults, done
    return done


def test_a_server_that_does_not_keep_up_is_said_to(server):
    """Most requests are still waiting when it is given up. Those waited as well, and the server has lost none."""
    done = overloaded(server, 400_000, "--timeout", "200ms")
    counts, latency = done.counts, done.run["latency_us"]
    assert counts["unsent"] > 10_000 and counts["answered"] + counts["unsent"] == latency["count"]
    assert counts["lost"] == 0 and "wrong replies" not in done.faults, done
    # Poisson arrivals: 447 is a standard deviation.
    assert abs(counts["sent"] + counts["unsent"] - 200_000) < 3_000, counts
    assert latency["p50"] > 100_000
    assert done.report["verdict"]["text"] == "valid, server overloaded"


def test_a_rate_that_is_reached_too_late_is_not_reached(server):
    """All is answered in the end, but long after its time: that is no rate that the server serves."""
    alone = ["--keys", 500, "--connections", 1, "--warmup", "0s", "--duration", "500ms", "--closed"]
    capacity = counted(*server.target, *alone).run["reached_per_s"]
    offered = round(4 * capacity)
    done = overloaded(server, offered)
    assert done.run["reached_per_s"] < 0.7 * offered, done
    assert all(interval["rate_per_s"] < 0.7 * offered for interval in done.run["intervals"]), done
    assert done.run["latency_us"]["max"] > 250_000
