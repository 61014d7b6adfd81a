"""What the tests of ringfence-bench share: running it, reading its report, and the servers it is pointed at.

The program is what RINGFENCE_BENCH_BIN names, else target/release/ringfence-bench. Every process
is ended by its own id when its `with` ends, also after a failure.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import redis

from conftest import ROOT, START_ATTEMPTS, free_ports

# Not every PATH has the folder of servers.
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
BENCH = os.path.abspath(os.environ.get("RINGFENCE_BENCH_BIN") or ROOT / "target" / "release" / "ringfence-bench")
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, LOAD_CPU = CPUS[0], CPUS[-1]
# Makes the load on two threads, of which one shares its CPU with the server.
TWO_THREADS = ["--cpus", f"{SERVER_CPU},{LOAD_CPU}"]
START_SECONDS = 15
# How often a whole measurement is repeated when the generator itself came late, which happens on a
# machine that does other things as well.
MEASUREMENTS = 4

PASSED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class Done:
    """A call that has ended."""

    def __init__(self, arguments, code, out, err):
        self.arguments, self.code, self.out, self.err = arguments, code, out, err

    def __repr__(self):
        return f"ringfence-bench {' '.join(self.arguments)}\nexit code {self.code}\n{self.out}{self.err}"

    @property
    def report(self):
        return json.loads(self.out)

    @property
    def run(self):
        return self.report["run"]

    @property
    def counts(self):
        return self.run["counts"]

    @property
    def faults(self):
        """The kinds of fault, in the order in which they are told."""
        return [fault["kind"] for fault in self.report["verdict"]["faults"]]

    def passed(self):
        assert (self.code, self.err) == (PASSED, ""), self
        return self


def undisturbed():
    """Puts this process ahead of what else the machine does, where that is allowed: fewer measurements are spoiled."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)


def on_server_cpu():
    os.sched_setaffinity(0, {SERVER_CPU})
    undisturbed()


