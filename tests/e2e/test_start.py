"""Hosts that refuse what the server needs, and signals at awkward moments.

A start that fails ends with exit code 1 and exactly one line on standard error,
which names the cause and what to do about it.
"""

import ctypes
import errno
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import PROGRAM, Server, free_ports

MIB = 1 << 20
NOBODY = 65534
# A documentation address (RFC 5737), which no host has.
NOT_OURS = "192.0.2.1"
IO_URING_SETUP = 425
STOPS_WITHIN = 1.0

libc = ctypes.CDLL(None, use_errno=True)


def arguments(**changes):
    settings = {
        "listen.port": free_ports(1),
        "listen.core_port_base": free_ports(2),
        "listen.admin_port": free_ports(1),
        "listen.memcached_port": 0,
        "listen.http_port": 0,
        "cores.cpus": "0,1",
        "cores.idle": "park",
        "memory": "64MB",
        **changes,
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def start(args=None, prepare=None, program=PROGRAM):
    return subprocess.Popen(
        [program, *(arguments() if args is None else args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def end(process, seconds):
    """Exit code and standard error of a process that must end by itself."""
    try:
        _, log = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, log = process.communicate()
        raise AssertionError(f"it did not end within {seconds} s: {log}") from None
    return process.returncode, log


def assert_refused(process, *words):
    status, log = end(process, 10)
    lines = log.splitlines()
    assert (status, len(lines)) == (1, 1), f"exit code {status}: {log}"
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"


def assert_serves_and_stops(process, port):
    wait_until_up(process, port)
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
    process.send_signal(signal.SIGTERM)
    status, log = end(process, 5)
    assert status == 0, log


def wait_until_up(process, port):
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    process.kill()
    raise AssertionError(f"it does not serve: {process.communicate()[1]}")


def without_io_uring(answer):
    """A seccomp filter under which io_uring_setup fails with `answer`, as in containers."""
    load_number, jump_if_equal, give = 0x20, 0x15, 0x06
    deny, allow = 0x0005_0000 | answer, 0x7FFF_0000
    program = [
        (load_number, 0, 0, 0),
        (jump_if_equal, 0, 1, IO_URING_SETUP),
        (give, 0, 0, deny),
        (give, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))

    def prepare():
        no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
        assert code and libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
        assert libc.prctl(set_seccomp, filter_mode, header, 0, 0) == 0

    return prepare


def limited(limit, value, uid=None):
    def prepare():
        resource.setrlimit(limit, (value, value))
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

    return prepare


@pytest.fixture(scope="module")
def program_for_all(tmp_path_factory):
    """A copy of the program that every user can run, however private its home is."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    folder = tmp_path_factory.mktemp("program")
    path = folder
    while path != path.parent and path.owner() == "root" and str(path) != "/tmp":
        path.chmod(0o755)
        path = path.parent
    return shutil.copy(PROGRAM, folder / "ringfence")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter knows x86-64's system call numbers")
@pytest.mark.parametrize("answer, remedy", [(errno.EPERM, "kernel.io_uring_disabled"), (errno.ENOSYS, "6.1")])
def test_a_host_that_forbids_io_uring(answer, remedy):
    process = start(prepare=without_io_uring(answer))
    assert_refused(process, "io_uring", os.strerror(answer), remedy, "seccomp")


def test_too_few_open_files_for_the_connections_asked_for():
    args = arguments(**{"limits.connections": 5000})
    assert_refused(start(args, limited(resource.RLIMIT_NOFILE, 1000)), "limits.connections", "ulimit -n", "5000")


def test_fewer_open_files_than_the_default_needs_lower_the_default():
    port = free_ports(1)
    process = start(arguments(**{"listen.port": port}), limited(resource.RLIMIT_NOFILE, 1000))
    assert_serves_and_stops(process, port)


@pytest.mark.parametrize("allowed", [0, 64 << 10])
def test_almost_no_locked_memory(program_for_all, allowed):
    process = start(prepare=limited(resource.RLIMIT_MEMLOCK, allowed, NOBODY), program=program_for_all)
    assert_refused(process, "memlock", "ulimit -l", "LimitMEMLOCK")


def test_locked_memory_for_the_executors_alone_works_or_says_what_is_missing(program_for_all):
    """Whether the kernel counts rings as locked memory depends on its version."""
    port = free_ports(1)
    prepare = limited(resource.RLIMIT_MEMLOCK, 512 << 10, NOBODY)
    process = start(arguments(**{"listen.port": port}), prepare, program_for_all)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        assert_serves_and_stops(process, port)
    else:
        assert_refused(process, "memlock", "ulimit -l", "LimitMEMLOCK")


def test_enough_locked_memory_for_somebody_without_privileges(program_for_all):
    port = free_ports(1)
    prepare = limited(resource.RLIMIT_MEMLOCK, 1536 << 10, NOBODY)
    assert_serves_and_stops(start(arguments(**{"listen.port": port}), prepare, program_for_all), port)


@pytest.mark.parametrize("allowed", [40, 80, 300, 500])
def test_too_narrow_an_address_space(allowed):
    process = start(prepare=limited(resource.RLIMIT_AS, allowed * MIB))
    assert_refused(process, "memory", "ulimit -v", f"{allowed} MiB")


def test_an_address_space_that_is_just_wide_enough():
    port = free_ports(1)
    process = start(arguments(**{"listen.port": port}), limited(resource.RLIMIT_AS, 700 * MIB))
    assert_serves_and_stops(process, port)


@pytest.mark.parametrize("key, offset", [("listen.port", 0), ("listen.core_port_base", 1), ("listen.admin_port", 0)])
def test_a_port_in_use(key, offset):
    base = free_ports(2)
    with socket.create_server(("127.0.0.1", base + offset)):
        assert_refused(start(arguments(**{key: base})), key, str(base + offset), "another port")


def test_ports_of_a_running_server(tmp_path):
    """Ports that are shared by the cores of one server are not shared with another."""
    server = Server(tmp_path / "log")
    try:
        assert_refused(start(arguments(**{"listen.port": server.port})), "listen.port", str(server.port))
    finally:
        assert server.stop() == 0


def test_an_address_of_another_host():
    assert_refused(start(arguments(**{"listen.bind": NOT_OURS})), "listen.bind", NOT_OURS)


def test_a_configuration_file_that_is_missing(tmp_path):
    path = tmp_path / "nowhere.toml"
    assert_refused(start(["--config", str(path)]), str(path), "cannot be read")


def test_a_configuration_file_that_is_a_folder(tmp_path):
    assert_refused(start(["--config", str(tmp_path)]), str(tmp_path), "cannot be read")


def test_a_configuration_file_of_somebody_else(tmp_path, program_for_all):
    path = tmp_path / "secret.toml"
    path.write_text('memory = "64MB"\n')
    path.chmod(0o600)
    prepare = limited(resource.RLIMIT_CORE, 0, NOBODY)
    assert_refused(start(["--config", str(path)], prepare, program_for_all), str(path), "cannot be read")


def stop(process, signals=(signal.SIGTERM,), pause=0.0):
    for number in signals:
        process.send_signal(number)
        time.sleep(pause)
    begin = time.monotonic()
    status, log = end(process, 10)
    took = time.monotonic() - begin
    assert status == 0, f"exit code {status}: {log}"
    assert took < STOPS_WITHIN, f"it took {took:.2f} s: {log}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number):
    port = free_ports(1)
    process = start(arguments(**{"listen.port": port}))
    wait_until_up(process, port)
    stop(process, [number])


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_a_second_signal_changes_nothing(pause):
    port = free_ports(1)
    process = start(arguments(**{"listen.port": port}))
    wait_until_up(process, port)
    stop(process, [signal.SIGTERM, signal.SIGTERM], pause)


def test_a_signal_while_it_starts():
    """From the moment at which the program has taken the signals over, it ends in order; before
    that the signal ends it as it ends every program."""
    in_order = 0
    for milliseconds in range(0, 50, 2):
        process = start()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        status, log = end(process, 10)
        assert time.monotonic() - begin < STOPS_WITHIN, log
        assert status == 0 or (status == -signal.SIGTERM and log == ""), f"exit code {status}: {log}"
        in_order += status == 0
    assert in_order > 10, "most of these signals come after the first few milliseconds"


def test_a_start_takes_less_than_a_second():
    port = free_ports(1)
    begin = time.monotonic()
    process = start(arguments(**{"listen.port": port, "memory": "1GB"}))
    wait_until_up(process, port)
    took = time.monotonic() - begin
    stop(process)
    assert took < 1, f"{took:.2f} s"


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("idle", ["park", "adaptive", "busy"])
def test_a_signal_under_the_load_of_3000_connections(many_files, idle):
    port = free_ports(1)
    process = start(arguments(**{"listen.port": port, "cores.idle": idle}))
    wait_until_up(process, port)
    clients, stopped = [], threading.Event()
    try:
        for _ in range(3000):
            clients.append(socket.create_connection(("127.0.0.1", port), 10))
        for client in clients:
            client.setblocking(False)

        def ask_on_and_on():
            while not stopped.is_set():
                for i, client in enumerate(clients):
                    try:
                        client.send(b"SET key:%d v\r\nGET key:%d\r\n" % (i, i))
                        client.recv(1 << 16)
                    except BlockingIOError:
                        pass
                    except OSError:
                        # It is stopping.
                        continue

        load = threading.Thread(target=ask_on_and_on)
        load.start()
        time.sleep(1)
        try:
            stop(process)
        finally:
            stopped.set()
            load.join()
    finally:
        for client in clients:
            client.close()
