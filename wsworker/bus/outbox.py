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
from typing import Final

from wsworker.bus.records import Gap
from wsworker.bus.topics import Key

MOST_NAMES: Final = 1024
"""Of which it is noted that they have lost something; beyond that it may be any."""

JOINED_BYTES: Final = 256 * 1024
HELD_SECONDS: Final = 3.0


@dataclass(slots=True)
class Budget:
    """What all queues of a worker hold together. most: bytes."""

    most: int
    used: int = 0


class Losses:
    """What was dropped and is not told yet."""

    def __init__(self) -> None:
        self._count = 0
        self._by_key: dict[Key, int] | None = {}

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, key: Key) -> None:
        """Note one message more."""
        self._count += 1
        if self._by_key is not None:
            self._by_key[key] = self._by_key.get(key, 0) + 1
            if len(self._by_key) > MOST_NAMES:
                self._by_key = None

    def take(self) -> Gap:
        """Return all of it, and begin anew."""
        gap = Gap(self._count, None if self._by_key is None else frozenset(self._by_key))
        self._count, self._by_key = 0, {}
        return gap

    def keep(self, wants: Callable[[Key], bool]) -> None:
        """Forget what nobody has missed; all of it is kept if it is not known any more whose it was."""
        if self._by_key is not None:
            self._by_key = {key: count for key, count in self._by_key.items() if wants(key)}
            self._count = sum(self._by_key.values())


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


class Held:
    """What was published for a peer that is not linked. limit, budget: as for Outbox."""

    def __init__(self, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._waiting: deque[tuple[float, Key, bytes]] = deque()
        self._size = 0
        self._losses = Losses()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def push(self, record: bytes, key: Key, now: float) -> None:
        """Hold a message; the oldest ones give way. now: seconds on any clock that only grows."""
        self._waiting.append((now, key, record))
        self._count(len(record))
        while self._waiting and self._is_over(now):
            _, lost, oldest = self._waiting.popleft()
            self._count(-len(oldest))
            self._losses.add(lost)

    def release(self, wants: Callable[[Key], bool]) -> tuple[list[tuple[Key, bytes]], Gap | None]:
        """Return the messages that the peer wants, and what of those it has missed; nothing is held any more."""
        wanted = [(key, record) for _, key, record in self._waiting if wants(key)]
        self._count(-self._size)
        self._waiting.clear()
        self._losses.keep(wants)
        return wanted, self._losses.take() if self._losses else None

    def _is_over(self, now: float) -> bool:
        too_old = self._waiting[0][0] < now - HELD_SECONDS
        return too_old or self._size > self._limit or self._budget.used > self._budget.most

    def _count(self, size: int) -> None:
        self._size += size
        self._budget.used += size
