"""A line: one wire after another to one server, for one purpose; whenever a wire is lost, the next one is dialled.

After a loss the next attempt comes soon, and each further one later, up to a second: so everything flows again within
two seconds of a server's return, and a server that is just starting is not run over. Each waits a random part of its
time, as very many workers have lost the same server in the same moment.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from wsworker.bus.redis.wire import Lost, Wire

READS_PER_TURN: Final = 256
TURN_SECONDS: Final = 0.005
STEADY_SECONDS: Final = 5.0
"""Who was up for so long is dialled soon again."""

_LOOKS_PER_SPAN: Final = 4

logger: Final = logging.getLogger("wsworker.bus")


class Times(NamedTuple):
    """Spans, in seconds.

    connect: for one attempt; answer: until a server counts as dead; probe: between probes; silence: until a connection
    counts as dead over which a probe should come; patience: until a gap is told though something is out of reach still;
    first_pause, longest_pause: between attempts.
    """

    connect: float = 5.0
    answer: float = 10.0
    probe: float = 5.0
    silence: float = 30.0
    patience: float = 2.0
    first_pause: float = 0.25
    longest_pause: float = 1.0


TIMES: Final = Times()


class Keeper(Protocol):
    """Whom a line tells what becomes of it."""

    def risen(self) -> None:
        """Know that a line is up."""

    def fell(self, why: str) -> None:
        """Know that a line was lost, or could not be made; why: a clause."""

    def moved(self) -> None:
        """Know that the layout of the cluster may be another one."""


class Line(ABC):
    """One line. dial: makes a wire, raises Lost; draw: gives a random number from 0 to 1 at each call.

    up: whether it serves its purpose. You must run keep as a task, and cancel it.
    """

    def __init__(
        self, dial: Callable[[], Awaitable[Wire]], keeper: Keeper, times: Times, draw: Callable[[], float]
    ) -> None:
        self._dial = dial
        self._keeper = keeper
        self._times = times
        self._draw = draw
        self._wire: Wire | None = None
        self._cut = ""
        self._up_at = 0.0
        self.up = False

    async def keep(self) -> None:
        """Dial and serve, for ever."""
        pause = self._times.first_pause
        while True:
            lost = await self._live()
            steady = self.up and monotonic() - self._up_at >= STEADY_SECONDS
            self.up = False
            self.lost(lost)
            self._keeper.fell(self._cut or lost.why)
            self._cut = ""
            if steady:
                pause = self._times.first_pause
            await asyncio.sleep(pause * (1 + self._draw()) / 2)
            pause = min(2 * pause, self._times.longest_pause)

    def cut(self, why: str) -> None:
        """Throw the wire away, if there is one. why: a clause."""
        if self._wire is not None:
            self._cut = why
            self._wire.close()

    def let_go(self) -> None:
        """Close the descriptor in a process that user code has forked."""
        if self._wire is not None:
            self._wire.let_go()

    def rise(self) -> None:
        """Be up from now on."""
        self.up = True
        self._up_at = monotonic()

    @abstractmethod
    async def serve(self, wire: Wire) -> None:
        """Do what the line is for, until Lost is raised."""

    @abstractmethod
    def lost(self, lost: Lost) -> None:
        """Know that there is no wire any more."""

    async def _live(self) -> Lost:
        try:
            self._wire = await self._dial()
            try:
                await self.serve(self._wire)
            finally:
                wire, self._wire = self._wire, None
                await wire.end()
        except Lost as lost:
            return lost
        except Exception:
            # a mistake of ours; nothing would come over this line any more
            logger.exception("what came from the broker could not be handled")
        return Lost("what came from it could not be handled")


class Turns:
    """Reads a wire in turns, so that nobody who says very much has the loop for itself."""

    def __init__(self, wire: Wire) -> None:
        self._receive = wire.receive
        self._left = READS_PER_TURN
        self._busy, self._said_at = 0.0, monotonic()

    async def next(self) -> object:
        """Return the next thing that is said. Raises Lost."""
        self._left -= 1
        self._busy += monotonic() - self._said_at
        if self._left < 0 or self._busy > TURN_SECONDS:
            await asyncio.sleep(0)
            self._left, self._busy = READS_PER_TURN, 0.0
        said = await self._receive()
        self._said_at = monotonic()
        return said


async def watch(span_seconds: float, overdue: Callable[[], Lost | None]) -> None:
    """Look several times in each span; raise what is overdue at two looks, one after the other.

    A worker that stood still itself has not read yet what came meanwhile: it must not blame the server at the first.
    """
    suspected = False
    while True:
        await asyncio.sleep(span_seconds / _LOOKS_PER_SPAN)
        lost = overdue()
        if lost is not None and suspected:
            raise lost
        suspected = lost is not None


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Do several things at once, until the first of them raises; then the others are cancelled.

    No TaskGroup: in Python 3.11, if a task of it fails while its owner is cancelled, that cancellation is lost.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
