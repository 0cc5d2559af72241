"""Lane: a worker's way to one other, which takes its connections. What giving.py decides, it carries out.

The other one greets first: whether both speak the same version is known before anything is touched. Then rounds of
keys, see bus/ledger.py, and connections: marks and states go out in the order in which they came about, at most WINDOW
of them unanswered, so that neither side has more than that many descriptors under way.

A connection is this worker's until it has said GO, in answer to the other's word that it could have it. Before that all
workers have heard what was published here: what its client makes the other one publish comes behind it. What is not
gone by then comes back, whenever that is: if the other one dies or does not answer, or when there is no more time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from wsworker.bus import ledger
from wsworker.bus.topics import Key
from wsworker.counters import Unmoved
from wsworker.errors import WireError
from wsworker.handover import packets, wishes
from wsworker.handover import state as states
from wsworker.handover.packets import Ack, Done, Go, Hello, Marks, Message, Ready, Refused, State, Tail, VersionError
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.freezing import Frozen
from wsworker.worker.hub import Hub
from wsworker.worker.pair import MOST_TOGETHER, Pair, PairClosed, greeting

WINDOW: Final = 32
WINDOW_AGAIN: Final = WINDOW // 2
"""Who has filled it goes on when so few are on their way: else both sides would wake up for each single one."""

WINDOW_BYTES: Final = 1024 * 1024
"""Of what they have to be sent or handled, beyond the last one: each waits for those before it."""

ORDER_SECONDS: Final = 1.0
"""Of a lane, all in all: for a worker that stands still the clients of all others must not wait."""

CHANGES_PER_MESSAGE: Final = 5000
RETURN_SECONDS: Final = 5.0

logger = logging.getLogger("wsworker.worker")


class Lane:
    """The way to one taker. share: how much of all it gets; came_back: told of each that it did not take, and why.

    open: it can be given something; speaks: it speaks our version; assigned: how many are to go to it; returning: those
    on their way back, which may be open again already; moved: how many connections it has; pause_seconds: the longest
    of one of them. You must call greet first, and end or close at the end.
    """

    def __init__(
        self, hub: Hub, sock: socket.socket, share: int, came_back: Callable[[Connection, Unmoved | None], None]
    ) -> None:
        self._hub = hub
        self._pair = Pair(hub.loop, sock)
        self.share = share
        self._came_back = came_back
        self._packets = packets.Reader("taker")
        self._marks = ledger.Marks()
        self._told: set[Key] = set()
        self._covered: set[Key] = set()
        self._is_covered = False
        self._has_settled = True
        self._gaps = 0  # that this worker had been told of when the first round began
        self._round = self._ready_round = 0
        self._next_number = self._sent = 0
        self._handed = 0  # the states of those below it are sent, or about to be: the other one may know of them
        self._flying: dict[int, Frozen] = {}
        self._acked: set[int] = set()
        self._due: list[int] = []  # of those, what GO is not said of yet
        self._to_release = asyncio.Event()
        self._heard = 0  # all others have what was published here up to this number
        self._patience = ORDER_SECONDS
        self._flying_bytes = 0
        self._filled = False
        self.returning: dict[Connection, asyncio.Task[None]] = {}
        self._outbox: deque[Message | int] = deque()  # a number stands for the state of a connection
        self._to_write = asyncio.Event()
        self._moves = asyncio.Event()  # something has changed that until may wait for
        self._greeted = self._has_ended = False
        self._tasks: list[asyncio.Task[None]] = []
        self.open = self.speaks = True
        self.assigned = self.moved = 0
        self.pause_seconds = 0.0

    @property
    def begun(self) -> bool:
        """Whether the first round of keys is over."""
        return self._round > 0

    @property
    def taken(self) -> int:
        """How many it has, or is about to have."""
        return self.moved + len(self._flying)

    @property
    def has_room(self) -> bool:
        """Whether another one may be sent now."""
        self._filled = len(self._flying) >= (WINDOW_AGAIN if self._filled else WINDOW)
        return self.open and not self._filled and self._flying_bytes < WINDOW_BYTES

    @property
    def rests(self) -> bool:
        """Whether nothing is on its way, to the other one or back."""
        return not self._flying and not self.returning

    # Its life

    async def greet(self, seconds: float) -> None:
        """Exchange greetings, so long at most; it is not open any more if that fails."""
        self._tasks = [self._hub.loop.create_task(act) for act in (self._read(), self._write(), self._release())]
        self._put(greeting())
        if not await self.until(lambda: self._greeted or not self.open, seconds):
            self._break("it does not answer")

    async def until(self, fact: Callable[[], bool], seconds: float) -> bool:
        """Wait until something about the lane is true, so long at most; return whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not fact():
                    self._moves.clear()
                    await self._moves.wait()
        return fact()

    async def until_room(self, seconds: float) -> bool:
        """Wait until another one may be sent, or never any more; False if that was not so in time."""
        return await self.until(lambda: self.has_room or not self.open, seconds)

    async def until_rest(self, seconds: float) -> bool:
        """Wait until nothing is on its way; False if that was not so in time."""
        return await self.until(lambda: self.rests, seconds)

    async def end(self, seconds: float) -> None:
        """Say that nothing more comes, wait so long at most until the other has dealt with all of it, and close."""
        if self.open and self.rests:
            self._put(Done(0, self._has_settled and self._count_gaps() == self._gaps))
            await self.until(lambda: self._has_ended or not self.open, seconds)
        await self.close()

    def drop(self, why: str = "") -> None:
        """Give it up at once; what is on its way comes back. why: for the log, if nobody knows yet."""
        self._break(why)

    def let_go(self) -> None:
        """Close the descriptor, in a process that user code has forked."""
        self._pair.let_go()

    async def close(self) -> None:
        """End it; what is on its way comes back."""
        self._break("")
        await self.until_rest(RETURN_SECONDS)
        self._hub.post.exchange.unnote(self._marks)
        self._hub.post.release(self._told)
        self._told = set()
        for task in self._tasks:
            task.cancel()

    # What the connections want to hear of

    def covers(self, keys: Iterable[Key]) -> bool:
        """Return whether all these keys have been through a round. One there must be, for what everybody gets."""
        return self._is_covered and self._covered.issuperset(keys)

    async def cover(self, keys: Iterable[Key], seconds: float) -> bool:
        """Have the taker hear of these keys, as ledger.py says; False if that did not work in time.

        The bus may not settle in time, if another worker stands still or a broker is away. Then something may be missed
        by the connections, which move nevertheless: the taker is told so at the end, and tells it (on_bus_gap).
        """
        post, give_up_at = self._hub.post, self._hub.loop.time() + seconds
        if self._round:
            # who is on its way would stand still while the other one settles
            await self.until_rest(seconds)
        else:
            post.exchange.note(self._marks)
            self._gaps = self._count_gaps()
        new = set(keys) - self._told
        post.hold(new)
        self._told |= new
        self._round = number = self._round + 1
        for message in packets.key_messages(number, new):
            self._put(message)
        await self.until(lambda: self._ready_round >= number or not self.open, seconds)
        if self._ready_round < number or not await self._settle(give_up_at - self._hub.loop.time()):
            return False
        self._covered, self._is_covered = set(self._told), True
        return True

    async def _settle(self, seconds: float) -> bool:
        """Have the bus settle; False if the lane has come to its end meanwhile."""
        settling = self._hub.loop.create_task(self._hub.post.exchange.settle(max(0.0, seconds)))
        settling.add_done_callback(lambda task: self._moves.set())
        await self.until(lambda: settling.done() or not self.open, max(0.0, seconds) + RETURN_SECONDS)
        if not settling.done():
            settling.cancel()
            return False
        self._has_settled = settling.result() and self._has_settled
        return self.open

    def _count_gaps(self) -> int:
        return sum(self._hub.counters.bus_gaps.values())

    # Connections

    def give(self, connection: Connection, hook: dict[str, Any] | None) -> None:
        """Freeze a connection and send it; freezing.freeze says what must be so. OSError if it lacks a descriptor."""
        frozen = freezing.freeze(connection, hook)
        number, self._next_number = self._next_number, self._next_number + 1
        self._flying[number] = frozen
        self._flying_bytes += _size(frozen)
        # the marks as they are at this moment, and before the state that they are for
        changes = [*self._marks.take_changes().items()]
        for begin in range(0, len(changes), CHANGES_PER_MESSAGE):
            self._put(Marks(ledger.encode(dict(changes[begin : begin + CHANGES_PER_MESSAGE]))))
        self._outbox.append(number)
        self._to_write.set()

    def _return(self, number: int, reason: Unmoved | None) -> None:
        """Take back a connection that the other one has not taken. reason: None if that one is gone."""
        frozen = self._take_out(number)
        self.returning[frozen.connection] = self._hub.loop.create_task(self._go_back(frozen, reason))

    def _take_out(self, number: int) -> Frozen:
        frozen = self._flying.pop(number)
        self._flying_bytes -= _size(frozen)
        return frozen

    async def _go_back(self, frozen: Frozen, reason: Unmoved | None) -> None:
        await freezing.give_back(frozen)
        del self.returning[frozen.connection]
        self._came_back(frozen.connection, reason)
        self._moves.set()

    # The pair

    def _put(self, message: Message) -> None:
        self._outbox.append(message)
        self._to_write.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                await self._write_all()
        except PairClosed:
            # the reader hears of it as well
            pass
        except Exception as error:
            self._break_of_bug(error)

    async def _write_all(self) -> None:
        """Send what is to be sent, several packets together."""
        bundle: list[tuple[bytes, int | None]] = []
        handed = self._handed
        while self._outbox:
            item = self._outbox.popleft()
            if isinstance(item, int):
                bundle += await self._state_packets(item)
                handed = item + 1
            else:
                message = replace(item, count=self._sent) if isinstance(item, Done) else item
                bundle += [(packet, None) for packet in packets.encode(message)]
            # empty: the state of one that stood alone could not be encoded
            if bundle and (isinstance(item, Go) or len(bundle) >= MOST_TOGETHER or not self._outbox):
                self._handed = handed
                await self._pair.send_all(bundle)
                bundle = []
            if isinstance(item, Go):
                # nothing comes between the two
                self._let_go(item)

    async def _state_packets(self, number: int) -> list[tuple[bytes, int | None]]:
        """Return the packets of a connection, none if it has none and comes back."""
        frozen = self._flying[number]
        state = await frozen.settled()
        try:
            message = State(number, states.encode(state))
            parts = packets.encode(message)
        except (TypeError, ValueError, RecursionError, struct.error):
            # more than fits into any message, or user code has changed what stands in its data since it was checked
            if number in self._flying:
                self._return(number, "error")
            return []
        self._sent += 1
        return [*((part, None) for part in parts[:-1]), (parts[-1], frozen.descriptor)]

    async def _read(self) -> None:
        try:
            while True:
                parcel = await self._pair.receive()
                message = self._packets.feed(parcel.packet)
                if message is not None:
                    self._take(message)
                    self._moves.set()
        except PairClosed:
            self._break("" if self._has_ended else "it has died, or left")
        except VersionError as error:
            self.speaks = False
            self._break(f"it speaks {error}")
        except WireError as error:
            self._break(f"a bug in wsworker: {error}")
        except Exception as error:
            self._break_of_bug(error)

    def _take(self, message: Message) -> None:
        match message:
            case Hello():
                self._greeted = True
            case Ready(number):
                self._ready_round = number
            case Ack(numbers):
                for number in numbers:
                    self._must_fly(number)
                self._acked.update(numbers)
                self._due += numbers
                self._to_release.set()
            case Refused(number, reason):
                self._must_fly(number)
                self._return(number, reason)
            case _:
                self._has_ended = True

    async def _release(self) -> None:
        """Let go of what the other one can have, once all others have heard what was published here before.

        What user code publishes there for the same client comes over another link, and would overtake it.
        """
        try:
            while True:
                await self._to_release.wait()
                self._to_release.clear()
                numbers, self._due = tuple(self._due), []
                await self._be_heard()
                self._put(Go(numbers))
        except Exception as error:
            self._break_of_bug(error)

    async def _be_heard(self) -> None:
        loop, exchange = self._hub.loop, self._hub.post.exchange
        published, began_at = exchange.published, loop.time()
        if published != self._heard and await exchange.settle(self._patience):
            self._heard = published
        self._patience = max(0.0, self._patience - (loop.time() - began_at))

    def _let_go(self, message: Go) -> None:
        """Know that connections are the other's, as it was said."""
        now = monotonic()
        for number in message.numbers:
            frozen = self._take_out(number)
            os.close(frozen.descriptor)
            self.moved += 1
            self.pause_seconds = max(self.pause_seconds, now - frozen.state.frozen_at)
            asked = frozen.connection._wishes
            freezing.forget(frozen.connection)
            for wish in () if asked is None else asked.own():
                self._put(Tail(number, wishes.encode(wish)))
        self._moves.set()

    def _must_fly(self, number: int) -> None:
        if number not in self._flying or number in self._acked or number >= self._handed:
            raise WireError(f"connection {number} is not on its way")

    def _break_of_bug(self, error: Exception) -> None:
        logger.error("a bug in wsworker: a hand-over", exc_info=error)
        self._break("it is told above")

    def _break(self, why: str) -> None:
        """Give it up: what is on its way comes back."""
        if self.open:
            self.open = False
            if why:
                logger.warning("connections cannot be handed to another worker: %s", why)
            self._pair.close()
            self._outbox.clear()
            for number in [*self._flying]:
                self._return(number, None)
        self._moves.set()


def _size(frozen: Frozen) -> int:
    state = frozen.state
    size = len(state.tail) + len(state.session.unread)
    if state.frames or state.session.behind:
        size += sum(map(len, (*state.frames, *state.session.behind)))
    return size
