"""The load of the echo benchmark: some connections, on each of them a fixed number of messages in flight.

Client frames are built once, with a fixed mask key, and every reply is known in advance: an unfragmented, unmasked
frame with the same payload (RFC 6455 section 5.2). What arrives must be the endless repetition of that frame. Comparing
it with a prepared piece of the repetition is one memcmp, which checks each byte of each echo and tells how many replies
are complete. So a portion of replies costs the client one read and one write, and there is nothing between it and the
kernel: an event loop, even uvloop, would make it slower than the fastest of the servers.
"""

from __future__ import annotations

import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import client
from benchmarks.usage import cpu_seconds, processes

WARM_UP_SECONDS = 0.5
MASK = bytes.fromhex("37fa213d")
FIN_TEXT = 0x81


@dataclass(frozen=True)
class Load:
    """What the clients do. size: payload of a text message in bytes; depth: messages in flight per connection."""

    size: int
    connections: int
    depth: int


@dataclass(frozen=True)
class Result:
    """What was measured in one window; cpu_seconds are user and system time, of all server processes together."""

    messages: int
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_cpu_second(self) -> float:
        """Messages for each second of server CPU: the figure that servers are compared by."""
        # CPU time comes in ticks of 10 ms; an idle server has not answered anything either
        return self.messages / max(self.server_cpu_seconds, 0.01)


def header(length: int, mask_bit: int) -> bytes:
    """Return the header of a whole text frame, with the shortest length field."""
    if length < 126:
        return bytes([FIN_TEXT, mask_bit | length])
    if length < 65536:
        return bytes([FIN_TEXT, mask_bit | 126]) + length.to_bytes(2, "big")
    return bytes([FIN_TEXT, mask_bit | 127]) + length.to_bytes(8, "big")


def request_frame(payload: bytes) -> bytes:
    """Return the masked frame of a client."""
    masked = bytes(byte ^ MASK[position % 4] for position, byte in enumerate(payload))
    return header(len(payload), 0x80) + MASK + masked


def reply_frame(payload: bytes) -> bytes:
    """Return the frame that a server must echo."""
    return header(len(payload), 0) + payload


class Tally:
    """What all connections count together: portions of messages that took equally long."""

    def __init__(self) -> None:
        self.seconds = array("d")
        self.counts = array("L")

    def count(self, sent: deque[tuple[float, int]], replies: int, now: float) -> None:
        """Count replies of one connection, and as many messages that are sent for them now.

        sent: (when, how many messages), oldest first. Replies come in their order, but not in the same portions.
        """
        sent.append((now, replies))
        while replies:
            sent_at, messages = sent.popleft()
            if messages > replies:
                sent.appendleft((sent_at, messages - replies))
                messages = replies
            self.seconds.append(now - sent_at)
            self.counts.append(messages)
            replies -= messages

    @property
    def messages(self) -> int:
        """How many messages were answered."""
        return sum(self.counts)

    def percentile(self, percent: float) -> float:
        """Return the latency in seconds that so many percent of the messages did not exceed."""
        rank = self.messages * percent / 100
        seen = 0
        for seconds, count in sorted(zip(self.seconds, self.counts, strict=True)):
            seen += count
            if seen >= rank:
                return seconds
        return 0.0


class Stream:
    """What is under way on one connection. offset: bytes that came of an unfinished reply; sent: as Tally.count."""

    __slots__ = ("offset", "sent")

    def __init__(self) -> None:
        self.offset = 0
        self.sent: deque[tuple[float, int]] = deque()


class Generator:
    """Keeps messages in flight on connections that are open; nothing happens outside start and run."""

    def __init__(self, load: Load, connections: Sequence[socket.socket]) -> None:
        payload = bytes(33 + position % 90 for position in range(load.size))
        self._depth = load.depth
        self._requests = [request_frame(payload) * count for count in range(load.depth + 1)]
        self._reply_bytes = len(reply_frame(payload))
        # no more than depth replies are outstanding, and the first may have come in part
        self._replies = reply_frame(payload) * (load.depth + 1)
        self._streams = {connection.fileno(): Stream() for connection in connections}
        self._epoll = select.epoll()
        for fd in self._streams:
            self._epoll.register(fd, select.EPOLLIN)

    def start(self) -> None:
        """Send the first messages; from then on each reply sends the next one."""
        for fd, stream in self._streams.items():
            stream.sent.append((time.perf_counter(), self._depth))
            os.write(fd, self._requests[self._depth])

    def run(self, seconds: float) -> Tally:
        """Answer replies for some seconds; raises RuntimeError if the server does not echo."""
        # names of this function, and nothing called that could be avoided: this loop is what the client costs
        read, write, clock = os.read, os.write, time.perf_counter
        streams, requests, expected = self._streams, self._requests, self._replies
        reply_bytes, most = self._reply_bytes, self._depth * self._reply_bytes
        tally = Tally()
        count = tally.count
        until = clock() + seconds
        while clock() < until:
            ready = self._epoll.poll(client.TIMEOUT_SECONDS)
            if not ready:
                raise RuntimeError(f"no echo within {client.TIMEOUT_SECONDS} s")
            for fd, _ in ready:
                stream = streams[fd]
                data = read(fd, most)
                if not data or not expected.startswith(data, stream.offset):
                    raise RuntimeError(f"no echo, but {data[:40]!r} at byte {stream.offset} of a reply")
                replies, stream.offset = divmod(stream.offset + len(data), reply_bytes)
                if replies:
                    now = clock()
                    count(stream.sent, replies, now)
                    # it may block, but not for ever: the server can write, since all that it wrote has been read
                    if write(fd, requests[replies]) != len(requests[replies]):
                        raise RuntimeError("the server does not read what it is sent")
        return tally

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()


def measure(load: Load, port: int, pid: int, seconds: float) -> Result:
    """Drive the server on a port for some seconds after a warm-up; raises RuntimeError if it does not echo.

    pid: the top process of the server.
    """
    connections = client.open_connections(port, load.connections)
    generator = Generator(load, connections)
    try:
        generator.start()
        generator.run(WARM_UP_SECONDS)
        servers = processes(pid)
        started, server, own = time.perf_counter(), cpu_seconds(servers), time.process_time()
        tally = generator.run(seconds)
        elapsed = time.perf_counter() - started
        server, own = cpu_seconds(servers) - server, time.process_time() - own
    except OSError as exc:
        raise RuntimeError(f"a connection broke: {exc}") from None
    finally:
        generator.close()
        client.drop(connections)
    p50, p99 = tally.percentile(50) * 1000, tally.percentile(99) * 1000
    return Result(tally.messages, elapsed, server, own, p50, p99)
