"""Values of many megabytes: in and out in pieces, within the budget, whatever happens to the key meanwhile.

One core with 512 MB, so that a value of 300 MB fits once and never twice.
"""

import concurrent.futures
import hashlib
import pathlib
import random
import socket
import threading
import time

import pytest
import redis
from conftest import Server
from redis.backoff import NoBackoff
from redis.retry import Retry

MB = 1 << 20
BUDGET = 512 * MB
# What the process may take beside its budget: code, stacks, empty tables, pieces under way.
BESIDE = 48 * MB
LARGEST = 400 * MB


@pytest.fixture(scope="module")
def large_server(tmp_path_factory):
    limits = {"value_bytes": "400MB", "request_bytes": "401MB", "output_hard_bytes": "400MB"}
    settings = [word for key, value in limits.items() for word in ("--set", f"limits.{key}={value}")]
    instance = Server(tmp_path_factory.mktemp("large") / "log", settings, cpus="0", memory="512MB")
    yield instance
    status = instance.stop()
    assert status == 0, f"the server ended with {status}: {instance.log()}"


@pytest.fixture
def server(large_server):
    with client_of(large_server) as client:
        client.flushall()
    yield large_server
    assert peak(large_server) < BUDGET + BESIDE, f"{peak(large_server) / MB:.0f} MB at the peak"


def client_of(server, **options):
    # A request that got no answer is not sent again.
    return server.client(socket_timeout=60, retry=Retry(NoBackoff(), 0), **options)


