"""The shared table: what every process may know about every worker, without asking any of them.

One shared mapping, made by the master before its first fork; each worker inherits it. There is one record per
slot: a head with the totals of workers that have left, and two seats, because a worker and its replacement live side by
side during a reload. Every field is one aligned 64-bit word with one writer at a time, so there is no lock: a reader
needs no two words to agree.

    head    master   folds (see below), and the counters of workers that are gone
    seat    master   worker (its id; 0: the seat is free), standing (see bus/mesh/members.py)
            worker   beat_ns (CLOCK_MONOTONIC), lag_us, connections, full (0 or 1), send_buffer (bytes),
                     for each adapter of the bus state (0 none, 1 down, 2 up), links, queued_bytes, lag_us, keys;
                     counters

The loop of a worker writes its seat once a second and before it exits, never a thread: a blocked loop must look
blocked. The hot path counts in plain attributes of Counters, so a SIGKILL costs at most one beat of counting. When a
worker is reaped, the master folds its seat into the head: a slot's counters survive a death and never go back. That
takes more than one word, so folds is odd while it goes on, and who has read meanwhile reads again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wsworker.bus.mesh.members import Member, Standing
from wsworker.counters import ADAPTERS, COUNTER_LAYOUT, COUNTER_WORDS, Adapter, Counters
from wsworker.memory import Memory

MAX_SLOTS: Final = 256
SEATS_PER_SLOT: Final = 2
_WORD_BYTES: Final = 8

_WORKER, _STANDING, _BEAT, _LAG, _CONNECTIONS, _FULL, _SEND_BUFFER, _BUS = range(8)
_REACH_WORDS: Final = 5
_COUNTERS: Final = _BUS + len(ADAPTERS) * _REACH_WORDS
_SEAT_WORDS: Final = _COUNTERS + COUNTER_WORDS
_FOLDS, _HEAD = range(2)
_HEAD_WORDS: Final = _HEAD + COUNTER_WORDS
_RECORD_WORDS: Final = _HEAD_WORDS + SEATS_PER_SLOT * _SEAT_WORDS

_REACHES: Final = {adapter: _BUS + number * _REACH_WORDS for number, adapter in enumerate(ADAPTERS)}
"""Where the words of each adapter begin; the first is its state, 0 for one that is not in use."""

_DOWN: Final = 1
_UP: Final = 2

_FIELDS: Final = "folds, counters; worker standing beat lag connections full send; up links queued lag keys; counters"
LAYOUT: Final = f"{MAX_SLOTS} {SEATS_PER_SLOT} {len(ADAPTERS)} {_REACH_WORDS} {COUNTER_LAYOUT} {_FIELDS}"
"""Tells one layout from another: programs with the same one can share a table."""

LOST: Final = "1006"
"""How connections count that ended with their worker."""

READS: Final = 1000
"""So often at most a reader begins anew while the master folds: it may have been killed in the middle of it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How one adapter of the bus stands with one worker.

    up: its broker can be reached; False of the mesh, which has none. links: others that it can reach: workers, or
    servers of the broker; queued_bytes: what waits for them; lag_seconds: how long a probe took to them and back, the
    longest of late; keys: what it is subscribed to.
    """

    up: bool = False
    links: int = 0
    queued_bytes: int = 0
    lag_seconds: float = 0.0
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One seat as it stood at one moment.

    beat_at: seconds on CLOCK_MONOTONIC, 0.0 before the first beat; full: the worker accepts nobody for now;
    send_buffer: bytes that were sent and that the kernel had not taken at the last beat, of all connections together;
    bus: how the adapters that it uses stand.
    """

    beat_at: float
    lag_seconds: float
    connections: int
    full: bool
    counters: Counters
    send_buffer: int = 0
    bus: Mapping[Adapter, Reach] = field(default_factory=dict)


class Seat:
    """The words of one worker; made by Table.claim in the master, written by that worker after the fork."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    @property
    def worker(self) -> int:
        """The id of the worker that sits here; 0 means nobody."""
        return int(self._words[_WORKER])

    def write(
        self,
        beat_ns: int,
        lag_us: int,
        connections: int,
        full: bool,
        counters: Counters,
        send_buffer: int = 0,
        bus: Mapping[Adapter, Reach] | None = None,
    ) -> None:
        """Publish the state of this worker. The beat goes last: whoever sees it sees what it stands for."""
        words = self._words
        for index, value in enumerate(counters.words(), _COUNTERS):
            words[index] = value
        words[_CONNECTIONS] = connections
        words[_FULL] = full
        words[_SEND_BUFFER] = send_buffer
        for adapter, begin in _REACHES.items():
            self._write_reach(begin, (bus or {}).get(adapter))
        words[_LAG] = lag_us
        words[_BEAT] = beat_ns

    def stand(self, standing: Standing) -> None:
        """Show to other workers where this one stands; the master's to say."""
        self._words[_STANDING] = standing

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
            send_buffer=words[_SEND_BUFFER],
            bus={adapter: self._read_reach(begin) for adapter, begin in _REACHES.items() if words[begin]},
            counters=Counters.of(self.counted),
        )

    @property
    def counted(self) -> Sequence[int]:
        """The words of its counters."""
        return self._words[_COUNTERS:_SEAT_WORDS].tolist()

    def sit(self, worker: int) -> None:
        """Clear the seat and give it to a worker; 0 frees it."""
        self._words[:] = memoryview(bytes(len(self._words) * _WORD_BYTES)).cast("q")
        self._words[_STANDING] = Standing.STARTING
        self._words[_WORKER] = worker

    def _write_reach(self, begin: int, reach: Reach | None) -> None:
        row = [0] * _REACH_WORDS
        if reach:
            state = _UP if reach.up else _DOWN
            row = [state, reach.links, reach.queued_bytes, round(reach.lag_seconds * 1e6), reach.keys]
        for index, value in enumerate(row, begin):
            self._words[index] = value

    def _read_reach(self, begin: int) -> Reach:
        state, links, queued_bytes, lag_us, keys = self._words[begin : begin + _REACH_WORDS].tolist()
        return Reach(state == _UP, links, queued_bytes, lag_us / 1e6, keys)


