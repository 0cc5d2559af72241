"""Busy clients: each sends a message at its own pace, whatever has come back, and knows how long its echoes take.

Messages have numbers, and what comes back must be the same numbers in the same order: a message that is lost, doubled
or out of order ends the benchmark, and so does a connection that closes. As in load.py there is no event loop and each
read costs one memcmp: a message is as long as any other, so all that a client may ever read is one prepared text.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks import client

MOST = 20_000
"""Messages of one client, at most."""

_DIGITS = 8
# a mask key of zeros changes nothing, RFC 6455 section 5.3
_REQUESTS = [b"\x81\x88\0\0\0\0%08d" % number for number in range(MOST)]
_REPLIES = b"".join(b"\x81\x08%08d" % number for number in range(MOST))
_REPLY_BYTES = 2 + _DIGITS


class _Client:
    """One of them. sent_at: of each message that has no echo yet; longest: that an echo has taken, in seconds."""

    __slots__ = ("fd", "longest", "number", "read_bytes", "sent_at")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.number = self.read_bytes = 0
        self.sent_at: deque[float] = deque()
        self.longest = 0.0


class Crowd:
    """Clients on connections that are open, spread evenly over the time between two messages of one of them."""

    def __init__(self, connections: Sequence[socket.socket], every_seconds: float) -> None:
        self._clients = [_Client(connection.fileno()) for connection in connections]
        self._by_fd = {one.fd: one for one in self._clients}
        self._step = every_seconds / len(connections)
        self._turn = 0
        self._epoll = select.epoll()
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)

    def run(self, goes_on: Callable[[], bool]) -> list[float]:
        """Send while it goes on, then wait for what is under way.

        goes_on: is called once in a while. Returns the longest time of each client from a message to its echo, in
        seconds, sorted. RuntimeError if an echo is wrong, or does not come.
        """
        for one in self._clients:
            one.longest = 0.0
        clock, due_at, sends = time.perf_counter, time.perf_counter(), True
        while sends or any(one.sent_at for one in self._clients):
            sends = sends and goes_on()
            look_at = clock() + 0.05
            while (now := clock()) < look_at:
                while sends and due_at <= now:
                    self._send(now)
                    due_at += self._step
                self._read(max(0.0, due_at - now) if sends else 0.05, clock)
            if any(one.sent_at and now - one.sent_at[0] > client.TIMEOUT_SECONDS for one in self._clients):
                raise RuntimeError(f"no echo within {client.TIMEOUT_SECONDS} s")
        return sorted(one.longest for one in self._clients)

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

    def _send(self, now: float) -> None:
        one = self._clients[self._turn]
        self._turn = (self._turn + 1) % len(self._clients)
        one.sent_at.append(now)
        os.write(one.fd, _REQUESTS[one.number])
        one.number += 1

    def _read(self, seconds: float, clock: Callable[[], float]) -> None:
        for fd, _ in self._epoll.poll(seconds):
            one = self._by_fd[fd]
            data = os.read(fd, 65536)
            if not data:
                raise RuntimeError("the server has closed a connection")
            if not _REPLIES.startswith(data, one.read_bytes):
                raise RuntimeError(f"no echo, but {data[:40]!r} at message {one.read_bytes // _REPLY_BYTES}")
            before, one.read_bytes = one.read_bytes, one.read_bytes + len(data)
            now = clock()
            for _ in range(one.read_bytes // _REPLY_BYTES - before // _REPLY_BYTES):
                one.longest = max(one.longest, now - one.sent_at.popleft())
