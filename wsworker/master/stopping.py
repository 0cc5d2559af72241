"""Stopping: the end of the service, asked for or because it cannot go on.

Everybody is told once, with a deadline. A second signal, or `stop --quick`, makes it quick; a second `stop` only joins
the wait. The master exits when the last worker is reaped.
"""

from __future__ import annotations

from wsworker.master import roll
from wsworker.master.events import Answer, CloseSlots, Exit, Notify, Signal, StopRequested, Tell, WorkerExited
from wsworker.master.roster import ServiceState, WorkerState
from wsworker.master.service import Service
from wsworker.wire import DrainReason, Order


def stop(service: Service, event: StopRequested, now: float) -> None:
    """Begin the end."""
    keep_caller(service, event, now)
    _shut_down(service, "quick" if event.quick else "stop", now)


def hurry(service: Service, event: StopRequested, now: float) -> None:
    """A second wish to stop: unless it is just another `stop`, whoever drains is told to be quick."""
    keep_caller(service, event, now)
    if event.reply is not None and not event.quick:
        return
    for worker in service.roster.workers.values():
        if worker.state is not WorkerState.KILLED:
            service.drain(worker, "quick", now)


def keep_caller(service: Service, event: StopRequested, now: float) -> None:
    """Keep the caller for the end."""
    if event.reply is not None:
        service.stop_replies.append(event.reply)


def end_with(service: Service, final: Exit, now: float) -> None:
    """End the service because it cannot go on; whoever is still there is sent away quickly."""
    if service.state not in (ServiceState.STOPPING, ServiceState.ENDED):
        service.exit = final
        _shut_down(service, "quick", now)


def _shut_down(service: Service, why: DrainReason, now: float) -> None:
    service.state = ServiceState.STOPPING
    service.want(Notify("stopping", "stopping"))
    for reload in filter(None, (service.roll, service.waiting)):
        service.want(*(Answer(reply, roll.stopping(service.generation)) for reply in reload.replies))
    service.roll = service.waiting = None
    service.want(CloseSlots())
    for worker in service.roster.workers.values():
        # a stopped process would neither read its order nor die of it politely
        service.want(Signal(worker.id, "SIGCONT"))
        on_its_way = worker.state is WorkerState.DRAINING and why != "quick"
        if worker.state is WorkerState.KILLED:
            worker.unasked = False
        elif on_its_way:
            # what it has left of its time is its own; but nobody takes its connections any more
            worker.stranded = 0
            service.want(Tell(worker.id, Order("drain", why)))
        else:
            service.drain(worker, why, now)


def count(service: Service, event: WorkerExited) -> None:
    """A worker that was told to go has gone: note what the stop has cost."""
    if service.state is ServiceState.STOPPING:
        service.stop_cut += event.dropped
        service.stop_killed += event.signal == "SIGKILL"


def end(service: Service) -> None:
    """Exit once nobody is left; then answer who waited for it, and whoever still comes."""
    if service.state is ServiceState.STOPPING and not service.roster.workers:
        service.state = ServiceState.ENDED
        service.want(service.exit)
    if service.state is ServiceState.ENDED:
        # the answers first: after Exit nobody sends any
        body = {"result": "stopped", "cut": service.stop_cut, "killed": service.stop_killed}
        service.actions[:0] = [Answer(reply, body) for reply in service.stop_replies]
        service.stop_replies = []
