"""What the supervisor knows: its slots, the workers in them, and the questions it asks about them.

Facts only. Nothing here decides or emits; supervisor.py changes these fields and nobody else does. At most two workers
of a slot are alive at a time: the one that serves or boots, and one that leaves or is being replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from wsworker.master.events import WorkerExited, WorkerFailed, WorkerId


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


@dataclass(slots=True)
class Worker:
    """One process. Times are seconds on CLOCK_MONOTONIC; deadline_at is None when nothing is awaited of it."""

    id: WorkerId
    slot: int
    generation: int
    state: WorkerState
    since: float
    deadline_at: float | None
    pid: int | None = None
    unasked: bool = True
    """Whether its exit would come unasked; False once it was told to go or failed to become ready in time."""
    accepting: bool = False
    leaving: bool = False
    silence: Silence = "none"
    heard_at: float = 0.0
    connections: int = 0
    full: bool = False
    failure: WorkerFailed | None = None


@dataclass(slots=True)
class Slot:
    """One place for a serving worker; history as in restarts.py; retry_at is None while nothing is to be spawned."""

    number: int
    open: bool = False
    judged: bool = False
    """Whether its first worker has become ready or failed."""
    parked: bool = False
    retry_at: float | None = None
    history: tuple[float, ...] = ()
    restarts: int = 0
    last_exit: dict[str, Any] | None = None


@dataclass(slots=True)
class Roster:
    """All slots, by number from 1, and all living workers, by id in the order of their spawning."""

    slots: dict[int, Slot] = field(default_factory=dict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)

    def living(self, slot: int) -> list[Worker]:
        """Return the workers of a slot that are not reaped yet, oldest first."""
        return [worker for worker in self.workers.values() if worker.slot == slot]

    def ready(self, slot: int) -> Worker | None:
        """Return the newest READY worker of a slot."""
        return next((worker for worker in reversed(self.living(slot)) if worker.state is WorkerState.READY), None)

    def booting(self, slot: int) -> Worker | None:
        """Return the worker of a slot that is on its way to READY."""
        return next((worker for worker in self.living(slot) if worker.state is WorkerState.STARTING), None)

    def ready_count(self) -> int:
        """Return how many slots have a READY worker."""
        return sum(self.ready(slot) is not None for slot in self.slots)

    def can_spawn(self, slot: int) -> bool:
        """Whether the slot has room: nobody boots or serves there and at most one worker is still on its way out."""
        living = self.living(slot)
        return len(living) <= 1 and all(
            worker.state in (WorkerState.DRAINING, WorkerState.KILLED) and not worker.unasked for worker in living
        )

    def quiet(self) -> bool:
        """Whether nobody boots, leaves or is being killed: the moment at which a roll may begin."""
        return all(worker.state is WorkerState.READY for worker in self.workers.values())

    def given_up(self) -> bool:
        """Whether nobody lives and every slot is parked."""
        return not self.workers and all(slot.parked for slot in self.slots.values())

    def weights(self) -> tuple[int, ...]:
        """Return one weight per slot: 1 where a healthy READY worker accepts and has room, else 0."""
        return tuple(int(self._takes_connections(slot)) for slot in self.slots)

    def degraded(self) -> bool:
        """Whether a slot lacks a READY worker, or READY workers run different generations."""
        ready = [worker for slot in self.slots if (worker := self.ready(slot)) is not None]
        return len(ready) < len(self.slots) or len({worker.generation for worker in ready}) > 1

    def summary(self) -> str:
        """Return one line for a person: how many workers are READY and how many connections they hold."""
        connections = sum(worker.connections for worker in self.workers.values())
        degraded = "degraded: " if self.degraded() else ""
        return f"{degraded}{self.ready_count()}/{len(self.slots)} workers, {connections} connections"

    def rows(self, now: float) -> Iterator[dict[str, Any]]:
        """Yield one JSON object per living worker, and one for each slot that has none, in the order of the slots."""
        for slot in self.slots.values():
            rows = [_worker_row(worker, slot, now) for worker in self.living(slot.number)]
            yield from rows or [_empty_row(slot, now)]

    def _takes_connections(self, slot: int) -> bool:
        worker = self.ready(slot)
        return worker is not None and worker.accepting and worker.silence == "none" and not worker.full


def exit_row(event: WorkerExited, failure: WorkerFailed | None, now: float) -> dict[str, Any]:
    """Return what `status` says of a slot's last exit; at: seconds on CLOCK_MONOTONIC."""
    return {
        "reason": failure.error if failure else str(event),
        "code": event.code,
        "signal": event.signal,
        "at": now,
    }


def _worker_row(worker: Worker, slot: Slot, now: float) -> dict[str, Any]:
    return {
        "slot": slot.number,
        "id": worker.id,
        "pid": worker.pid,
        "generation": worker.generation,
        "state": _shown_state(worker),
        "uptime": now - worker.since,
        "restarts": slot.restarts,
        "last_exit": slot.last_exit,
    }


def _empty_row(slot: Slot, now: float) -> dict[str, Any]:
    return {
        "slot": slot.number,
        "id": None,
        "pid": None,
        "generation": None,
        "state": "parked" if slot.parked else "waiting",
        "uptime": 0.0,
        "retry_in": None if slot.retry_at is None else max(0.0, slot.retry_at - now),
        "restarts": slot.restarts,
        "last_exit": slot.last_exit,
    }


def _shown_state(worker: Worker) -> str:
    if worker.state is WorkerState.READY and worker.silence != "none":
        return "hung"
    if worker.state is WorkerState.READY and worker.full:
        return "full"
    return worker.state.value
