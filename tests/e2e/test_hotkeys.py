"""Keys that a real server is asked for more than others, named to clients and in the metrics."""

import threading

import redis
from redis.crc import key_slot

from conftest import Server


def test_hot_keys_are_named_with_their_share(tmp_path):
    server = Server(tmp_path / "log")
    try:
        client = server.client(protocol=3)
        client.set('front "page"', "x" * 100)
        client.set("large", "x" * 50_000)
        for batch in range(100):
            with client.pipeline(transaction=False) as pipeline:
                for n in range(400):
                    pipeline.get('front "page"' if n % 4 else f"other:{batch}:{n}")
                pipeline.execute()
        hot = client.execute_command("HOTKEYS", "COUNT", 1)[0]
        core = dict(enumerate(shares(server)))
        assert hot[b"key"] == b'front "page"' and hot[b"core"] in core, hot
        # Three of four requests; those of the other core are not in its core's share.
        assert 0.7 < float(hot[b"share"]) <= 1 and float(hot[b"error"]) < 0.05, hot
        assert 20_000 < hot[b"ops"] < 40_000, hot
        assert abs(core[hot[b"core"]] - float(hot[b"share"])) < 0.01
        big = client.execute_command("BIGKEYS", "COUNT", 1)[0]
        assert (big[b"key"], big[b"bytes"]) == (b"large", 50_000)
    finally:
        status = server.stop()
    assert status == 0, server.log()


def shares(server):
    """By core, the share of the key that was made hot, 0 where it is not listed."""
    text = server.http("/metrics")[1]
    name = 'ringfence_hot_key_share{core="%d",by="ops",key="front \\\\\\"page\\\\\\""} '
    found = []
    for core in range(2):
        lines = [line for line in text.splitlines() if line.startswith(name % core)]
        found.append(float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0)
    return found


def test_a_hot_key_is_read_at_both_cores_and_never_older_than_what_was_acknowledged(tmp_path):
    server = Server(tmp_path / "log")
    try:
        slots = server.client().execute_command("CLUSTER", "SLOTS")
        ports = [port for _, port in sorted((entry[0], entry[2][1]) for entry in slots)]
        key = next(f"k{n}" for n in range(100) if key_slot(f"k{n}".encode()) < 8192)
        owner, other = redis.Redis(port=ports[0]), redis.Redis(port=ports[1])
        owner.set(key, 0)
        acknowledged, faults, over = [0], [], threading.Event()

        def read():
            client, last = redis.Redis(port=ports[1]), 0
            while not over.is_set() and not faults:
                least = max(last, acknowledged[0])
                last = int(client.get(key))
                if last < least:
                    faults.append((last, least))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            for n in range(400):
                for _ in range(3):
                    with other.pipeline(transaction=False) as pipeline:
                        for _ in range(50):
                            pipeline.get(key)
                        pipeline.execute()
                acknowledged[0] = (owner if n % 2 else other).incr(key)
        finally:
            over.set()
            for reader in readers:
                reader.join()
        assert not faults, faults
        reads = server.client().info("stats")["hot_key_copy_reads_total"]
        assert reads > 1000, reads
        assert int(owner.get(key)) == int(other.get(key)) == 400
    finally:
        status = server.stop()
    assert status == 0, server.log()
