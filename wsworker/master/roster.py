"""What the supervisor knows of its slots and the workers in them, and the questions it asks about them.

Facts only. Nothing here decides or emits; the supervisor's modules change these fields and nobody else does. At most
two workers of a slot are alive at a time: the one that serves or boots, and one that leaves or is being replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from wsworker.master.events import Reading, WorkerFailed, WorkerId
from wsworker.master.recycling import Limits
from wsworker.wire import DrainReason

NO_LIMITS: Final = Limits(0, 0, 0)
KILL_MARGIN_SECONDS: Final = 5.0
"""How long after its graceful_timeout a worker that drains is killed: it cuts its clients itself, and says goodbye."""


class WorkerState(Enum):
    """Where a worker stands; the table in supervisor.py says what each event does there."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    KILLED = "killed"


class ServiceState(Enum):
    """Where the whole service stands."""

    BOOTING = "starting"
    SERVING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"
    ENDED = "ended"


Silence: TypeAlias = Literal["none", "hung", "dumped"]
"""How far a silent READY worker has been dealt with: not at all; no new connections; its stacks were asked for."""

Doom: TypeAlias = Literal["", "hung", "memory"]
"""What the supervisor kills a worker for."""


@dataclass(slots=True)
class Worker:
    """One process. Times are seconds on CLOCK_MONOTONIC; deadline_at is None when nothing is awaited of it.

    restart: it follows a dead one. graceful_timeout, worker_timeout, hands_over (reload_strategy): by the configuration
    it was started with, by which it goes as well. unasked: whether its exit would come unasked; False once it was told
    to go. accepting: it was told go. served: it has been READY, and so may have clients. leaving: it is to be replaced.
    drain_until: the end of its time to drain; why: what it was told to go for. takers: who its connections were last to
    move to; stranded: how many of them wait for another taker. killed_at: when its end by force began. heard_at: its
    last sign of life, 0.0 before READY.
    """

    id: WorkerId
    slot: int
    generation: int
    state: WorkerState
    since: float
    deadline_at: float | None
    limits: Limits = NO_LIMITS
    graceful_timeout: float = 0.0
    worker_timeout: float = 0.0
    hands_over: bool = False
    pid: int | None = None
    unasked: bool = True
    accepting: bool = False
    served: bool = False
    leaving: bool = False
    drain_until: float = 0.0
    why: DrainReason = ""
    takers: frozenset[WorkerId] = frozenset()
    stranded: int = 0
    killed_at: float = 0.0
    silence: Silence = "none"
    heard_at: float = 0.0
    connections: int = 0
    full: bool = False
    lag_seconds: float = 0.0
    stopped: bool = False
    failure: WorkerFailed | None = None
    doom: Doom = ""
    restart: bool = False

    def drain_seconds(self, now: float) -> float | None:
        """Return how long it may still drain before it cuts its clients; None if it does not drain."""
        if self.state is not WorkerState.DRAINING:
            return None
        return max(0.0, self.drain_until - KILL_MARGIN_SECONDS - now)

    @property
    def takes_connections(self) -> bool:
        """Whether new clients may be sent to it."""
        return self.state is WorkerState.READY and self.accepting and self.silence == "none" and not self.full

    def note(self, reading: Reading) -> None:
        """Take over what a reading shows beside the beat."""
        self.connections, self.full = reading.connections, reading.full
        self.lag_seconds, self.stopped = reading.lag_seconds, reading.stopped

    def postpone(self, seconds: float) -> None:
        """Move all that is awaited of it: the machine or the master stood still meanwhile."""
        self.heard_at += seconds if self.heard_at else 0.0
        self.drain_until += seconds
        self.killed_at += seconds
        self.deadline_at = None if self.deadline_at is None else self.deadline_at + seconds


