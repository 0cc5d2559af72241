"""The load client of the echo benchmark: one process, uvloop, no WebSocket library.

It must cost less than the server, or it would measure itself. So every client frame is built once, with a fixed mask
key, and every reply is known in advance: an unfragmented, unmasked frame with the same payload (RFC 6455 section 5.2).
What arrives must be the endless repetition of that frame. Comparing it with a prepared piece of the repetition is one
memcmp, which checks each byte of each echo and tells how many replies are complete.

CPU time of the server is read here, at the same moments as the message count, from the processes below a given pid.
The result goes to stdout as one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import psutil
import uvloop

HOST = "127.0.0.1"
WARM_UP_SECONDS = 0.5
CONNECT_SECONDS = 10.0
MASK = bytes.fromhex("37fa213d")
KEY = base64.b64encode(b"benchmark client")
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
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
        """Messages for each second of server CPU: the figure that peers are compared by."""
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
    """What all connections count together. latencies: (seconds, how many messages took so long)."""

    def __init__(self) -> None:
        self.messages = 0
        self.latencies: list[tuple[float, int]] = []

    def add(self, seconds: float, messages: int) -> None:
        """Count messages that were answered after seconds."""
        self.messages += messages
        self.latencies.append((seconds, messages))

    def percentile(self, percent: float) -> float:
        """Return the latency in seconds that so many percent of the messages did not exceed."""
        rank = self.messages * percent / 100
        seen = 0
        for seconds, messages in sorted(self.latencies):
            seen += messages
            if seen >= rank:
                return seconds
        return 0.0


class Client(asyncio.Protocol):
    """One connection that keeps depth messages in flight until it is stopped.

    failed: gets the first error of any connection. The tally can be replaced at any time.
    """

    def __init__(self, load: Load, tally: Tally, failed: asyncio.Future[None]) -> None:
        payload = bytes(33 + position % 90 for position in range(load.size))
        self.tally = tally
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failed = failed
        self._depth = load.depth
        self._requests = [request_frame(payload) * count for count in range(load.depth + 1)]
        self._reply_bytes = len(reply_frame(payload))
        # no more than depth replies are outstanding, and the first may have come in part
        self._replies = reply_frame(payload) * (load.depth + 1)
        self._offset = 0
        self._sent: deque[tuple[float, int]] = deque()
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def itself(self) -> Client:
        """Return this client, as the protocol factory that create_connection wants."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            b"GET / HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Compare with what must come, count what is complete and send as much again."""
        if not self.opened.done():
            self._read_handshake(data)
            return
        if not self._replies.startswith(data, self._offset):
            self._fail(f"the server did not echo: {data[:40]!r} came at byte {self._offset} of a reply")
            return
        replies, self._offset = divmod(self._offset + len(data), self._reply_bytes)
        if replies:
            now = time.perf_counter()
            self._count(replies, now)
            self._send(replies, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Lose a connection: an error, unless it was closed by us."""
        if self._transport is not None:
            self._fail(f"the server closed a connection: {exc}")

    def start(self) -> None:
        """Send the first messages; from then on each reply sends the next one."""
        self._send(self._depth, time.perf_counter())

    def close(self) -> None:
        """Drop the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def _read_handshake(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT not in head or rest:
            self._fail(f"the server refused the handshake: {self._head[:200]!r}")
            return
        self.opened.set_result(None)

    def _send(self, messages: int, now: float) -> None:
        if self._transport is not None:
            self._sent.append((now, messages))
            self._transport.write(self._requests[messages])

    def _count(self, replies: int, now: float) -> None:
        # replies come in the order of the messages, but not in the same portions
        while replies:
            sent_at, messages = self._sent.popleft()
            if messages > replies:
                self._sent.appendleft((sent_at, messages - replies))
                messages = replies
            self.tally.add(now - sent_at, messages)
            replies -= messages

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(RuntimeError(reason))
        self.close()


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the user and system time of processes, in seconds; raises psutil.NoSuchProcess when one is gone."""
    times = [process.cpu_times() for process in processes]
    return sum(spent.user + spent.system for spent in times)


async def measure(load: Load, port: int, server_pid: int, seconds: float) -> Result:
    """Drive the server on a port for some seconds after a warm-up; raises RuntimeError if it does not echo."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    tally = Tally()
    clients = [Client(load, tally, failed) for _ in range(load.connections)]
    try:
        await connect(clients, port, failed)
        for client in clients:
            client.start()
        await run_for(WARM_UP_SECONDS, failed)
        top = psutil.Process(server_pid)
        servers = [top, *top.children(recursive=True)]
        tally = Tally()
        for client in clients:
            client.tally = tally
        started, server, own = time.perf_counter(), cpu_seconds(servers), time.process_time()
        await run_for(seconds, failed)
        elapsed = time.perf_counter() - started
        server, own = cpu_seconds(servers) - server, time.process_time() - own
    finally:
        for client in clients:
            client.close()
    p50, p99 = tally.percentile(50) * 1000, tally.percentile(99) * 1000
    return Result(tally.messages, elapsed, server, own, p50, p99)


async def connect(clients: Sequence[Client], port: int, failed: asyncio.Future[None]) -> None:
    """Open all connections, one after the other, and wait for the last handshake."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            for client in clients:
                await loop.create_connection(client.itself, HOST, port)
            opened = asyncio.gather(*(client.opened for client in clients))
            waited_for: set[asyncio.Future[Any]] = {opened, failed}
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        # what went wrong with one of them says more
        if not failed.done():
            raise RuntimeError(f"the server did not answer every handshake within {CONNECT_SECONDS:g} s") from None
    if failed.done():
        failed.result()


async def run_for(seconds: float, failed: asyncio.Future[None]) -> None:
    """Let the clients work, at most until one of them fails, whose error is raised."""
    await asyncio.wait({failed}, timeout=seconds)
    if failed.done():
        failed.result()


def main() -> None:
    """Measure once and print the result."""
    parser = argparse.ArgumentParser(description="Drive a WebSocket echo server on the loopback and print JSON.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="top process of the server")
    parser.add_argument("--size", type=int, default=32, help="payload in bytes")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--depth", type=int, default=1, help="messages in flight per connection")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    load = Load(options.size, options.connections, options.depth)
    try:
        result = uvloop.run(measure(load, options.port, options.pid, options.seconds))
    except (TimeoutError, OSError, RuntimeError, psutil.Error) as exc:
        raise SystemExit(f"load client: {exc}") from exc
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
