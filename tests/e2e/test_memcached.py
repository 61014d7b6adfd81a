"""memcached's protocols, by a client library and beside memcached itself.

memcached is what MEMCACHED_BIN names, else `memcached` on the path.
"""

import os
import random
import re
import shutil
import socket
import subprocess
import time
from contextlib import closing

import pytest
from conftest import START_SECONDS, Server, free_ports
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

MEMCACHED = os.environ.get("MEMCACHED_BIN") or shutil.which("memcached")
SEEDS = range(8)
REQUESTS = 1500


class Connection:
    """Sends requests as they are, and takes replies up to that of a last `mn`."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request):
        self.socket.sendall(request + b"mn\r\n")
        reply = b""
        while not reply.endswith(b"MN\r\n"):
            piece = self.socket.recv(1 << 20)
            assert piece, f"closed after {request[:200]!r}: {reply[-200:]!r}"
            reply += piece
        return reply.removesuffix(b"MN\r\n")

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def memcached_server(tmp_path_factory):
    """A Ringfence that speaks memcached, with the port in `memcached_port`."""
    port = free_ports(1)
    instance = Server(
        tmp_path_factory.mktemp("memcached") / "log",
        ["--set", f"listen.memcached_port={port}", "--set", "limits.value_bytes=1MB"],
    )
    instance.memcached_port = port
    yield instance
    assert instance.stop() == 0, instance.log()


@pytest.fixture
def ringfence(memcached_server):
    raw = Connection(memcached_server.memcached_port)
    assert raw.ask(b"flush_all\r\n") == b"OK\r\n"
    raw.close()
    return memcached_server


@pytest.fixture
def client(ringfence):
    with closing(Client(("127.0.0.1", ringfence.memcached_port), timeout=10, default_noreply=False)) as client:
        yield client


@pytest.fixture(scope="module")
def memcached_port():
    assert MEMCACHED, "memcached is to be installed: it is what replies are compared with"
    port = free_ports(1)
    arguments = [MEMCACHED, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "2", "-m", "256"]
    if os.getuid() == 0:
        arguments += ["-u", "root"]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                Connection(port).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "memcached did not start"
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_a_client_library_stores_and_reads(client):
    assert client.set("key", b"value", flags=7)
    assert client.get("key") == b"value"
    assert client.get("missing") is None
    assert client.add("key", b"other") is False
    assert client.add("new", b"1") is True
    assert client.replace("missing", b"x") is False
    assert client.replace("key", b"bc") is True
    assert client.append("key", b"d") and client.prepend("key", b"a")
    assert client.get("key") == b"abcd"
    assert client.append("missing", b"x") is False
    value, version = client.gets("key")
    assert value == b"abcd"
    assert client.cas("key", b"first", version) is True
    assert client.cas("key", b"second", version) is False
    assert client.cas("missing", b"x", version) is None
    assert client.get("key") == b"first"
    assert client.delete("key") is True
    assert client.delete("key") is False


def test_a_client_library_counts_and_reads_many(client):
    assert client.incr("n", 1) is None
    client.set("n", b"10")
    assert (client.incr("n", 5), client.decr("n", 100), client.get("n")) == (15, 0, b"0")
    client.set("text", b"abc")
    with pytest.raises(MemcacheClientError, match="non-numeric"):
        client.incr("text", 1)
    values = {f"key{i}": b"%d" % i for i in range(500)}
    assert client.set_many(values) == []
    assert client.get_many([*values, "missing"]) == values
    assert set(client.gets_many(values)) == set(values)
    assert client.delete_many(list(values)) is True
    assert client.get_many(values) == {}
    # Nobody answers these, and what follows is answered in its place.
    client.set_many(values, noreply=True)
    client.incr("text", 1, noreply=True)
    assert client.get_many(values) == values


def test_a_client_library_lets_keys_expire(client, ringfence):
    client.set("short", b"1", expire=1)
    client.set("long", b"1", expire=100)
    client.set("absolute", b"1", expire=int(time.time()) + 100)
    client.set("gone", b"1", expire=-1)
    client.set("past", b"1", expire=int(time.time()) - 100)
    assert client.get_many(["short", "long", "absolute", "gone", "past"]).keys() == {"short", "long", "absolute"}
    assert client.touch("long", 1) is True
    assert client.touch("missing", 1) is False
    raw = Connection(ringfence.memcached_port)
    assert raw.ask(b"gat 1 absolute missing\r\n") == b"VALUE absolute 0 1\r\n1\r\nEND\r\n"
    raw.close()
    deadline = time.monotonic() + 10
    while client.get_many(["short", "long", "absolute"]):
        assert time.monotonic() < deadline, "keys outlive their time"
        time.sleep(0.05)


def test_large_values_come_back_and_too_large_ones_are_refused(client):
    value = random.Random(1).randbytes(1_000_000)
    client.set("large", value)
    assert client.get("large") == value
    with pytest.raises(MemcacheServerError, match="too large"):
        client.set("large", b"x" * 1_100_000)
    assert client.get("large") is None, "what was there would be stale"
    client.set("after", b"1")
    assert client.get("after") == b"1"


def test_too_large_a_value_removes_what_memcached_removes(ringfence, memcached_port):
    """Both refuse two million bytes; what was there before stays or goes alike."""
    lines = [b"%s k 0 0 2000000\r\n" % name for name in (b"set", b"add", b"replace", b"append", b"prepend")]
    lines += [b"cas k 0 0 2000000 1\r\n", b"ms k 2000000\r\n", b"ms k 2000000 ME\r\n", b"ms k 2000000 C1\r\n"]
    for line in lines:
        replies = []
        for port in (ringfence.memcached_port, memcached_port):
            with closing(Connection(port)) as connection:
                connection.ask(b"set k 0 0 3\r\nabc\r\n")
                replies.append(connection.ask(line + b"x" * 2_000_000 + b"\r\nget k\r\n"))
        assert replies[0] == replies[1] and b"too large" in replies[0], (line, replies)


def test_a_client_library_asks_the_server_about_itself(client, ringfence):
    client.set("key", b"value")
    client.get("key")
    assert client.version().startswith(b"1.6.")
    stats = client.stats()
    assert (stats[b"curr_items"], stats[b"threads"], stats[b"pid"]) == (1, 2, ringfence.process.pid)
    assert stats[b"get_hits"] >= 1 and stats[b"cmd_get"] == stats[b"get_hits"] + stats[b"get_misses"]
    assert stats[b"limit_maxbytes"] > 0
    assert client.flush_all() is True
    assert client.get("key") is None


def test_redis_clients_and_memcached_clients_share_keys(client, ringfence):
    raw = Connection(ringfence.memcached_port)
    with ringfence.client() as redis:
        for i in range(50):
            key = f"shared{i}"
            client.set(key, b"10", expire=100, flags=1234)
            assert redis.get(key) == b"10"
            assert 0 < redis.ttl(key) <= 100
            assert redis.append(key, b"0") == 3
            assert redis.expire(key, 50) and redis.persist(key)
            assert raw.ask(b"get %s\r\n" % key.encode()) == b"VALUE %s 1234 3\r\n100\r\nEND\r\n" % key.encode()
            assert redis.incr(key) == 101
            assert redis.getex(key, ex=70) == b"101"
            assert raw.ask(b"mg %s f v\r\n" % key.encode()) == b"VA 3 f1234\r\n101\r\n"
            redis.set(key, b"new")
            assert raw.ask(b"mg %s f t v\r\n" % key.encode()) == b"VA 3 f0 t-1\r\nnew\r\n"
            redis.delete(key)
            assert client.get(key) is None
    raw.close()


def test_a_pipeline_over_both_cores_is_answered_in_order(ringfence):
    raw = Connection(ringfence.memcached_port)
    keys = [b"pipelined%d" % i for i in range(3000)]
    stored = raw.ask(b"".join(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(key), key) for key in keys))
    assert stored == b"STORED\r\n" * len(keys)
    got = raw.ask(b"".join(b"get %s\r\n" % key for key in keys))
    assert got == b"".join(b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key, len(key), key) for key in keys)
    got = raw.ask(b"get " + b" ".join(keys) + b"\r\n")
    assert got == b"".join(b"VALUE %s 0 %d\r\n%s\r\n" % (key, len(key), key) for key in keys) + b"END\r\n"
    raw.close()


class Requests:
    """Random requests, and the replies to them made comparable."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.versions = {}

    def key(self):
        return b"key%d" % self.random.randrange(30)

    def data(self):
        sort = self.random.randrange(4)
        if sort < 2:
            # None begins with 0, which would make a sum shorter than what it is added to.
            return b"%d" % self.random.choice([1, 5, 10, 99, 100, 2**63, 2**64])
        # Never white space beside digits, which memcached takes for part of the number.
        return self.random.choice([b"", b"x", b"x" + self.random.randbytes(self.random.choice([10, 1000, 20000]))])

    def time(self):
        later = b"%d" % (int(time.time()) + 10**6)
        return self.random.choice([b"0", b"0", b"100", b"5000", b"-1", b"2592001", later])

    def noreply(self):
        return self.random.choice([b"", b"", b"", b" noreply"])

    def text(self):
        r, key, more = self.random, self.key(), self.noreply()
        sort = r.randrange(12)
        if sort < 3:
            name = r.choice([b"set", b"add", b"replace", b"append", b"prepend"])
            data = self.data()
            return b"%s %s %d %s %d%s\r\n%s\r\n" % (name, key, r.choice([0, 7, 2**32 - 1]), self.time(), len(data), more, data)
        if sort < 6:
            return b"%s %s\r\n" % (r.choice([b"get", b"gets"]), b" ".join(self.key() for _ in range(r.randrange(1, 9))))
        if sort == 6:
            return b"%s %s %s\r\n" % (r.choice([b"gat", b"gats"]), self.time(), b" ".join([key, self.key()]))
        if sort == 7:
            # Never down and never around: memcached pads numbers that become shorter with spaces.
            return b"incr %s %s%s\r\n" % (key, r.choice([b"0", b"1", b"7", b"1000", b"x", b"-1"]), more)
        if sort == 8:
            return b"delete %s%s\r\n" % (key, more)
        if sort == 9:
            return b"touch %s %s%s\r\n" % (key, r.choice([self.time(), b"x"]), more)
        if sort == 10:
            return r.choice([b"nonsense\r\n", b"get\r\n", b"set k 0 0\r\n", b"verbosity 1\r\n", b"delete k 5\r\n",
                             b"get %s\r\n" % (b"k" * 251), b"set k 0 0 -1\r\n", b"incr k\r\n", b"mg\r\n", b"me\r\n",
                             b"gat x k\r\n", b"set k 0 0 1\r\nxyz\r\n", b"ms k x\r\n", b"\r\n", b"flush_all x\r\n"])
        return b"cas %s 1 0 3 %d%s\r\nnew\r\n" % (key, r.choice([0, 1 << 60]), more)

    def flags(self, among):
        chosen = self.random.sample(among, self.random.randrange(len(among) + 1))
        return b"".join(b" " + (flag() if callable(flag) else flag) for flag in chosen)

    def meta(self):
        r, key = self.random, self.key()
        coded = [b"k", b"q", b"O%d" % r.randrange(10**6), b"P", b"L1"]
        ttl = lambda: b"T" + self.time()
        name = r.choice([b"mg", b"mg", b"mg", b"ms", b"ms", b"md", b"ma", b"bad", b"base64"])
        if name == b"mg":
            return b"mg %s%s\r\n" % (key, self.flags([*coded, b"v", b"s", b"f", b"t", b"u", b"c"]))
        if name == b"ms":
            data, mode = self.data(), lambda: b"M" + r.choice([b"E", b"A", b"P", b"R", b"S", b"X", b"xx"])
            # What a compare beside a mode does to a missing key is documented as different.
            change = r.choice([mode, lambda: b"C%d" % (1 << 60)])
            flags = self.flags([*coded, ttl, change, b"F%d" % r.choice([0, 9])])
            return b"ms %s %d%s\r\n%s\r\n" % (key, len(data), flags, data)
        if name == b"md":
            return b"md %s%s\r\n" % (key, self.flags([*coded, lambda: b"C%d" % (1 << 60)]))
        if name == b"ma":
            # To what it makes memcached answers also with q, and not always with its time.
            made = [lambda: b"N%s J13" % self.time()] if r.randrange(2) else [b"q", b"t"]
            return b"ma %s%s\r\n" % (key, self.flags([b"k", b"O1", b"L", b"v", b"c", b"D3", b"MI", *made]))
        if name == b"base64":
            # With k, memcached names the key as the item was stored.
            return r.choice([b"mg a2V5MQ== b v\r\n", b"mg a2V5MQ= b v\r\n", b"ms a2V5MzE= 1 b T100\r\nx\r\n", b"md !! b\r\n",
                             b"mg a2V5MzE= b k v s\r\n", b"md a2V5MzE= b k\r\n", b"ma !! b\r\n"])
        return r.choice([b"mg k v v\r\n", b"mg k z\r\n", b"ms k 1 z\r\nx\r\n", b"md k c c\r\n", b"ma k Dx\r\n", b"ma k MX\r\n",
                         b"mg k Tx\r\n", b"ms k 1 Tx\r\nx\r\n", b"mg k O%s\r\n" % (b"x" * 33), b"mg %s\r\n" % (b"k" * 251),
                         b"ms k 1 Fx\r\nx\r\n", b"mg k%s\r\n" % (b" v" * 18), b"ms k 1\r\nxyz\r\n", b"ms k 1 M\r\nx\r\n"])

    def comparable(self, request, reply):
        """Without versions, whose relations are compared elsewhere, and with times to within two seconds."""
        reply = re.sub(rb"^(VALUE \S+ \d+ \d+) \d+\r", rb"\1 version\r", reply, flags=re.MULTILINE)
        head, line_end, rest = reply.partition(b"\r\n")
        if request.startswith((b"mg", b"ms", b"ma")):
            head = re.sub(rb" c\d+", b" c", head)
            head = re.sub(rb" t(\d+)", lambda m: b" t%d" % (round(int(m[1]) / 50) * 50), head)
        return head + line_end + rest


