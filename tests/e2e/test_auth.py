"""Passwords, with real clients of every protocol, and beside redis-server and memcached that ask for one."""

import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request
from contextlib import closing

import pytest
import redis
from bench import Memcached, Redis, assert_refused, bench, counted
from conftest import PROGRAM, Server, free_ports
from redis.cluster import ClusterNode, RedisCluster

PASSWORD = "correct horse"
OTHER = "battery-staple"
FAILURES = "ringfence_auth_failures_total"
OCTETS = "Content-Type: application/octet-stream"


class GuardedServer(Server):
    """A server with all its protocols and two passwords."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.password_file = self.folder / "passwords"
        self.password_file.write_text(f"{PASSWORD}\r\n\n{OTHER}\n")
        self.password_file.chmod(0o600)
        self.memcached_port, self.values_port = free_ports(1), free_ports(1)
        super().__init__(
            self.folder / "log",
            [
                "--set", f"auth.password_file={self.password_file}",
                "--set", f"listen.memcached_port={self.memcached_port}",
                "--set", f"listen.http_port={self.values_port}",
            ],
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    instance = GuardedServer(tmp_path_factory.mktemp("auth"))
    yield instance
    status, log = instance.stop(), instance.log()
    assert status == 0, f"the server ended with {status}: {log}"
    assert "panicked" not in log
    assert PASSWORD not in log and OTHER not in log, "passwords are in the log"


def talk(port, *pieces, quiet=0.15):
    """What a server answers until it falls silent or closes, which `<end>` tells."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in filter(None, pieces):
            connection.sendall(piece)
            time.sleep(0.01)
        connection.settimeout(quiet)
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
            return answer + b"<end>"
        except TimeoutError:
            return answer


def request(*words):
    words = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


# --- Redis ---


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("password", [PASSWORD, OTHER])
def test_redis_py_gives_its_password(server, protocol, password):
    with server.client(protocol=protocol, password=password) as client:
        for i in range(100):
            assert client.set(f"key:{i}", i)
        assert [client.get(f"key:{i}") for i in range(100)] == [str(i).encode() for i in range(100)]
        assert client.info("stats")["auth_failures_total"] >= 0
        assert client.config_get("*pass*") == {}
        assert "password_file" not in str(client.config_get("*"))
        assert PASSWORD not in str(client.info()) and OTHER not in str(client.info())
    with server.client(protocol=protocol, username="default", password=password) as client:
        assert client.ping()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_is_refused_without_the_right_one(server, protocol):
    before = server.metric(FAILURES)
    with server.client(protocol=protocol) as client, pytest.raises(redis.AuthenticationError):
        client.get("key:1")
    for who in [{"password": "wrong"}, {"username": "nobody", "password": PASSWORD}]:
        with server.client(protocol=protocol, **who) as client, pytest.raises(redis.AuthenticationError):
            client.get("key:1")
    assert server.metric(FAILURES) == before + 2


def test_redis_py_through_the_cluster_ports(server):
    nodes = [ClusterNode("127.0.0.1", server.core_port_base)]
    for protocol in [2, 3]:
        with closing(RedisCluster(startup_nodes=nodes, password=PASSWORD, protocol=protocol)) as cluster:
            for i in range(200):
                assert cluster.set(f"c{i}", i)
            assert [cluster.get(f"c{i}") for i in range(200)] == [str(i).encode() for i in range(200)]
            assert len(cluster.get_primaries()) == 2
    for core in range(2):
        answer = talk(server.core_port_base + core, request("GET", "c1"))
        assert answer == b"-NOAUTH Authentication required.\r\n"


def test_a_connection_that_moves_stays_authenticated(server):
    before = server.metric("ringfence_connections_steered_total")
    for n in range(20):
        with server.client(password=PASSWORD, single_connection_client=True) as client:
            for i in range(3):
                assert client.set(f"moving:{n}", i) and client.get(f"moving:{n}") == str(i).encode()
    assert server.metric("ringfence_connections_steered_total") > before


