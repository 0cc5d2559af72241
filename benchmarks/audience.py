"""The load of the broadcast benchmark: everybody in a room reads, and one of them asks for the next messages.

He asks when the last of all has the last message; so there is always one request under way, and what a server does for
it is what the benchmark measures. The frames are known in advance, and what arrives is compared with them: one memcmp
for each read. As in load.py there is no event loop in between.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import psutil

from benchmarks import client
from benchmarks.load import reply_frame, request_frame
from benchmarks.peers.room import MESSAGE
from benchmarks.usage import cpu_seconds

WARM_UP_SECONDS = 0.5
# for subscriptions to reach the other workers and brokers
SETTLE_SECONDS = 10.0
QUIET_SECONDS = 0.1


@dataclass(frozen=True)
class Result:
    """What was measured in one window.

    deliveries: messages that arrived, of all clients; server_cpu_seconds: user and system time of all processes of the
    server but its broker, which has broker_cpu_seconds; last_ms: from the request until the last client had the last
    message, the median.
    """

    deliveries: int
    seconds: float
    server_cpu_seconds: float
    broker_cpu_seconds: float
    client_cpu_seconds: float
    last_ms: float

    @property
    def per_cpu_second(self) -> float:
        """Deliveries for each second of server CPU: the figure that servers are compared by."""
        # as in load.py
        return self.deliveries / max(self.server_cpu_seconds, 0.01)


class Audience:
    """All clients of a room, as a context. connections: open ones, of which the first one asks."""

    def __init__(self, connections: Sequence[socket.socket]) -> None:
        self.size = len(connections)
        self._asker = connections[0].fileno()
        self._fds = [connection.fileno() for connection in connections]
        self._epoll = select.epoll()
        for fd in self._fds:
            self._epoll.register(fd, select.EPOLLIN)

    def settle(self) -> None:
        """Wait until a message reaches everybody once; raises RuntimeError if that takes too long.

        Whoever has just connected need not be known yet in the other workers of a server.
        """
        whole = len(reply_frame(MESSAGE.encode()))
        give_up_at = time.monotonic() + SETTLE_SECONDS
        got: dict[int, int] = {}
        while time.monotonic() < give_up_at:
            got = dict.fromkeys(self._fds, 0)
            os.write(self._asker, request_frame(b"1"))
            while ready := self._epoll.poll(QUIET_SECONDS):
                for fd, _ in ready:
                    data = os.read(fd, whole)
                    if not data:
                        raise RuntimeError("the server has closed a connection")
                    got[fd] += len(data)
            if all(size == whole for size in got.values()):
                return
        reached = sum(size == whole for size in got.values())
        raise RuntimeError(f"a message has reached {reached} of {len(got)} clients once")

    def run(self, publishes: int, seconds: float) -> list[float]:
        """Ask for some seconds, for so many messages each time; return how long it took each time, in seconds.

        Raises RuntimeError if anything else arrives, or nothing.
        """
        clock = time.perf_counter
        request = request_frame(str(publishes).encode())
        expected = reply_frame(MESSAGE.encode()) * publishes
        took: list[float] = []
        until = clock() + seconds
        while not took or clock() < until:
            asked_at = clock()
            os.write(self._asker, request)
            self._hear(expected)
            took.append(clock() - asked_at)
        return took

    def _hear(self, expected: bytes) -> None:
        """Read until everybody has got this."""
        # as in load.py: this loop is what the client costs
        read, poll, most = os.read, self._epoll.poll, len(expected)
        begun: dict[int, int] = {}  # how much has come where it is not all yet
        missing = len(self._fds)
        while missing:
            ready = poll(client.TIMEOUT_SECONDS)
            if not ready:
                raise RuntimeError(f"{missing} clients have not got all within {client.TIMEOUT_SECONDS} s")
            for fd, _ in ready:
                begin = begun.get(fd, 0)
                data = read(fd, most)
                if not data or not expected.startswith(data, begin):
                    raise RuntimeError(f"not the message, but {data[:40]!r} at byte {begin}")
                if begin + len(data) < most:
                    begun[fd] = begin + len(data)
                else:
                    begun.pop(fd, None)
                    missing -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._epoll.close()


def measure(
    audience: Audience,
    publishes: int,
    seconds: float,
    servers: Sequence[psutil.Process],
    brokers: Sequence[psutil.Process],
) -> Result:
    """Measure one window after a warm-up; raises RuntimeError if a message does not arrive."""
    try:
        audience.run(publishes, WARM_UP_SECONDS)
        started, server, broker = time.perf_counter(), cpu_seconds(servers), cpu_seconds(brokers)
        own = time.process_time()
        took = audience.run(publishes, seconds)
        elapsed, own = time.perf_counter() - started, time.process_time() - own
        server, broker = cpu_seconds(servers) - server, cpu_seconds(brokers) - broker
    except OSError as exc:
        raise RuntimeError(f"a connection broke: {exc}") from None
    deliveries = len(took) * publishes * audience.size
    return Result(deliveries, elapsed, server, broker, own, statistics.median(took) * 1000)
