"""What does not come to a run says why in one line, and leaves nothing behind; what is interrupted tells what ran."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from bench import (
    BENCH, INTERRUPTED, LOAD_CPU, PASSED, REFUSED, Memcached, Nginx, Redis, Running, assert_refused, bench,
    listening,
)
from conftest import free_ports

PEER = "redis=redis-server --port {port}"

# Options, and words of the line about them.
IMPOSSIBLE = [
    (["--bogus"], "--bogus"),
    (["extra"], "extra"),
    (["--target", "nowhere"], "--target", "127.0.0.1:6379"),
    (["--target", "localhost:99999"], "--target", "localhost:99999"),
    (["--target", "no.such.host.invalid:1"], "--target", "no.such.host.invalid", "resolved"),
    (["--protocol", "gopher"], "gopher", "resp2, resp3, memcache-text, memcache-meta, http"),
    (["--routing", "nowhere"], "--routing", "nowhere", "cluster"),
    (["--arrivals", "never"], "--arrivals", "poisson"),
    (["--protocol", "memcache-text", "--routing", "cluster"], "--routing", "resp2"),
    (["--user", "somebody"], "--password"),
    (["--timeout", "0s"], "--timeout"),
    (["--rate", "0"], "--rate"),
    (["--rate", "nan"], "--rate"),
    (["--rate", "many"], "--rate", "many"),
    (["--rate", "1e30"], "--rate"),
    (["--rate", "1e9"], "--rate", "100,000,000"),
    (["--closed", "--ramp", "1s"], "--ramp", "--closed"),
    (["--user", "somebody", "--tls-ca", "x"], "--password", "--tls"),
    (["--rate", "100", "--closed"], "--rate", "--closed"),
    (["--duration", "5"], "--duration", "30s"),
    (["--duration", "0s"], "--duration"),
    (["--duration", "1s", "--requests", "5"], "--duration", "--requests"),
    (["--requests", "0"], "--requests"),
    (["--connections", "0"], "--connections"),
    (["--connections", "2000000"], "--connections"),
    (["--pipeline", "0"], "--pipeline"),
    (["--pipeline", "1000000"], "--pipeline"),
    (["--connect-rate", "0"], "--connect-rate"),
    (["--reconnect", "0"], "--reconnect"),
    (["--storm", "0s"], "--storm"),
    (["--cpus", "4095"], "--cpus", "4095"),
    (["--cpus", "all of them"], "--cpus"),
    (["--cpus", f"{LOAD_CPU}-{LOAD_CPU - 1}"], "--cpus"),
    (["--preset", "nonesuch"], "--preset", "nonesuch", "list"),
    (["--mix", ""], "--mix"),
    (["--mix", "get"], "--mix", "get=10,set=1"),
    (["--mix", "get=0"], "--mix"),
    (["--mix", "incr=1"], "--mix", "incr=1"),
    (["--protocol", "http", "--mix", "mget=1"], "--mix", "http"),
    (["--keys", "0"], "--keys"),
    (["--keys", "99999999999"], "--keys"),
    (["--mget-keys", "0"], "--mget-keys"),
    (["--distribution", "zipf:-1"], "--distribution", "zipf:0.99"),
    (["--distribution", "hotspot:110%:90%"], "--distribution", "hotspot:1%:90%"),
    (["--value-size", "ten"], "--value-size", "ten"),
    (["--value-size", "10-5"], "--value-size", "5-10"),
    (["--value-size", "1TiB"], "--value-size", "512MiB"),
    (["--key-size", "5"], "--key-size", "16"),
    (["--key-size", "251"], "--key-size", "250"),
    (["--key-prefix", "a b"], "--key-prefix", "a b"),
    (["--ttl", "soon"], "--ttl", "60s"),
    (["--ttl", "0s"], "--ttl"),
    (["--seed", "odd"], "--seed", "odd"),
    (["--trace", "x.be32", "--keys", "5"], "--trace", "--keys"),
    (["--trace", "x.be32", "--mix", "get=1", "--keys", "5"], "--trace", "--mix", "--keys"),
    (["--slo", "fast"], "--slo", "p99.9=1ms"),
    (["--slo", "p101=1ms"], "--slo"),
    (["--slo", "p99=1ms", "--closed"], "--slo", "--closed"),
    (["--slo", "p99=1ms", "--requests", "9"], "--requests"),
    (["--slo", "p99=1ms", "--step", "0s"], "--step"),
    (["--against", "redis-server"], "--against", "NAME=COMMAND"),
    (["--against", "redis=redis-server"], "--against", "{port}"),
    (["--against", "redis@gopher=redis-server {port}"], "--against", "gopher"),
    (["--against", "redis=redis-server '{port}"], "--against", "quotation"),
    (["--against", PEER, "--against", PEER], "--against", "redis"),
    (["--against", PEER, "--rounds", "0"], "--rounds"),
    (["--against", PEER, "--slo", "p99=1ms"], "--against", "--rate"),
    (["--against", PEER, "--routing", "cluster"], "--routing plain"),
    (["--against", PEER, "--server-cpus", "4095"], "--server-cpus", "4095"),
]


@pytest.mark.parametrize("options, words", [(o, w) for o, *w in IMPOSSIBLE], ids=[" ".join(o) for o, *_ in IMPOSSIBLE])
def test_options_that_cannot_be(options, words, tmp_path):
    assert_refused(bench(*options, "--html", tmp_path / "report.html"), *words, files=[tmp_path])


def test_a_thread_needs_a_connection():
    cpus = sorted(os.sched_getaffinity(0))
    assert len(cpus) > 1
    assert_refused(bench("--cpus", f"{cpus[0]},{cpus[1]}", "--connections", 1), "--connections", "--cpus")


@pytest.mark.parametrize("option", ["--html", "--csv", "--hgrm"])
def test_files_that_cannot_be_written(option, tmp_path):
    """This is known before the load, and not after it."""
    missing = tmp_path / "missing" / "file"
    other = "--csv" if option == "--html" else "--html"
    done = bench(option, missing, other, tmp_path / "other", "--target", f"127.0.0.1:{free_ports(1)}")
    assert_refused(done, option, str(missing), "No such file or directory", files=[tmp_path])
    (tmp_path / "folder").mkdir()
    assert_refused(bench(option, tmp_path / "folder"), option, "folder", files=[tmp_path / "folder"])


def test_two_options_with_one_file(tmp_path):
    (tmp_path / "link").symlink_to("report")
    for other in ["report", "link", f"../{tmp_path.name}/report"]:
        done = bench("--csv", tmp_path / "report", "--html", tmp_path / other)
        assert_refused(done, "--html", "is the file of another option too")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_fifo_that_nobody_reads(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert_refused(bench("--csv", tmp_path / "fifo"), "--csv", "start the reader first")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_traces_that_cannot_be_read(tmp_path):
    (tmp_path / "trace.log").write_text("1 2 3\n")
    (tmp_path / "short.be32").write_bytes(b"\0\0\0\1\0\0")
    (tmp_path / "empty.be32").write_bytes(b"")
    (tmp_path / "words.txt").write_text("1 2 3\nno numbers here\n")
    (tmp_path / "broken.be32.xz").write_bytes(b"\xfd7zXZ\0 and no more")
    for name, word in [
        ("trace.log", "tells no format"),
        ("short.be32", "byte 4"),
        ("empty.be32", "no requests"),
        ("words.txt", "line 2"),
        ("broken.be32.xz", "broken.be32.xz"),
        ("nowhere.be32", "No such file"),
    ]:
        assert_refused(bench("--trace", tmp_path / name), "--trace", name, word)


def answering(reply, times=1 << 60, then=lambda connection: connection.recv(1 << 16)):
    """Answers whatever is asked, as often as that, and then does something else."""
    def answer(connection):
        with contextlib.suppress(OSError):
            for _ in range(times):
                if not connection.recv(1 << 16):
                    return
                connection.sendall(reply)
            then(connection)

    return answer


def hang_up(connection):
    connection.shutdown(socket.SHUT_RDWR)


PROTOCOLS = ["resp2", "resp3", "memcache-text", "memcache-meta", "http"]
BROKEN = {
    "garbage": (answering(b"\x16\x03\x01 this is no cache\r\n\r\n"), "does not answer as a"),
    "silence": (answering(b"", times=0), "does not answer"),
    "the end": (answering(b"", times=0, then=hang_up), "the connection"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("answer, word", BROKEN.values(), ids=BROKEN)
def test_a_server_that_is_none(protocol, answer, word, tmp_path):
    port, stop = listening(answer)
    try:
        call = ["--target", f"127.0.0.1:{port}", "--protocol", protocol, "--timeout", "300ms"]
        done = bench(*call, "--html", tmp_path / "report.html", limit=10)
    finally:
        stop()
    assert_refused(done, f"127.0.0.1:{port}", word, "is --protocol right", files=[tmp_path])


@pytest.mark.parametrize("protocol, first", [("resp2", b"$-1\r\n"), ("memcache-text", b"END\r\n")])
def test_a_server_that_turns_to_garbage_later(protocol, first, tmp_path):
    """The first contact goes well, and then it does not."""
    contacts = []

    def answer(connection):
        contacts.append(connection)
        answering(first if len(contacts) == 1 else b"?" * 100_000)(connection)

    port, stop = listening(answer)
    try:
        call = ["--target", f"127.0.0.1:{port}", "--protocol", protocol, "--duration", "1s", "--mix", "get=1"]
        done = bench(*call, "--no-prefill", "--csv", tmp_path / "run.csv", limit=10)
    finally:
        stop()
    assert_refused(done, f"127.0.0.1:{port}", "does not answer as a", "????", files=[tmp_path])


def test_a_server_that_closes_in_the_middle(tmp_path):
    port, stop = listening(answering(b"$-1\r\n", times=3, then=hang_up))
    try:
        call = ["--target", f"127.0.0.1:{port}", "--duration", "1s", "--mix", "get=1", "--no-prefill"]
        done = bench(*call, "--connections", 1, "--html", tmp_path / "report.html", limit=10)
    finally:
        stop()
    assert_refused(done, f"127.0.0.1:{port} closed the connection", "unanswered", files=[tmp_path])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_at_the_port(protocol, tmp_path):
    port = free_ports(1)
    done = bench("--target", f"127.0.0.1:{port}", "--protocol", protocol, "--html", tmp_path / "report.html")
    assert_refused(done, f"127.0.0.1:{port} cannot be reached", "Connection refused", files=[tmp_path])


@pytest.mark.parametrize("wrong", ["resp2", "resp3", "memcache-text", "memcache-meta"])
def test_an_http_server_is_no_other_one(wrong, tmp_path, tmp_path_factory):
    with Nginx(tmp_path_factory.mktemp("nginx")) as server:
        call = ["--target", f"127.0.0.1:{server.port}", "--protocol", wrong, "--csv", tmp_path / "run.csv"]
        assert_refused(bench(*call), f"127.0.0.1:{server.port}", "is --protocol right?", files=[tmp_path])


@pytest.mark.parametrize("wrong", ["memcache-text", "memcache-meta", "http"])
def test_a_redis_server_is_no_other_one(wrong, tmp_path, tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        call = ["--target", f"127.0.0.1:{server.port}", "--protocol", wrong, "--timeout", "500ms"]
        assert_refused(bench(*call, "--csv", tmp_path / "run.csv"), f"127.0.0.1:{server.port}", files=[tmp_path])


def test_memcached_is_no_redis(tmp_path, tmp_path_factory):
    with Memcached(tmp_path_factory.mktemp("memcached")) as server:
        done = bench("--target", f"127.0.0.1:{server.port}", "--csv", tmp_path / "run.csv")
    assert_refused(done, f"127.0.0.1:{server.port}", "is --protocol right?", files=[tmp_path])


@pytest.mark.parametrize("protocol", ["resp2", "resp3"])
@pytest.mark.parametrize("who", [[], ["--password", "wrong"], ["--user", "nobody", "--password", "secret"]])
def test_a_wrong_password(protocol, who, tmp_path, tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis"), "--requirepass", "secret") as server:
        call = ["--target", f"127.0.0.1:{server.port}", "--protocol", protocol, *who]
        done = bench(*call, "--html", tmp_path / "report.html")
    assert_refused(done, f"127.0.0.1:{server.port} refuses", "--user and --password", files=[tmp_path])


@pytest.mark.parametrize("protocol", ["resp2", "resp3"])
def test_the_right_password(protocol, tmp_path):
    with Redis(tmp_path, "--requirepass", "secret") as server:
        call = ["--target", f"127.0.0.1:{server.port}", "--protocol", protocol, "--closed", "--requests", 1000]
        bench(*call, env={**os.environ, "RINGFENCE_PASSWORD": "secret"}).passed()
        bench(*call, "--user", "default", "--password", "secret").passed()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("pace", [["--closed"], ["--rate", 2000]], ids=["closed", "open"])
def test_a_server_that_is_killed_in_the_middle(pace, tmp_path, tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        files = ["--html", tmp_path / "report.html", "--csv", tmp_path / "run.csv", "--hgrm", tmp_path / "run.hgrm"]
        with Running(*server.target, *pace, "--keys", 100, "--duration", "20s", *files) as running:
            running.until(lambda: server.calls().get("get", 0) > 300)
            server.process.kill()
            done = running.end(limit=10)
    assert_refused(done, f"127.0.0.1:{server.port}", files=[tmp_path])


def test_a_server_that_is_full(tmp_path, tmp_path_factory):
    """Writing the keys fails, and that is said before any load."""
    options = ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]
    with Redis(tmp_path_factory.mktemp("redis"), *options) as server:
        done = bench(*server.target, "--value-size", "10KiB", "--keys", 1000, "--html", tmp_path / "report.html")
    assert_refused(done, "writing the keys before the load failed", "OOM", files=[tmp_path])


def test_a_server_that_is_silent_while_the_keys_are_written(tmp_path, tmp_path_factory):
    """With the first write that is lost it has failed: the others would be lost one batch after the other."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        options = ["--keys", 5_000_000, "--connections", 1, "--timeout", "500ms", "--html", tmp_path / "report.html"]
        with Running(*server.target, *options) as running:
            running.until(lambda: server.calls().get("set", 0) > 1000)
            server.process.send_signal(signal.SIGSTOP)
            done = running.end(limit=15)
    assert_refused(done, "writing the keys before the load failed", "lost: no reply to a set", files=[tmp_path])


