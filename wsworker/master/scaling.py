"""Scaling: more slots or fewer, while the service runs.

The kernel knows the listeners of an address by the order in which they began to listen, so only the last slot may go,
and a new one comes behind it. A slot that goes gets no new clients at once; its worker empties the queue, then leaves,
and the listeners close last, no sooner than three seconds after the first step: a handshake of TCP that was under way
then has ended and its client has been accepted.
"""

from __future__ import annotations

from typing import Final

from wsworker.config import MAX_WORKERS
from wsworker.master.events import AddSlot, CloseSlot, ScaleRequested
from wsworker.master.roster import ServiceState, Slot, WorkerState
from wsworker.master.service import Service

CLOSE_SECONDS: Final = 3.0


def ask(service: Service, event: ScaleRequested, now: float) -> None:
    """Note how many workers are wanted."""
    wanted = min(max(1, service.target + event.delta), MAX_WORKERS)
    if wanted == service.target:
        service.log("info", f"{_workers(wanted)} as before; the limits are 1 and {MAX_WORKERS}")
    else:
        service.log("info", f"{_workers(wanted)} wanted instead of {service.target}")
    service.target = wanted


def follow(service: Service, now: float) -> None:
    """Take the steps towards the wanted number that are possible now."""
    if not _may_scale(service):
        return
    slots = service.roster.slots
    for slot in [*slots.values()][service.target :]:
        if not slot.closing:
            _retire(service, slot, now)
    last = slots[len(slots)]
    while last.closing and not last.workers and _close_at(last) <= now:
        _close(service, last)
        last = slots[len(slots)]
    if not last.closing and last.bound and len(slots) < service.target:
        # one at a time: if it fails, the numbers behind it must not exist
        service.add_slot(last.number + 1, bound=False)
        service.want(AddSlot(last.number + 1))


def deadline(service: Service) -> float | None:
    """Return when follow has something to do that no event announces: the last slot may close."""
    if not _may_scale(service):
        return None
    last = service.roster.slots[len(service.roster.slots)]
    return _close_at(last) if last.closing and not last.workers else None


def _may_scale(service: Service) -> bool:
    """Whether the service is settled; a roll must be past its canary, as nothing may be touched before that.

    Who gives connections in a rebalance stays until it has given.
    """
    if service.rebalance:
        return False
    rolling = service.roll is not None and service.roll.accepted
    return service.state is ServiceState.SERVING or (service.state is ServiceState.RELOADING and rolling)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _retire(service: Service, slot: Slot, now: float) -> None:
    """Send away who works in a slot; nobody follows."""
    slot.closing_since, slot.retry_at = now, None
    for worker in slot.workers:
        if service.roll and service.roll.current == worker.id:
            service.roll.current = None
        if worker.state is WorkerState.KILLED:
            worker.unasked = False
        elif worker.state is not WorkerState.DRAINING:
            service.drain(worker, "scale", now)


def _close_at(slot: Slot) -> float:
    assert slot.closing_since is not None
    return slot.closing_since + CLOSE_SECONDS


def _close(service: Service, slot: Slot) -> None:
    # a borrower's copies would keep the listeners alive
    service.recall(slot)
    del service.roster.slots[slot.number]
    service.want(CloseSlot(slot.number))