def peak(server):
    """The most memory that the process ever had, in bytes."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def value_of(seed, size):
    """Bytes of which no part looks like another."""
    block = random.Random(seed).randbytes(MB)
    whole = b"".join(block[:-8] + i.to_bytes(8, "big") for i in range(-(-size // MB)))
    return whole[:size]


def digest(value):
    return hashlib.sha256(value).hexdigest()


def eventually(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"never: {what}")


class Raw:
    """A connection whose bytes the test reads and writes itself, with a small receive buffer."""

    def __init__(self, server):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", server.port))
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, *words):
        self.socket.sendall(request(*words))

    def line(self):
        while b"\r\n" not in self.held:
            piece = self.socket.recv(4096)
            assert piece, "the server closed the connection"
            self.held += piece
        line, _, self.held = self.held.partition(b"\r\n")
        return line

    def exactly(self, size):
        got = bytearray(self.held[:size])
        self.held = self.held[len(got):]
        while len(got) < size:
            piece = self.socket.recv(min(MB, size - len(got)))
            assert piece, "the server closed the connection"
            got += piece
        return bytes(got)


def request(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@pytest.mark.parametrize("protocol", [2, 3])
def test_values_come_back_as_they_went(server, protocol):
    with client_of(server, protocol=protocol) as client:
        for seed, size in enumerate([MB - 1, MB, MB + 1, 3 * MB, 64 * MB, 64 * MB + 300_001, 300 * MB]):
            value = value_of(seed, size)
            assert client.set("k", value) is True
            assert client.strlen("k") == size
            got = client.get("k")
            assert len(got) == size and digest(got) == digest(value), size
        too_long = value_of(9, LARGEST + 1)
        with pytest.raises(redis.ResponseError, match="limits.value_bytes"):
            client.set("k", too_long)
        assert client.strlen("k") == 300 * MB, "a refused value leaves the old one"
        # Old and new do not fit together.
        value = value_of(10, 301 * MB)
        assert client.set("k", value) is True
        assert digest(client.get("k")) == digest(value)


def test_the_options_of_set_hold_for_large_values(server):
    a, b = value_of(1, 20 * MB), value_of(2, 30 * MB)
    with client_of(server) as client:
        assert client.set("k", a, nx=True, ex=1000) is True
        assert 990 < client.ttl("k") <= 1000
        assert client.set("k", b, nx=True) is None
        assert client.set("x", b, xx=True) is None
        assert client.exists("x") == 0 and client.strlen("k") == len(a)
        assert digest(client.set("k", b, xx=True, get=True, keepttl=True)) == digest(a)
        assert 990 < client.ttl("k") <= 1000
        assert digest(client.getset("k", a)) == digest(b)
        assert client.ttl("k") == -1
        assert client.setex("k", 500, b) is True and client.psetex("p", 500_000, a) is True
        assert 490 < client.ttl("k") <= 500 and 490 < client.ttl("p") <= 500
        assert digest(client.getex("k", persist=True)) == digest(b) and client.ttl("k") == -1
        assert client.setnx("k", a) is False
        with pytest.raises(redis.ResponseError, match="syntax error"):
            client.execute_command("SET", "k", a, "NONSENSE")
        with pytest.raises(redis.ResponseError, match="invalid expire time"):
            client.execute_command("SETEX", "k", 0, a)
        assert client.append("k", "tail") == len(b) + 4
        assert [digest(v) for v in client.mget("k", "p", "k")] == [digest(v) for v in (b + b"tail", a, b + b"tail")]
        assert digest(client.getdel("k")) == digest(b + b"tail")
        assert client.exists("k") == 0


def test_a_pipeline_goes_on_behind_large_values(server):
    values = [value_of(n, (5 + n) * MB) for n in range(6)]
    parts = [
        request("SET", f"k{n}", value) + request("GET", f"k{n}") + request("INCR", "count") + request("GETDEL", f"k{n}")
        for n, value in enumerate(values)
    ]
    with Raw(server) as raw, concurrent.futures.ThreadPoolExecutor(1) as pool:
        # All at once, while the replies are read: above the soft limit the server waits for the reader.
        sent = pool.submit(raw.socket.sendall, b"".join(parts))
        for n, value in enumerate(values):
            assert raw.line() == b"+OK"
            for between in (b":%d" % (n + 1), None):
                assert raw.line() == b"$%d" % len(value)
                assert digest(raw.exactly(len(value))) == digest(value)
                assert raw.exactly(2) == b"\r\n"
                assert between is None or raw.line() == between
        sent.result()


@pytest.mark.parametrize("fate", ["set", "short", "append", "del", "flushall", "getdel", "evict"])
def test_a_slow_reader_gets_what_it_asked_for(server, fate):
    old, new = value_of(1, 100 * MB), value_of(2, 100 * MB)
    with client_of(server) as client, Raw(server) as reader:
        client.set("k", old)
        reader.socket.sendall(request("PING") + request("GET", "k") + request("STRLEN", "k") + request("PING"))
        assert reader.line() == b"+PONG"
        assert reader.line() == b"$%d" % len(old)
        start = reader.exactly(MB)
        if fate == "set":
            client.set("k", new)
            assert digest(client.get("k")) == digest(new)
        elif fate == "short":
            client.set("k", "short")
        elif fate == "append":
            client.append("k", new[:10 * MB])
        elif fate == "getdel":
            assert digest(client.getdel("k")) == digest(old)
        elif fate == "evict":
            for n in range(60):
                client.set(f"other{n}", value_of(n, 10 * MB))
        else:
            client.execute_command(*{"del": ["DEL", "k"], "flushall": ["FLUSHALL"]}[fate])
        for n in range(20):
            client.set(f"more{n}", value_of(n, 5 * MB))
        rest = reader.exactly(len(old) - MB)
        assert digest(start + rest) == digest(old)
        assert reader.exactly(2) == b"\r\n"
        # Executed when the value was on its way, by what the key was then.
        assert reader.line().startswith(b":")
        assert reader.line() == b"+PONG"


def test_a_client_that_vanishes_leaves_nothing(server):
    long = value_of(1, 200 * MB)
    with client_of(server) as client:
        client.set("k", "old")
        for _ in range(4):
            with Raw(server) as writer:
                writer.socket.sendall(request("SET", "k", long)[: 150 * MB])
            with Raw(server) as reader:
                client.set("long", value_of(2, 50 * MB))
                reader.ask("GET", "long")
                reader.exactly(MB)
                client.delete("long")
        assert client.get("k") == b"old"
        # Four halves were more than there is: they are gone.
        assert client.set("k", value_of(3, 350 * MB)) is True
        client.flushall()
    eventually("all memory is free", lambda: live_bytes(server) == 0)


def live_bytes(server):
    text = server.http("/metrics")[1]
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("ringfence_memory_bytes{") and '"live"' in line)


def test_announcing_large_values_costs_nothing(server):
    crowd = [Raw(server) for _ in range(200)]
    try:
        for n, one in enumerate(crowd):
            one.socket.sendall(b"*3\r\n$3\r\nSET\r\n$5\r\nk%04d\r\n$%d\r\nfew bytes" % (n, LARGEST))
        with client_of(server) as client:
            value = value_of(1, 250 * MB)
            assert client.set("k", value) is True
            assert digest(client.get("k")) == digest(value)
    finally:
        for one in crowd:
            one.socket.close()


def test_a_reader_that_never_reads_is_closed_when_memory_is_short(server):
    with client_of(server) as client, Raw(server) as reader:
        client.set("k", value_of(1, 300 * MB))
        reader.ask("GET", "k")
        assert reader.line() == b"$%d" % (300 * MB)
        client.set("k", "short")
        value = value_of(2, 300 * MB)
        refused = []

        def fits():
            try:
                return client.set("new", value)
            except redis.exceptions.OutOfMemoryError as error:
                refused.append(error)
                return False

        eventually("room is made", fits)
        assert refused, "the dead value was still being sent"
        assert digest(client.get("new")) == digest(value)
        with pytest.raises((AssertionError, OSError)):
            reader.exactly(300 * MB)


def test_many_readers_and_writers_of_one_key(server):
    values = {digest(value): value for value in (value_of(n, (40 + n) * MB) for n in range(4))}
    stop = threading.Event()

    def write(value):
        with client_of(server) as client:
            for _ in range(4):
                client.set("k", value)

    def read():
        seen = 0
        with client_of(server) as client:
            while not stop.is_set():
                got = client.get("k")
                assert got is None or digest(got) in values, "halves of two values"
                seen += got is not None
        return seen

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for writer in [pool.submit(write, value) for value in values.values()]:
            writer.result()
        stop.set()
        assert sum(reader.result() for reader in readers) > 0


def test_without_eviction_a_value_that_does_not_fit_is_refused(tmp_path):
    settings = ["--set", "eviction=noeviction", "--set", "limits.value_bytes=63MB"]
    server = Server(tmp_path / "log", settings, cpus="0", memory="128MB")
    try:
        with client_of(server) as client:
            value = value_of(1, 50 * MB)
            assert client.set("a", value) is True and client.set("b", value) is True
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("c", value)
            assert client.set("a", value, nx=True) is None
            assert digest(client.get("a")) == digest(value) == digest(client.get("b"))
            client.delete("b")
            assert client.set("c", value) is True
            assert peak(server) < 128 * MB + BESIDE
    finally:
        assert server.stop() == 0, server.log()
