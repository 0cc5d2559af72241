"""Drain: how a worker says goodbye to its clients.

They are told to go with a close code, idle ones first, spread over a window so that they do not all come back at once.
The window is short for few clients: ten milliseconds each, at most drain_window. Within its share every goodbye has a
random moment, so that several workers that drain together do not fall into step. A quick stop says it to all at once,
with the FIN right behind it.

Whoever is still there at graceful_timeout is cut. The close handshake of each connection has its own bound.

So there are three parts, each with its deadline: graceful, quick if somebody is in a hurry, and the cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from wsworker.worker.hub import Hub

SECONDS_PER_CLIENT: Final = 0.01
QUICK_SECONDS: Final = 1.5
CUT_SECONDS: Final = 1.0
"""How long a quick stop waits for answers, and any drain for on_close of those it has cut. The master kills three
seconds after the order to be quick; on_worker_stop and the last word on the bus (main.py) want their share of them."""

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

    async def wait_for_hurry(self) -> None:
        """Return once somebody is in a hurry."""
        await self._hurried.wait()

    async def run(self, window_seconds: float, graceful_seconds: float) -> int:
        """Close every connection and wait until all have gone; returns how many had to be cut at the end."""
        hub = self._hub
        hub.drain()
        deadline = hub.loop.time() + graceful_seconds
        if not self._hurried.is_set():
            # a window beyond the deadline would leave clients that are cut without a word
            await self._be_graceful(min(window_seconds, graceful_seconds), deadline)
        if self._hurried.is_set():
            hub.close_all(self._code, self._reason)
            await self._wait_until_empty(min(deadline, hub.loop.time() + QUICK_SECONDS))
        cut = len(hub.worker.connections)
        hub.terminate_all()
        await self._wait_until_empty(hub.loop.time() + CUT_SECONDS)
        return cut

    async def _be_graceful(self, window_seconds: float, deadline: float) -> None:
        """Say goodbye to one after the other and wait until all have gone, the deadline, or somebody is in a hurry."""
        loop = self._hub.loop
        goodbyes = loop.create_task(self._say_goodbye(window_seconds))
        hurry = loop.create_task(self.wait_for_hurry())
        await asyncio.wait({goodbyes, hurry}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        goodbyes.cancel()
        hurry.cancel()

    async def _say_goodbye(self, window_seconds: float) -> None:
        hub = self._hub
        connections = hub.idle_first()
        began_at = hub.loop.time()
        moments = schedule(len(connections), window_seconds, hub.random.random)
        for connection, moment in zip(connections, moments, strict=True):
            await asyncio.sleep(began_at + moment - hub.loop.time())
            connection.close(self._code, self._reason)
        await hub.empty.wait()

    async def _wait_until_empty(self, deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._hub.empty.wait()
