"""Twins: of two connections that get the same, one moves whenever it may; nothing tells them apart."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.frames import RSV1, deflated, split
from tests.frames import frame as raw
from tests.protocol.test_lanes import cuts, streams
from tests.worker.clock import on_the_clock, turns
from tests.worker.lines import Line, on_a_line, thawed
from tests.worker.service import (
    closing,
    frame,
    make_app,
    make_hub,
    text,
)
from wsworker.worker import freezing
from wsworker.worker.app import App
from wsworker.worker.connection import Connection


@pytest.fixture(scope="module")
def sock() -> Any:
    """A socket that is never used."""
    with socket.socket() as one:
        yield one


class Twins:
    """Two connections with the same app that get the same, of which one moves to another worker whenever it may."""

    def __init__(self, sock: socket.socket, app: App, limits: dict[str, Any]) -> None:
        self._sock = sock
        self._app = app
        self._limits = limits
        self.calls: dict[str, list[Any]] = {"stays": [], "moves": []}
        self.out: dict[str, bytearray] = {"stays": bytearray(), "moves": bytearray()}
        self.count = 0
        self.both: dict[str, tuple[Connection, Line]] = {}

    async def open(self) -> None:
        more = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        for name in ("stays", "moves"):
            self.both[name] = await on_a_line(make_hub(self._app, **self._limits), self._sock, more)
            self.both[name][0].data["name"] = name

    async def receive(self, data: bytes, takes: bool) -> None:
        for connection, line in self.both.values():
            if line.takes is not takes and not line.gone():
                line.takes = takes
                if takes:
                    line.open()
            if not line.gone() and connection._stage != "gone":
                connection.data_received(data)
        await turns()

    async def move(self) -> None:
        """Let one move if it may at this moment."""
        connection, line = self.both["moves"]
        if not freezing.may_go(connection):
            return
        freezing.hold(connection)
        await turns()
        if not freezing.may_go(connection) or freezing.hindrance(connection) is not None:
            freezing.let_go(connection)
            return
        frozen = freezing.freeze(connection, None)
        self._collect("moves", line)
        new, wire = thawed(make_hub(self._app, **self._limits), frozen), Line(self._sock)
        wire.takes = line.takes
        wire.protocol = new
        new.connection_made(wire)
        self.both["moves"] = new, wire
        self.count += 1
        await turns()

    def _collect(self, name: str, line: Line) -> None:
        data = b"".join(line.writes)
        self.out[name] += data[: len(data) - line.left]

    async def end(self) -> None:
        """Let the clients take all, and leave."""
        for name, (connection, line) in self.both.items():
            if not line.gone():
                line.open()
            for _ in range(20):
                await turns()
            self._collect(name, line)
            if not line.gone():
                connection.eof_received()
                connection.terminate()
        for _ in range(5):
            await turns()


def make_app_of(calls: dict[str, list[Any]], is_async: bool) -> App:
    """Return an app that writes down what it is called with, and answers."""

    def on_message(connection: Connection, data: str | bytes) -> None:
        calls[connection.data["name"]].append(data)
        connection.send(data * 3)
        if len(data) % 5 == 4:
            connection.pause()
            connection._home.loop.call_soon(connection.resume)

    async def on_message_later(connection: Connection, data: str | bytes) -> None:
        await asyncio.sleep(0)
        on_message(connection, data)

    def on_close(connection: Connection, code: int, reason: str) -> None:
        calls[connection.data["name"]].append((code, reason))

    return make_app(on_message=on_message_later if is_async else on_message, on_close=on_close)


moments = st.lists(st.booleans(), min_size=1, max_size=8).filter(any)
taking = st.lists(st.booleans(), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams, cuts, moments, taking, st.booleans())
def test_it_goes_on_as_if_nothing_had_been(
    sock: socket.socket, data: bytes, cuts: list[int], moments: list[bool], taking: list[bool], is_async: bool
) -> None:
    """Any bytes, cut anywhere, taken by the client or not, and a move at each moment at which it may.

    The same callbacks with the same data, and the same bytes for the client, up to the end.
    """

    async def main() -> None:
        calls: dict[str, list[Any]] = {"stays": [], "moves": []}
        limits = {"max_size": 300, "compression": "deflate", "send_buffer": 4000}
        twins = Twins(sock, make_app_of(calls, is_async), limits)
        await twins.open()
        for piece, moves, takes in zip(split(data, cuts), cycle(moments), cycle(taking), strict=False):
            await twins.receive(piece, takes)
            if moves:
                await twins.move()
        await twins.end()
        assert calls["stays"] == calls["moves"]
        assert twins.out["stays"] == twins.out["moves"]

    on_the_clock(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_moved_at_each_byte(sock: socket.socket, is_async: bool) -> None:
    """Text and binary, compressed, with control frames between, up to the Close: it does move, and often."""

    async def main() -> None:
        calls: dict[str, list[Any]] = {"stays": [], "moves": []}
        twins = Twins(sock, make_app_of(calls, is_async), {"compression": "deflate"})
        await twins.open()
        words: Sequence[bytes] = [
            text("hällo"),
            frame(Opcode.BINARY, b"\0" * 200),
            frame(Opcode.PING, b"p"),
            raw(0x81 | RSV1, deflated(b"squeezed " * 9)),
            text("pause"),
            closing(4000, "bye"),
        ]
        data = b"".join(words)
        for at in range(len(data)):
            await twins.receive(data[at : at + 1], at % 3 > 0)
            await twins.move()
        await twins.end()
        assert twins.count > 200
        assert ["hällo", b"\0" * 200, "squeezed " * 9, "pause", (4000, "bye")] == calls["stays"] == calls["moves"]
        assert twins.out["stays"] == twins.out["moves"]

    on_the_clock(main)
