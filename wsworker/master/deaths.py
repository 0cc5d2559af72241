"""Deaths: what follows the end of a worker, and when its slot gets the next one.

A worker that was told to go is only forgotten. One that nobody told goes into its slot's history, and restarts.py says
when the next one comes. The first of all boots is special: if it fails, nothing has ever served, and the service ends.
"""

from __future__ import annotations

from collections.abc import Callable

from wsworker.errors import EX_CONFIG
from wsworker.master import reload, rows, stopping
from wsworker.master.events import Exit, Log, SpawnFailed, WorkerExited, WorkerFailed
from wsworker.master.restarts import SPACING_SECONDS, Park, over_budget, recent, verdict, wait
from wsworker.master.roster import ServiceState, Slot, Worker, WorkerState
from wsworker.master.service import Service


def boot_failed(service: Service, worker: Worker, event: WorkerExited, now: float) -> None:
    """A worker has ended before it was READY."""
    if worker.failure is None:
        step = "see dmesg" if event.code is None else "look in the app for what ends the process, such as os._exit()"
        error = f"worker {worker.slot} died before it was ready: {event}; {step}"
        worker.failure = WorkerFailed(worker.id, "app" if event.code == EX_CONFIG else "boot", error, event.words)
    slot = _remove(service, worker, event, now)
    _not_started(service, worker, worker.failure, slot, now, _boot_again)


def spawn_failed(service: Service, event: SpawnFailed, now: float) -> None:
    """A worker could not even be forked: nothing has died, so its slot waits longer each time and is never parked."""
    worker = service.roster.workers.get(event.worker)
    if worker is None:
        return
    worker.failure = WorkerFailed(worker.id, "boot", f"cannot fork worker {worker.slot}: {event.reason}")
    slot = _remove(service, worker, WorkerExited(worker.id), now)
    # else a stop or a smaller number of workers came first
    if worker.state is WorkerState.STARTING:
        _not_started(service, worker, worker.failure, slot, now, _fork_again)


def _not_started(
    service: Service,
    worker: Worker,
    failure: WorkerFailed,
    slot: Slot,
    now: float,
    again: Callable[[Service, Slot, float], None],
) -> None:
    """A worker that was to serve in a slot never will. again: says when the next one is tried."""
    if not any(other.open for other in service.roster.slots.values()):
        text = f"{failure.error}\n{failure.trace}".rstrip()
        stopping.end_with(service, Exit(EX_CONFIG if failure.kind == "app" else 1, text), now)
        return
    if service.roll and worker.id == service.roll.current:
        reload.roll_failed(service, service.roll, failure, now)
    else:
        what = f"worker {slot.number} serves on, as its replacement" if slot.ready else f"worker {slot.number}"
        service.log("error", f"{what} does not start: {failure.error}", failure.trace)
    again(service, slot, now)
    judge(service, slot)


def died(service: Service, worker: Worker, event: WorkerExited, now: float) -> None:
    """A READY worker is gone, and nobody asked it to."""
    forgive(service, worker, now)
    slot = _remove(service, worker, event, now)
    said = worker.failure
    why = f"{event}: {said.error}" if said else str(event)
    trace = (said.trace if said else "") or event.words
    service.log("error", f"worker {slot.number} (pid {worker.pid}) died: {why}", trace)
    reload.not_alive(service, worker, f"worker {slot.number} died: {why}", trace, now)
    retry(service, slot, now)


def left(service: Service, worker: Worker, event: WorkerExited, now: float) -> None:
    """A worker that was told to go has gone."""
    service.roster.remove(worker)
    reload.count_dropped(service, worker, event.dropped)
    stopping.count(service, event)
    # it said so itself, unless it ended in another way than it was asked to
    as_asked = event.code == 0 or event.signal == "SIGTERM"
    text = f"worker {worker.slot} (pid {worker.pid}) has left: {event}"
    service.want(Log("debug" if as_asked else "warning", text, event.words))


def killed(service: Service, worker: Worker, event: WorkerExited, now: float) -> None:
    """KILLED counts as the state it was killed in."""
    if not worker.unasked:
        left(service, worker, event, now)
    elif worker.heard_at == 0.0:
        boot_failed(service, worker, event, now)
    else:
        died(service, worker, event, now)


