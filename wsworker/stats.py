"""The shared table: what every process may know about every worker, without asking any of them.

One anonymous shared mmap, made by the master before its first fork; each worker inherits it. There is one record per
slot: a head with the totals of workers that have left, and two seats, because a worker and its replacement live side by
side during a reload. Every field is one aligned 64-bit word with one writer at a time, so there is no lock: a reader
needs no two words to agree.

    head    master   the counters of workers that are gone
    seat    master   worker (its id; 0: the seat is free)
            worker   beat_ns (CLOCK_MONOTONIC), lag_us, connections, full (0 or 1), and the counters

The loop of a worker writes its seat once a second and before it exits, never a thread: a blocked loop must look
blocked. The hot path counts in plain attributes of Counters, so a SIGKILL costs at most one beat of counting. When a
worker is reaped, the master folds its seat into the head: a slot's counters survive a death and never go back.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, fields
from typing import Final

MAX_SLOTS: Final = 256
SEATS_PER_SLOT: Final = 2
_WORD_BYTES: Final = 8


@dataclass(slots=True)
class Counters:
    """What one worker counts, in plain attributes; all only grow.

    accepted, rejected: handshakes answered with 101, and with anything else; messages in and out; bytes in and out, as
    they are read and written, heads and frames and all; refused: sends that gave False; dropped: messages that were
    accepted and gave way to others; errors: exceptions of callbacks; log_dropped: lines for the log that were lost.
    """

    accepted: int = 0
    rejected: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: int = 0
    dropped: int = 0
    errors: int = 0
    log_dropped: int = 0

    def plus(self, other: Counters) -> Counters:
        """Return the sum, field by field."""
        return Counters(*(getattr(self, name) + getattr(other, name) for name in COUNTER_NAMES))


COUNTER_NAMES: Final = tuple(field.name for field in fields(Counters))

_WORKER, _BEAT, _LAG, _CONNECTIONS, _FULL, _COUNTERS = range(6)
_SEAT_WORDS: Final = _COUNTERS + len(COUNTER_NAMES)
_RECORD_WORDS: Final = len(COUNTER_NAMES) + SEATS_PER_SLOT * _SEAT_WORDS


@dataclass(frozen=True, slots=True)
class Reading:
    """One seat as it stood at one moment.

    beat_at: seconds on CLOCK_MONOTONIC, 0.0 before the first beat; full: the worker accepts nobody for now.
    """

    beat_at: float
    lag_seconds: float
    connections: int
    full: bool
    counters: Counters


class Seat:
    """The words of one worker; made by Table.claim in the master, written by that worker after the fork."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    @property
    def worker(self) -> int:
        """The id of the worker that sits here; 0 means nobody."""
        return int(self._words[_WORKER])

    def write(self, beat_ns: int, lag_us: int, connections: int, full: bool, counters: Counters) -> None:
        """Publish the state of this worker. The beat goes last: whoever sees it sees what it stands for."""
        words = self._words
        for index, name in enumerate(COUNTER_NAMES, _COUNTERS):
            words[index] = getattr(counters, name)
        words[_CONNECTIONS] = connections
        words[_FULL] = full
        words[_LAG] = lag_us
        words[_BEAT] = beat_ns

    def count_connections(self, connections: int, full: bool) -> None:
        """Publish how many are open and whether that is all, at once and not with the next beat.

        Who has just connected is to be seen by a reload that follows, and clients of a full worker wait for another.
        """
        self._words[_CONNECTIONS] = connections
        self._words[_FULL] = full

    def read(self) -> Reading:
        """Return what the worker wrote last; all zero when it wrote nothing yet."""
        words = self._words
        return Reading(
            beat_at=words[_BEAT] / 1e9,
            lag_seconds=words[_LAG] / 1e6,
            connections=words[_CONNECTIONS],
            full=bool(words[_FULL]),
            counters=Counters(*words[_COUNTERS:_SEAT_WORDS]),
        )

    def sit(self, worker: int) -> None:
        """Clear the seat and give it to a worker; 0 frees it."""
        self._words[:] = memoryview(bytes(len(self._words) * _WORD_BYTES)).cast("q")
        self._words[_WORKER] = worker


class Table:
    """The whole table. slots: how many records to make room for, 1 to 256; slot numbers count from 1."""

    def __init__(self, slots: int = MAX_SLOTS) -> None:
        assert 1 <= slots <= MAX_SLOTS
        self._memory = mmap.mmap(-1, slots * _RECORD_WORDS * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("q")

    def claim(self, slot: int, worker: int) -> Seat:
        """Give a free seat of the slot to a worker about to be forked. Two workers of a slot live at most: asserted."""
        seat = next((seat for seat in self._seats(slot) if seat.worker == 0), None)
        assert seat is not None, f"slot {slot} has two workers already"
        seat.sit(worker)
        return seat

    def fold(self, slot: int, worker: int) -> None:
        """Add what a dead worker counted to its slot's totals and free its seat; nothing if it has no seat."""
        for seat in self._seats(slot):
            if seat.worker == worker:
                self._set_head(slot, self._head(slot).plus(seat.read().counters))
                seat.sit(0)

    def read(self, slot: int, worker: int) -> Reading | None:
        """Return the reading of one worker, or None when it has no seat."""
        return next((seat.read() for seat in self._seats(slot) if seat.worker == worker), None)

    def totals(self, slot: int) -> Counters:
        """Return what all workers of the slot, past and present, have counted."""
        total = self._head(slot)
        for seat in self._seats(slot):
            if seat.worker:
                total = total.plus(seat.read().counters)
        return total

    def others(self, slot: int) -> bool:
        """Return whether any other slot has a worker now. All ids are read at once: a full worker asks often."""
        for seat in range(SEATS_PER_SLOT):
            workers = self._words[len(COUNTER_NAMES) + seat * _SEAT_WORDS + _WORKER :: _RECORD_WORDS].tolist()
            del workers[slot - 1]
            if any(workers):
                return True
        return False

    def _record(self, slot: int) -> memoryview:
        start = (slot - 1) * _RECORD_WORDS
        return self._words[start : start + _RECORD_WORDS]

    def _seats(self, slot: int) -> list[Seat]:
        seats = self._record(slot)[len(COUNTER_NAMES) :]
        return [Seat(seats[start : start + _SEAT_WORDS]) for start in range(0, len(seats), _SEAT_WORDS)]

    def _head(self, slot: int) -> Counters:
        return Counters(*self._record(slot)[: len(COUNTER_NAMES)])

    def _set_head(self, slot: int, totals: Counters) -> None:
        record = self._record(slot)
        for index, name in enumerate(COUNTER_NAMES):
            record[index] = getattr(totals, name)