class Table:
    """The whole table. slots: how many records to make room for, 1 to 256; slot numbers count from 1.

    fd: of a table that was made before, with as many slots.
    """

    def __init__(self, slots: int = MAX_SLOTS, fd: int | None = None) -> None:
        assert 1 <= slots <= MAX_SLOTS
        self.memory = Memory("wsworker-table", slots * _RECORD_WORDS * _WORD_BYTES, fd)
        self._words = memoryview(self.memory.map).cast("q")

    def claim(self, slot: int, worker: int) -> Seat:
        """Give a free seat of the slot to a worker about to be forked. Two workers of a slot live at most: asserted."""
        seat = next((seat for seat in self._seats(slot) if seat.worker == 0), None)
        assert seat is not None, f"slot {slot} has two workers already"
        seat.sit(worker)
        return seat

    def seat(self, slot: int, worker: int) -> Seat:
        """Return the seat of a worker that lives. Raises ValueError if it has none."""
        for seat in self._seats(slot):
            if seat.worker == worker:
                return seat
        raise ValueError(f"worker {worker} has no seat in slot {slot}")

    def fold(self, slot: int, worker: int) -> None:
        """Add what a dead worker counted to its slot's totals and free its seat; nothing if it has no seat."""
        for seat in self._seats(slot):
            if seat.worker == worker:
                record, counters = self._record(slot), seat.read().counters
                # who was connected to it is not any more, though nobody was there to say so
                counters.closed[LOST] += counters.accepted - sum(counters.closed.values())
                record[_FOLDS] += 1
                for index, value in enumerate(counters.words(), _HEAD):
                    record[index] += value
                seat.sit(0)
                record[_FOLDS] += 1

    def read(self, slot: int, worker: int) -> Reading | None:
        """Return the reading of one worker, or None when it has no seat."""
        return next((seat.read() for seat in self._seats(slot) if seat.worker == worker), None)

    def readings(self, slot: int) -> list[Reading]:
        """Return the readings of the slot's workers: of none, one, or during a reload two."""
        return [seat.read() for seat in self._seats(slot) if seat.worker]

    def totals(self, slot: int) -> Counters:
        """Return what all workers of the slot, past and present, have counted."""
        record = self._record(slot)
        for _ in range(READS):
            folds = record[_FOLDS]
            rows = [record[_HEAD:_HEAD_WORDS].tolist(), *(seat.counted for seat in self._seats(slot) if seat.worker)]
            if folds % 2 == 0 and record[_FOLDS] == folds:
                break
        return Counters.of(map(sum, zip(*rows, strict=True)))

    def others(self, slot: int) -> bool:
        """Return whether any other slot has a worker now. All ids are read at once: a full worker asks often."""
        for seat in range(SEATS_PER_SLOT):
            workers = self._words[_HEAD_WORDS + seat * _SEAT_WORDS + _WORKER :: _RECORD_WORDS].tolist()
            del workers[slot - 1]
            if any(workers):
                return True
        return False

    def members(self) -> list[Member]:
        """Return the workers that live, and where each stands."""
        found = []
        for seat in range(SEATS_PER_SLOT):
            begin = _HEAD_WORDS + seat * _SEAT_WORDS
            workers = self._words[begin + _WORKER :: _RECORD_WORDS].tolist()
            standings = self._words[begin + _STANDING :: _RECORD_WORDS].tolist()
            both = enumerate(zip(workers, standings, strict=True), 1)
            found += [Member(worker, slot, standing) for slot, (worker, standing) in both if worker]
        return found

    def _record(self, slot: int) -> memoryview:
        start = (slot - 1) * _RECORD_WORDS
        return self._words[start : start + _RECORD_WORDS]

    def _seats(self, slot: int) -> list[Seat]:
        seats = self._record(slot)[_HEAD_WORDS:]
        return [Seat(seats[start : start + _SEAT_WORDS]) for start in range(0, len(seats), _SEAT_WORDS)]
