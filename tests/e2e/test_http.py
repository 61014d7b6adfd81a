"""HTTP for values, on a server of two cores, with clients as people use them: curl, http.client and bare sockets."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest
import redis
from conftest import Server, free_ports

OCTETS = "application/octet-stream"
VALUE_BYTES = 1 << 20


class HttpServer(Server):
    """A server with HTTP for values on `values_port`."""

    def __init__(self, log_path, extra=(), **options):
        self.values_port = free_ports(1)
        super().__init__(log_path, ("--set", f"listen.http_port={self.values_port}", *extra), **options)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    extra = ["--set", f"limits.value_bytes={VALUE_BYTES}", "--set", "limits.key_bytes=1000"]
    instance = HttpServer(tmp_path_factory.mktemp("http") / "log", extra)
    yield instance
    status = instance.stop()
    assert status == 0, f"the server ended with {status}: {instance.log()}"
    assert "panicked" not in instance.log()


class Client:
    """One connection that is kept."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body: parsed if it is JSON."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content_Type", "application/json")
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        content = response.read()
        if response.getheader("Content-Type") == "application/json" and content:
            content = json.loads(content)
        return response.status, response.headers, content

    def status(self, *arguments, **headers):
        return self.ask(*arguments, **headers)[0]

    def refused(self, method, path, body=None, **headers):
        """Status and code of an error, whose form is checked."""
        status, _, content = self.ask(method, path, body, **headers)
        assert set(content) == {"error"} and set(content["error"]) == {"code", "message"}, content
        assert content["error"]["message"]
        return status, content["error"]["code"]


@pytest.fixture
def client(server):
    client = Client(server.values_port)
    yield client
    client.connection.close()


def path_of(key):
    return "/v1/cache/" + urllib.parse.quote(key, safe="")