class Running:
    """A call that has not ended yet. As a context it is ended with the block, whatever happens there."""

    def __init__(self, *arguments, **options):
        self.arguments = [str(argument) for argument in arguments]
        self.process = subprocess.Popen(
            [BENCH, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=undisturbed,
            **options,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            # It ends the servers that it has started.
            self.process.terminate()
            try:
                self.process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()

    def until(self, holds):
        """Waits, while it runs, until `holds` answers something true, and answers that."""
        def look():
            assert self.process.poll() is None, self.end()
            return holds()

        return until(look)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self, limit=60):
        out, err = self.process.communicate(timeout=limit)
        return Done(self.arguments, self.process.returncode, out, err)


def bench(*arguments, limit=60, **options):
    """Runs it to its end."""
    with Running(*arguments, **options) as running:
        return running.end(limit)


def was_late(done):
    """Whether the generator's own lateness, and nothing else, spoiled a measurement."""
    return done.code == FAILED and set(done.faults) == {"generator late"}


def counted(*arguments, **options):
    """A run that passes, for its counts: whether the generator or the server was slow is no matter to them."""
    done = bench(*arguments, "--json", **options)
    assert set(done.faults) <= {"generator late", "server overloaded"}, done
    assert done.code == (FAILED if done.faults else PASSED), done
    assert done.err == "", done
    return done


def until(holds, seconds=10, pause=0.005):
    """Waits until `holds` answers something true, and answers that."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"nothing came of it within {seconds} s"
        time.sleep(pause)
    return found


def assert_refused(done, *words, files=()):
    """It did not come to a run: one line that says why, and no file."""
    lines = done.err.splitlines()
    assert (done.code, len(lines), done.out) == (REFUSED, 1, ""), done
    assert lines[0].startswith("ringfence-bench: "), done
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"
    for folder in files:
        assert list(pathlib.Path(folder).iterdir()) == [], done


def listening(answer):
    """A port at which every connection is handed to `answer`, and the call that stops it."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()

    def stop():
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()

    return listener.getsockname()[1], stop


class Daemon:
    """A real server on a port of its own, on the CPU that makes no load."""

    speaks = "resp2"

    def __init__(self, folder, *options, ports=1):
        self.folder = pathlib.Path(folder)
        self.log_path = self.folder / "log"
        for _ in range(START_ATTEMPTS):
            self.port = free_ports(ports)
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    self.command(*options),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=on_server_cpu,
                )
            if self._accepts():
                return
            # Most often somebody took the port in between.
            self.stop()
        raise RuntimeError(f"no server: {self.log_path.read_text(errors='replace')}")

    def _accepts(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            time.sleep(0.01)
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """None has anything to bring to an end: it is ended at once, also if it is stopped."""
        self.process.kill()
        self.process.wait()

    def stall(self, seconds):
        """Stops it for a while, and answers for how long that was."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)
        return time.monotonic() - begin

    @property
    def target(self):
        return ["--target", f"127.0.0.1:{self.port}", "--protocol", self.speaks]


class Redis(Daemon):
    """redis-server, without a file of its own."""

    def command(self, *options):
        fixed = ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        return ["redis-server", *map(str, fixed), *options]

    def client(self, **options):
        return redis.Redis(port=self.port, **{"socket_timeout": 10, **options})

    def calls(self):
        """How often each command was called."""
        with self.client() as client:
            stats = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}

    def empty(self):
        with self.client() as client:
            client.flushall()
            client.config_resetstat()


class Memcached(Daemon):
    """memcached with one thread."""

    speaks = "memcache-text"

    def command(self, *options):
        # It refuses to serve as root unless it is told a user.
        user = ["-u", "root"] if os.getuid() == 0 else []
        return ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-t", "1", *user, *options]

    def ask(self, command, end):
        """What it answers to a command, up to a line that is `end`."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(command + b"\r\n")
            answer = b""
            while not answer.endswith(end.encode() + b"\r\n"):
                some = connection.recv(1 << 16)
                assert some, f"it closed the connection after {answer!r}"
                answer += some
        return answer

    def stats(self):
        lines = self.ask(b"stats", "END").decode().split("\r\n")
        return dict(line.split(" ")[1:3] for line in lines if line.startswith("STAT "))

    def value(self, key):
        head, _, value = self.ask(f"get {key}".encode(), "END").partition(b"\r\n")
        assert head.startswith(b"VALUE "), f"there is no {key}"
        return value[: -len(b"\r\nEND\r\n")]


class Nginx(Daemon):
    """nginx with its dav module: a file for each key, and connections of few requests."""

    speaks = "http"
    CONFIGURATION = """
        daemon off;
        # All of it in the one process that is started and ended here.
        master_process off;
        {user}
        pid {folder}/pid;
        error_log stderr;
        events {{ worker_connections 1000; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            default_type application/octet-stream;
            keepalive_requests {keepalive_requests};
            server {{
                listen 127.0.0.1:{port};
                location /v1/cache/ {{
                    root {folder}/files;
                    dav_methods PUT DELETE;
                    create_full_put_path on;
                }}
            }}
        }}
    """

    def command(self, keepalive_requests=50):
        (self.folder / "files").mkdir(exist_ok=True)
        configuration = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        text = self.CONFIGURATION.format(
            folder=self.folder, port=self.port, user=user, keepalive_requests=keepalive_requests,
        )
        configuration.write_text(text)
        return [NGINX, "-c", str(configuration), "-p", str(self.folder)]

    def sizes(self):
        """The length of each value that it has."""
        return {file.name: file.stat().st_size for file in (self.folder / "files" / "v1" / "cache").iterdir()}


def percentiles(text):
    """Value in milliseconds, part and count of each row of a file in HdrHistogram's own format."""
    rows = [line.split() for line in text.splitlines() if re.match(r"^ +[0-9]", line)]
    return [(float(row[0]), float(row[1]), int(row[2])) for row in rows]


def longer_than(text, milliseconds):
    """How many values of such a file are longer: at least, and at most. Between two rows it tells no more."""
    rows = percentiles(text)
    total = rows[-1][2]
    below = max((count for value, _, count in rows if value <= milliseconds), default=0)
    first_above = min((count for value, _, count in rows if value > milliseconds), default=total + 1)
    return total - first_above + 1, total - below
