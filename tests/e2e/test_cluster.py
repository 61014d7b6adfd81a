"""redis-py's RedisCluster: every request lands on the core that owns the key."""

import pytest
from redis.cluster import ClusterNode, RedisCluster

FORWARDS = "ringfence_cross_core_forwards_total"


@pytest.fixture(params=["core port", "shared port"])
def cluster(server, request):
    port = server.core_port_base if request.param == "core port" else server.port
    client = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", port)], socket_timeout=10)
    yield client
    client.close()


def test_the_core_ports_are_the_nodes(server, cluster):
    ports = {node.port for node in cluster.get_primaries()}
    assert ports == {server.core_port_base, server.core_port_base + 1}
    assert cluster.cluster_info(target_nodes="random")["cluster_state"] == "ok"


def test_a_thousand_keys_without_a_forward(server, cluster):
    before = server.metric(FORWARDS)
    for i in range(1000):
        assert cluster.set(f"key:{i}", i)
    for i in range(1000):
        assert cluster.get(f"key:{i}") == str(i).encode()
    assert server.metric(FORWARDS) == before
    assert cluster.dbsize(target_nodes="primaries") == 1000
    assert len(set(cluster.scan_iter(count=200))) == 1000


def test_several_keys_at_once(server, cluster):
    before = server.metric(FORWARDS)
    assert all(cluster.mset_nonatomic({f"m{i}": i for i in range(200)}))
    assert cluster.mget_nonatomic([f"m{i}" for i in range(201)]) == [str(i).encode() for i in range(200)] + [None]
    assert cluster.mget("{tag}a", "{tag}b") == [None, None]
    assert cluster.delete(*[f"m{i}" for i in range(200)]) == 200
    with cluster.pipeline() as pipe:
        for i in range(200):
            pipe.set(f"p{i}", i)
            pipe.get(f"p{i}")
        assert pipe.execute() == [reply for i in range(200) for reply in (True, str(i).encode())]
    assert server.metric(FORWARDS) == before


def test_resp3(server):
    client = RedisCluster(host="127.0.0.1", port=server.core_port_base, protocol=3, socket_timeout=10)
    try:
        assert client.set("k", "v")
        assert client.get("k") == b"v"
        assert client.get("nothing") is None
    finally:
        client.close()