def exchange(port, sent, timeout=5):
    """Everything that is answered to `sent` until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(sent)
        got = b""
        while piece := connection.recv(65536):
            got += piece
        return got


def curl(*arguments):
    """Body, and what -w printed behind it."""
    run = subprocess.run(["curl", "-sS", "--max-time", "10", *arguments], capture_output=True, check=True)
    return run.stdout.decode()


def test_values_are_stored_read_and_deleted(client):
    assert client.refused("GET", "/v1/cache/k") == (404, "not_found")
    status, headers, body = client.ask("PUT", "/v1/cache/k", {"value": "Ada"})
    assert (status, set(body), body["key"]) == (201, {"key", "version"}, "k")
    assert headers["ETag"] == f'"{body["version"]}"'
    status, headers, found = client.ask("GET", "/v1/cache/k")
    assert (status, found) == (200, {"key": "k", "value": "Ada", "ttlSeconds": None, "version": body["version"],
                               "state": "fresh"})
    assert headers["ETag"] == f'"{body["version"]}"'
    status, _, replaced = client.ask("PUT", "/v1/cache/k", {"value": "Bob", "policy": "cache-aside"})
    assert status == 200 and replaced["version"] > body["version"]
    status, headers, content = client.ask("HEAD", "/v1/cache/k")
    assert (status, content, headers["ETag"]) == (200, b"", f'"{replaced["version"]}"')
    assert int(headers["Content-Length"]) > 40
    assert client.ask("DELETE", "/v1/cache/k")[0::2] == (204, b"")
    assert client.refused("DELETE", "/v1/cache/k") == (404, "not_found")
    assert client.ask("HEAD", "/v1/cache/k")[0::2] == (404, b"")


def test_values_expire(client):
    assert client.status("PUT", "/v1/cache/gone", {"value": "v", "ttlSeconds": 0.05}) == 201
    time.sleep(0.1)
    assert client.status("GET", "/v1/cache/gone") == 404
    assert client.status("PUT", "/v1/cache/k", {"value": "v", "ttlSeconds": 30.25}) == 201
    assert 20 < client.ask("GET", "/v1/cache/k")[2]["ttlSeconds"] <= 30.25
    _, headers, content = client.ask("GET", "/v1/cache/k", Accept=OCTETS)
    assert (content, 20 < float(headers["Ttl-Seconds"]) <= 30.25) == (b"v", True)
    assert client.status("PUT", "/v1/cache/k?ttlSeconds=100.5", b"v", Content_Type=OCTETS) == 200
    assert 90 < client.ask("GET", "/v1/cache/k")[2]["ttlSeconds"] <= 100.5
    assert client.status("PUT", "/v1/cache/k", {"value": "v"}) == 200
    _, headers, _ = client.ask("GET", "/v1/cache/k", Accept=OCTETS)
    assert "Ttl-Seconds" not in headers, "a write without a time to live takes the deadline away"


def test_any_bytes_are_key_and_value(client, server):
    every = bytes(range(256))
    assert client.status("PUT", path_of(every), every, Content_Type=OCTETS) == 201
    _, headers, content = client.ask("GET", path_of(every), Accept=OCTETS)
    assert (content, headers["Content-Type"]) == (every, OCTETS)
    found = client.ask("GET", path_of(every))[2]
    assert (found["encoding"], found["keyEncoding"]) == ("base64", "base64")
    again = {name: found[name] for name in ("value", "encoding")}
    assert client.status("PUT", "/v1/cache/copy", again) == 201
    with server.client() as other:
        assert other.get(every) == other.get("copy") == every
        # And what Redis clients wrote is read.
        other.set("a/b", "grüße\x00", px=90_000)
        found = client.ask("GET", "/v1/cache/a/b")[2]
        assert (found["key"], found["value"], 80 < found["ttlSeconds"] <= 90) == ("a/b", "grüße\x00", True)
        assert client.status("PUT", "/v1/cache/n", {"value": "41", "ttlSeconds": 60}) == 201
        assert other.incr("n") == 42 and 50 < other.ttl("n") <= 60
        assert client.ask("GET", "/v1/cache/n")[2]["value"] == "42"
        assert other.delete("n") == 1 and client.status("GET", "/v1/cache/n") == 404


def test_preconditions(client):
    assert client.refused("PUT", "/v1/cache/k", {"value": "v"}, If_Match="*") == (412, "precondition_failed")
    assert client.status("PUT", "/v1/cache/k", {"value": "v"}, If_Match='"5"') == 412
    assert client.status("DELETE", "/v1/cache/k", If_Match="*") == 412
    status, headers, _ = client.ask("PUT", "/v1/cache/k", {"value": "1"}, If_None_Match="*")
    first = headers["ETag"]
    assert status == 201
    assert client.status("PUT", "/v1/cache/k", {"value": "2"}, If_None_Match="*") == 412
    status, headers, content = client.ask("GET", "/v1/cache/k", If_None_Match=first)
    assert (status, headers["ETag"], content, headers["Content-Length"]) == (304, first, b"", None)
    status, headers, _ = client.ask("PUT", "/v1/cache/k", {"value": "2"}, If_Match=first)
    second = headers["ETag"]
    assert status == 200 and second != first
    status, headers, _ = client.ask("PUT", "/v1/cache/k", {"value": "3"}, If_Match=first)
    assert (status, headers["ETag"]) == (412, second), "the version that there is instead"
    assert client.status("GET", "/v1/cache/k", If_None_Match=first) == 200
    assert client.status("GET", "/v1/cache/k", If_Match=first) == 412
    assert client.status("PUT", "/v1/cache/k", {"value": "3"}, If_Match="*") == 200
    assert client.status("DELETE", "/v1/cache/k", If_Match=second) == 412
    assert client.ask("GET", "/v1/cache/k")[2]["value"] == "3"
    assert client.status("DELETE", "/v1/cache/k", If_Match="*") == 204


def test_no_update_is_lost_in_a_race(client, server):
    """Threads count together on two keys, by comparing versions."""
    keys, threads, rounds = ["one", "two", "three"], 6, 40
    for key in keys:
        assert client.status("PUT", f"/v1/cache/{key}", {"value": "0"}) == 201
    failures, conflicts = [], []

    def count():
        try:
            mine = Client(server.values_port)
            for i in range(rounds):
                path = f"/v1/cache/{keys[i % len(keys)]}"
                while True:
                    _, headers, found = mine.ask("GET", path)
                    value = str(int(found["value"]) + 1)
                    status = mine.status("PUT", path, {"value": value}, If_Match=headers["ETag"])
                    if status == 200:
                        break
                    assert status == 412
                    conflicts.append(1)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    running = [threading.Thread(target=count) for _ in range(threads)]
    [thread.start() for thread in running]
    [thread.join(60) for thread in running]
    assert not failures
    total = sum(int(client.ask("GET", f"/v1/cache/{key}")[2]["value"]) for key in keys)
    assert total == threads * rounds, f"with {len(conflicts)} conflicts"


def test_batches_span_the_cores(client, server):
    before = server.metric("ringfence_cross_core_forwards_total")
    entries = [{"key": f"k{i}", "value": f"v{i}"} for i in range(100)]
    entries[7] = {"key": "/w==", "keyEncoding": "base64", "value": "AP8=", "encoding": "base64", "ttlSeconds": 60}
    status, _, stored = client.ask("POST", "/v1/cache:batchSet", {"entries": entries})
    assert status == 200 and [r["key"] for r in stored["results"]] == [e["key"] for e in entries]
    assert all(r["created"] and r["version"] > 0 for r in stored["results"])
    keys = [f"k{i}" for i in range(101)]
    keys[7] = {"key": "/w==", "keyEncoding": "base64"}
    status, _, found = client.ask("POST", "/v1/cache:batchGet", {"keys": keys})
    assert status == 200 and len(found["values"]) == 101
    for i, value in enumerate(found["values"]):
        if i == 100:
            assert value == {"key": "k100", "value": None}
        elif i != 7:
            version = stored["results"][i]["version"]
            assert value == {"key": f"k{i}", "value": f"v{i}", "ttlSeconds": None, "version": version, "state": "fresh"}
    assert (found["values"][7]["value"], found["values"][7]["encoding"]) == ("AP8=", "base64")
    assert server.metric("ringfence_cross_core_forwards_total") > before, "some keys are another core's"
    assert client.ask("POST", "/v1/cache:batchGet", {"keys": []})[2] == {"values": []}
    too_long = {"entries": [{"key": "a", "value": "x"}, {"key": "b", "value": "x" * (VALUE_BYTES + 1)}]}
    results = client.ask("POST", "/v1/cache:batchSet", too_long)[2]["results"]
    assert results[0]["created"] and results[1]["error"]["code"] == "too_large"


def test_errors_leave_the_connection_usable(client):
    for expected, method, path, body, headers in [
        ((404, "not_found"), "GET", "/", None, {}),
        ((404, "not_found"), "GET", "/v2/cache/k", None, {}),
        ((405, "method_not_allowed"), "POST", "/v1/cache/k", b"x", {}),
        ((405, "method_not_allowed"), "GET", "/v1/cache:batchGet", None, {}),
        ((400, "bad_request"), "GET", "/v1/cache/%zz", None, {}),
        ((414, "key_too_long"), "GET", "/v1/cache/" + "k" * 1001, None, {}),
        ((415, "unsupported_media_type"), "PUT", "/v1/cache/k", b"x", {}),
        ((415, "unsupported_media_type"), "PUT", "/v1/cache/k", b"x", {"Content_Type": "text/plain"}),
        ((400, "bad_request"), "PUT", "/v1/cache/k", {"value": "v", "ttlSeconds": 0}, {}),
        ((400, "bad_request"), "PUT", "/v1/cache/k", {"value": "v", "ttlSeconds": 1e30}, {}),
        ((400, "bad_request"), "PUT", "/v1/cache/k?ttlSeconds=nan", b"x", {"Content_Type": OCTETS}),
        ((400, "bad_request"), "PUT", "/v1/cache/k", {"value": "v", "policy": "fifo"}, {}),
        ((413, "too_large"), "PUT", "/v1/cache/k", {"value": "v" * (VALUE_BYTES + 1)}, {}),
        ((413, "too_large"), "PUT", "/v1/cache/k", b"v" * (VALUE_BYTES + 1), {"Content_Type": OCTETS}),
        ((400, "bad_request"), "DELETE", "/v1/cache/k", None, {"If_Match": ""}),
        ((400, "bad_request"), "POST", "/v1/cache:batchGet", {"keys": ["k"] * 1001}, {}),
        ((412, "precondition_failed"), "PUT", "/v1/cache/k", {"value": "v"}, {"If_Match": '"nonsense"'}),
    ]:
        client.ask("GET", "/v1/cluster")
        local = client.connection.sock.getsockname()
        assert client.refused(method, path, body, **headers) == expected, (method, path)
        assert client.connection.sock and client.connection.sock.getsockname() == local, "the connection is kept"
    status, headers, _ = client.ask("PATCH", "/v1/cache/k")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, PUT, DELETE")
    message = client.ask("PUT", "/v1/cache/k", b'{\n"value" 1}', Content_Type="application/json")[2]["error"]["message"]
    assert "line 2 column" in message
    message = client.ask("PUT", "/v1/cache/k", {"value": "v", "policy": "fifo"})[2]["error"]["message"]
    assert "cache-aside" in message


def test_what_cannot_be_read_is_answered_and_closes(server):
    host = b"Host: x\r\n"
    for status, sent in [
        (b"431", b"GET / HTTP/1.1\r\n" + host + b"Long: " + b"x" * 17000 + b"\r\n\r\n"),
        (b"431", b"GET /" + b"x" * 17000 + b" HTTP/1.1\r\n" + host + b"\r\n"),
        (b"400", b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        (b"400", b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        (b"400", b"PUT / HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (b"400", b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        (b"501", b"PUT / HTTP/1.1\r\n" + host + b"Transfer-Encoding: gzip\r\n\r\n"),
        (b"505", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (b"400", b"GET / HTTP/1.1\r\n\r\n"),
        (b"400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (b"417", b"PUT / HTTP/1.1\r\n" + host + b"Expect: miracles\r\nContent-Length: 1\r\n\r\n"),
    ]:
        answer = exchange(server.values_port, sent)
        assert answer.startswith(b"HTTP/1.1 " + status), (sent[:60], answer)
        assert b"\r\nConnection: close\r\n" in answer
        assert len(responses(answer)) == 1


def responses(stream):
    """Status and body of each response."""
    found = []
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        length = int((re.search(rb"Content-Length: (\d+)", head) or [0, 0])[1])
        found.append((int(head.split()[1]), stream[:length]))
        stream = stream[length:]
    return found


def test_pipelined_requests_are_answered_in_order(server):
    sent, expected = b"", []
    for i in range(300):
        body = json.dumps({"value": f"v{i}"}).encode()
        head = f"PUT /v1/cache/p{i} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sent += f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        sent += f"GET /v1/cache/p{i} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        expected += [201, 200]
        if i % 50 == 0:
            batch = json.dumps({"keys": [f"p{n}" for n in range(i, i + 3)]}).encode()
            head = "POST /v1/cache:batchGet HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            sent += f"{head}Content-Length: {len(batch)}\r\n\r\n".encode() + batch
            sent += b"GET /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n"
            expected += [200, 200]
    sent += b"GET /v1/cluster HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /v1/cache/never HTTP/1.1\r\n\r\n"
    got = responses(exchange(server.values_port, sent))
    assert [status for status, _ in got] == [*expected, 200]
    values = [json.loads(body)["value"] for _, body in got if b'"ttlSeconds"' in body and b'"values"' not in body]
    assert values == [f"v{i}" for i in range(300)]


def test_bytes_may_come_one_by_one(server):
    sent = b"PUT /v1/cache/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    sent += b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    sent += b"GET /v1/cache/slow HTTP/1.0\r\nAccept: application/octet-stream\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.values_port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in sent:
            connection.sendall(bytes([byte]))
            time.sleep(0.0005)
        got = b""
        while piece := connection.recv(65536):
            got += piece
    (put, _), (get, body) = responses(got)
    assert (put, get, body) == (201, 200, b"abcde")


def test_chunked_bodies_of_many_pieces(client):
    pieces = [bytes([i % 256]) * (i % 700 + 1) for i in range(1500)]
    headers = {"Content-Type": OCTETS, "Transfer-Encoding": "chunked"}
    client.connection.request("PUT", "/v1/cache/k", iter(pieces), headers, encode_chunked=True)
    assert client.connection.getresponse().read().startswith(b'{"key":"k"')
    assert client.ask("GET", "/v1/cache/k", Accept=OCTETS)[2] == b"".join(pieces)


def test_the_body_is_invited(server):
    head = b"PUT /v1/cache/k HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(("127.0.0.1", server.values_port), timeout=5) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 Created\r\n")
    too_long = head + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    answer = exchange(server.values_port, too_long)
    assert answer.startswith(b"HTTP/1.1 413") and b"Connection: close" in answer


def test_old_clients_are_closed(server):
    assert b"Connection: close" in exchange(server.values_port, b"GET /v1/cluster HTTP/1.0\r\n\r\n")


def test_curl(server, tmp_path):
    base = f"http://127.0.0.1:{server.values_port}"
    put = curl("-X", "PUT", f"{base}/v1/cache/c", "--json", '{"value":"Ada","ttlSeconds":60}', "-w", " %{http_code}")
    assert re.fullmatch(r'\{"key":"c","version":\d+\} 201', put)
    assert json.loads(curl(f"{base}/v1/cache/c"))["value"] == "Ada"
    # Above 1 MiB curl waits for an invitation by itself; this much it asks for.
    blob = os.urandom(VALUE_BYTES)
    (tmp_path / "blob").write_bytes(blob)
    octets = ["-H", f"Content-Type: {OCTETS}", "-H", "Expect: 100-continue"]
    sized = curl("-T", tmp_path / "blob", f"{base}/v1/cache/blob?ttlSeconds=60", *octets, "-w", " %{http_code}")
    assert sized.endswith(" 201")
    chunked = curl("-T", tmp_path / "blob", f"{base}/v1/cache/blob", *octets,
                   "-H", "Transfer-Encoding: chunked", "-w", " %{http_code}")
    assert chunked.endswith(" 200")
    curl(f"{base}/v1/cache/blob", "-H", f"Accept: {OCTETS}", "-o", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == blob
    # Base64 with padding, as JSON: longer than the value, and still whole.
    assert json.loads(curl(f"{base}/v1/cache/blob"))["encoding"] == "base64"
    assert curl("-I", f"{base}/v1/cache/c").startswith("HTTP/1.1 200 OK")
    assert curl("-X", "DELETE", f"{base}/v1/cache/c", "-w", "%{http_code}") == "204"


def test_stats_and_cluster(client, server):
    before = client.ask("GET", "/v1/stats")[2]
    for i in range(50):
        assert client.status("PUT", f"/v1/cache/s{i}", {"value": "v"}) == 201
    assert client.status("GET", "/v1/cache/s1") == 200
    assert client.status("GET", "/v1/cache/nothing") == 404
    stats = client.ask("GET", "/v1/stats")[2]
    total = stats["total"]
    assert total["keys"] == 50 == sum(core["keys"] for core in stats["cores"])
    assert (total["hits"], total["misses"]) == (before["total"]["hits"] + 1, before["total"]["misses"] + 1)
    assert total["memory"]["budgetBytes"] > total["memory"]["liveBytes"] > 0
    assert [core["core"] for core in stats["cores"]] == [0, 1]
    cluster = client.ask("GET", "/v1/cluster")[2]
    slots = sorted((r["first"], r["last"]) for core in cluster["cores"] for r in core["slots"])
    assert slots[0][0] == 0 and slots[-1][1] == 16383
    assert all(a[1] + 1 == b[0] for a, b in zip(slots, slots[1:]))
    assert [core["port"] for core in cluster["cores"]] == [server.core_port_base + i for i in range(2)]


def test_a_full_memory_says_so(tmp_path):
    server = HttpServer(tmp_path / "log", ("--set", 'eviction="noeviction"'), memory="16MB")
    try:
        client = Client(server.values_port)
        statuses = [client.status("PUT", f"/v1/cache/k{i}", b"x" * 500_000, Content_Type=OCTETS) for i in range(60)]
        assert set(statuses) == {201, 507}
        full = client.refused("PUT", f"/v1/cache/k{statuses.index(507)}", b"x" * 500_000, Content_Type=OCTETS)
        assert full == (507, "out_of_memory")
        assert client.status("GET", "/v1/cache/k0", Accept=OCTETS) == 200
    finally:
        assert server.stop() == 0


def test_versions_go_on_after_a_restart(tmp_path):
    """A client that kept a version from before is not told that nothing has changed."""
    tags = []
    for value in (b"old", b"new"):
        server = HttpServer(tmp_path / "log")
        try:
            client = Client(server.values_port)
            headers = client.ask("PUT", "/v1/cache/n", value, Content_Type=OCTETS)[1]
            tags.append(headers["ETag"])
            if value == b"new":
                assert client.status("GET", "/v1/cache/n", If_None_Match=tags[0]) == 200
                assert client.status("PUT", "/v1/cache/n", b"lost", Content_Type=OCTETS, If_Match=tags[0]) == 412
        finally:
            assert server.stop() == 0
    assert int(tags[0].strip('"')) < int(tags[1].strip('"')) < 1 << 53


def test_a_batch_of_too_many_long_values_is_refused_and_the_connection_goes_on(tmp_path):
    """A thousand values of a megabyte, of either core: an answer, and no more memory than there is."""
    server = HttpServer(tmp_path / "log", ("--set", "limits.value_bytes=1MB"), memory="64MiB")
    try:
        client = Client(server.values_port)
        for n in range(6):
            assert client.status("PUT", f"/v1/cache/long{n}", b"\x01" * 1_000_000, Content_Type=OCTETS) == 201
            body = json.dumps({"keys": [f"long{n}"] * 1000}).encode()
            assert client.status("POST", "/v1/cache:batchGet", body, Content_Type="application/json") == 413
            assert client.status("GET", f"/v1/cache/long{n}", Accept=OCTETS) == 200
        with open(f"/proc/{server.process.pid}/status") as status:
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
        assert peak < 1.5 * (64 << 20), f"{peak >> 20} MiB at the peak"
    finally:
        assert server.stop() == 0


def test_the_description_is_true(server, tmp_path):
    """Schemathesis makes requests from the description, also wrong ones, and holds the responses against it."""
    checks = ["not_a_server_error", "status_code_conformance", "content_type_conformance",
              "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
              "unsupported_method"]
    base = f"http://127.0.0.1:{server.values_port}"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json", "--url", base,
               "--checks", ",".join(checks), "--phases", "examples,coverage,fuzzing", "--mode", "all",
               "--max-examples", "25", "--seed", "7", "--generation-deterministic",
               "--max-time", "20", "--request-timeout", "10", "--no-color"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"[1-9]\d* generated", run.stdout), run.stdout[-2000:]
