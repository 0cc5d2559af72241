"""The publisher: the line over which a worker publishes at one Redis or Valkey.

Two tasks have the wire. One sends a batch and waits until it is answered; the other one reads, also when nothing is in
flight, so that the end of a connection is known before something is lost by it. A server that answers nothing for too
long, while a batch is in flight, hangs: that ends the connection, and is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, Protocol

from wsworker.bus.broker.pipeline import Item, Pipeline, Stage
from wsworker.bus.bus import Cause
from wsworker.bus.losses import Debts, Gap
from wsworker.bus.redis.line import Keeper, Line, Times, Turns, together, watch
from wsworker.bus.redis.wire import Lost, Refusal, Wire
from wsworker.bus.topics import Key
from wsworker.notices import Notices

logger: Final = logging.getLogger("wsworker.bus")


class PublisherKeeper(Keeper, Protocol):
    """Whom a publisher tells what becomes of what is published."""

    def gave_up(self, cause: Cause, count: int) -> None:
        """Know that messages were given up."""

    def probed(self, publisher: Publisher) -> None:
        """Know that the server has taken a probe."""

    def recovered(self) -> None:
        """Know that what is published goes out again: before it, others are told what they have lost."""

    def pay(self) -> None:
        """Tell others what they have lost, if that can be told now."""

    def unpaid(self, gap: Gap) -> None:
        """Know that the server does not take word of a loss now."""

    def rested(self) -> None:
        """Know that nothing waits any more."""

    def hangs(self, publisher: Publisher) -> None:
        """Know that the server does not answer, and most likely not over other lines either."""


class Publisher(Line):
    """The line, and the pipeline before it. sent: messages that the server has taken."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Wire]],
        keeper: PublisherKeeper,
        times: Times,
        draw: Callable[[], float],
        limit: int,
        debts: Debts,
        notices: Notices,
    ) -> None:
        super().__init__(dial, keeper, times, draw)
        self._owner = keeper
        self._debts = debts
        self._notices = notices
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._asked_at = 0.0  # or answered, whatever was last
        self.pipeline: Final = Pipeline(limit, debts)
        self.sent = 0

    def write(self) -> None:
        """Have what waits in the pipeline written soon."""
        if self.pipeline.size:
            self._wake.set()

    def give_up(self) -> None:
        """Give up all that waits."""
        count = self.pipeline.fail()
        if count:
            self._owner.gave_up("down", count)
        self._owner.rested()

    async def serve(self, wire: Wire) -> None:
        """Publish."""
        self.pipeline.stage = Stage.UP
        self.rise()
        self._owner.recovered()
        self._keeper.risen()
        self.write()
        await together(self._send(wire), self._hear(wire), watch(self._times.answer, self._overdue))

    def lost(self, lost: Lost) -> None:
        """Give up what waits: nobody knows what has come through, and nothing is sent twice."""
        self.give_up()
        if lost.silent:
            self._owner.hangs(self)

    async def _send(self, wire: Wire) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self.pipeline.take():
                self._answered.clear()
                self._asked_at = monotonic()
                await wire.send(batch)
                await self._answered.wait()

    def _overdue(self) -> Lost | None:
        if not self.pipeline.in_flight or monotonic() - self._asked_at <= self._times.answer:
            return None
        return Lost("no answer came in time", silent=True)

    async def _hear(self, wire: Wire) -> None:
        turns = Turns(wire)
        pipeline = self.pipeline
        while True:
            reply = await turns.next()
            if not pipeline.in_flight:
                raise Lost("it says what nobody has asked")
            self._asked_at = monotonic()
            was_stalled = pipeline.stalled
            item = pipeline.answered()
            if isinstance(reply, int):
                if isinstance(item, Key):
                    self.sent += 1
                elif item is None:
                    self._owner.probed(self)
            elif isinstance(reply, Refusal):
                self._refused(item, reply)
            else:
                raise Lost("it answers what is no answer")
            if was_stalled and not pipeline.stalled:
                self._owner.recovered()
            if not pipeline.in_flight:
                self._rest()

    def _rest(self) -> None:
        """Know that a batch is answered."""
        self._answered.set()
        if self._debts:
            self._owner.pay()
        if not self.pipeline.size:
            self._owner.rested()

    def _refused(self, item: Item, refusal: Refusal) -> None:
        if refusal.moved:
            self._keeper.moved()
        else:
            self._notices.tell(
                "refused", "the broker refuses what is published: %s", refusal.text, level=logging.WARNING
            )
        if isinstance(item, Key):
            self._owner.gave_up("down" if refusal.moved else "refused", 1)
            self._debts.add(item)
        elif isinstance(item, Gap):
            self._owner.unpaid(item)