@pytest.mark.parametrize("seed", SEEDS)
def test_replies_are_those_of_memcached(ringfence, memcached_port, seed):
    """Byte for byte, for what docs/memcached.md does not list as different."""
    here, there = Connection(ringfence.memcached_port), Connection(memcached_port)
    assert there.ask(b"flush_all\r\n") == here.ask(b"flush_all\r\n") == b"OK\r\n"
    # memcached's flush takes the rest of its second with it.
    time.sleep(1.1)
    requests, seen, sent = Requests(seed), set(), []
    for number in range(REQUESTS):
        request = requests.text() if requests.random.randrange(2) else requests.meta()
        expected, got = there.ask(request), here.ask(request)
        sent.append(request)
        keys = set(re.findall(rb"key\d+", request))
        about = [before[:80] for before in sent if keys & set(re.findall(rb"key\d+", before[:80]))][-20:]
        got, expected = requests.comparable(request, got), requests.comparable(request, expected)
        assert got == expected, f"{number}: {about}"
        seen.add(expected[:2])
    assert {b"VA", b"EN", b"ST", b"NO", b"DE", b"TO", b"CL", b"ER", b"HD", b"EX", b"NF", b"NS"} <= seen
    here.close()
    there.close()


def test_versions_compare_as_memcacheds_do(ringfence, memcached_port):
    """The same story at both: which writes give a value a new version, and which compares succeed."""

    def story(port):
        raw = Connection(port)
        version = lambda: int(re.match(rb"HD c(\d+)\r\n", raw.ask(b"mg story c\r\n"))[1])
        replies = [raw.ask(b"set story 0 0 1\r\n1\r\n"), raw.ask(b"mg story h\r\n"), raw.ask(b"mg story h\r\n")]
        last = version()
        for request in [b"get story\r\n", b"touch story 100\r\n", b"set story 0 0 1\r\n1\r\n", b"incr story 1\r\n",
                        b"append story 0 0 1\r\n1\r\n", b"incr story 18446744073709551615\r\n", b"decr story 5\r\n", b"ms story 1 C%d\r\n5\r\n", b"ma story C%d v\r\n", b"cas story 0 0 1 %d\r\n7\r\n",
                        b"ms story 1 C1\r\n9\r\n", b"mg story v\r\n"]:
            reply = raw.ask(request % last if b"%d" in request else request)
            now = version()
            replies.append((request, reply, now == last))
            last = now
        replies += [raw.ask(b"md story C1\r\n"), raw.ask(b"md story C%d\r\n" % last), raw.ask(b"mg story\r\n")]
        raw.close()
        return replies

    assert story(ringfence.memcached_port) == story(memcached_port)


