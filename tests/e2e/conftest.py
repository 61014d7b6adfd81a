"""A running server for every test that asks for one.

The program is what RINGFENCE_BIN names, else target/release/ringfence. Every
process is ended by its own id when its fixture ends, also after a failure.
"""

import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.request

import pytest
import redis

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RINGFENCE_BIN") or str(ROOT / "target" / "release" / "ringfence")
START_ATTEMPTS = 5
START_SECONDS = 15


def free_ports(count):
    """The first of `count` ports in a row that nobody listens on."""
    for _ in range(1000):
        held = [socket.socket() for _ in range(count)]
        try:
            held[0].bind(("127.0.0.1", 0))
            base = held[0].getsockname()[1]
            for i in range(1, count):
                held[i].bind(("127.0.0.1", base + i))
            return base
        except (OSError, OverflowError):
            continue
        finally:
            for s in held:
                s.close()
    raise RuntimeError(f"no {count} free ports in a row on 127.0.0.1")


class Server:
    """One server process, with two cores if nothing else is said."""

    def __init__(self, log_path, extra=(), cpus="0,1", memory="256MB"):
        self.log_path = log_path
        for attempt in range(START_ATTEMPTS):
            self.port, self.core_port_base, self.admin_port = free_ports(1), free_ports(2), free_ports(1)
            arguments = [
                PROGRAM,
                "--port", str(self.port),
                "--set", f"listen.core_port_base={self.core_port_base}",
                "--set", f"listen.admin_port={self.admin_port}",
                "--set", "listen.memcached_port=0",
                "--set", "listen.http_port=0",
                "--set", "cores.idle=park",
                "--cpus", cpus,
                "--memory", memory,
                *extra,
            ]
            with open(log_path, "wb") as log:
                self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            if self._ready():
                return
            self.stop()
            # Only a port that somebody took in between is worth another try.
            if "port" not in self.log():
                break
        raise RuntimeError(f"the server did not start: {self.log()}")

    def _ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.http("/readyz")[0] == 200:
                    return True
            except OSError:
                pass
            time.sleep(0.02)
        return False

    def log(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def http(self, path):
        """Status, body and headers of a GET on the admin port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as response:
            return response.status, response.read().decode(), response.headers

    def metric(self, name):
        """The sum of a metric over its labels, once it stands still."""
        last = None
        for _ in range(30):
            text = self.http("/metrics")[1]
            values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)", text, re.MULTILINE)
            assert values, f"no metric {name}"
            now = sum(float(v) for v in values)
            if now == last:
                return now
            last = now
            time.sleep(0.3)
        raise AssertionError(f"{name} never stood still")

    def client(self, **options):
        return redis.Redis(port=self.port, **{"socket_timeout": 10, **options})


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    instance = Server(tmp_path_factory.mktemp("server") / "log")
    yield instance
    status = instance.stop()
    assert status == 0, f"the server ended with {status}: {instance.log()}"


@pytest.fixture
def server(shared_server):
    """The module's server, emptied."""
    with shared_server.client() as client:
        client.flushall()
    for core in range(2):
        with redis.Redis(port=shared_server.core_port_base + core, socket_timeout=10) as client:
            client.flushall()
    return shared_server
