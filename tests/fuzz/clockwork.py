"""Clockwork: an event loop and a client's TCP connection that do nothing by themselves.

The loop runs what is due when it is told to, and its time passes when it is told so: a minute of silence costs nothing,
and every run of the same steps is the same. The wire behaves as asyncio's transports do, as far as a connection can
see: what they promise in their documentation, and the order of their calls. Nothing that is raised in either is caught.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

MOST_TURNS: Final = 5000
"""A loop that is still busy after so many turns spins."""


class Clockwork(asyncio.AbstractEventLoop):
    """A loop. faults: what asyncio would have logged of tasks and callbacks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.faults: list[dict[str, Any]] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0

    def time(self) -> float:
        """Return its time."""
        return self.now

    def get_debug(self) -> bool:
        """No."""
        return False

    def is_running(self) -> bool:
        """Yes, as seen from what it runs."""
        return True

    def call_soon(  # type: ignore[override]  # its type variables
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As any loop."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As any loop."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """As any loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """As any loop."""
        return asyncio.Task(coro, loop=self, **options)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep it."""
        self.faults.append(context)

    def turn(self) -> bool:
        """Run what is ready, and not what that makes ready; return whether there was anything."""
        if not self._ready:
            return False
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self._ready)):
                self._run(self._ready.popleft())
        finally:
            asyncio._set_running_loop(None)
        return True

    def settle(self) -> None:
        """Run until nothing is ready."""
        for _ in range(MOST_TURNS):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    def call(self, act: Callable[[], object]) -> None:
        """Call something as the loop would."""
        self.call_soon(act)
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass, and run what becomes due."""
        until = self.now + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= until:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            self._ready.append(handle)
            self.settle()
        self.now = until

    def _run(self, handle: asyncio.Handle) -> None:
        # Handle._run would catch what is raised
        callback, args, context = handle._callback, handle._args, handle._context  # type: ignore[attr-defined]
        if not handle.cancelled():
            context.run(callback, *args)


class Wire(asyncio.Transport):
    """One TCP connection, and the client at its other end.

    tls: there is no half-close. got: what the client has; eof: we have half-closed; lost: the
    protocol was told of the end.
    """

    def __init__(self, loop: Clockwork, protocol: asyncio.Protocol, tls: bool) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._tls = tls
        self._coming: deque[bytes] = deque()  # b"" is the end
        self._buffer = bytearray()
        self._high, self._low = 64 * 1024, 16 * 1024
        self._reading = True
        self._full = False
        self._closing = False
        self._given = 0
        self.got = bytearray()
        self._dammed = False
        self.eof = False
        self.lost = False
        loop.call(lambda: protocol.connection_made(self))

    @property
    def whole(self) -> bool:
        """Whether the client has all that was written."""
        return len(self.got) == self._given

    # What the client does

    def send(self, *pieces: bytes) -> None:
        """Send pieces, each of which is read for itself; b"" half-closes."""
        self._coming += pieces

    def arrive(self) -> bool:
        """Let the next piece arrive, if the connection reads; return whether one did."""
        if not self._coming or not self._reading or self._closing:
            return False
        piece = self._coming.popleft()
        if piece:
            self._loop.call(lambda: self._protocol.data_received(piece))
        else:
            self._coming.clear()
            self._loop.call(self._end_reading)
        return True

    def dam(self) -> None:
        """Let the client take nothing any more."""
        self._dammed = True

    def flow(self) -> None:
        """Let the client take everything again."""
        self._dammed = False
        self.take(len(self._buffer))

    def take(self, size: int) -> None:
        """Let the client take so many bytes of what waits."""
        if self._buffer:
            self._loop.call(lambda: self._drain(size))

    def reset(self) -> None:
        """Let the client be gone."""
        if not self._closing:
            self._loop.call(lambda: self._lose(ConnectionResetError(104, "Connection reset by peer")))

    # What the connection asks

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write."""
        assert not self.eof, "written behind the half-close"
        assert data, "an empty write"
        if not self._closing:
            self._buffer += data
            self._given += len(data)
            if self._dammed:
                self._mind_marks()
            else:
                self.got += self._buffer
                self._buffer.clear()

    def write_eof(self) -> None:
        """Half-close."""
        assert not self._tls, "TLS has no half-close"
        self.eof = True

    def can_write_eof(self) -> bool:
        """Tell whether it can."""
        return not self._tls

    def pause_reading(self) -> None:
        """Read no more."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self._reading = True

    def is_closing(self) -> bool:
        """Tell whether it is over."""
        return self._closing

    def close(self) -> None:
        """Close behind what was written."""
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._loop.call_soon(self._tell, None)

    def abort(self) -> None:
        """Close at once."""
        self._lose(None)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait."""
        return len(self._buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks; asyncio tells at once if the upper one is passed."""
        assert high is not None
        self._high = high
        self._low = high // 4 if low is None else low
        self._mind_marks()

    def _mind_marks(self) -> None:
        if len(self._buffer) > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def _drain(self, size: int) -> None:
        self.got += self._buffer[:size]
        del self._buffer[:size]
        if self._full and len(self._buffer) <= self._low:
            self._full = False
            self._protocol.resume_writing()
        if not self._buffer and self._closing:
            self._tell(None)

    def _end_reading(self) -> None:
        if not self._protocol.eof_received():
            self.close()

    def _lose(self, exc: Exception | None) -> None:
        self._closing = True
        self._buffer.clear()
        self._loop.call_soon(self._tell, exc)

    def _tell(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(exc)