@dataclass(slots=True)
class Slot:
    """One place for a serving worker. history: its exits, as in restarts.py.

    bound, open: its listeners are made, and listen. judged: its first worker has become ready or failed. retry_at: when
    its next worker starts, None while none is to. replace_at, replacements: the same for the replacement of a worker
    that serves on meanwhile. failed_forks: how often its next worker could not even be forked. closing_since: it is
    given up for good. unserved_since: nobody accepts at its listeners. lent_to: who accepts there instead.
    """

    number: int
    bound: bool = True
    open: bool = False
    judged: bool = False
    parked: bool = False
    retry_at: float | None = None
    history: tuple[float, ...] = ()
    replace_at: float = 0.0
    replacements: tuple[float, ...] = ()
    failed_forks: int = 0
    restarts: int = 0
    last_exit: dict[str, Any] | None = None
    closing_since: float | None = None
    unserved_since: float | None = None
    lent_to: WorkerId | None = None
    workers: list[Worker] = field(default_factory=list)

    def postpone(self, seconds: float) -> None:
        """Move all that is awaited here, as Worker.postpone does."""
        self.replace_at += seconds
        self.retry_at = None if self.retry_at is None else self.retry_at + seconds
        self.closing_since = None if self.closing_since is None else self.closing_since + seconds
        self.unserved_since = None if self.unserved_since is None else self.unserved_since + seconds

    @property
    def closing(self) -> bool:
        """Whether it is given up for good."""
        return self.closing_since is not None

    @property
    def ready(self) -> Worker | None:
        """Its newest READY worker."""
        return next((worker for worker in reversed(self.workers) if worker.state is WorkerState.READY), None)

    @property
    def booting(self) -> Worker | None:
        """Its worker that is on its way to READY."""
        return next((worker for worker in self.workers if worker.state is WorkerState.STARTING), None)

    @property
    def has_room(self) -> bool:
        """Whether a worker may start: nobody boots or serves there and at most one is still on its way out."""
        leaving = (WorkerState.DRAINING, WorkerState.KILLED)
        return (
            self.bound
            and not self.closing
            and len(self.workers) <= 1
            and all(worker.state in leaving and not worker.unasked for worker in self.workers)
        )


@dataclass(slots=True)
class Roster:
    """All slots, by number from 1, and all living workers, by id in the order of their spawning."""

    slots: dict[int, Slot] = field(default_factory=dict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)

    def add(self, worker: Worker) -> None:
        """Know a worker that is about to be forked."""
        self.workers[worker.id] = worker
        self.slots[worker.slot].workers.append(worker)

    def remove(self, worker: Worker) -> Slot:
        """Forget a worker that is reaped; return its slot."""
        del self.workers[worker.id]
        slot = self.slots[worker.slot]
        slot.workers.remove(worker)
        return slot

    def borrower(self, slot: Slot) -> Worker | None:
        """Return the living worker that accepts at a slot's listeners instead of its own, if there is one."""
        return None if slot.lent_to is None else self.workers.get(slot.lent_to)

    def staying(self) -> Iterator[Slot]:
        """Yield the slots that are not given up, in their order."""
        return (slot for slot in self.slots.values() if not slot.closing)

    def ready_count(self) -> int:
        """Return how many slots have a READY worker that beats."""
        return sum(slot.ready is not None and slot.ready.silence == "none" for slot in self.staying())

    def quiet(self) -> bool:
        """Whether nobody boots, leaves or is being killed: the moment at which a roll may begin."""
        return all(worker.state is WorkerState.READY for worker in self.workers.values())

    def only_killed(self) -> bool:
        """Whether all that live are to die at once, and do not."""
        return bool(self.workers) and all(worker.state is WorkerState.KILLED for worker in self.workers.values())

    def lease_taken(self) -> bool:
        """Whether a worker boots beside the one that it is to replace."""
        return any(slot.booting and slot.ready for slot in self.slots.values())

    def given_up(self) -> bool:
        """Whether nobody lives and every slot is parked."""
        return not self.workers and all(slot.parked for slot in self.slots.values())

    def degraded(self) -> bool:
        """Whether a slot lacks a READY worker that beats, or READY workers run different generations."""
        staying = [*self.staying()]
        generations = {slot.ready.generation for slot in staying if slot.ready}
        return self.ready_count() < len(staying) or len(generations) > 1

    def summary(self) -> str:
        """Return one line for a person: how many workers are READY and how many connections they hold."""
        connections = sum(worker.connections for worker in self.workers.values())
        slots = sum(1 for _ in self.staying())
        return f"{self.ready_count()}/{slots} workers, {connections} connections"
