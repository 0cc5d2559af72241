"""Hand-over: what a worker that gave its connections away has told, and those that still wait for a taker.

A worker is told whom to hand its connections to when it is told to go: Service.drain. It tells what came of it, once,
and leaves. If its taker dies it keeps what has not moved, and serves on: then it is told another one as soon as there
is one, until its time to drain is over. A taker that lives and broke off is not asked twice.
"""

from __future__ import annotations

from wsworker.counters import by_reason
from wsworker.master import moves, rebalance, reload
from wsworker.master.events import HandoverFinished
from wsworker.master.roster import Worker, WorkerState
from wsworker.master.service import Service


def finished(service: Service, worker: Worker, event: HandoverFinished, now: float) -> None:
    """Count what has moved and what has not; remember that some of it waits."""
    leaves = worker.why in moves.MOVING
    service.handovers.add(event.moved, event.left if leaves else {}, event.pause_seconds)
    if leaves:
        reload.count_moved(service, worker, event)
        worker.stranded = event.waits if worker.state is WorkerState.DRAINING else 0
    rebalance.take(service, event)
    if event.moved or event.left or event.waits:
        # it has logged itself what it did; that it waits for us is another matter
        service.log("warning" if event.waits else "debug", f"worker {worker.slot} (pid {worker.pid}): {said(event)}")


def follow(service: Service, now: float) -> None:
    """Tell workers whose taker has died who the next one is."""
    for worker in service.roster.workers.values():
        if worker.stranded:
            takers = moves.takers(service.roster, worker, worker.why)
            if takers and worker.takers != {taker for taker, _ in takers}:
                service.hand_over(worker, takers)


def said(event: HandoverFinished) -> str:
    """Return the outcome of a hand-over in words."""
    words = [f"{event.moved} connections moved" if event.moved != 1 else "1 connection moved"]
    if event.moved:
        words[0] += f", longest pause {event.pause_seconds * 1000:.0f} ms"
    if event.left:
        words.append(f"{sum(event.left.values())} could not: {by_reason(event.left)}")
    if event.waits:
        words.append(f"{event.waits} wait for another worker, as the one that took them has died or broken off")
    return "; ".join(words)
