"""Pipeline: what waits to be published at one server of a broker, and what it has not answered yet.

Commands gather until they are taken as a batch; one batch is in flight at a time, and the next one gathers meanwhile.
Each command gets one reply, in order. So it is known at any time of which messages nobody knows whether they came
through: when the connection is lost these are given up, and what waits behind them as well.

    BEGINNING    the first attempt to connect is not over: what comes waits
    UP           connected
    DOWN         what comes is given up at once

What was given up is owed to the others: see Debts.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final, Literal, TypeAlias

from wsworker.bus.losses import Debts, Gap
from wsworker.bus.topics import Key

BATCH_BYTES: Final = 256 * 1024

Item: TypeAlias = "Key | Gap | None"
"""What a command carries: a message to this key; word of a loss; or a probe."""


class Stage(Enum):
    """Where a pipeline stands, see above."""

    BEGINNING = auto()
    UP = auto()
    DOWN = auto()


class Pipeline:
    """The queue to one server. limit: bytes; debts: shared. size: bytes that are not answered yet."""

    def __init__(self, limit: int, debts: Debts) -> None:
        self._limit = limit
        self._debts = debts
        self._waiting: deque[tuple[bytes, Item]] = deque()
        self._in_flight: deque[tuple[int, Item]] = deque()
        self._stalled = False
        self.stage = Stage.BEGINNING
        self.size = 0

    @property
    def in_flight(self) -> int:
        """How many commands are not answered."""
        return len(self._in_flight)

    @property
    def tells(self) -> bool:
        """Whether word of a loss waits, or is not answered."""
        items = [item for _, item in self._in_flight] + [item for _, item in self._waiting]
        return any(isinstance(item, Gap) for item in items)

    @property
    def stalled(self) -> bool:
        """Whether the queue was full, and is not half empty again."""
        return self._stalled

    def push(self, command: bytes, key: Key) -> Literal["full", "down"] | None:
        """Queue a message; return why it is given up, None if it is not."""
        if self.stage is Stage.DOWN:
            self._debts.add(key)
            return "down"
        # an empty queue takes one message, however large: the limit may be smaller than that
        if self._stalled or (self.size and self.size + len(command) > self._limit):
            self._stalled = True
            self._debts.add(key)
            return "full"
        self.force(command, key)
        return None

    def force(self, command: bytes, item: Item) -> None:
        """Queue what must not be dropped."""
        self._waiting.append((command, item))
        self.size += len(command)

    def take(self) -> bytes:
        """Return the next batch, b"" if nothing waits. What was taken before must all be answered."""
        assert not self._in_flight, "one batch at a time"
        batch: list[bytes] = []
        size = 0
        while self._waiting and size < BATCH_BYTES:
            command, item = self._waiting.popleft()
            batch.append(command)
            size += len(command)
            self._in_flight.append((len(command), item))
        return b"".join(batch)

    def answered(self) -> Item:
        """Know that the oldest command in flight, of which there must be one, is answered; return what it carried."""
        size, item = self._in_flight.popleft()
        self.size -= size
        if self._stalled and self.size <= self._limit // 2:
            self._stalled = False
        return item

    def fail(self) -> int:
        """Know that the connection is lost, or could not be made; return how many messages are given up by that."""
        items = [item for _, item in self._in_flight] + [item for _, item in self._waiting]
        for item in items:
            # a probe is of no use to anybody else
            if item is not None:
                self._debts.add(item)
        self._in_flight.clear()
        self._waiting.clear()
        self.size = 0
        self._stalled = False
        self.stage = Stage.DOWN
        return sum(isinstance(item, Key) for item in items)