def test_leases_are_won_and_lost_as_in_memcached(ringfence, memcached_port):
    """The same story at both, for what docs/memcached.md does not list as different."""
    story = [
        # Missing: the first wins, the others are told, the fill compares what the winner got.
        b"mg a N30 v c t", b"mg a N30 v t", b"mg a v", b"ms a 3 C%d T100\r\nabc", b"mg a v t c", b"mg a N30 k O9 s f",
        # Soon over: the first renews.
        b"ms b 1 T20\r\nx", b"mg b v t R10", b"mg b v t R30 c", b"mg b v R30", b"mg b v", b"ms b 1 C%d T200\r\ny", b"mg b v R30",
        # Made stale, with a new deadline; a plain write ends it.
        b"ms c 1 T90\r\nx", b"mg c c v", b"md c I T30", b"mg c v t c", b"mg c v t", b"mg c v t N30 R50", b"ms c 1 C%d\r\nz", b"mg c v t",
        b"ms d 1\r\nx", b"mg d c", b"md d I C1", b"md d I C%d", b"mg d v h", b"set d 5 0 1\r\nq", b"mg d v f",
        # A write that is late, and says so, is stored stale; who was to fill still is.
        b"ms e 1 F3\r\nx", b"mg e c", b"md e I", b"ms e 2 I C%d F9\r\nxy", b"mg e v c f", b"mg e v f", b"ms e 2 I C1\r\nxy", b"mg e v",
        b"mg f N30 q v", b"mg f q v", b"mg f q", b"mg g q v", b"ms h 1\r\nx", b"mg h R30 v",
    ]

    def play(port):
        raw, version, replies = Connection(port), 0, []
        for request in story:
            reply = raw.ask((request % version if b"%d" in request else request) + b"\r\n")
            version = next((int(n) for n in re.findall(rb" c(\d+)", reply)), version)
            replies.append((request, re.sub(rb" c\d+", b" c", reply)))
        raw.close()
        return replies

    expected = play(memcached_port)
    assert play(ringfence.memcached_port) == expected
    text = b"".join(reply for _, reply in expected)
    assert all(mark in text for mark in [b" W", b" Z", b" X W", b" Z X"])


