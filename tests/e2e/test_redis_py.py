"""redis-py as people use it, on the shared port."""

import time

import pytest
import redis


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def client(server, request):
    with server.client(protocol=request.param) as client:
        yield client


def test_strings(client):
    assert client.ping() is True
    assert client.set("k", "v") is True
    assert client.get("k") == b"v"
    assert client.get("nothing") is None
    assert client.set("k", "w", nx=True) is None
    assert client.set("k", "w", xx=True, get=True) == b"v"
    assert client.append("k", "x") == 2
    assert client.strlen("k") == 2
    assert client.getdel("k") == b"wx"
    assert client.exists("k") == 0
    assert client.setnx("k", "1") is True
    assert client.incrby("k", 41) == 42
    assert client.decr("k") == 41
    assert client.type("k") == b"string"
    assert client.mset({f"m{i}": i for i in range(100)}) is True
    assert client.mget([f"m{i}" for i in range(101)]) == [str(i).encode() for i in range(100)] + [None]
    assert client.delete(*[f"m{i}" for i in range(101)]) == 100
    assert client.unlink("k", "k") == 1
    assert client.dbsize() == 0


def test_bytes_are_bytes(client):
    every_byte = bytes(range(256))
    client.set(every_byte, every_byte * 4000)
    assert client.get(every_byte) == every_byte * 4000
    client.set("", "")
    assert client.get("") == b""


def test_errors_are_those_of_redis(client):
    client.set("text", "abc")
    with pytest.raises(redis.ResponseError, match="value is not an integer or out of range"):
        client.incr("text")
    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.execute_command("NOSUCHCOMMAND", "a")
    with pytest.raises(redis.ResponseError, match="wrong number of arguments for 'get' command"):
        client.execute_command("GET")
    assert client.get("text") == b"abc"


def test_pipelines_keep_their_order(client):
    with client.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.set(f"p{i}", i)
            pipe.get(f"p{i}")
            pipe.mget(f"p{i}", "nothing", f"p{i // 2}")
        replies = pipe.execute()
    assert len(replies) == 15000
    for i in range(5000):
        expected = [True, str(i).encode(), [str(i).encode(), None, str(i // 2).encode()]]
        assert replies[3 * i : 3 * i + 3] == expected


def test_decoded_responses(server):
    with server.client(decode_responses=True) as client:
        client.set("schlüssel", "wärme ☀")
        assert client.get("schlüssel") == "wärme ☀"
        assert client.scan_iter().__next__() == "schlüssel"
        assert client.config_get("maxmemory").keys() == {"maxmemory"}


def test_names_and_ids(client):
    assert client.client_setname("tester") is True
    assert client.client_getname() in (b"tester", "tester")
    assert client.client_id() > 0
    assert client.echo("hello") == b"hello"
    assert client.info("server")["redis_version"]
    assert client.command_count() > 30
    assert abs(client.time()[0] - time.time()) < 2


def test_scan_sees_every_key_that_stays(client):
    """Promised: a key present from start to end is returned at least once,
    whatever else is written and deleted meanwhile; one never present is not."""
    stay = {f"stay:{i}".encode() for i in range(5000)}
    with client.pipeline(transaction=False) as pipe:
        for key in stay:
            pipe.set(key, "v")
        for i in range(5000):
            pipe.set(f"go:{i}", "v")
        pipe.execute()
    seen, cursor, turn = set(), 0, 0
    while True:
        cursor, keys = client.scan(cursor, count=50)
        seen.update(keys)
        client.delete(*[f"go:{i}" for i in range(turn * 20, turn * 20 + 20)])
        client.set(f"come:{turn}", "v")
        turn += 1
        if cursor == 0:
            break
        assert turn < 100_000, "the iteration does not end"
    assert stay <= seen, f"{len(stay - seen)} keys were not seen"
    strangers = {k for k in seen - stay if not k.startswith((b"go:", b"come:"))}
    assert not strangers
    assert set(client.scan_iter(match="stay:1*", count=1000)) == {k for k in stay if k.startswith(b"stay:1")}


def test_deadlines(client):
    client.set("k", "v", ex=100)
    assert 99 <= client.ttl("k") <= 100
    assert client.expire("k", 200, gt=True)
    assert not client.expire("k", 100, gt=True)
    assert client.persist("k")
    assert client.ttl("k") == -1
    assert client.ttl("nothing") == -2
    assert client.getex("k", px=50_000) == b"v"
    assert 49_000 <= client.pttl("k") <= 50_000


def test_a_value_is_never_returned_after_its_deadline(client):
    """Twenty keys on both cores, polled for two seconds. A reply that left
    after the deadline is wrong; one lost before it is wrong too."""
    deadlines = {}
    for i in range(20):
        life = 0.2 + i * 0.08
        key = f"short:{i}"
        before = time.monotonic()
        client.set(key, "v", px=int(life * 1000))
        deadlines[key] = (before + life, time.monotonic() + life)
    end = time.monotonic() + 2.2
    hits = 0
    while time.monotonic() < end:
        for key, (earliest, latest) in deadlines.items():
            asked = time.monotonic()
            value = client.get(key)
            answered = time.monotonic()
            if value is not None:
                hits += 1
                assert asked < latest + 0.002, f"{key} was returned {asked - latest:.3f} s after its deadline"
            else:
                assert answered > earliest - 0.002, f"{key} was gone {earliest - answered:.3f} s before its deadline"
        time.sleep(0.005)
    assert hits > 20
    assert client.exists(*deadlines) == 0
    assert client.dbsize() == 0
