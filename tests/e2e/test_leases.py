"""Refresh leases with real clients, over all protocols, on a server of two cores that parks when it is idle."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import Server, free_ports

WAITERS = 40


class LeaseServer(Server):
    """A server that speaks all protocols."""

    def __init__(self, log_path):
        self.values_port, self.memcached_port = free_ports(1), free_ports(1)
        ports = ("--set", f"listen.http_port={self.values_port}", "--set", f"listen.memcached_port={self.memcached_port}")
        super().__init__(log_path, ports)

    def get(self, path):
        """Status and body of a GET for a value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.values_port, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        return response.status, body

    def meta(self, request):
        """The reply to a meta request."""
        with socket.create_connection(("127.0.0.1", self.memcached_port), timeout=10) as connection:
            connection.sendall(request + b"mn\r\n")
            reply = b""
            while not reply.endswith(b"MN\r\n"):
                reply += connection.recv(4096)
            return reply.removesuffix(b"MN\r\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    instance = LeaseServer(tmp_path_factory.mktemp("leases") / "log")
    yield instance
    status = instance.stop()
    assert status == 0, f"the server ended with {status}: {instance.log()}"
    assert "panicked" not in instance.log()


@pytest.fixture
def cache(server):
    client = server.client(protocol=3)
    client.flushall()
    yield client
    client.close()


def getlease(client, key, *options):
    """Value, state and token."""
    return client.execute_command("GETLEASE", key, *options)


class Waiter(threading.Thread):
    """Asks for a key and waits. `answer` is what it got, `seconds` how long that took."""

    def __init__(self, server, key, wait_ms):
        super().__init__()
        self.client, self.key, self.wait_ms = server.client(socket_timeout=30), key, wait_ms
        self.answer = self.seconds = None
        self.start()

    def run(self):
        begin = time.monotonic()
        self.answer = getlease(self.client, self.key, "WAIT", self.wait_ms)
        self.seconds = time.monotonic() - begin
        self.client.close()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def waiting(server):
    text = server.http("/metrics")[1]
    return sum(int(n) for n in re.findall(r"^ringfence_fill_waiters\{[^}]*\} (\d+)", text, re.MULTILINE))


def test_the_first_to_miss_fills_and_late_fills_lose(cache):
    assert cache.get("page") is None, "a plain read asks for no lease"
    value, state, token = getlease(cache, "page")
    assert (value, state) == (None, b"filling") and token > 0
    assert getlease(cache, "page") == [None, b"filling", None]
    assert cache.get("page") is None
    assert cache.execute_command("SET", "page", "old", "LEASE", token + 1) is None
    assert cache.execute_command("SET", "page", "v1", "EX", 60, "LEASE", token)
    assert getlease(cache, "page") == [b"v1", b"fresh", None]
    assert cache.execute_command("SET", "page", "again", "LEASE", token) is None, "a lease is for one fill"
    for change in ["DEL", "SET"]:
        cache.delete("page")
        token = getlease(cache, "page")[2]
        cache.execute_command(change, "page", *(["newer"] if change == "SET" else []))
        assert cache.execute_command("SET", "page", "read before", "LEASE", token) is None, change
        assert cache.get("page") == (b"newer" if change == "SET" else None)


def test_a_stale_value_is_served_while_one_client_renews_it(cache):
    cache.execute_command("SET", "feed", "v1", "PX", 60_000, "SOFTPX", 80)
    assert getlease(cache, "feed") == [b"v1", b"fresh", None]
    time.sleep(0.1)
    value, state, token = getlease(cache, "feed")
    assert (value, state) == (b"v1", b"stale") and token > 0
    assert getlease(cache, "feed", "WAIT", 5000) == [b"v1", b"stale", None], "nobody waits for what is there"
    assert cache.get("feed") == b"v1" and 50_000 < cache.pttl("feed") < 60_000
    assert cache.execute_command("SET", "feed", "v2", "EX", 60, "SOFTEX", 30, "LEASE", token)
    assert getlease(cache, "feed") == [b"v2", b"fresh", None]
    with pytest.raises(Exception, match="WAIT is a number of milliseconds"):
        getlease(cache, "feed", "WAIT", 60_001)
    with pytest.raises(Exception, match="SET with GET takes neither"):
        cache.execute_command("SET", "feed", "v", "GET", "SOFTPX", 5)


def test_a_crowd_waits_for_one_fill(server, cache):
    token = getlease(cache, "crowd")[2]
    crowd = [Waiter(server, "crowd", 20_000) for _ in range(WAITERS)]
    wait_for(lambda: waiting(server) == WAITERS)
    assert cache.execute_command("SET", "crowd", "here", "LEASE", token)
    for waiter in crowd:
        waiter.join(10)
        assert waiter.answer == [b"here", b"fresh", None]
    assert waiting(server) == 0
    info = cache.info("stats")
    assert info["fill_waits_total"] >= WAITERS and info["leases_granted_total"] >= 1


def test_the_kill_of_the_holder_is_the_turn_of_the_next(server, cache):
    """The holder dies by SIGKILL; who waits gets the lease when its time is over, and only one of them."""
    program = """
import redis, sys, time
client = redis.Redis(port=int(sys.argv[1]))
print(client.execute_command("GETLEASE", "orphan", "TTL", 700)[2], flush=True)
time.sleep(60)
"""
    begin = time.monotonic()
    holder = subprocess.Popen([sys.executable, "-c", program, str(server.port)], stdout=subprocess.PIPE, text=True)
    try:
        late = int(holder.stdout.readline())
        crowd = [Waiter(server, "orphan", 20_000) for _ in range(10)]
        wait_for(lambda: waiting(server) == len(crowd))
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    wait_for(lambda: any(waiter.answer for waiter in crowd))
    assert time.monotonic() - begin > 0.5, "a lease lasts as long as was said"
    first = [waiter for waiter in crowd if waiter.answer]
    assert len(first) == 1 and first[0].answer[1] == b"filling" and first[0].answer[2] > 0
    assert cache.execute_command("SET", "orphan", "late", "LEASE", late) is None
    assert cache.execute_command("SET", "orphan", "here", "LEASE", first[0].answer[2])
    for waiter in crowd:
        waiter.join(10)
        assert waiter is first[0] or waiter.answer == [b"here", b"fresh", None]


def test_waiting_ends_by_its_own_time(server, cache):
    getlease(cache, "slow", "TTL", 60_000)
    waiter = Waiter(server, "slow", 300)
    waiter.join(10)
    assert waiter.answer == [None, b"filling", None] and 0.25 < waiter.seconds < 2


def test_all_protocols_share_leases(server, cache):
    status, body = server.get("/v1/cache/shared?waitMs=0&leaseSeconds=30")
    assert (status, body["state"], body["error"]["code"]) == (404, "filling", "not_found")
    assert server.meta(b"mg shared v N30\r\n") == b"VA 0 Z\r\n\r\n"
    redis_waiter, answers = Waiter(server, "shared", 20_000), []
    http_waiter = threading.Thread(target=lambda: answers.append(server.get("/v1/cache/shared?waitMs=20000")))
    http_waiter.start()
    wait_for(lambda: waiting(server) == 2)
    # The lease is the version that the fill names, whatever the protocol.
    assert server.meta(b"ms shared 5 C%d T60\r\nhello\r\n" % (body["lease"] + 1)) == b"NF\r\n"
    assert server.meta(b"ms shared 5 C%d T60\r\nhello\r\n" % body["lease"]) == b"HD\r\n"
    redis_waiter.join(10)
    http_waiter.join(10)
    assert redis_waiter.answer == [b"hello", b"fresh", None]
    status, body = answers[0]
    assert (status, body["value"], body["state"]) == (200, "hello", "fresh")
    assert server.meta(b"md shared I T60\r\n") == b"HD\r\n"
    assert server.get("/v1/cache/shared")[1]["state"] == "stale"
    assert getlease(cache, "shared")[1] == b"stale"
    assert server.meta(b"mg shared v\r\n") == b"VA 5 Z X\r\nhello\r\n"


def test_http_serves_stale_while_it_is_revalidated(server, cache):
    connection = http.client.HTTPConnection("127.0.0.1", server.values_port, timeout=10)

    def put(path, body, **headers):
        headers = {"Content-Type": "application/json", **headers}
        connection.request("PUT", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    value = {"value": "v1", "policy": "stale-while-revalidate", "ttlSeconds": 0.1, "staleSeconds": 30}
    assert put("/v1/cache/news", value)[0] == 201
    assert server.get("/v1/cache/news?waitMs=0")[1]["state"] == "fresh"
    time.sleep(0.15)
    status, body = server.get("/v1/cache/news?waitMs=0")
    assert (status, body["value"], body["state"]) == (200, "v1", "stale") and 25 < body["ttlSeconds"] < 30.1
    assert "lease" not in server.get("/v1/cache/news?waitMs=100")[1]
    assert put("/v1/cache/news", {"value": "x"}, **{"If-Match": '"1"'})[0] == 412
    status, written = put("/v1/cache/news", {**value, "value": "v2"}, **{"If-Match": f'"{body["lease"]}"'})
    assert status == 200
    connection.request("GET", "/v1/cache/news", headers={"Accept": "application/octet-stream"})
    response = connection.getresponse()
    assert (response.read(), response.getheader("Cache-State")) == (b"v2", "fresh")
    connection.close()


def test_a_stop_answers_who_waits(tmp_path):
    server = LeaseServer(tmp_path / "log")
    cache = server.client()
    getlease(cache, "k", "TTL", 60_000)
    crowd = [Waiter(server, "k", 60_000) for _ in range(5)]
    wait_for(lambda: waiting(server) == len(crowd))
    assert server.stop() == 0
    for waiter in crowd:
        waiter.join(10)
        assert waiter.answer == [None, b"filling", None]
