"""Servers side by side: started, measured in turn, and gone afterwards."""

import contextlib
import os
import pathlib
import shutil
import time

import pytest

from bench import FAILED, PASSED, Running, assert_refused, bench, was_late
from conftest import PROGRAM, free_ports

SHAPE = ["--keys", 500, "--connections", 8]
LOAD = [*SHAPE, "--duration", "500ms", "--warmup", "100ms"]
SHORT = [*SHAPE, "--duration", "200ms", "--warmup", "0s"]


def peers(folder):
    core, admin = free_ports(2), free_ports(1)
    ports = f"--port {{port}} --set listen.core_port_base={core} --set listen.admin_port={admin}"
    ports += " --set listen.memcached_port=0 --set listen.http_port=0"
    ringfence = f"{os.path.abspath(PROGRAM)} {ports}"
    return {
        "redis": f"redis-server --port {{port}} --save '' --dir {folder}",
        "ringfence": f"{ringfence} --set cores.idle=park --memory 256MB",
        "memcached@memcache-text": "memcached -u root -l 127.0.0.1 -p {port} -t 1",
    }


def against(commands):
    return [part for name, command in commands.items() for part in ("--against", f"{name}={command}")]


def state_of_children(pid):
    """The processes that a process has started: T where one is stopped."""
    states = {}
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            states[int(child)] = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return states


def running(folder):
    """Ids of the processes that were started in this folder: what they call themselves may change, this does not."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        # Some end in between.
        with contextlib.suppress(OSError):
            if path.readlink() == folder:
                found.append(int(path.parent.name))
    return found


def test_three_servers_in_two_rounds(tmp_path):
    commands = peers(tmp_path)
    done = bench(*against(commands), *LOAD, "--rate", 3000, "--rounds", 2, "--json", cwd=tmp_path)
    assert (done.code == PASSED or was_late(done)) and done.err == "", done
    report = done.report
    assert report["outcome"] == "comparison"
    contenders = report["comparison"]["contenders"]
    assert [c["name"] for c in contenders] == ["redis", "ringfence", "memcached"]
    pids = set()
    for contender, command in zip(contenders, commands.values()):
        figures = contender["figures"]
        assert contender["command"] == command and len(contender["rounds"]) == 2
        for run in contender["rounds"]:
            counts, server = run["counts"], run["server"]
            assert counts["answered"] == counts["sent"] > 500, run
            assert counts["errors"] == counts["lost"] == counts["violations"] == counts["misses"] == 0
            assert run["loop"] == "open" and run["offered_per_s"] == 3000
            # A request costs a server between a tenth of a microsecond and a millisecond.
            assert 0.1 < server["cpu_us_per_request"] < 1000, server
            assert 1 << 20 < server["rss_bytes"] <= server["rss_peak_bytes"] < 1 << 30, server
            pids.add(server["pid"])
        for name in ("requests_per_s", "cpu_us_per_request", "p50_us", "p99_us", "rss_bytes", "hit_ratio"):
            figure = figures[name]
            assert 0 < figure["min"] <= figure["median"] <= figure["max"], (name, figure)
        assert figures["hit_ratio"]["median"] == 1
    # Each of them is one process from the first round to the last, and none is left.
    assert len(pids) == 3
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
    assert running(tmp_path) == []
    first, *others = contenders
    assert first["figures"]["requests_per_s"]["ratio_to_first"] == 1
    for other in others:
        rates = [[run["reached_per_s"] for run in contender["rounds"]] for contender in (other, first)]
        ratios = [mine / base for mine, base in zip(*rates)]
        found = other["figures"]["requests_per_s"]["ratio_to_first"]
        assert found == pytest.approx(sum(ratios) / 2, rel=1e-4)


def test_a_comparison_for_people(tmp_path):
    files = [tmp_path / "report.html", tmp_path / "rounds.csv"]
    load = [*SHORT, "--closed", "--pipeline", 4, "--rounds", 2]
    done = bench(*against(peers(tmp_path)), *load, "--html", files[0], "--csv", files[1]).passed()
    assert "3 contenders, 2 rounds each; ratios to redis within a round, their median" in done.out, done
    for figure in ("requests/s", "CPU per request", "p50", "p99", "RSS", "peak RSS", "hit ratio"):
        assert f"\n{figure} " in done.out, done
    rows = [line.split(",")[:2] for line in files[1].read_text().splitlines()[1:]]
    assert {tuple(row) for row in rows} == {(n, r) for n in ("redis", "ringfence", "memcached") for r in "12"}


def test_others_stand_still_while_one_is_measured(tmp_path):
    """Whatever a server does when it is not asked costs the others nothing."""
    command = f"redis-server --port {{port}} --save '' --dir {tmp_path}"
    commands = {"one": command, "other": command}
    call = [*against(commands), *SHAPE, "--closed", "--duration", "400ms", "--warmup", "0s", "--rounds", 2, "--json"]
    seen = set()
    with Running(*call) as load:
        children = load.until(lambda: (found := state_of_children(load.process.pid)) and len(found) == 2 and found)
        while load.process.poll() is None:
            seen.add(tuple(sorted(state_of_children(load.process.pid).values())))
            time.sleep(0.02)
        done = load.end()
    assert (done.code, done.err) == (PASSED, ""), done
    pairs = [states for states in seen if len(states) == 2]
    assert pairs and all("T" in states for states in pairs), seen
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.parametrize(
    "command, words",
    [
        ("redis-server --port {port} --no-such-option yes", ["`peer` ended"]),
        ("sh -c 'echo it cannot work on {port} >&2; exit 3'", ["`peer` ended", "it cannot work on "]),
        ("sh -c 'exit 0 # {port}'", ["`peer` ended", "foreground"]),
        ("/no/such/program {port}", ["`peer`", "/no/such/program", "cannot be run"]),
    ],
    ids=["a wrong option", "an error", "no error", "no program"],
)
def test_a_peer_that_dies_at_once(command, words, tmp_path):
    good = f"good=redis-server --port {{port}} --save '' --dir {tmp_path}"
    files = tmp_path / "files"
    files.mkdir()
    peers = ["--against", good, "--against", f"peer={command}"]
    done = bench(*peers, *LOAD, "--html", files / "report.html", cwd=tmp_path)
    assert_refused(done, *words, files=[files])
    assert running(tmp_path) == [], "the other one is not left behind"


def test_a_peer_that_dies_in_the_middle(tmp_path):
    """It is told that it ended, and how, not only that a connection broke."""
    script = tmp_path / "short-lived"
    server = shutil.which("redis-server")
    script.write_text(f"#!/bin/sh\n(sleep 1.2; kill -9 $$) &\nexec {server} --port $1 --save '' --dir {tmp_path}\n")
    script.chmod(0o755)
    done = bench("--against", f"peer={script} {{port}}", *SHAPE, "--closed", "--duration", "10s", cwd=tmp_path)
    assert_refused(done, "`peer` ended", "signal: 9")
    assert running(tmp_path) == []


def test_a_peer_whose_replies_are_no_replies(tmp_path):
    done = bench("--against", "peer@http=memcached -u root -l 127.0.0.1 -p {port}", *LOAD, cwd=tmp_path)
    assert_refused(done, "is --protocol right")
    assert running(tmp_path) == []


def test_an_objective_that_one_of_them_misses(tmp_path):
    command = f"redis=redis-server --port {{port}} --save '' --dir {tmp_path}"
    done = bench("--against", command, *SHORT, "--rate", 1000, "--slo", "p50=1us", "--rounds", 2, "--json")
    assert done.code == FAILED and done.faults.count("objective missed") == 2, done
