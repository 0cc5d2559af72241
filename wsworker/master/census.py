"""A census: one question about connections, asked of many workers, and what has come back so far.

Every worker sends the rows that fit, sorted and cut to the limit, in parts; here they are put together. No more is kept
than the best rows and a few that are not sorted in yet, however many workers there are and however much they send.

An answer is late, short or none at all: a worker may hang, or die while it speaks. Its slot is named as missing then,
and what it has said before still counts, as it is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from wsworker.master.events import WorkerAnswered, WorkerId
from wsworker.query import SORTS, Query, Rank, rank

Row: TypeAlias = Mapping[str, Any]

ROWS_PER_PART: Final = 10
"""A row came in a line of at most 64 KiB, and a line to a caller has at most 1 MiB."""

FRESH_ROWS: Final = 1000
"""So many may wait to be sorted in; one by one, each would cost a sort of all."""


@dataclass(slots=True)
class Census:
    """What is known of one question.

    deadline_at: when its caller gets what is there, seconds on CLOCK_MONOTONIC. awaited: workers that have not sent all
    yet, and the slot of each. missing: slots of which something is missing. total: connections that fit, of all those
    workers that have said anything.
    """

    query: Query
    deadline_at: float
    awaited: dict[WorkerId, int]
    missing: set[int]
    total: int = 0
    _heard: set[WorkerId] = field(default_factory=set)
    _best: list[tuple[Rank, Row]] = field(default_factory=list)
    _fresh: list[tuple[Rank, Row]] = field(default_factory=list)

    def take(self, event: WorkerAnswered) -> None:
        """Take a part of an answer; nothing if that worker was not asked, or has sent its last part."""
        if event.worker not in self.awaited:
            return
        if event.worker not in self._heard:
            # the same number stands in each part
            self._heard.add(event.worker)
            self.total += event.total
        key = SORTS[self.query.sort]
        self._fresh += [(rank(self.query, row.get(key)), row) for row in event.rows]
        if len(self._fresh) >= max(FRESH_ROWS, self.query.limit):
            self._sort_in()
        if event.last:
            del self.awaited[event.worker]

    def lose(self, worker: WorkerId) -> None:
        """Know that nothing comes from a worker any more."""
        self.missing.add(self.awaited.pop(worker))

    def result(self) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
        """Return the result for the caller, and the rows that go before it, in parts."""
        self._sort_in()
        rows = [row for _, row in self._best]
        body = {"total": self.total, "shown": len(rows), "missing": sorted(self.missing)}
        starts = range(0, len(rows), ROWS_PER_PART)
        return body, tuple({"connections": rows[start : start + ROWS_PER_PART]} for start in starts)

    def _sort_in(self) -> None:
        # stable: what a worker has sent stays in its order where the key says nothing
        self._best = sorted(self._best + self._fresh, key=lambda pair: pair[0])[: self.query.limit]
        self._fresh = []
