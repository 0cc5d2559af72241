"""A loop whose time passes when a test says so, and a client at the end of a wire that takes bytes when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.frames import Opcode

from tests.frames import parse
from tests.worker.service import Recorder, connect, head, make_hub
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub
from wsworker.worker.wheel import TICK_SECONDS

TURNS = 4
"""Of the loop in each tick: what is due, what that leads to, and the end of a connection."""


class Clock(asyncio.SelectorEventLoop):
    """It never waits: a test that awaits what only time brings must let time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now


def on_the_clock(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on such a loop; what a task or callback raised fails it."""
    faults: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: faults.append(context))
        runner.run(main())
    assert faults == []


async def turns() -> None:
    """Let the loop do what it has to do now."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def passes(seconds: float) -> None:
    """Let time pass, tick by tick."""
    clock = asyncio.get_running_loop()
    assert isinstance(clock, Clock)
    for _ in range(round(seconds / TICK_SECONDS)):
        clock.now += TICK_SECONDS
        await turns()


async def stands_still(seconds: float) -> None:
    """Let time pass in which the process does nothing."""
    clock = asyncio.get_running_loop()
    assert isinstance(clock, Clock)
    clock.now += seconds
    await turns()


class Wire(Recorder):
    """A transport with a client behind it. takes: whether it takes what is written; left: bytes that it has not."""

    protocol: Connection

    def __init__(self) -> None:
        super().__init__()
        self.takes = True
        self.left = 0
        self.paused = False
        self._high = self._low = 2**16

    def gone(self) -> bool:
        """Whether the socket was dropped."""
        return "abort" in self.calls or "close" in self.calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if not self.takes:
            self.left += len(data)
            self._pause()

    def take(self, size: int) -> None:
        """Let the client take so many of the bytes that wait."""
        assert size <= self.left
        self.left -= size
        if self.paused and self.left <= self._low:
            self.paused = False
            self.protocol.resume_writing()

    def open(self) -> None:
        """Let the client take all that waits, and what comes later."""
        self.takes = True
        self.take(self.left)

    def get_write_buffer_size(self) -> int:
        return self.left

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._low = high or 0
        self._pause()

    def _pause(self) -> None:
        if self.left > self._high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def abort(self) -> None:
        if not self.gone():
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        super().abort()

    def close(self) -> None:
        if not self.gone():
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        super().close()

    def sent(self) -> list[tuple[Opcode, bytes]]:
        """Return the frames that were written since the last time."""
        frames, rest = parse(b"".join(self.writes))
        self.writes.clear()
        assert rest == b""
        return [(Opcode(frame.opcode), frame.payload) for frame in frames]


def arrive(hub: Hub, *data: bytes, **facts: Any) -> tuple[Connection, Wire]:
    """Return a connection that has just come, and its wire, after reading data; facts: of its arrival."""
    wire = Wire()
    connection = wire.protocol = connect(hub, wire, **facts)
    for part in data:
        connection.data_received(part)
    return connection, wire


def state(connection: Connection) -> str:
    """Return its state, which a type checker would take for the same until it is assigned."""
    return connection.state


def opened(app: App, **settings: Any) -> tuple[Connection, Wire]:
    """Return an open connection and its wire, of a hub of their own; settings: as for make_hub."""
    connection, wire = arrive(make_hub(app, **settings), head())
    assert wire.writes.pop().startswith(b"HTTP/1.1 101 ")
    return connection, wire
