"""Servers that the measurements start, and a client that loads them: not a program of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

# Ringfence with nothing but its shared port, so that several run beside each other.
ONE_PORT = [
    word
    for port in ("core_port_base", "admin_port", "memcached_port", "http_port")
    for word in ("--set", f"listen.{port}=0")
]
BATCH = 400
START_SECONDS = 60
BATCH_BYTES = 4 << 20


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_seconds(pid):
    """Time on a CPU of all threads, from the scheduler: nanoseconds, not ticks."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e9


class Server:
    def __init__(self, name, command, cpu, log=None):
        self.name, self.port = name, free_port()
        words = [w.replace("{port}", str(self.port)) for w in command]
        self.log = open(log, "ab") if log else None
        self.process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *words], stdout=subprocess.DEVNULL, stderr=self.log or subprocess.PIPE
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.3).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.end()
                    why = log or self.process.stderr.read().decode(errors="replace")
                    sys.exit(f"{name} did not start: {why}")
                time.sleep(0.05)

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        if self.process.poll() is None:
            self.go_on()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Client:
    """Pipelined GET and SET over one connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb", 1 << 20)

    def info(self, section):
        """The numbers of a section of INFO."""
        self.socket.sendall(f"INFO {section}\r\n".encode())
        text = self.input.read(int(self.input.readline()[1:]) + 2).decode()
        fields = (line.split(":", 1) for line in text.split() if ":" in line)
        return {name: int(value) for name, value in fields if value.isdigit()}

    def sets(self, pairs, ttl_ms=None):
        """Stores values of so many bytes, with a TTL that is a number or a function; answers how many were refused."""
        refused = 0
        for batch in batches(pairs):
            out = []
            for key, size in batch:
                ttl = ttl_ms() if callable(ttl_ms) else ttl_ms
                tail = b"" if ttl is None else b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(ttl)), ttl)
                words = 3 if ttl_ms is None else 5
                out.append(b"*%d\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (words, len(key), key, size))
                out.append(b"v" * size + b"\r\n" + tail)
            self.socket.sendall(b"".join(out))
            refused += sum(self.input.readline()[:1] != b"+" for _ in batch)
        return refused

    def gets(self, pairs):
        """Reads keys; answers those that were missed."""
        missed = []
        for batch in batches(pairs):
            self.socket.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key) for key, _ in batch))
            for key, size in batch:
                length = int(self.input.readline()[1:])
                if length < 0:
                    missed.append((key, size))
                elif self.input.read(length + 2)[:-2] != b"v" * length:
                    sys.exit(f"{key} answers what was never written")
        return missed


def batches(pairs):
    batch, held = [], 0
    for pair in pairs:
        batch.append(pair)
        held += pair[1]
        if len(batch) == BATCH or held > BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def status(server, field):
    with open(f"/proc/{server.process.pid}/status") as f:
        return int(re.search(rf"{field}:\s+(\d+)", f.read()).group(1)) * 1024
