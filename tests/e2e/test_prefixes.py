"""Rules for keys that begin with the same bytes, as an operator writes them."""

import re

from conftest import Server

RULES = 'prefix=[{name="session:",default_ttl="30s",max_ttl="2m",memory="2MB"},{name="feed:"}]'


def prefixes(client):
    """What `INFO keyspace` says of each prefix."""
    lines = [line for name, line in client.info("keyspace").items() if name.startswith("prefix")]
    return {line["name"]: line for line in lines}


def test_prefixes_have_times_counts_and_memory_of_their_own(tmp_path):
    extra = ["--set", RULES, "--set", "expiry.jitter=10%"]
    server = Server(tmp_path / "log", extra, memory="64MB")
    try:
        client = server.client()
        client.set("session:1", "v")
        client.set("session:2", "v", ex=3600)
        client.set("feed:1", "v")
        assert 26_000 < client.pttl("session:1") <= 30_000
        assert 107_000 < client.pttl("session:2") <= 120_000
        assert client.pttl("feed:1") == -1
        before = prefixes(client)
        client.get("session:1"), client.get("session:x"), client.get("feed:1")
        found = prefixes(client)
        more = lambda name, what: found[name][what] - before[name][what]
        assert (found["session:"]["keys"], more("session:", "hits"), more("session:", "misses")) == (2, 1, 1)
        assert (found["feed:"]["keys"], more("feed:", "hits"), found["feed:"]["evicted"]) == (1, 1, 0)
        with client.pipeline(transaction=False) as pipeline:
            for n in range(6000):
                pipeline.set(f"session:{n}", "v" * 1000)
                pipeline.set(f"feed:{n}", "v" * 1000)
            pipeline.execute()
        found = prefixes(client)
        assert found["session:"]["bytes"] < 2.3e6 and found["session:"]["evicted"] > 3000, found
        assert found["feed:"]["keys"] == 6000, found
        keys = re.findall(r'^ringfence_prefix_keys\{core="\d+",prefix="session:"\} (\d+)', server.http("/metrics")[1], re.MULTILINE)
        assert len(keys) == 2 and 0 < sum(map(int, keys)) < 3000
        client.close()
    finally:
        assert server.stop() == 0, server.log()
