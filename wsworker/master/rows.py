"""What `status` shows of slots and workers: one JSON object each, from the facts of the roster.

Times are seconds on CLOCK_MONOTONIC; who shows them to people turns them into dates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from wsworker.master.events import WorkerExited
from wsworker.master.roster import Roster, Slot, Worker, WorkerState

ERROR_CHARACTERS: Final = 500
"""An exception may say anything, and `status` shows one for each of up to 256 slots."""

ExitClass: TypeAlias = Literal["asked", "app", "boot", "crash", "hung", "memory"]
RestartReason: TypeAlias = Literal["exit", "signal", "oom", "hung", "boot", "recycled"]


def rows(roster: Roster, weights: Sequence[int], now: float, stopping: bool = False) -> Iterator[dict[str, Any]]:
    """Yield an object per living worker, and one for each slot that has none, in the order of the slots.

    weights: one per slot that listens. A worker that leaves shows the weight 0, as new clients go to its successor.
    stopping: the service is, so that no slot gets another worker. lent_to in a row is the number of the slot whose
    worker accepts in place of this one's.
    """
    for slot in roster.slots.values():
        weight = weights[slot.number - 1] if slot.number <= len(weights) else 0
        borrower = roster.borrower(slot)
        lent = {"lent_to": borrower.slot if borrower else None}
        living = [_worker_row(worker, slot, weight, now) for worker in slot.workers]
        for row in living or [_empty_row(slot, now, stopping)]:
            yield row | lent


def exit_row(worker: Worker, event: WorkerExited, now: float) -> dict[str, Any]:
    """Return what is shown of a slot's last exit. error: the line of the worker's own words that says most, or ""."""
    failure = worker.failure
    return {
        "reason": failure.error if failure else _reason(worker, event),
        "class": exit_class(worker, event),
        "code": event.code,
        "signal": event.signal,
        "error": (_last_line(failure.trace) if failure else _fatal_line(event.words))[:ERROR_CHARACTERS],
        "at": now,
    }


def exit_class(worker: Worker, event: WorkerExited) -> ExitClass:
    """Say what kind of exit it was. worker: as it was when it died.

    asked: it was told to go; app, boot: it never became ready, for want of code or of anything else; hung, memory: it
    was killed for its silence, or for want of memory; crash: all else.
    """
    if worker.failure and worker.failure.kind:
        return worker.failure.kind
    if not worker.unasked:
        return "asked"
    if worker.doom:
        return worker.doom
    if event.oom:
        return "memory"
    return "boot" if worker.state is WorkerState.STARTING else "crash"


def restart_reason(last_exit: Mapping[str, Any] | None) -> RestartReason:
    """Say why a worker was started again. last_exit: as exit_row gave it, of the one that it follows."""
    if last_exit is None or last_exit["class"] in ("app", "boot"):
        return "boot"
    if last_exit["class"] == "memory":
        return "oom"
    if last_exit["class"] == "hung":
        return "hung"
    return "signal" if last_exit["signal"] else "exit"


def _reason(worker: Worker, event: WorkerExited) -> str:
    reasons = {"hung": "its loop was silent", "memory": "it held twice max_worker_rss"}
    return f"{event}: {reasons[worker.doom]}" if worker.doom else str(event)


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()


def _fatal_line(words: str) -> str:
    """Return the line in which faulthandler says what happened; the frames below it are for the log."""
    return next((line for line in words.splitlines() if line.startswith("Fatal Python error: ")), "")


def _worker_row(worker: Worker, slot: Slot, weight: int, now: float) -> dict[str, Any]:
    return {
        "slot": slot.number,
        "id": worker.id,
        "pid": worker.pid,
        "generation": worker.generation,
        "state": _shown_state(worker),
        "uptime": now - worker.since,
        "drain_seconds": worker.drain_seconds(now),
        "weight": weight if worker.takes_connections else 0,
        "restarts": slot.restarts,
        "last_exit": slot.last_exit,
    }


def _empty_row(slot: Slot, now: float, stopping: bool) -> dict[str, Any]:
    state = "closing" if slot.closing else "parked" if slot.parked else "waiting"
    retry_in = None if slot.retry_at is None else max(0.0, slot.retry_at - now)
    return {
        "slot": slot.number,
        "id": None,
        "pid": None,
        "generation": None,
        "state": "left" if stopping else state,
        "uptime": 0.0,
        "drain_seconds": None,
        "weight": 0,
        "retry_in": None if stopping else retry_in,
        "restarts": slot.restarts,
        "last_exit": slot.last_exit,
    }


def _shown_state(worker: Worker) -> str:
    if worker.state is WorkerState.READY and worker.silence != "none":
        return "stopped" if worker.stopped else "hung"
    if worker.state is WorkerState.READY and worker.full:
        return "full"
    return worker.state.value
