"""Leaving: the order of things when a worker goes, from the master's word to on_worker_stop.

    reload    no clients from now on, on_worker_reload, the hand-over, goodbyes with 1012 to who could not move
    replace   the same without on_worker_reload: the code is not new
    scale     nobody follows in this slot: first whoever still comes is served until the queue is dry, then as replace,
              but connections move to the workers of other slots
    stop      who waits in the queue gets 503, as nobody follows anywhere; goodbyes with 1001
    quick     as stop, and everything at once

Connections move if the master has sent pairs with its word, see giving.py. A taker that dies leaves them here, and the
master sends another pair once the next one is ready; until then they are served on, for a part of the time.

An order to be quick hurries whatever goes on. A stop that comes while a queue runs dry takes its place; one that comes
during the hand-over ends that; one that comes later changes nothing, as the goodbyes are under way. All of it has one
deadline, graceful_timeout after the first word.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from wsworker.config import Config
from wsworker.forked import let_go
from wsworker.wire import DrainReason
from wsworker.worker.accept import Acceptor
from wsworker.worker.app import Callback
from wsworker.worker.delivery import OURS
from wsworker.worker.drain import RELOAD_CODE, STOP_CODE, Drain
from wsworker.worker.giving import Giving, Outcome
from wsworker.worker.hub import Hub

PRELUDE_SHARE: Final = 0.5
"""Part of graceful_timeout that may pass before the goodbyes, with an async on_worker_reload or a last queue."""

LAST_QUEUE_SECONDS: Final = 10.0
"""How long a flood of clients may keep a worker whose slot goes away from its goodbyes."""

logger = logging.getLogger("wsworker.worker")


class Leaving:
    """How one worker leaves. tell() takes the master's orders at any time; leave() is run once, after told().

    report: told how a hand-over went, each time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        report: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._loop = loop
        self._report = report
        self._pairs: list[socket.socket] = []
        self._shares: tuple[int, ...] = ()
        self._paired = asyncio.Event()
        self._giving: Giving | None = None
        self._has_handed_over = False  # nothing more is given away
        self._config = config
        self._why: asyncio.Future[DrainReason] = loop.create_future()
        self._overtaken: asyncio.Future[DrainReason] = loop.create_future()
        self._drain: Drain | None = None
        self._quick = False  # asked for; the order may come before the drain has begun

    @property
    def is_told(self) -> bool:
        """Whether the worker has to go."""
        return self._why.done()

    @property
    def is_quick(self) -> bool:
        """Whether somebody is in a hurry."""
        return self._quick

    def tell(self, why: DrainReason, pairs: Sequence[socket.socket] = (), shares: Sequence[int] = ()) -> None:
        """Go, or go sooner; an order that adds nothing to an earlier one is dropped.

        pairs: by which connections move to other workers, ours from now on; shares: of each.
        """
        if pairs:
            self._drop_pairs()
            self._pairs, self._shares = list(pairs), tuple(shares)
            self._paired.set()
            if self._has_handed_over:
                # whoever is still here is told to go: the taker must not wait
                self._drop_pairs()
        if why == "quick":
            self._quick = True
            if self._drain:
                self._drain.hurry()
        if not self._why.done():
            self._why.set_result(why)
        elif why in ("stop", "quick") and not self._overtaken.done():
            self._overtaken.set_result(why)

    async def told(self) -> None:
        """Return once the worker has to go."""
        await self._why

    async def leave(self, hub: Hub, acceptor: Acceptor) -> None:
        """Say goodbye to everybody and call on_worker_stop."""
        why = self._why.result()
        deadline = self._loop.time() + self._config.graceful_timeout
        if why == "scale":
            why = await self._run_dry(acceptor)
        stopping = why in ("stop", "quick")
        code, reason = (STOP_CODE, "going away") if stopping else (RELOAD_CODE, "service restart")
        self._drain = Drain(hub, code, reason)
        if self._quick:
            self._drain.hurry()
        if stopping:
            hub.drain()
            await acceptor.empty_and_close()
        else:
            await acceptor.close()
        if why == "reload" and hub.app.on_worker_reload:
            await self._announce_reload(hub.app.on_worker_reload, hub, self._drain)
        await self._hand_over(hub, deadline)
        if self._overtaken.done() and not stopping:
            stopping, code = True, STOP_CODE
            self._drain = Drain(hub, code, "going away")
            if self._quick:
                self._drain.hurry()
        asked = len(hub.worker.connections)
        cut = await self._drain.run(self._config.drain_window, deadline - self._loop.time())
        hub.counters.cut += cut
        hub.timers.cancel_all()
        await _call(hub.app.on_worker_stop, hub)
        told = "1 connection" if asked - cut == 1 else f"{asked - cut} connections"
        logger.info("left, pid %d: %s closed with %d, %d cut", os.getpid(), told, code, cut)

    async def _hand_over(self, hub: Hub, deadline: float) -> None:
        """Give the connections to the takers that the master has named, and to those that follow if they die."""
        give_up_at = self._loop.time() + (deadline - self._loop.time()) * PRELUDE_SHARE
        waits = 0
        while (self._pairs or waits) and not self._overtaken.done():
            if not self._pairs:
                await self._until_paired(give_up_at)
            if not self._pairs:
                break
            outcome = await self._give(Giving(hub, self._config.handover_timeout), deadline)
            waits = outcome.waits
            if not self._overtaken.done():
                logger.info("hand-over: %s", outcome)
                self._report(outcome)
        self._drop_pairs()
        self._has_handed_over = True
        if waits and not self._overtaken.done():
            hub.counters.unmoved["no_taker"] += waits
            self._report(Outcome(left=Counter({"no_taker": waits})))

    async def _give(self, giving: Giving, deadline: float) -> Outcome:
        """Give to those that there are now; a stop ends it."""
        pairs, self._pairs = self._pairs, []
        self._paired.clear()
        self._giving = giving
        task = self._loop.create_task(giving.run(pairs, self._shares, counted=False, deadline=deadline))
        either: set[asyncio.Future[Any]] = {task, self._overtaken}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        giving.stop()
        try:
            return await task
        except Exception as error:
            # who is still here gets its goodbye all the same
            logger.error("a bug in wsworker: the hand-over", exc_info=error)
            return Outcome()

    def let_go(self) -> None:
        """Close the descriptors of the hand-over, in a process that user code has forked."""
        for pair in self._pairs:
            let_go(pair)
        if self._giving:
            self._giving.let_go()

    def _drop_pairs(self) -> None:
        for pair in self._pairs:
            pair.close()
        self._pairs = []

    async def _until_paired(self, give_up_at: float) -> None:
        paired = self._loop.create_task(self._paired.wait())
        either: set[asyncio.Future[Any]] = {paired, self._overtaken}
        left = max(0.0, give_up_at - self._loop.time())
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        paired.cancel()

    async def _run_dry(self, acceptor: Acceptor) -> DrainReason:
        """Serve whoever still comes to a slot that goes away; return why we leave in the end."""
        seconds = min(LAST_QUEUE_SECONDS, self._config.graceful_timeout * PRELUDE_SHARE)
        dry = self._loop.create_task(acceptor.run_dry(seconds))
        either: set[asyncio.Future[Any]] = {dry, self._overtaken}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        dry.cancel()
        return self._overtaken.result() if self._overtaken.done() else "scale"

    async def _announce_reload(self, callback: Callback, hub: Hub, drain: Drain) -> None:
        """Call on_worker_reload; clients must have their goodbye even if it never returns."""
        seconds = self._config.graceful_timeout * PRELUDE_SHARE
        task = self._loop.create_task(_call(callback, hub))
        hurry = self._loop.create_task(drain.wait_for_hurry())
        await asyncio.wait({task, hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            why = "was in the way of a quick stop" if hurry.done() else f"took longer than {seconds:g} s"
            logger.error("on_worker_reload (%s) %s and was cancelled", callback.place, why)
            task.cancel(OURS)
        hurry.cancel()


async def _call(callback: Callback | None, hub: Hub) -> None:
    if callback:
        exception = await hub.caller.wait(callback, hub.worker)
        if exception is not None:
            hub.caller.report(callback, exception)