def retry(service: Service, slot: Slot, now: float) -> None:
    """Ask restarts.py when the slot gets its next worker."""
    _count(service, now)
    decision = verdict(slot.history, now, service.policy, service.draw())
    slot.history, slot.parked = decision.history, isinstance(decision, Park)
    slot.retry_at = decision.at
    if slot.parked:
        service.log("error", f"worker {slot.number} is parked after {len(slot.history)} exits in a row")
    else:
        _tell_next(service, slot, slot.retry_at, now)


def _boot_again(service: Service, slot: Slot, now: float) -> None:
    """Say when a slot gets its next worker, or the one that serves there its next replacement."""
    if slot.ready:
        decision = verdict(slot.replacements, now, service.policy, service.draw())
        slot.replacements, slot.replace_at = decision.history, decision.at
        _tell_next(service, slot, slot.replace_at, now)
    elif slot.retry_at is None:
        retry(service, slot, now)


def _fork_again(service: Service, slot: Slot, now: float) -> None:
    """Say when the next fork is tried: by the delays of a crash loop, and no sooner than after the last death."""
    slot.failed_forks += 1
    tries = max(slot.failed_forks + 1, len(slot.history))
    at = now + wait(tries, service.policy, service.draw())
    if slot.ready:
        slot.replace_at = at
    else:
        slot.retry_at = at
    _tell_next(service, slot, at, now)


def _tell_next(service: Service, slot: Slot, at: float, now: float) -> None:
    if at > now:
        number = slot.number
        what = f"the next replacement of worker {number} starts" if slot.ready else f"worker {number} starts again"
        service.log("warning", f"{what} in {at - now:.1f} s")


def _count(service: Service, now: float) -> None:
    """Note an unasked exit; the first one over the budget is told loudly."""
    service.deaths = recent((*service.deaths, now), now)
    if over_budget(service.deaths, len(service.roster.slots)) and not service.over_budget:
        service.over_budget = True
        service.spawn_after = now
        text = f"crash budget exceeded: {len(service.deaths)} workers died within a minute"
        service.log("error", f"{text}; at most one starts each second from now on")


def recover(service: Service, now: float) -> None:
    """Forget what is older than a minute, and note the end of a bad time."""
    service.deaths = recent(service.deaths, now)
    if service.over_budget and not over_budget(service.deaths, len(service.roster.slots)):
        service.over_budget = False
        service.log("info", "crash budget: workers die no more than they may")


def forgive(service: Service, worker: Worker, now: float) -> None:
    """Forget the exits of a slot whose worker has been READY for long enough."""
    if worker.state is WorkerState.READY and now - worker.since >= service.policy.healthy_seconds:
        service.roster.slots[worker.slot].history = ()


def judge(service: Service, slot: Slot) -> None:
    """Note a slot's first verdict; the service is settled once every slot has one and a worker is READY."""
    slot.judged = True
    everybody = all(slot.judged for slot in service.roster.slots.values())
    if service.state is ServiceState.BOOTING and everybody and service.roster.ready_count():
        service.state = ServiceState.SERVING
        service.notify_ready()


def spawn_due(service: Service, now: float) -> None:
    """Start the workers whose delay is over; over budget only one of them each second, who waits longest first."""
    waiting = [(slot.retry_at, slot.number) for slot in service.roster.staying() if slot.retry_at is not None]
    for retry_at, number in sorted(waiting):
        slot = service.roster.slots[number]
        if retry_at > now or not slot.has_room:
            continue
        if service.over_budget:
            if now < service.spawn_after:
                return
            service.spawn_after = now + SPACING_SECONDS
        service.spawn(slot, now).restart = True


def deadline(service: Service) -> float | None:
    """Return when spawn_due has something to do."""
    times = (slot.retry_at for slot in service.roster.staying() if slot.has_room)
    first = min((at for at in times if at is not None), default=None)
    return max(first, service.spawn_after) if first is not None and service.over_budget else first


def _remove(service: Service, worker: Worker, event: WorkerExited, now: float) -> Slot:
    slot = service.roster.remove(worker)
    if slot.ready is None:
        # else it was to replace somebody, who has not died of anything
        slot.last_exit = rows.exit_row(worker, event, now)
    return slot
