"""Client-side caching with redis-py, on a server of two cores: its own cache, and notices as they come."""

import random
import socket
import subprocess
import threading
import time

import pytest
import redis
from conftest import Server, free_ports
from redis.cache import CacheConfig

KEYS = [f"k{n}" for n in range(40)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    extra = ["--set", "listen.hello=redis 7.4.0"]
    instance = Server(tmp_path_factory.mktemp("tracking") / "log", extra)
    yield instance
    status = instance.stop()
    assert status == 0, f"the server ended with {status}: {instance.log()}"
    assert "panicked" not in instance.log()


@pytest.fixture
def writer(server):
    client = server.client()
    client.flushall()
    yield client
    client.close()


class Listener:
    """A connection that keeps all that it is sent."""

    def __init__(self, server, *commands):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self.got = b""
        for command in ["HELLO 3", *commands]:
            self.ask(command)
        self.got = b""

    def ask(self, command, ends=b"\r\n"):
        self.socket.sendall(command.encode() + b"\r\nECHO end\r\n")
        while not self.got.endswith(b"$3\r\nend\r\n"):
            piece = self.socket.recv(1 << 16)
            assert piece, "closed"
            self.got += piece
        self.got, answer = b"", self.got.removesuffix(b"$3\r\nend\r\n")
        return answer

    def hears(self, seconds=5):
        """What comes by itself, until there is something."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1 << 16)
        except TimeoutError:
            return b""
        finally:
            self.socket.settimeout(10)

    def close(self):
        self.socket.close()


def notice(key):
    return b">2\r\n$10\r\ninvalidate\r\n*1\r\n$%d\r\n%s\r\n" % (len(key), key.encode())


def test_the_cache_of_redis_py_reads_its_own_copies_until_they_change(server, writer):
    cached = redis.Redis(port=server.port, protocol=3, cache_config=CacheConfig(), socket_timeout=10)
    for key in KEYS:
        writer.set(key, "1")
    reads = lambda: server.metric("ringfence_hits_total")
    assert all(cached.get(key) == b"1" for key in KEYS)
    before = reads()
    for _ in range(5):
        assert all(cached.get(key) == b"1" for key in KEYS)
    assert reads() == before, "it reads its own copies"
    for key in KEYS[::2]:
        writer.incr(key)
    deadline = time.monotonic() + 10
    while any(cached.get(key) != (b"2" if n % 2 == 0 else b"1") for n, key in enumerate(KEYS)):
        assert time.monotonic() < deadline, "a copy outlives its value"
    writer.flushall()
    while any(cached.get(key) is not None for key in KEYS):
        assert time.monotonic() < deadline, "copies outlive a flush"
    cached.close()


def test_caches_agree_with_the_server_in_the_end(server, writer):
    """Several caches, several writers, both cores; when all is quiet, nobody has an old copy."""
    caches = [redis.Redis(port=server.port, protocol=3, cache_config=CacheConfig(), socket_timeout=10) for _ in range(3)]
    stop = time.monotonic() + 3

    def write(seed):
        chance, client = random.Random(seed), server.client()
        while time.monotonic() < stop:
            key = chance.choice(KEYS)
            chance.choice([
                lambda: client.set(key, chance.randrange(1000)),
                lambda: client.delete(key),
                lambda: client.set(key, "short", px=20),
                lambda: client.mset({key: "m", chance.choice(KEYS): "n"}),
            ])()
        client.close()

    def read(client):
        chance = random.Random(id(client))
        while time.monotonic() < stop:
            client.get(chance.choice(KEYS))

    threads = [threading.Thread(target=write, args=[n]) for n in range(2)]
    threads += [threading.Thread(target=read, args=[client]) for client in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.5)
    truth = writer.mget(KEYS)
    for client in caches:
        assert [client.get(key) for key in KEYS] == truth
        client.close()


def test_notices_come_to_idle_connections_for_whatever_changes_a_key(server, writer):
    listener = Listener(server, "CLIENT TRACKING ON")
    for key, change in [
        ("a", lambda: writer.set("a", "2")),
        ("b", lambda: writer.delete("b")),
        ("c", lambda: writer.append("c", "x")),
        ("d", lambda: writer.expire("d", 100)),
    ]:
        writer.set(key, "1")
        assert listener.ask(f"GET {key}") == b"$1\r\n1\r\n"
        change()
        assert listener.hears() == notice(key)
        change()
    assert listener.hears(0.2) == b"", "one read, one notice"
    writer.set("e", "1", px=150)
    listener.ask("GET e")
    assert listener.hears() == notice("e"), "it has expired"
    assert server.metric("ringfence_tracking_clients") == 1
    listener.close()
    broadcast = Listener(server, "CLIENT TRACKING ON BCAST PREFIX user: PREFIX page: NOLOOP")
    writer.mset({"user:1": "x", "other": "x", "page:7": "x"})
    heard = broadcast.hears()
    while len(heard) < len(notice("user:1") + notice("page:7")):
        heard += broadcast.hears()
    assert sorted([heard[: len(notice("user:1"))], heard[len(notice("user:1")):]]) == sorted([notice("user:1"), notice("page:7")])
    assert broadcast.ask("SET user:2 own") == b"+OK\r\n"
    assert broadcast.hears(0.2) == b""
    writer.flushall()
    assert broadcast.hears().startswith(b">2\r\n$10\r\ninvalidate\r\n_\r\n")
    broadcast.close()


def test_what_is_evicted_is_told(tmp_path):
    server = Server(tmp_path / "log", ["--set", "eviction=clock"], memory="8MB")
    try:
        listener, writer = Listener(server, "CLIENT TRACKING ON"), server.client()
        writer.set("page", "1")
        assert listener.ask("GET page") == b"$1\r\n1\r\n"
        heard, n = b"", 0
        while notice("page") not in heard:
            with writer.pipeline(transaction=False) as pipeline:
                for _ in range(500):
                    n += 1
                    pipeline.set(f"fill:{n}", "v" * 2000)
                pipeline.execute()
            assert n < 100_000, "it was never evicted"
            heard += listener.hears(0.01)
        assert writer.get("page") is None
        listener.close()
    finally:
        assert server.stop() == 0, server.log()


def test_commands_say_what_is_tracked(server):
    listener = Listener(server)
    info = lambda: listener.ask("CLIENT TRACKINGINFO")
    assert b"~1\r\n$3\r\noff\r\n" in info() and b":-1\r\n" in info()
    assert listener.ask("CLIENT GETREDIR") == b":-1\r\n"
    assert listener.ask("CLIENT TRACKING ON OPTIN") == b"+OK\r\n"
    assert listener.ask("CLIENT CACHING YES") == b"+OK\r\n"
    assert b"$5\r\noptin\r\n" in info() and listener.ask("CLIENT GETREDIR") == b":0\r\n"
    for wrong, text in [
        ("CLIENT TRACKING ON BCAST OPTIN", b"not compatible with BCAST"),
        ("CLIENT TRACKING ON PREFIX a", b"requires BCAST"),
        ("CLIENT TRACKING ON BCAST", b"can't switch BCAST"),
        ("CLIENT TRACKING ON OPTOUT", b"can't switch OPTIN/OPTOUT"),
        ("CLIENT TRACKING MAYBE", b"syntax error"),
        ("CLIENT CACHING NO", b"only valid when tracking is enabled in OPTOUT"),
        ("CLIENT TRACKING ON OPTIN REDIRECT 5", b"does not exist"),
    ]:
        answer = listener.ask(wrong)
        assert answer.startswith(b"-ERR") and text in answer, (wrong, answer)
    assert b"$5\r\noptin\r\n" in info() and b":0\r\n" in info(), "a redirection that fails changes nothing"
    assert listener.ask("CLIENT TRACKING OFF") == b"+OK\r\n"
    assert b"$3\r\noff\r\n" in info()
    assert b"can be called only when" in listener.ask("CLIENT CACHING YES")
    listener.close()


CHANNEL = "__redis__:invalidate"


def test_redis_py_hears_the_notices_of_a_resp2_connection_by_subscription(server, writer):
    writer.mset({key: 0 for key in KEYS})
    heard = server.client().pubsub()
    heard.execute_command("CLIENT", "ID")
    number = heard.connection.read_response()
    heard.subscribe(CHANNEL)
    assert heard.get_message(timeout=5)["type"] == "subscribe"
    reader = server.client(single_connection_client=True)
    assert reader.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", number) in (b"OK", "OK", True)
    assert reader.execute_command("CLIENT", "GETREDIR") == number
    assert set(reader.mget(KEYS)) == {b"0"}
    writer.mset({key: 1 for key in KEYS})
    told = set()
    while len(told) < len(KEYS):
        message = heard.get_message(timeout=5)
        assert message, f"only {len(told)} of {len(KEYS)} notices came"
        assert message["channel"] == CHANNEL.encode(), message
        told |= {key.decode() for key in message["data"]}
    assert told == set(KEYS)
    heard.close()
    reader.close()


class Plain:
    """A connection over RESP2, on which redis-server and this one are asked the same."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.input = self.socket.makefile("rb")
        self.number = self.ask("CLIENT ID")[1:-2].decode()

    def ask(self, command):
        self.socket.sendall(command.encode() + b"\r\n")
        return self.reply()

    def reply(self):
        line = self.input.readline()
        if line[:1] == b"$" and line != b"$-1\r\n":
            return line + self.input.read(int(line[1:]) + 2)
        if line[:1] == b"*" and line != b"*-1\r\n":
            return line + b"".join(self.reply() for _ in range(int(line[1:])))
        return line


def test_redirected_notices_are_those_of_redis_server(server, writer, tmp_path):
    port = free_ports(1)
    peer = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        assert story(server.port) == story(port)
    finally:
        peer.terminate()
        peer.wait(10)


def story(port):
    """What both connections and a writer are answered and told, without the numbers of the connections."""
    heard, reader, writer = Plain(port), Plain(port), Plain(port)
    said = [
        writer.ask("FLUSHALL"),
        heard.ask(f"SUBSCRIBE {CHANNEL}"),
        heard.ask("PING"),
        heard.ask("PING word"),
        heard.ask("GET a"),
        heard.ask("CLIENT ID"),
        reader.ask(f"CLIENT TRACKING ON REDIRECT {heard.number}"),
        reader.ask("CLIENT GETREDIR"),
        reader.ask("GET a"),
        writer.ask("SET a 1"),
        heard.reply(),
        reader.ask("GET a"),
        reader.ask("GET b"),
        writer.ask("DEL a b"),
        heard.reply(),
        reader.ask("CLIENT TRACKINGINFO"),
        reader.ask("CLIENT TRACKING OFF"),
        reader.ask(f"CLIENT TRACKING ON BCAST PREFIX p: REDIRECT {heard.number} NOLOOP"),
        reader.ask("CLIENT TRACKINGINFO"),
        reader.ask("SET p:own 1"),
        writer.ask("SET p:other 1"),
        heard.reply(),
        heard.ask(f"UNSUBSCRIBE {CHANNEL}"),
        heard.ask("UNSUBSCRIBE"),
        heard.ask("GET p:own"),
        reader.ask("CLIENT TRACKING ON REDIRECT x"),
        reader.ask(f"CLIENT TRACKING ON BCAST REDIRECT {heard.number} REDIRECT {heard.number}"),
        heard.ask("COMMAND INFO subscribe unsubscribe"),
    ]
    for client in (heard, reader, writer):
        client.socket.close()
    return [answer.replace(f":{heard.number}\r\n".encode(), b":number\r\n") for answer in said]