def test_a_flush_with_a_delay_is_that_of_memcached(ringfence, memcached_port):
    here, there = Connection(ringfence.memcached_port), Connection(memcached_port)
    for ask in (here.ask, there.ask):
        assert ask(b"set late 0 0 1\r\n1\r\n") == b"STORED\r\n"
        assert ask(b"flush_all 2\r\n") == b"OK\r\n"
        assert ask(b"get late\r\n").startswith(b"VALUE late")
    time.sleep(3.2)
    for ask in (here.ask, there.ask):
        assert ask(b"get late\r\n") == b"END\r\n"
        assert ask(b"set late 0 0 1\r\n1\r\n") == b"STORED\r\n"
        assert ask(b"get late\r\n").startswith(b"VALUE late")
    here.close()
    there.close()


def test_versions_of_the_clients_own_as_in_later_memcacheds(ringfence):
    """Replies of memcached 1.6.45, but for the lease's own number in one that has a `W`."""
    story = [
        (b"ms k 2 c E5\r\nab", b"HD c5\r\n"), (b"mg k c v C5", b"HD c5\r\n"), (b"ms k 2 c C6 E7\r\ncd", b"EX\r\n"),
        (b"ms k 2 c C5 E7\r\ncd", b"HD c7\r\n"), (b"ms k 1 MA E9 c\r\ne", b"HD c9\r\n"), (b"ms k 1 MP E3 c\r\nz", b"HD c3\r\n"),
        (b"touch k 100", b"TOUCHED\r\n"), (b"mg k c v E77 T30", b"VA 4 c3\r\nzcde\r\n"), (b"gets k", b"VALUE k 0 4 3\r\nzcde\r\nEND\r\n"),
        (b"md k I E11", b"HD\r\n"), (b"mg k v", b"VA 4 X W\r\nzcde\r\n"), (b"mg k c v", b"VA 4 c11 Z X\r\nzcde\r\n"),
        (b"ms k 1 C11 c E12\r\nx", b"HD c12\r\n"), (b"md k x E13", b"HD\r\n"), (b"mg k c v", b"VA 0 c13\r\n\r\n"),
        (b"ms n 1 E4\r\n5", b"HD\r\n"), (b"ma n E6 c v", b"VA 1 c6\r\n6\r\n"), (b"ma m N0 J9 E8 c v", b"VA 1 c8\r\n9\r\n"),
        (b"cas n 0 0 1 6\r\n7", b"STORED\r\n"), (b"cas n 0 0 1 6\r\n8", b"EXISTS\r\n"),
        (b"mg new N30 E21 c v", b"VA 0 c21 W\r\n\r\n"), (b"ms new 1 C21 E22 c\r\nf", b"HD c22\r\n"),
        (b"ms s 1 E50\r\na", b"HD\r\n"), (b"ms s 1 I C49 E40 c\r\nb", b"HD c40\r\n"), (b"md s C41 E3", b"EX\r\n"), (b"md s C40", b"HD\r\n"),
        (b"ms z 1 E18446744073709551615 c\r\na", b"HD c18446744073709551615\r\n"),
    ]
    story += [(b"ms z 1 E%s\r\na" % token, b"CLIENT_ERROR bad token in command line format\r\n") for token in [b"", b"x", b"-1", b"18446744073709551616"]]
    raw = Connection(ringfence.memcached_port)
    assert [(request, raw.ask(request + b"\r\n")) for request, _ in story] == story
    assert int(re.match(rb"HD c(\d+)", raw.ask(b"ms z 1 E0 c\r\na\r\n"))[1]) > 1 << 50, "0 leaves it to the server"
    raw.close()


