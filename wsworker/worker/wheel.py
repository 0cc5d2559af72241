"""Wheel: the deadlines of all connections of one worker, kept by tick instead of by timer.

A worker with ten thousand connections has ten thousand deadlines, nearly all of which are moved before they come due.
A loop timer for each costs an object, a heap entry and a cancelled entry that stays in the heap. Here a deadline is a
key in the dictionary of its tick: to set, to move and to cancel it are one dictionary operation each.

Time is counted in ticks, a number that only grows. The wheel knows nothing of the clock: its owner calls advance. A
hierarchy of wheels was rejected: a deadline lies some minutes ahead at most, so one dictionary of ticks stays small and
an empty tick costs one failed look-up.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

TICK_SECONDS: Final = 0.25
"""Fine enough that a second's deadline is not half over, coarse enough that an idle worker hardly wakes up."""

Item = TypeVar("Item", bound=Hashable)


def ticks(seconds: float) -> int:
    """Return how many ticks fit into so many seconds, at least one: a deadline is kept early rather than late."""
    return max(1, int(seconds / TICK_SECONDS))


class Wheel(Generic[Item]):
    """Items by the tick at which they are due; each item stands in it at most once. now: the tick to begin with."""

    __slots__ = ("_due", "_ticks", "now")

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self._ticks: dict[int, dict[Item, None]] = {}
        self._due: dict[Item, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def schedule(self, item: Item, ticks: int) -> None:
        """Make the item due in so many ticks, at least one; an earlier deadline of the same item is forgotten."""
        self.cancel(item)
        due = self.now + max(1, ticks)
        self._ticks.setdefault(due, {})[item] = None
        self._due[item] = due

    def cancel(self, item: Item) -> None:
        """Forget the item's deadline; nothing happens if it has none."""
        due = self._due.pop(item, None)
        if due is None:
            return
        tick = self._ticks[due]
        del tick[item]
        if not tick:
            del self._ticks[due]

    def advance(self, now: int) -> list[Item]:
        """Move on to tick now; return the items that came due, earliest first, and forget their deadlines.

        A clock that was late by many ticks loses nothing. A now that is not ahead changes nothing.
        """
        due: list[Item] = []
        # an empty wheel may stand still for days
        for tick in range(self.now + 1, now + 1) if self._due else ():
            due.extend(self._ticks.pop(tick, ()))
        for item in due:
            del self._due[item]
        self.now = max(self.now, now)
        return due
