"""Many connections, and clients that die."""

import asyncio
import resource
import signal
import subprocess
import sys
import time

import pytest

CONNECTIONS = 10_000
# Connections opened at once: the listen backlog of an untuned host is 4096.
OPENING = 500

DYING_CLIENT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"*3\\r\\n$3\\r\\nSET\\r\\n$4\\r\\nhalf\\r\\n$8000000\\r\\n" + b"x" * 1000)
print("writing", flush=True)
while True:
    s.sendall(b"x" * 100)
    __import__("time").sleep(0.001)
"""


@pytest.fixture
def many_files():
    """As many descriptors as the host allows, handed down to the server as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard == resource.RLIM_INFINITY or hard >= CONNECTIONS + 200, (
        f"{CONNECTIONS} connections need more than {hard} file descriptors: raise `ulimit -Hn`"
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask(reader, writer, command, length):
    writer.write(command)
    return await asyncio.wait_for(reader.readexactly(length), 30)


async def open_all(port):
    gate = asyncio.Semaphore(OPENING)

    async def one():
        async with gate:
            return await asyncio.open_connection("127.0.0.1", port)

    return await asyncio.gather(*[one() for _ in range(CONNECTIONS)])


async def everybody(port):
    connections = await open_all(port)
    try:
        async def set_and_get(i, reader, writer):
            key, value = f"conn:{i:05}".encode(), f"{i:05}".encode()
            assert await ask(reader, writer, b"SET %s %s\r\n" % (key, value), 5) == b"+OK\r\n"
            got = await ask(reader, writer, b"*2\r\n$3\r\nGET\r\n$10\r\n%s\r\n" % key, 11)
            assert got == b"$5\r\n%s\r\n" % value

        # All are open before the first asks, and all ask twice.
        for _ in range(2):
            await asyncio.gather(*[set_and_get(i, *c) for i, c in enumerate(connections)])
    finally:
        for _, writer in connections:
            writer.close()


def test_ten_thousand_connections_at_once(many_files, tmp_path):
    from conftest import Server

    server = Server(tmp_path / "log", ["--set", f"limits.connections={CONNECTIONS + 100}"])
    try:
        asyncio.run(everybody(server.port))
        with server.client() as client:
            assert client.dbsize() == CONNECTIONS
            assert client.ping()
    finally:
        status = server.stop()
    assert status == 0, server.log()


def test_clients_killed_while_writing_leave_no_trace(server):
    with server.client() as client:
        client.set("whole", "v")
        for _ in range(5):
            victim = subprocess.Popen(
                [sys.executable, "-c", DYING_CLIENT, str(server.port)], stdout=subprocess.PIPE, text=True
            )
            try:
                assert victim.stdout.readline() == "writing\n"
                time.sleep(0.05)
            finally:
                victim.send_signal(signal.SIGKILL)
                assert victim.wait(5) == -signal.SIGKILL
                victim.stdout.close()
            begin = time.monotonic()
            assert client.get("whole") == b"v"
            assert client.get("half") is None
            assert time.monotonic() - begin < 1
        assert client.dbsize() == 1
