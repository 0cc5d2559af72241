"""Outbox: what waits to be written to another worker, and what becomes of it when that one is slow.

A worker that does not read costs its peers a bounded queue and nothing else. What meets a full one is dropped and
noted: how many, and whose. Nothing more is taken until half of the queue is written; then the note goes out, in its
place in the order, and service is normal again. So a loss is told before what was published after it.

Before a link is there, or while it is lost, messages are held for it, as the other one may want them; it says so as
soon as it is linked. They are held for a few seconds, which covers a reload.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from wsworker.bus.losses import Gap, Losses, join
from wsworker.bus.topics import Key

JOINED_BYTES: Final = 256 * 1024
HELD_SECONDS: Final = 3.0


@dataclass(slots=True)
class Budget:
    """What all queues of a worker hold together. most: bytes."""

    most: int
    used: int = 0


class Outbox:
    """The queue to one peer. limit: bytes; budget: shared by all. size: bytes that are not written yet."""

    def __init__(self, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._records: deque[bytes] = deque()
        self._losses = Losses()
        self.size = 0

    @property
    def stalled(self) -> bool:
        """Whether something was dropped and is not told yet; what may wait should wait."""
        return bool(self._losses)

    @property
    def full(self) -> bool:
        """Whether more waits than is to wait."""
        return self.size > self._limit

    @property
    def eased(self) -> bool:
        """Whether half of the queue, or more, is written."""
        return self.size <= self._limit // 2

    def push(self, record: bytes, key: Key) -> bool:
        """Queue a message; False if it is dropped."""
        size = len(record)
        fits = self.size + size <= self._limit and self._budget.used + size <= self._budget.most
        # an empty queue takes one message, however large: the limit may be smaller than that
        if self._losses or not (fits or self.size == 0):
            self._losses.add(key)
            return False
        self.force(record)
        return True

    def lose(self, key: Key) -> None:
        """Note a message that the peer does not take."""
        self._losses.add(key)

    def force(self, record: bytes) -> None:
        """Queue a record that must not be dropped."""
        self._records.append(record)
        self.size += len(record)
        self._budget.used += len(record)

    def take(self) -> bytes:
        """Return what is to be written next, b"" if nothing waits. You must tell by sent() how much of it is."""
        records = self._records
        joined: list[bytes] = []
        size = 0
        while records and size < JOINED_BYTES:
            joined.append(records.popleft())
            size += len(joined[-1])
        return b"".join(joined)

    def sent(self, count: int) -> None:
        """Know that so many bytes are written."""
        self.size -= count
        self._budget.used -= count

    def owed(self) -> Gap | None:
        """Return what is to be told, if something was dropped and it is time; then it counts as told."""
        if not self._losses or not self.eased:
            return None
        return self._losses.take()

    def clear(self) -> None:
        """Forget all that waits: the link is over."""
        self._budget.used -= self.size
        self.size = 0
        self._records.clear()
        self._losses.take()


class Released(NamedTuple):
    """What was held for a peer, and what it has missed. too_old: how many of that because they waited for too long."""

    messages: list[tuple[Key, bytes]]
    gap: Gap | None
    too_old: int


class Held:
    """What was published for a peer that is not linked. limit, budget: as for Outbox."""

    def __init__(self, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._waiting: deque[tuple[float, Key, bytes]] = deque()
        self._size = 0
        self._crowded = Losses()  # there was no room
        self._too_old = Losses()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def push(self, record: bytes, key: Key, now: float) -> None:
        """Hold a message; the oldest ones give way. now: seconds on any clock that only grows."""
        self._waiting.append((now, key, record))
        self._count(len(record))
        while self._waiting and self._waiting[0][0] < now - HELD_SECONDS:
            self._lose_oldest(self._too_old)
        while self._waiting and (self._size > self._limit or self._budget.used > self._budget.most):
            self._lose_oldest(self._crowded)

    def release(self, wants: Callable[[Key], bool]) -> Released:
        """Return the messages that the peer wants, and what of those it has missed; nothing is held any more."""
        wanted = [(key, record) for _, key, record in self._waiting if wants(key)]
        self._count(-self._size)
        self._waiting.clear()
        self._too_old.keep(wants)
        self._crowded.keep(wants)
        too_old = self._too_old.take() if self._too_old else None
        crowded = self._crowded.take() if self._crowded else None
        gap = join(too_old, crowded) if too_old and crowded else too_old or crowded
        return Released(wanted, gap, too_old.lost if too_old else 0)

    def _lose_oldest(self, losses: Losses) -> None:
        _, key, record = self._waiting.popleft()
        self._count(-len(record))
        losses.add(key)

    def _count(self, size: int) -> None:
        self._size += size
        self._budget.used += size
