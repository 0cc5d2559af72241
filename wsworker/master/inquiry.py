"""Inquiry: what only the workers know is asked of them, and the caller is answered in time, whoever keeps silent.

    a worker is   READY, or DRAINING after that    KILLED after that                    never was READY
    it is         asked                            missing at once: it reads nothing    not asked: it has no connections

The answer goes out when all have sent their last part, or after 2 s with the slots of those that have not. A worker
that dies meanwhile is missing as well. It is given in follow, which runs after every event: so it makes no difference
what an answer has waited for, and there is one place that gives it.
"""

from __future__ import annotations

from typing import Final

from wsworker.master.census import Census
from wsworker.master.events import Answer, ConnectionsRequested, Tell, WorkerAnswered
from wsworker.master.roster import WorkerState
from wsworker.master.service import Service
from wsworker.wire import Order

PATIENCE_SECONDS: Final = 2.0
MAX_CENSUSES: Final = 16
"""So many may be under way: each may hold thousands of rows."""


def ask(service: Service, event: ConnectionsRequested, now: float) -> None:
    """Ask every worker that the question is about."""
    query, slots = event.query, service.roster.slots
    if query.slot is not None and query.slot not in slots:
        message = f"there is no worker {query.slot}: the workers are 1 to {len(slots)}"
        service.want(Answer(event.reply, {"result": "failed", "error": {"code": "usage", "message": message}}))
        return
    if len(service.censuses) >= MAX_CENSUSES:
        busy = {"code": "busy", "message": f"{MAX_CENSUSES} callers wait for connections already"}
        service.want(Answer(event.reply, {"error": busy}))
        return
    workers = [worker for worker in service.roster.workers.values() if query.slot in (None, worker.slot)]
    known = [worker for worker in workers if worker.served]
    asked = {worker.id: worker.slot for worker in known if worker.state is not WorkerState.KILLED}
    missing = {worker.slot for worker in known if worker.state is WorkerState.KILLED}
    census = Census(query, now + PATIENCE_SECONDS, asked, missing)
    service.censuses[event.reply] = census
    order = Order("list", token=event.reply, until=census.deadline_at, query=query)
    service.want(*(Tell(worker, order) for worker in asked))


def take(service: Service, event: WorkerAnswered, now: float) -> None:
    """Take a part of an answer; nobody may wait for it any more."""
    census = service.censuses.get(event.reply)
    if census:
        census.take(event)


def follow(service: Service, now: float) -> None:
    """Answer whoever needs to wait no longer."""
    for reply, census in [*service.censuses.items()]:
        for worker in [*census.awaited]:
            if worker not in service.roster.workers or census.deadline_at <= now:
                census.lose(worker)
        if not census.awaited:
            del service.censuses[reply]
            service.want(Answer(reply, *census.result()))


def deadline(service: Service) -> float | None:
    """Return when follow has something to do that no event announces."""
    return min((census.deadline_at for census in service.censuses.values()), default=None)
