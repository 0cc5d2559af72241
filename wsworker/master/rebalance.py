"""Rebalance: the fullest workers hand connections to the emptiest, and all of them serve on.

Who may take part: every slot's READY worker that beats. What each is to have is decided once, from what each had at its
last beat. It is answered when all that give have said how it went, or a while after `handover_timeout`, whoever keeps
silent. Meanwhile nobody is replaced, so that no worker gives and leaves at a time; a stop comes through.
"""

from __future__ import annotations

from typing import Any, Final

from wsworker.master import balance, moves
from wsworker.master.events import Answer, Handover, HandoverFinished, RebalanceRequested
from wsworker.master.moves import MAX_TAKERS, Rebalance
from wsworker.master.roster import Worker, WorkerState
from wsworker.master.service import Service
from wsworker.wire import GIVE_TIMEOUTS, Order

MARGIN_SECONDS: Final = 15.0
"""What a worker that gives may take beyond its time to come to its end, and to tell."""


def ask(service: Service, event: RebalanceRequested, now: float) -> None:
    """Begin, or say why not."""
    if objection := _objection(service):
        service.want(Answer(event.reply, refused(objection)))
        return
    workers = [worker for slot in service.roster.staying() if (worker := slot.ready) and _takes_part(worker)]
    given = balance.moves([worker.connections for worker in workers])
    gets = [-sum(count for _, count in to) for to in given]
    for to in given:
        for taker, count in to:
            gets[taker] += count
    rows = [_row(worker, change) for worker, change in zip(workers, gets, strict=True)]
    awaited = {worker.id: worker.slot for worker, to in zip(workers, given, strict=True) if to}
    deadline_at = now + GIVE_TIMEOUTS * service.config.handover_timeout + MARGIN_SECONDS
    service.rebalance = Rebalance(event.reply, now, deadline_at, rows, awaited)
    for worker, to in zip(workers, given, strict=True):
        if to:
            takers = tuple((workers[taker].id, count) for taker, count in to[:MAX_TAKERS])
            service.want(Handover(worker.id, takers, Order("give")))


def take(service: Service, event: HandoverFinished) -> None:
    """Take what a worker tells; nobody may wait for it any more."""
    under_way = service.rebalance
    if under_way is None or event.worker not in under_way.awaited:
        return
    del under_way.awaited[event.worker]
    under_way.moved += event.moved
    under_way.unmoved.update(event.left)
    if event.waits:
        # they stay where they are: nobody is to leave
        under_way.unmoved["no_taker"] += event.waits
    under_way.longest_pause = max(under_way.longest_pause, event.pause_seconds)


def follow(service: Service, now: float) -> None:
    """Answer once nothing more is to be waited for."""
    under_way = service.rebalance
    if under_way is None:
        return
    for number, slot in [*under_way.awaited.items()]:
        worker = service.roster.workers.get(number)
        if worker is None or worker.state is not WorkerState.READY or under_way.deadline_at <= now:
            del under_way.awaited[number]
            under_way.missing.add(slot)
    if not under_way.awaited:
        service.rebalance = None
        service.want(Answer(under_way.reply, summary(under_way, now)))


def deadline(service: Service) -> float | None:
    """Return when follow has something to do that no event announces."""
    return service.rebalance.deadline_at if service.rebalance else None


def refused(message: str) -> dict[str, Any]:
    """Return the answer to a rebalance that does not begin."""
    return {
        "result": "refused",
        "error": {"code": "rebalance_refused", "message": message},
        "moved": 0,
        "unmoved": {},
        "longest_pause": 0.0,
        "missing": [],
        "workers": [],
        "seconds": 0.0,
    }


def summary(under_way: Rebalance, now: float) -> dict[str, Any]:
    """Return the answer to a rebalance that is over."""
    missing = sorted(under_way.missing)
    error = None
    if missing:
        who = f"worker{'' if len(missing) == 1 else 's'} {', '.join(map(str, missing))}"
        error = {"code": "rebalance_partial", "message": f"{who} did not say what has moved; see the log"}
    return {
        "result": "partial" if missing else "ok",
        "error": error,
        "moved": under_way.moved,
        "unmoved": dict(under_way.unmoved),
        "longest_pause": under_way.longest_pause,
        "missing": missing,
        "workers": under_way.rows,
        "seconds": now - under_way.began_at,
    }


def _objection(service: Service) -> str:
    """Say why no rebalance may begin now, "" if it may."""
    if busy := service.busy():
        return f"{busy}; nothing has moved"
    if service.config.reload_strategy == "drain":
        return "`reload_strategy` is drain, with which no connection moves; set it to handover and reload"
    if len({slot.ready.generation for slot in service.roster.staying() if slot.ready}) > 1:
        return "some workers run older code, which may not understand what newer code has kept; reload first"
    if service.rebalance:
        return "a rebalance is under way already"
    if not service.roster.quiet() or service.target != len(service.roster.slots):
        return "a worker boots or leaves; try again when `wsworker status` shows all of them ready"
    return ""


def _takes_part(worker: Worker) -> bool:
    return worker.accepting and moves.may_give(worker)


def _row(worker: Worker, change: int) -> dict[str, Any]:
    return {"slot": worker.slot, "before": worker.connections, "wanted": worker.connections + change}
