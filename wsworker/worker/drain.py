"""Drain: how a worker says goodbye to its clients.

They are told to go with a close code, idle ones first, spread over a window so that they do not all come back at once.
The window is short for few clients: ten milliseconds each, at most drain_window. Within its share every goodbye has a
random moment, so that several workers that drain together do not fall into step. A quick stop says it to all at once.

Whoever is still there at graceful_timeout is cut. The close handshake of each connection has its own bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

SECONDS_PER_CLIENT: Final = 0.01
QUICK_SECONDS: Final = 1.5
"""A quick stop's bound: the master kills three seconds after its order, and on_worker_stop wants its share."""

RELOAD_CODE: Final = 1012
STOP_CODE: Final = 1001
"""RFC 6455 section 7.4.1 (going away) and the IANA registry of close codes (service restart)."""


def schedule(count: int, window_seconds: float, draw: Callable[[], float]) -> list[float]:
    """Return when to say goodbye to each of count clients: seconds from now, ascending.

    draw: a random number from 0 to below 1 at each call. Every client has an equal share of the window to itself.
    """
    share = min(window_seconds / count, SECONDS_PER_CLIENT) if count else 0.0
    return [(number + draw()) * share for number in range(count)]


class Drain:
    """One worker's goodbye; run it once. hurry() turns a graceful one into a quick one, at any moment."""

    def __init__(self, hub: Hub, code: int, reason: str) -> None:
        self._hub = hub
        self._code = code
        self._reason = reason
        self._hurried = asyncio.Event()

    def hurry(self) -> None:
        """Tell everybody at once from now on, and wait for them no longer than a quick stop does."""
        self._hurried.set()

    async def run(self, window_seconds: float, graceful_seconds: float) -> int:
        """Close every connection and wait until all have gone; returns how many had to be cut at the end."""
        self._hub.drain()
        deadline = self._hub.loop.time() + graceful_seconds
        await self._say_goodbye(self._hub.idle_first(), window_seconds)
        # also those whose handshake had been answered before the doors were shut
        self._hub.close_all(self._code, self._reason)
        await self._wait(self._hub.empty, deadline)
        if self._hurried.is_set():
            await self._wait(self._hub.empty, min(deadline, self._hub.loop.time() + QUICK_SECONDS), hurried=False)
        cut = 0 if self._hub.empty.is_set() else len(self._hub.worker.connections)
        self._hub.terminate_all()
        await self._wait(self._hub.empty, self._hub.loop.time() + QUICK_SECONDS, hurried=False)
        return cut

    async def _say_goodbye(self, connections: Sequence[Connection], window_seconds: float) -> None:
        began_at = self._hub.loop.time()
        moments = schedule(len(connections), window_seconds, self._hub.random.random)
        for connection, moment in zip(connections, moments, strict=True):
            await self._wait(self._hurried, began_at + moment)
            if self._hurried.is_set():
                return
            connection.close(self._code, self._reason)

    async def _wait(self, event: asyncio.Event, deadline: float, hurried: bool = True) -> None:
        """Wait for the event, at most until the deadline; if hurried, no longer than until somebody is in a hurry."""
        if event.is_set() or self._hub.loop.time() >= deadline:
            return
        events = {event, self._hurried} if hurried else {event}
        waiting = [asyncio.ensure_future(each.wait()) for each in events]
        try:
            timeout = deadline - self._hub.loop.time()
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