def test_a_large_value_waits_for_the_password(server):
    value = os.urandom(4 << 20)
    with server.client(password=PASSWORD) as client:
        client.set("large", value)
        assert client.get("large") == value
    answer = talk(server.port, b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$4194304\r\n", value[:1000])
    assert answer == b"-ERR Protocol error: unauthenticated bulk length\r\n<end>"


AUTH, HELLO = request("AUTH", "secret"), request("HELLO", "2", "AUTH", "default", "secret")
REDIS_STREAMS = [
    *[
        request(*words) + request("PING")
        for words in [
            ("GET", "x"), ("GET",), ("NOSUCH", "a"), ("INFO",), ("COMMAND", "COUNT"), ("CLIENT", "ID"),
            ("CLIENT", "NOSUCH"), ("CLIENT",), ("SELECT", "0"), ("FLUSHALL",), ("ECHO",), ("SCAN", "0"),
            ("CLUSTER", "SLOTS"), ("CONFIG", "GET", "requirepass"),
            ("AUTH",), ("AUTH", "a", "b", "c"), ("AUTH", "wrong"), ("AUTH", ""), ("AUTH", "secret"),
            ("AUTH", "default", "secret"), ("AUTH", "default", "wrong"), ("AUTH", "nobody", "secret"),
            ("auth", "secret\0"), ("AUTH", "x" * 600),
            ("HELLO",), ("HELLO", "3"), ("HELLO", "9"), ("HELLO", "x"), ("HELLO", "3", "AUTH", "default"),
            ("HELLO", "3", "SETNAME", "me"), ("HELLO", "3", "SETNAME", "a\nb"), ("HELLO", "3", "NOSUCH"),
            ("HELLO", "3", "AUTH", "default", "wrong"), ("HELLO", "3", "AUTH", "nobody", "secret"),
            ("HELLO", "3", "AUTH", "default", "wrong", "NOSUCH"), ("HELLO", "3", "AUTH", "default", "secret", "NOSUCH"),
            ("HELLO", "3", "AUTH", "default", "secret", "SETNAME", "a\nb"), ("HELLO", "AUTH", "default", "secret"),
            ("QUIT",), ("QUIT", "now"),
        ]
    ],
    AUTH + request("AUTH", "wrong") + request("PING"),
    AUTH + request("DEL", *"abcdefghijklmnopqrstuvwxyz") + request("STRLEN", "x"),
    request("AUTH", "wrong") + request("DEL", *"abcdefghijklmnopqrstuvwxyz"),
    AUTH + request("SET", "k", "x" * 20000) + request("GET", "k") + request("DEL", "k"),
    AUTH + request("HELLO", "2", "AUTH", "default", "wrong", "SETNAME", "x") + request("CLIENT", "GETNAME"),
    request("GET", "x") + AUTH + request("GET", "x") + request("QUIT"),
    b"*11\r\n", b"*10\r\n", b"*99999999\r\n", b"*2147483648\r\n", b"*1\r\n$-1\r\n",
    b"*2\r\n$3\r\nGET\r\n$16384\r\n", b"*2\r\n$3\r\nGET\r\n$16385\r\n", b"*1\r\n$99999999999\r\n", b"*1\r\n:1\r\n",
    b"PING\r\nAUTH secret\r\nPING\r\n", b"AUTH 'secret'\r\nPING\r\n", b"GET " + b"x " * 15 + b"\r\nPING\r\n",
    b"GET " + b"x" * 20000 + b"\r\nPING\r\n", b"POST / HTTP/1.1\r\n", b"Host: x\r\n",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A Ringfence with the password that the reference servers have."""
    folder = tmp_path_factory.mktemp("plain")
    passwords = folder / "passwords"
    passwords.write_text("secret")
    passwords.chmod(0o600)
    memcached_port = free_ports(1)
    instance = Server(folder / "log", [
        "--set", f"auth.password_file={passwords}", "--set", f"listen.memcached_port={memcached_port}",
    ])
    instance.memcached_port = memcached_port
    yield instance
    assert instance.stop() == 0


def test_replies_are_those_of_redis_server(plain, tmp_path):
    with Redis(tmp_path, "--requirepass", "secret") as reference:
        for stream in REDIS_STREAMS:
            expected = talk(reference.port, stream)
            assert talk(plain.port, stream) == expected, stream[:200]
            assert talk(plain.port, *[stream[i:i + 1] for i in range(min(len(stream), 40))], stream[40:]) == expected


def test_replies_without_a_configured_password_are_those_of_redis_server(tmp_path):
    open_server = Server(tmp_path / "log")
    try:
        with Redis(tmp_path) as reference:
            for words in [("AUTH", "x"), ("AUTH", "default", "x"), ("AUTH", "nobody", "x"), ("AUTH",),
                          ("AUTH", "a", "b", "c"), ("HELLO", "3", "AUTH", "nobody", "x"), ("HELLO", "2", "AUTH", "default")]:
                stream = request(*words) + request("PING")
                assert talk(open_server.port, stream) == talk(reference.port, stream), words
    finally:
        assert open_server.stop() == 0


def test_the_command_table_has_auth(server, tmp_path):
    with Redis(tmp_path) as reference, server.client(password=PASSWORD) as client, reference.client() as other:
        ours, theirs = (each.command()["auth"] for each in (client, other))
    assert ours["arity"] == theirs["arity"]
    assert "no_auth" in str(ours["flags"]) and set(ours["flags"]) <= set(theirs["flags"])


# --- memcached ---


def stored(data, line="set any 0 0 %d"):
    return (line % len(data)).encode() + b"\r\n" + data.encode() + b"\r\n"


# Requests that are sent one by one: of several refused ones in one read memcached answers only one.
MEMCACHED_STREAMS = [
    *[
        [first, b"version\r\n", stored("you secret"), b"version\r\nget any\r\n"]
        for first in [
            b"get a\r\n", b"get\r\n", b"version\r\n", b"mn\r\n", b"stats\r\n", b"quit\r\n", b"nonsense\r\n", b"\r\n",
            b"set\r\n", b"SET a 0 0 10\r\n", b"set a 0 0 abc\r\n", b"set a 0 0 -1\r\n", b"set a 0 0\r\n",
            b"add a 0 0 10\r\n", b"cas a 0 0 10 1\r\n", b"ms a 10\r\n", b"GET / HTTP/1.0\r\n",
            stored("you wrong"), stored("you secretx"), stored("secret"), stored(" secret"), stored(""),
            stored("you\tsecret"), stored("you secret\r\n"), stored("YOU SECRET"), stored("x" * 2048),
            b"set a 0 0 10\r\nyou secretXX", b"x" * 1500 + b"\r\n", b"get " + b"k " * 1500 + b"\r\n",
        ]
    ],
    *[
        [first, b"version\r\n"]
        for first in [
            stored("you secret", "set any 0 0 %d noreply"), stored("you secret", " set  any x y %d"),
            stored("you secret", "set " + "k" * 300 + " 0 0 %d"), stored("you secret", "set any 0 0 %d foo bar"),
            stored("you  secret"), stored("you secret "), b"set a 0 0 10\nyou secret\r\n",
            stored("you secret") * 2 + stored("you wrong") + b"get any\r\n",
        ]
    ],
]


def test_replies_are_those_of_memcached(plain, tmp_path):
    users = tmp_path / "users"
    users.write_text("you:secret\n")
    with Memcached(tmp_path, "-Y", str(users)) as reference:
        for requests in MEMCACHED_STREAMS:
            expected = talk(reference.port, *requests)
            assert expected.count(b"\r\n") >= len(requests), requests
            assert talk(plain.memcached_port, *requests) == expected, requests
            assert talk(plain.memcached_port, b"".join(requests)) == expected, requests
            pieces = [requests[0][i:i + 1] for i in range(min(30, len(requests[0])))]
            assert talk(plain.memcached_port, *pieces, requests[0][30:], *requests[1:]) == expected, requests


def test_memcached_clients_share_the_passwords_and_the_keys(server):
    before = server.metric(FAILURES)
    answer = talk(server.memcached_port, stored("anybody wrong"), stored(f"anybody {PASSWORD}"), b"set m 5 0 1\r\nv\r\n")
    assert answer == b"CLIENT_ERROR authentication failure\r\nSTORED\r\nSTORED\r\n"
    with server.client(password=OTHER) as client:
        assert client.get("m") == b"v"
    answer = talk(server.memcached_port, stored(f"x {OTHER}") + b"get m\r\nstats\r\n")
    assert answer.startswith(b"STORED\r\nVALUE m 5 1\r\nv\r\nEND\r\n") and b"STAT auth_errors" in answer
    assert server.metric(FAILURES) == before + 1


# --- HTTP ---


def curl(server, path, *options):
    """Status, head and body."""
    command = ["curl", "-s", "-i", "--max-time", "10", f"http://127.0.0.1:{server.values_port}{path}", *options]
    head, _, body = subprocess.run(command, capture_output=True, check=True).stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


@pytest.mark.parametrize("who", [
    ["-u", f"anybody:{PASSWORD}"], ["-u", f":{OTHER}"], ["-H", f"Authorization: Bearer {OTHER}"],
    ["-H", f"Authorization: bearer {PASSWORD}"], ["--oauth2-bearer", OTHER],
], ids=["basic", "basic without a user", "bearer", "bearer with a space", "curl's bearer"])
def test_curl_gives_its_password(server, who, tmp_path):
    assert curl(server, "/v1/cache/h", *who, "-X", "PUT", "-H", OCTETS, "--data-binary", "hello")[0] in (200, 201)
    status, _, body = curl(server, "/v1/cache/h", *who)
    assert (status, json.loads(body)["value"]) == (200, "hello")
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 << 20))
    assert curl(server, "/v1/cache/big", *who, "-H", OCTETS, "-T", str(big))[0] in (200, 201)
    status, _, body = curl(server, "/v1/cache/big", *who, "-H", "Accept: application/octet-stream")
    assert status == 200 and body == big.read_bytes()
    assert curl(server, "/v1/stats", *who)[0] == 200


@pytest.mark.parametrize("who, failed", [
    ([], 0), (["-u", "anybody:wrong"], 1), (["-u", PASSWORD], 1), (["-H", f"Authorization: Bearer {PASSWORD}x"], 1),
    (["-H", f"Authorization: Digest {PASSWORD}"], 1),
], ids=["none", "basic", "only a user", "bearer", "another scheme"])
def test_curl_is_refused_without_the_right_one(server, who, failed, tmp_path):
    before = server.metric(FAILURES)
    big = tmp_path / "big"
    big.write_bytes(bytes(3 << 20))
    calls = [
        ["/v1/cache/h"], ["/v1/stats"], ["/v1/hotkeys"], ["/v1/cluster"], ["/nowhere"],
        ["/v1/cache:batchGet", "--json", '{"keys":["h"]}'], ["/v1/cache/h", "-X", "DELETE"],
        ["/v1/cache/h", "-H", OCTETS, "-H", "Expect:", "-T", str(big)],
        ["/v1/cache/h", "-H", OCTETS, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", "-T", str(big)],
    ]
    for path, *options in calls:
        status, head, body = curl(server, path, *who, *options)
        assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized"), (path, head)
        assert "WWW-Authenticate: Bearer " in head and "WWW-Authenticate: Basic " in head
        assert "Connection: close" not in head
    assert server.metric(FAILURES) == before + failed * len(calls)
    status, _, body = curl(server, "/openapi.json", *who)
    description = json.loads(body)
    assert status == 200 and set(description["components"]["securitySchemes"]) == {"bearer", "basic"}


def test_a_kept_connection_goes_on_behind_a_refusal(server):
    """curl asks twice over one connection: the second time with the password."""
    base = f"http://127.0.0.1:{server.values_port}/v1/cache/kept"
    command = ["curl", "-s", "-o", os.devnull, "-w", "%{http_code} %{num_connects}\n", base, "-X", "PUT", "-H", OCTETS,
               "-d", "value", "--next", "-s", "-w", "\n%{http_code} %{num_connects}\n", base, "--oauth2-bearer", OTHER]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    assert (lines[0], lines[-1]) == ("401 1", "404 0"), lines


def test_the_admin_port_asks_for_nothing(server):
    assert server.http("/healthz")[0] == 200
    metrics = server.http("/metrics")[1]
    assert FAILURES in metrics and PASSWORD not in metrics
    with urllib.request.urlopen(f"http://127.0.0.1:{server.values_port}/openapi.json", timeout=10) as response:
        assert response.status == 200


# --- the load harness ---


@pytest.mark.parametrize("protocol", ["resp2", "resp3", "memcache-text", "memcache-meta", "http"])
def test_the_load_harness_gives_a_password(server, protocol, tmp_path):
    port = {"resp2": server.port, "resp3": server.port, "http": server.values_port}.get(protocol, server.memcached_port)
    call = ["--target", f"127.0.0.1:{port}", "--protocol", protocol]
    pace = ["--closed", "--requests", 2000, "--connections", 4, "--keys", 100]
    counted(*call, *pace, "--password", PASSWORD)
    counted(*call, *pace, "--password", OTHER, "--user", "default")
    for who in [[], ["--password", "wrong"]]:
        assert_refused(bench(*call, *who, "--csv", tmp_path / "run.csv"), "--password", files=[tmp_path])


def test_the_load_harness_through_the_cluster_ports(server):
    call = ["--target", f"127.0.0.1:{server.core_port_base}", "--routing", "cluster", "--password", PASSWORD]
    counted(*call, "--closed", "--requests", 2000, "--connections", 4, "--keys", 100)


# --- the file ---


def start(*settings):
    arguments = [part for setting in settings for part in ("--set", setting)]
    return subprocess.run([PROGRAM, "--check-config", "--cpus", "0", "--memory", "64MB", *arguments],
                          capture_output=True, text=True, timeout=20)


def test_a_file_that_holds_no_passwords_keeps_the_server_from_starting(tmp_path):
    path = tmp_path / "passwords"
    for text, words in [
        (None, "cannot be read: No such file"), ("", "there is no password in it"), ("\r\n\n", "there is no password in it"),
        ("x\n" * 17, "more than 16 passwords"), ("ok\n" + "x" * 513, "the password in line 2 is longer than 512 bytes"),
        ("hidden \n", "line 1 begins or ends with a space"), ("y" * 70000, "it is no list of passwords"),
    ]:
        if text is not None:
            path.write_text(text)
        run = start(f"auth.password_file={path}")
        assert run.returncode == 1 and len(run.stderr.splitlines()) == 1, run
        assert f"`auth.password_file`: {path}" in run.stderr and words in run.stderr and "hidden" not in run.stderr, run


def test_what_the_configuration_shows(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("hidden\n")
    path.chmod(0o644)
    checked = start(f"auth.password_file={path}")
    assert checked.returncode == 0 and f"everybody on this host may read {path}" in checked.stdout, checked
    printed = subprocess.run([PROGRAM, "--print-config", "--set", f"auth.password_file={path}"],
                             capture_output=True, text=True, timeout=20)
    assert str(path) in printed.stdout and "hidden" not in printed.stdout + checked.stdout
    path.chmod(0o600)
    assert "may read" not in start(f"auth.password_file={path}").stdout
    public = start(f"auth.password_file={path}", "listen.bind=0.0.0.0")
    assert "go unencrypted" in public.stdout, public
    assert "set auth.password_file" in start("listen.bind=0.0.0.0").stdout


def test_a_client_without_a_password_takes_no_memory(server):
    """Two hundred connections that each send as much as they can, and read nothing."""
    def resident():
        with open(f"/proc/{server.process.pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS:"))

    before = resident()
    connections = []
    try:
        for i in range(200):
            port = [server.port, server.memcached_port, server.values_port][i % 3]
            flood = [
                request(*["x" * 16384] * 10)[:-3],
                b"set a 0 0 4000000000\r\n" + bytes(1 << 20),
                f"PUT /v1/cache/k HTTP/1.1\r\nHost: x\r\n{OCTETS}\r\nContent-Length: 8000000\r\n\r\n".encode() + bytes(1 << 20),
            ][i % 3]
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connections.append(connection)
            connection.sendall(flood)
        time.sleep(0.5)
        grown = resident() - before
        assert grown < 80 << 20, f"{grown >> 20} MiB for 200 connections"
        with server.client(password=PASSWORD) as client:
            assert client.ping()
    finally:
        for connection in connections:
            connection.close()