def test_errors_of_the_server_fail_the_run(tmp_path):
    """Without the writing ahead, the errors come under the load: they are counted, told, and fail it."""
    options = ["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]
    with Redis(tmp_path, *options) as server:
        call = ["--value-size", "10KiB", "--keys", 1000, "--mix", "set=1", "--closed", "--requests", 3000, "--json"]
        done = bench(*server.target, *call)
        with server.client() as client:
            errors = client.info("errorstats")["errorstat_OOM"]["count"]
    assert done.code == 1 and done.faults == ["errors"], done
    assert done.counts["errors"] == errors > 1000 and done.counts["answered"] == 3000
    assert "OOM" in done.run["examples"][0] and done.run["valid"] is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pace", [["--closed"], ["--rate", 2000], ["--requests", 10_000_000]])
def test_an_interrupted_run_reports_what_ran(server, number, pace, tmp_path):
    server.empty()
    files = [tmp_path / name for name in ("report.html", "run.csv", "run.hgrm")]
    options = ["--html", files[0], "--csv", files[1], "--hgrm", files[2], "--json", "--keys", 100, "--warmup", "100ms"]
    with Running(*server.target, *pace, *options) as running:
        running.until(lambda: server.calls().get("get", 0) > 300)
        time.sleep(0.5)
        begin = time.monotonic()
        running.process.send_signal(number)
        done = running.end(limit=10)
    assert time.monotonic() - begin < 2
    assert (done.code, done.err) == (INTERRUPTED, ""), done
    assert done.faults[0] == "interrupted" and done.report["verdict"]["result"] == "invalid", done
    assert done.counts["answered"] > 100 and done.counts["lost"] == done.counts["violations"] == 0, done
    assert 0.1 < done.run["measured_s"] < 5
    assert sorted(tmp_path.iterdir()) == sorted(files) and all(file.stat().st_size > 500 for file in files)


def test_an_interrupted_run_reports_to_people(server):
    server.empty()
    with Running(*server.target, "--rate", 1000, "--keys", 100, "--duration", "20s", "--warmup", "0s") as running:
        running.until(lambda: server.calls().get("get", 0) > 300)
        running.interrupt()
        done = running.end(limit=10)
    assert (done.code, done.err) == (INTERRUPTED, ""), done
    assert "interrupted: interrupted after " in done.out and " of 20 s" in done.out, done


def test_an_interruption_in_the_warm_up(server):
    """What ran is told, and that none of it was measured."""
    server.empty()
    with Running(*server.target, "--rate", 1000, "--keys", 100, "--ramp", "1s", "--warmup", "20s") as running:
        running.until(lambda: server.calls().get("get", 0) > 300)
        running.interrupt()
        done = running.end(limit=10)
    assert (done.code, done.err) == (INTERRUPTED, ""), done
    told = re.search(r"  interrupted: interrupted in the warm-up, after [0-9.]+ s of 21 s and ([0-9,]+) requests answered", done.out)
    assert told and int(told[1].replace(",", "")) > 300 and "answered: nothing was measured" in done.out, done


def test_an_interruption_while_the_keys_are_written(server, tmp_path):
    """Nothing has been measured, so that there is nothing to report."""
    server.empty()
    options = ["--keys", 5_000_000, "--connections", 1, "--html", tmp_path / "report.html"]
    with Running(*server.target, *options) as running:
        running.until(lambda: server.calls().get("set", 0) > 1000)
        running.interrupt()
        done = running.end(limit=10)
    assert (done.code, done.out, len(done.err.splitlines())) == (INTERRUPTED, "", 1), done
    assert "interrupted" in done.err and list(tmp_path.iterdir()) == [], done


def test_an_interruption_of_the_first_contact(tmp_path):
    """A server that accepts and says nothing is not waited for until --timeout."""
    contacts = []
    port, stop = listening(contacts.append)
    try:
        options = ["--target", f"127.0.0.1:{port}", "--timeout", "60s", "--html", tmp_path / "report.html"]
        with Running(*options) as running:
            running.until(lambda: contacts)
            running.interrupt()
            done = running.end(limit=15)
    finally:
        stop()
    assert (done.code, done.out, len(done.err.splitlines())) == (INTERRUPTED, "", 1), done
    assert f"interrupted during the first contact with 127.0.0.1:{port}" in done.err, done
    assert list(tmp_path.iterdir()) == [], done


def test_an_interruption_while_connections_are_opened(server, tmp_path):
    with server.client() as client:
        before = client.info("stats")["total_connections_received"]
        options = ["--connections", 1000, "--connect-rate", 50, "--html", tmp_path / "report.html"]
        with Running(*server.target, *options) as running:
            running.until(lambda: client.info("stats")["total_connections_received"] > before + 10)
            running.interrupt()
            done = running.end(limit=10)
    assert (done.code, done.out, len(done.err.splitlines())) == (INTERRUPTED, "", 1), done
    assert list(tmp_path.iterdir()) == [], done


def children(pid):
    """The processes that a process has started, by name."""
    names = {}
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            names[int(child)] = pathlib.Path(f"/proc/{child}/comm").read_text().strip()
    return names


def servers(pid):
    """Both servers of a comparison, once they have become what they are."""
    found = children(pid)
    return found if sorted(found.values()) == ["redis-server"] * 2 else None


@pytest.mark.parametrize("numbers", [["SIGINT"], ["SIGTERM"], ["SIGHUP"], ["SIGINT", "SIGINT"]], ids="-".join)
def test_an_interrupted_comparison_leaves_no_child(numbers, tmp_path):
    """Ctrl-C, a service that is stopped, a terminal that is closed, and somebody who cannot wait."""
    peers = ["--against", f"one=redis-server --port {{port}} --save '' --dir {tmp_path}"]
    peers += ["--against", f"two=redis-server --port {{port}} --save '' --dir {tmp_path}"]
    files = [tmp_path / "report.html"]
    options = ["--closed", "--duration", "5s", "--warmup", "0s", "--keys", 100, "--html", files[0], "--json"]
    with Running(*peers, *options) as running:
        found = running.until(lambda: servers(running.process.pid))
        time.sleep(1)
        for number in numbers:
            running.process.send_signal(signal.Signals[number])
        done = running.end(limit=10)
    left = [pid for pid in found if pathlib.Path(f"/proc/{pid}").exists()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [] and done.code == INTERRUPTED and done.faults[0] == "interrupted", done
    assert list(tmp_path.iterdir()) == files


def test_a_comparison_is_interrupted_while_a_server_starts(tmp_path):
    """One that never listens would be waited for for ten seconds."""
    peer = f"--against=peer=sh -c 'sleep 30 # {{port}} {tmp_path}'"
    with Running(peer, "--closed", "--html", tmp_path / "report.html") as running:
        running.until(lambda: children(running.process.pid))
        time.sleep(0.2)
        begin = time.monotonic()
        running.interrupt()
        done = running.end(limit=20)
    assert (done.code, done.out, len(done.err.splitlines())) == (INTERRUPTED, "", 1), done
    assert time.monotonic() - begin < 3 and list(tmp_path.iterdir()) == [], done


def test_what_is_no_plain_file_is_written_to_and_stays_what_it_is(server, tmp_path):
    """A FIFO is read by somebody, a link may lead to a file or to the standard output."""
    fifo, link, out = tmp_path / "fifo", tmp_path / "link", tmp_path / "out"
    os.mkfifo(fifo)
    (tmp_path / "folder").mkdir()
    link.symlink_to("folder/run.csv")
    out.symlink_to("/proc/self/fd/1")
    load = ["--closed", "--requests", 100, "--keys", 10]
    for _ in range(2):
        read = []
        reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
        reader.start()
        done = bench(*server.target, *load, "--html", fifo, "--csv", link, "--hgrm", out)
        reader.join(10)
        assert read and read[0].startswith(b"<!DOCTYPE html>"), read
        assert done.passed() and "#[Mean" in done.out and done.out.endswith("\nvalid\n"), done
        assert stat.S_ISFIFO(fifo.stat().st_mode) and link.is_symlink() and out.is_symlink()
        assert [path.name for path in (tmp_path / "folder").iterdir()] == ["run.csv"]
        # In the second round the file is there already.
        assert (tmp_path / "folder" / "run.csv").read_text().count("\n") >= 2


def test_a_reader_that_has_gone(server):
    """Whoever pipes the report into something that ends first is told, and gets an exit code."""
    call = [BENCH, *server.target, "--closed", "--requests", "100", "--keys", "10"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(list(map(str, call)), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20)
    finally:
        os.close(writing)
    assert done.returncode == REFUSED and len(done.stderr.splitlines()) == 1, done


def test_help_and_version_are_no_error():
    for option, word in [("--help", "Exit code:"), ("-h", "--target"), ("--version", "ringfence-bench ")]:
        done = bench(option)
        assert (done.code, done.err) == (PASSED, "") and word in done.out, done
