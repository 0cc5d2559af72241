"""Boot: from the start to the first client; the way of every worker and every slot to READY and open.

Slot 1 boots alone: broken code must cost one traceback, and must never have opened the port. When its worker is READY
all listeners open, in the order of the slots, and the others boot together.
"""

from __future__ import annotations

from wsworker.master import deaths, health, reload, rows, stopping
from wsworker.master.events import Exit, OpenSlot, SlotAdded, SlotFailed, SlotOpened, Spawned, Started, WorkerReady
from wsworker.master.roster import ServiceState, Worker, WorkerState
from wsworker.master.service import Service


def start(service: Service, event: Started, now: float) -> None:
    """Begin with slot 1 alone."""
    assert isinstance(event.config.workers, int), "main resolves auto"
    service.accepted, service.target = event.config, event.config.workers
    for number in range(1, max(event.slots, service.target) + 1):
        service.add_slot(number, bound=True)
    service.spawn(service.roster.slots[1], now)


def spawned(service: Service, event: Spawned, now: float) -> None:
    """Note the pid of a worker, and that its slot has a worker again."""
    worker = service.roster.workers.get(event.worker)
    if worker is None:
        return
    slot = service.roster.slots[worker.slot]
    worker.pid, slot.failed_forks = event.pid, 0
    if worker.restart:
        slot.restarts += 1
        service.restarts += 1
        service.restart_reasons[slot.number, rows.restart_reason(slot.last_exit)] += 1


def slot_added(service: Service, event: SlotAdded, now: float) -> None:
    """The listeners of a new slot are made: its first worker may start."""
    slot = service.roster.slots[event.slot]
    slot.bound, slot.judged = True, True
    if service.state is not ServiceState.STOPPING:
        service.spawn(slot, now)


def slot_opened(service: Service, event: SlotOpened, now: float) -> None:
    """The listeners of a slot listen: its worker, if it is READY, may accept; if there is none yet, it starts."""
    slot = service.roster.slots[event.slot]
    slot.open = True
    service.opening -= 1
    if service.state is ServiceState.STOPPING:
        return
    if slot.ready:
        service.go(slot.ready)
    elif slot.has_room and slot.retry_at is None:
        service.spawn(slot, now)


def slot_failed(service: Service, event: SlotFailed, now: float) -> None:
    """The listeners of a slot are not to be had: the end at the start, and later one worker less than was wanted."""
    slot = service.roster.slots[event.slot]
    if slot.bound:
        service.opening -= 1
    if service.state not in (ServiceState.SERVING, ServiceState.RELOADING):
        stopping.end_with(service, Exit(1, event.error), now)
        return
    service.target = min(service.target, event.slot - 1)
    service.log("error", f"cannot have {event.slot} workers: {event.error}; {service.target} go on")
    if not slot.bound:
        del service.roster.slots[event.slot]


def serve(service: Service, worker: Worker, event: WorkerReady, now: float) -> None:
    """STARTING to READY: it gets go, and whoever it replaces gets drain."""
    slot = service.roster.slots[worker.slot]
    older = slot.ready
    boot_seconds = now - worker.since
    worker.state, worker.since, worker.served = WorkerState.READY, now, True
    health.hear(service, worker, now)
    slot.retry_at, slot.parked = None, False
    slot.replacements, slot.replace_at = (), 0.0
    if slot.open:
        service.go(worker)
    else:
        # all that do not listen yet, in their order, as that is what the kernel knows them by
        waiting = [other.number for other in service.roster.staying() if other.bound and not other.open]
        service.opening += len(waiting)
        service.want(*(OpenSlot(number) for number in waiting))
    replacing = service.roll is None or service.roll.current != worker.id
    reload.rolled(service, worker, older, boot_seconds)
    if older and replacing:
        service.restart_reasons[slot.number, "recycled"] += 1
    if older:
        service.drain(older, "replace" if replacing else "reload", now)
        reload.count_asked(service, older)
    deaths.judge(service, slot)
