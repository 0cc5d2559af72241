"""Lending: the queue of a slot that nobody serves is emptied by the worker of another slot.

The listeners of a slot outlive its worker, and so do the clients that wait there. If nobody accepts them for a second,
or the worker is hung or full, the master lends the listeners to a healthy worker, and recalls them when the slot has
one of its own again. Without a healthy worker the queue waits.
"""

from __future__ import annotations

from typing import Final

from wsworker.master.events import Tell
from wsworker.master.roster import Slot, Worker
from wsworker.master.service import Service
from wsworker.wire import Order

UNSERVED_SECONDS: Final = 1.0
"""How long a slot may be without a worker before its queue is lent; the one that follows a dead one is often faster."""


def follow(service: Service, now: float) -> None:
    """Lend and recall what is due now."""
    for slot in service.roster.slots.values():
        if not slot.open:
            continue
        if slot.ready and slot.ready.takes_connections and not slot.closing:
            slot.unserved_since = None
            service.recall(slot)
            continue
        slot.unserved_since = now if slot.unserved_since is None else slot.unserved_since
        if _is_lent(service, slot):
            continue
        borrower = _borrower(service)
        if borrower and now >= _lend_at(slot):
            service.recall(slot)
            slot.lent_to = borrower.id
            service.want(Tell(borrower.id, Order("lend", slot=slot.number)))


def deadline(service: Service) -> float | None:
    """Return when follow has something to do that no event announces: a slot is unserved for too long."""
    if _borrower(service) is None:
        return None
    waiting = [slot for slot in service.roster.slots.values() if slot.unserved_since is not None]
    return min((_lend_at(slot) for slot in waiting if not _is_lent(service, slot)), default=None)


def _is_lent(service: Service, slot: Slot) -> bool:
    borrower = service.roster.borrower(slot)
    return borrower is not None and borrower.takes_connections


def _lend_at(slot: Slot) -> float:
    """Return when the slot's queue is lent: at once if its worker lives and cannot."""
    assert slot.unserved_since is not None
    stuck = slot.ready is not None and (slot.ready.full or slot.ready.silence != "none")
    return slot.unserved_since if stuck else slot.unserved_since + UNSERVED_SECONDS


def _borrower(service: Service) -> Worker | None:
    """Return the worker that has most room for the clients of another slot, if any has."""
    takers = [slot.ready for slot in service.roster.staying() if slot.ready and slot.ready.takes_connections]
    return min(takers, key=lambda worker: (worker.connections, worker.id), default=None)
