"""Giving: a worker hands its connections to others, each in the middle of what it does, and the client sees nothing.

    greet     each taker says that it is there and which version it speaks
    cover     the takers hear of all keys that the connections want, and the bus settles: nothing has stopped yet
    pass      one connection after the other is looked at: it moves, or comes to rest first, or cannot move
    again     new keys are covered and those that were busy are looked at, until nobody is left or the time is over

No turn of the loop is held for longer than TURN_SECONDS. A connection that runs a callback is held still so that it
comes to rest: nothing of it is read or delivered meanwhile. One in the middle of a fragmented message is read on.

What cannot move stays as it is; who drains closes it with 1012. If a taker dies, what it had not taken is given to the
others, and without others it waits for the next one, see leaving.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from wsworker.bus.topics import Key
from wsworker.counters import Unmoved
from wsworker.worker import freezing, hooks
from wsworker.worker.connection import Connection
from wsworker.worker.delivery import OURS
from wsworker.worker.hub import Hub
from wsworker.worker.lane import Lane

TURN_SECONDS: Final = 0.005
LOOK_SECONDS: Final = 0.01
STALL_SECONDS: Final = 1.0
"""So long at least a taker may answer nothing before it is given nothing more."""

LARGE_BYTES: Final = 64 * 1024
GREET_SECONDS: Final = 5.0
COVER_SECONDS: Final = 6.0
"""A bit more than the taker waits for the bus to settle."""

END_SECONDS: Final = 5.0


@dataclass(slots=True)
class Outcome:
    """How a hand-over went. left: those that could not move, by reason; waits: those that no taker was left for."""

    moved: int = 0
    left: Counter[Unmoved] = field(default_factory=Counter)
    pause_seconds: float = 0.0
    waits: int = 0

    def __str__(self) -> str:
        count = sum(self.left.values())
        why = ", ".join(f"{number} {reason}" for reason, number in sorted(self.left.items()))
        not_moved = f"; {count} could not move: {why}" if count else ""
        return f"{self.moved} moved, longest pause {self.pause_seconds * 1000:.0f} ms{not_moved}"


class Giving:
    """One hand-over; run it once. hub: whose connections go. seconds: how long one may take to come to rest."""

    def __init__(self, hub: Hub, seconds: float) -> None:
        self._hub = hub
        self._seconds = seconds
        self._outcome = Outcome()
        self._lanes: list[Lane] = []
        self._counted = False
        self._lane_of: dict[Connection, Lane] = {}
        self._why: dict[Connection, Unmoved] = {}  # has not moved, and may
        self._stays: set[Connection] = set()
        self._states: dict[Connection, dict[str, Any]] = {}  # what a sync on_handover has given
        self._hooks: dict[Connection, asyncio.Task[dict[str, Any]]] = {}  # async on_handover of those that are held

    async def run(
        self, pairs: Sequence[socket.socket], shares: Sequence[int], *, counted: bool, deadline: float
    ) -> Outcome:
        """Hand over what can be, and return how it went. deadline: on the clock of the loop.

        pairs: our ends of those to the takers, ours from now on; shares: of each. counted: a share is how many
        connections it gets, and not its part of all.
        """
        hub, loop, self._counted = self._hub, self._hub.loop, counted
        self._lanes = [Lane(hub, sock, share, self._came_back) for sock, share in zip(pairs, shares, strict=True)]
        try:
            await asyncio.gather(*(lane.greet(GREET_SECONDS) for lane in self._lanes))
            give_up_at, is_first = deadline, True
            while self._open and loop.time() < give_up_at:
                self._forget_ended()
                todo = self._todo()
                # who is on its way may come back, and is another one's then
                if not (todo or self._flies or (hub.unfinished and not counted)):
                    break
                await self._cover(todo, min(COVER_SECONDS, deadline - loop.time()))
                if is_first:
                    # the time of the connections runs since the bus has had its own
                    give_up_at, is_first = min(deadline, loop.time() + self._seconds), False
                taken = self._taken
                await self._pass(todo)
                if self._taken > taken:
                    # and since one of them has moved: there may be very many, or few descriptors
                    give_up_at = min(deadline, loop.time() + self._seconds)
                else:
                    # those that are left come to rest meanwhile, or their handshake ends
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._end()
        return self._outcome

    def stop(self) -> None:
        """Give nothing more away: the worker ends in another way. What is on its way comes back."""
        for lane in self._lanes:
            lane.drop()

    def let_go(self) -> None:
        """Close the descriptors of the pairs, in a process that user code has forked."""
        for lane in self._lanes:
            lane.let_go()

    @property
    def _taken(self) -> int:
        return sum(lane.taken for lane in self._lanes)

    @property
    def _flies(self) -> bool:
        return not all(lane.rests for lane in self._lanes)

    @property
    def _open(self) -> list[Lane]:
        return [lane for lane in self._lanes if lane.open and (not self._counted or lane.taken < lane.share)]

    def _todo(self) -> list[Connection]:
        """Return the connections that may still move, those last that others would wait for: much is to be written."""
        connections = self._hub.worker.connections.values()
        others = self._stays.union(*(lane.returning for lane in self._lanes))
        found = [each for each in connections if each not in others and freezing.may_go(each)]
        return sorted(found, key=lambda connection: connection._cork.size > LARGE_BYTES)

    # Who goes where, and what the others must hear of before

    async def _cover(self, todo: Iterable[Connection], seconds: float) -> None:
        wanted: dict[Lane, set[Key]] = {lane: set() for lane in self._open if not lane.begun}
        turn = _Turn()
        for connection in todo:
            if turn.is_over:
                await turn.give_way()
            lane = self._assign(connection)
            if lane is not None and not lane.covers(keys := freezing.keys(connection)):
                wanted.setdefault(lane, set()).update(keys)
        await asyncio.gather(*(lane.cover(keys, seconds) for lane, keys in wanted.items()))

    def _assign(self, connection: Connection) -> Lane | None:
        """Return the lane that a connection takes, None if none has a place for it."""
        lane = self._lane_of.get(connection)
        if lane is not None and lane.open:
            return lane
        lanes = [lane for lane in self._open if not self._counted or lane.assigned < lane.share]
        if not lanes:
            return None
        chosen = lanes[0]
        if len(lanes) > 1:
            chosen = min(lanes, key=lambda lane: (lane.assigned + 1) / max(1, lane.share))
        chosen.assigned += 1
        self._lane_of[connection] = chosen
        return chosen

    # One after the other

    async def _pass(self, todo: Iterable[Connection]) -> None:
        """Look at each connection once."""
        turn = _Turn()
        for connection in todo:
            lane = self._lane_of.get(connection)
            if lane is None or not lane.open:
                continue
            if turn.is_over:
                await turn.give_way()
            if not lane.has_room:
                if not await lane.until_room(max(self._seconds, STALL_SECONDS)):
                    # it stands still: the others would wait for it as long, one after the other
                    lane.drop("it takes nothing more")
                turn = _Turn()
            if lane.has_room and freezing.may_go(connection):
                try:
                    self._try(connection, lane)
                except Exception as error:
                    self._hub.log.error("a bug in wsworker: %r does not move", connection, exc_info=error)
                    self._stay(connection, "error")

    def _try(self, connection: Connection, lane: Lane) -> None:
        """Give a connection away if it can go now, else bring it to rest or know why it never can."""
        why = freezing.hindrance(connection)
        if why == "tls":
            self._stay(connection, "tls")
        elif why == "busy":
            self._why[connection] = "busy"
            freezing.hold(connection)
        elif why is not None:
            self._why[connection] = why
            freezing.let_go(connection)
        elif not lane.covers(freezing.keys(connection)):
            self._why[connection] = "time"
        else:
            freezing.hold(connection)
            self._give(connection, lane)

    def _give(self, connection: Connection, lane: Lane) -> None:
        try:
            state = self._state(connection)
            freezing.check_data(connection)
        except hooks.Declined:
            self._stay(connection, "on_handover")
            return
        except (TypeError, ValueError) as error:
            self._hub.notices.tell("data", "%s: it does not move: %s", connection.remote, error, level=logging.WARNING)
            self._stay(connection, "data")
            return
        if connection in self._hooks and not self._hooks[connection].done():
            self._why[connection] = "busy"
            return
        connection._cork.flush()
        if not freezing.may_go(connection):
            # its client had gone, and writing has told; or on_handover has closed it
            freezing.let_go(connection)
            return
        if not lane.covers(freezing.keys(connection)):
            # on_handover has subscribed to something
            self._why[connection] = "time"
            return
        try:
            lane.give(connection, state)
        except OSError:
            # those that are on their way hold some
            if lane.rests:
                self._stay(connection, "descriptors")
            else:
                self._why[connection] = "descriptors"
            return
        self._states.pop(connection, None)
        self._why.pop(connection, None)

    def _state(self, connection: Connection) -> dict[str, Any] | None:
        """Return what on_handover gives, None if there is none, or if it is async and still runs. Raises Declined."""
        callback = self._hub.app.on_handover
        if callback is None:
            return None
        if not callback.is_async:
            if connection not in self._states:
                self._states[connection] = hooks.hand_over(self._hub, connection, callback)
            return self._states[connection]
        if connection not in self._hooks:
            act = hooks.hand_over_later(self._hub, connection, callback)
            self._hooks[connection] = self._hub.loop.create_task(act, context=self._hub.context.copy())
        task = self._hooks[connection]
        return task.result() if task.done() else None

    def _stay(self, connection: Connection, why: Unmoved) -> None:
        """Know that a connection does not move."""
        self._stays.add(connection)
        self._why.pop(connection, None)
        if lane := self._lane_of.pop(connection, None):
            # its place is another's
            lane.assigned -= 1
        self._outcome.left[why] += 1
        self._hub.counters.unmoved[why] += 1
        freezing.let_go(connection)

    def _came_back(self, connection: Connection, why: Unmoved | None) -> None:
        self._states.pop(connection, None)
        self._hooks.pop(connection, None)
        if why is None:
            self._lane_of.pop(connection, None)
        elif why == "full" and len(self._open) > 1:
            # one of the others may have a place
            if lane := self._lane_of.pop(connection, None):
                lane.drop("it has no place for more")
        elif connection._stage == "open":
            self._stay(connection, why)

    def _forget_ended(self) -> None:
        """Let go of those that have ended while they were waited for, as their Close must be read."""
        for connection in [each for each in self._why if not freezing.may_go(each)]:
            del self._why[connection]
            freezing.let_go(connection)

    # The end

    async def _end(self) -> None:
        for lane in self._lanes:
            await lane.until_rest(END_SECONDS)
        for task in self._hooks.values():
            task.cancel(OURS)
        no_taker = not any(lane.open for lane in self._lanes)
        version = no_taker and not any(lane.speaks for lane in self._lanes)
        for connection in [] if self._counted else self._todo():
            if version or not no_taker:
                self._stay(connection, "version" if version else self._why.get(connection, "time"))
            else:
                freezing.let_go(connection)
                self._why.pop(connection, None)
                self._outcome.waits += 1
        self._forget_ended()
        for connection, why in [*self._why.items()]:
            self._stay(connection, why)
        await asyncio.gather(*(lane.end(END_SECONDS) for lane in self._lanes))
        self._outcome.moved = sum(lane.moved for lane in self._lanes)
        self._outcome.pause_seconds = max((lane.pause_seconds for lane in self._lanes), default=0.0)


class _Turn:
    """A turn of the loop, in which not more than TURN_SECONDS are taken."""

    def __init__(self) -> None:
        self._until = monotonic() + TURN_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether others should have their turn."""
        return monotonic() > self._until

    async def give_way(self) -> None:
        """Let them have it, and begin another one."""
        await asyncio.sleep(0)
        self._until = monotonic() + TURN_SECONDS
