#!/usr/bin/env python3
"""A stampede: many clients miss one key at the same moment, with refresh leases and without.

Each client asks for the key on a connection of its own. With leases (`GETLEASE key WAIT ms`) the first is told to
fetch the value from where it comes from, and the others wait at the cache. Without them (`GET`) every client that
misses asks the origin. The origin takes its time and answers any number of requests at once, which no database does: the
figure to look at is how often it is asked.

    cargo build --release
    bench/stampede.py
    bench/stampede.py --clients 5000 --origin-ms 200

The targets: the origin is asked once, and all clients are answered within the origin's time and 10 ms more, counted
from when each sends its request. The exit code is 1 if a target is missed.

Needs two CPUs: the server runs on one and the clients on another.
"""

import argparse
import heapq
import os
import resource
import select
import socket
import sys
import time

from servers import ONE_PORT, Server

WAIT_MS = 10_000
GRACE_MS = 10
AT_ONCE = 16
VALUE = b"v" * 64


def request(*words):
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)])


class Stampede:
    """All clients, in one thread: what they were answered and when."""

    def __init__(self, port, clients, origin_ms, leases):
        self.leases, self.origin_ms = leases, origin_ms
        self.sockets = {}
        self.poll = select.epoll()
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The server knows it: the first round is not about connecting.
            client.sendall(request(b"PING"))
            assert client.recv(64) == b"+PONG\r\n"
            client.setblocking(False)
            self.sockets[client.fileno()] = client
            self.poll.register(client, select.EPOLLIN)

    def run(self, key):
        """How often the origin was asked, and how long each client waited, in ms."""
        ask = request(b"GETLEASE", key, b"WAIT", b"%d" % WAIT_MS) if self.leases else request(b"GET", key)
        sent, waited, origin, asked, stored = {}, [], [], 0, set()
        unsent = list(self.sockets.items())
        while len(waited) < len(self.sockets) or len(stored) < asked:
            # A few at a time: who is to fetch the value does not wait for the others to ask.
            for number, client in unsent[:AT_ONCE]:
                sent[number] = time.perf_counter()
                client.sendall(ask)
            del unsent[:AT_ONCE]
            now = time.perf_counter()
            while origin and origin[0][0] <= now:
                _, number, token = heapq.heappop(origin)
                lease = (b"LEASE", token) if token else ()
                self.sockets[number].sendall(request(b"SET", key, VALUE, b"PX", b"60000", *lease))
            until_origin = max(origin[0][0] - now, 0) if origin else 1
            for number, _ in self.poll.poll(0 if unsent else until_origin, 4096):
                reply = self.sockets[number].recv(4096)
                now = time.perf_counter()
                if reply == b"+OK\r\n":
                    stored.add(number)
                    waited.append(1000 * (now - sent[number]))
                elif VALUE in reply:
                    waited.append(1000 * (now - sent[number]))
                elif self.leases and reply.startswith(b"*3\r\n$-1\r\n$7\r\nfilling\r\n:"):
                    asked += 1
                    heapq.heappush(origin, (now + self.origin_ms / 1000, number, reply.split(b":")[1].strip()))
                elif not self.leases and reply == b"$-1\r\n":
                    asked += 1
                    heapq.heappush(origin, (now + self.origin_ms / 1000, number, None))
                else:
                    sys.exit(f"a client was answered {reply[:100]!r}")
        return asked, sorted(waited)

    def close(self):
        self.poll.close()
        for client in self.sockets.values():
            client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--origin-ms", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--ringfence", default="target/release/ringfence", metavar="PATH")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {options.load_cpu})
    command = [options.ringfence, "--port", "{port}", "--cpus", str(options.server_cpu), "--memory", "1GB", *ONE_PORT]
    server = Server("ringfence", command, options.server_cpu)
    met = True
    try:
        print(f"{options.clients} clients miss one key, the origin takes {options.origin_ms:g} ms\n")
        print(f"{'':<16}{'round':>6}{'origin asked':>14}{'p50 ms':>9}{'p99 ms':>9}{'last ms':>9}")
        for leases in (True, False):
            stampede = Stampede(server.port, options.clients, options.origin_ms, leases)
            for number in range(options.rounds):
                asked, waited = stampede.run(b"stampede:%d:%d" % (leases, number))
                name = "with leases" if leases else "without"
                p50, p99 = waited[len(waited) // 2], waited[len(waited) * 99 // 100]
                print(f"{name:<16}{number + 1:>6}{asked:>14}{p50:>9.1f}{p99:>9.1f}{waited[-1]:>9.1f}")
                met &= not leases or (asked == 1 and waited[-1] <= options.origin_ms + GRACE_MS)
            stampede.close()
    finally:
        server.stop()
    print(f"\nthe origin is asked once and all are answered within {options.origin_ms + GRACE_MS:g} ms:", "met" if met else "MISSED")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
