"""Members: which workers there are, and which of two that are to be linked dials the other.

The listener of a slot is lent to its worker. During a reload two workers hold it, so only one of them accepts: the old
one until it drains, the new one from its go on. Hence:

    both are READY     both accept; the one with the lower id dials, and its dial counts if the other dials as well
    one is READY       the other one dials it, at its start or while it drains
    none is READY      nobody can be dialled; a link that is there stays
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Final, NamedTuple

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0


@unique
class Standing(IntEnum):
    """Where a worker stands: before its go, from there on, and from the word that it is to leave."""

    STARTING = 1
    READY = 2
    DRAINING = 3


class Member(NamedTuple):
    """A worker of this machine that lives. worker: its id, never reused."""

    worker: int
    slot: int
    standing: int


def dials(me: Member, other: Member) -> bool:
    """Whether it is mine to dial the other one."""
    return other.standing == Standing.READY and (me.standing != Standing.READY or me.worker < other.worker)


def pause(tries: int, draw: float) -> float:
    """Return how long to wait after so many tries in a row that failed, 1 or more. draw: random, from 0 to 1."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(tries - 1, 10))
    return longest * (0.5 + 0.5 * draw)
