"""Moves: whose connections go to whom when a worker is replaced or sent away, and what has come of it.

A worker that is replaced hands its connections to the one that follows it in its slot. One whose slot is given up has
no successor: the others share them, who has fewest first. Not to workers of older code, which may not understand what
newer code has kept of a connection. It takes a giver that runs well: one that is hung or stopped hands nothing over,
and one that never was READY has nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from wsworker.master import balance
from wsworker.master.events import Token, WorkerId
from wsworker.master.roster import Roster, Worker
from wsworker.wire import DrainReason

Takers: TypeAlias = tuple[tuple[WorkerId, int], ...]
"""Who takes, and its share, as in Order."""

MOVING: Final[tuple[DrainReason, ...]] = ("reload", "replace", "scale")
"""What a worker leaves for while others serve on. At a stop nobody does."""

MAX_TAKERS: Final = 64
"""A message carries 253 descriptors at most, unix(7), and the master has two of each pair for a moment."""


@dataclass(slots=True)
class Tally:
    """What hand-overs have done. drained: connections told to reconnect as they could not move, by reason.

    longest_pause, last_pause: the longest that a connection was not read, of all and of the last one; seconds.
    """

    moved: int = 0
    drained: Counter[str] = field(default_factory=Counter)
    longest_pause: float = 0.0
    last_pause: float = 0.0

    def add(self, moved: int, drained: Mapping[str, int], pause_seconds: float) -> None:
        """Count one hand-over more."""
        self.moved += moved
        self.drained.update(drained)
        if moved:
            self.last_pause = pause_seconds
        self.longest_pause = max(self.longest_pause, pause_seconds)


@dataclass(slots=True)
class Rebalance:
    """A rebalance under way. began_at, deadline_at: seconds on CLOCK_MONOTONIC.

    rows: what each worker had, and should have. awaited: who gives and has not said how it went, with its slot;
    missing: slots of those that never will. unmoved: connections that stayed where they were, by reason.
    """

    reply: Token
    began_at: float
    deadline_at: float
    rows: list[dict[str, Any]]
    awaited: dict[WorkerId, int]
    missing: set[int] = field(default_factory=set)
    moved: int = 0
    unmoved: Counter[str] = field(default_factory=Counter)
    longest_pause: float = 0.0


def may_give(worker: Worker) -> bool:
    """Whether a READY worker can hand its connections over."""
    return worker.hands_over and worker.served and worker.silence == "none" and not worker.stopped


def takers(roster: Roster, giver: Worker, why: DrainReason) -> Takers:
    """Return who takes the connections of a worker that goes, perhaps nobody; the shares are what each lacks."""
    if why not in MOVING:
        return ()
    slot = roster.slots[giver.slot]
    if not slot.closing:
        successor = slot.ready
        if successor is None or successor is giver or successor.silence != "none":
            return ()
        return ((successor.id, 1),)
    willing = [slot.ready for slot in roster.staying() if slot.ready and slot.ready.takes_connections]
    able = [worker for worker in willing if worker.generation >= giver.generation]
    able = sorted(able, key=lambda worker: worker.connections)[:MAX_TAKERS]
    if not able:
        return ()
    # at least one, as what it holds is as old as its last beat, and clients may have come since
    parts = balance.shares([worker.connections for worker in able], max(1, giver.connections))
    return tuple((worker.id, part) for worker, part in zip(able, parts, strict=True) if part)