def test_the_time_of_the_last_access_where_it_is_kept(ringfence, memcached_port, tmp_path):
    refused = Connection(ringfence.memcached_port)
    assert refused.ask(b"mg k l\r\n") == b"CLIENT_ERROR flag l takes access_times = true in the server's settings\r\n"
    refused.close()
    port = free_ports(1)
    server = Server(tmp_path / "log", ["--set", f"listen.memcached_port={port}", "--set", "access_times=true"])
    try:
        here, there = Connection(port), Connection(memcached_port)
        for ask in (here.ask, there.ask):
            assert ask(b"set kept 0 0 1\r\n1\r\n") == b"STORED\r\n"
        time.sleep(2.1)
        for ask in (here.ask, there.ask):
            assert re.fullmatch(rb"HD l[23] h0\r\n", ask(b"mg kept l h\r\n"))
            assert re.fullmatch(rb"VA 0 l0 W\r\n\r\n", ask(b"mg made N30 l v\r\n"))
        # memcached notes a read only once a minute.
        assert re.fullmatch(rb"HD l[01] h1\r\n", here.ask(b"mg kept l h\r\n"))
        found = [ask(b"me kept\r\n") for ask in (here.ask, there.ask)]
        assert re.fullmatch(rb"ME kept exp=-1 la=[01] cas=\d+ fetch=yes cls=1 size=\d+\r\n", found[0])
        names = [re.findall(rb"(\w+)=", line) for line in found]
        assert names[0] == names[1]
        here.close()
        there.close()
    finally:
        assert server.stop() == 0, server.log()


def test_stats_about_something(client, ringfence, memcached_port):
    """Every line has a name that memcached's reply has as well, or would have if it could refuse."""
    with closing(Client(("127.0.0.1", memcached_port), timeout=10, default_noreply=False)) as other:
        for one in (client, other):
            assert one.set("key", b"value") and one.get("key") == b"value"
        for of in ["settings", "items", "slabs", "sizes"]:
            here, there = client.stats(of), other.stats(of)
            unify = lambda names: {re.sub(rb"\d+:", b"", name) for name in names}
            assert here and unify(here) <= unify(there), of
        settings = client.stats("settings")
        assert int(settings[b"maxbytes"]) == 256 << 20 and int(settings[b"item_size_max"]) == 1 << 20
        assert client.stats("items")[b"items:1:number"] == 1 and client.stats("slabs")[b"1:used_chunks"] == 1
        assert client.stats("sizes") == other.stats("sizes") == {b"sizes_status": b"disabled"}
        with pytest.raises(MemcacheClientError, match="counters go on"):
            client.stats("reset")
