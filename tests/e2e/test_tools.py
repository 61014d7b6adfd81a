"""redis-cli and redis-benchmark against the server."""

import re
import subprocess

import pytest
import redis


def run(*arguments, text=None, limit=60):
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def cli(port, *arguments, text=None):
    return run("redis-cli", "-p", str(port), *arguments, text=text).rstrip("\n")


def test_redis_cli(server):
    assert cli(server.port, "SET", "k", "a value") == "OK"
    assert cli(server.port, "GET", "k") == "a value"
    assert cli(server.port, "-3", "GET", "nothing") == ""
    assert cli(server.port, text='SET a "x y"\nGET a\nINCR n\n').splitlines() == ["OK", "x y", "1"]
    assert "unknown command" in cli(server.port, "NOSUCH")
    assert sorted(cli(server.port, "--scan").splitlines()) == ["a", "k", "n"]


def test_redis_cli_info(server):
    info = cli(server.port, "INFO")
    assert re.search(r"^redis_version:\d+\.\d+", info, re.MULTILINE)
    assert re.search(r"^# Server", info, re.MULTILINE)


@pytest.mark.parametrize("offset", [0, 1])
def test_redis_cli_follows_the_cluster(server, offset):
    port = server.core_port_base + offset
    for i in range(20):
        assert cli(port, "-c", "SET", f"key:{i}", str(i)) == "OK"
        assert cli(port, "-c", "GET", f"key:{i}") == str(i)


def test_redis_cli_pipe(server):
    resp = "".join(f"*3\r\n$3\r\nSET\r\n${len(f'key:{i}')}\r\nkey:{i}\r\n$1\r\nv\r\n" for i in range(20_000))
    assert "errors: 0, replies: 20000" in cli(server.port, "--pipe", text=resp)
    inline = "".join(f"SET inline:{i} v\r\n" for i in range(1000))
    assert "errors: 0, replies: 1000" in cli(server.port, "--pipe", text=inline)
    with server.client() as client:
        assert client.dbsize() == 21_000


def rates(output):
    """Requests per second of each test in the quiet output."""
    found = re.findall(r"^(\w+): ([0-9.]+) requests per second", output.replace("\r", "\n"), re.MULTILINE)
    return {name: float(rate) for name, rate in found}


@pytest.mark.parametrize("depth", ["1", "16"])
def test_redis_benchmark(server, depth):
    output = run(
        "redis-benchmark", "-p", str(server.port), "-t", "set,get", "-q", "-n", "50000", "-r", "1000", "-P", depth,
    )
    assert rates(output).keys() == {"SET", "GET"}
    assert min(rates(output).values()) > 1000, output
    assert "rror" not in output
    with server.client() as client:
        assert 900 < client.dbsize() <= 1000


def test_redis_benchmark_as_a_cluster(server):
    before = server.metric("ringfence_cross_core_forwards_total")
    output = run(
        "redis-benchmark", "-p", str(server.core_port_base), "--cluster", "-t", "set,get", "-q", "-n", "50000",
        "-r", "1000",
    )
    assert {"SET", "GET"} <= rates(output).keys(), output
    assert server.metric("ringfence_cross_core_forwards_total") == before
    sizes = []
    for core in range(2):
        with redis.Redis(port=server.core_port_base + core) as client:
            sizes.append(client.dbsize())
    assert min(sizes) > 0, f"one core got everything: {sizes}"
