"""Health: what the beats say of living workers, and what is done about one that is silent, too old or too big.

A beat is written by the worker's own event loop, so a blocked loop is silent however busy the process looks. Silence is
dealt with in stages: no new clients, then the stacks into the log, then the end. A worker that is stopped (state T) can
neither write its stacks nor die of SIGABRT, which stays pending: it is killed.

A reading that comes late shows that the machine or the master stood still: then nobody is blamed.
"""

from __future__ import annotations

from typing import Final

from wsworker.master import deaths, recycling
from wsworker.master.events import Event, Notify, Reading, Signal, SlotsRead, WorkerDumped, WorkerFailed, WorkerLeaving
from wsworker.master.recycling import Kill
from wsworker.master.roster import ServiceState, Worker, WorkerState
from wsworker.master.service import HUNG_SECONDS, Service

ABORT_SECONDS: Final = 2.0
FAILED_SECONDS: Final = 5.0
READ_SECONDS: Final = 1.0
LATE_SECONDS: Final = 2.0


def read(service: Service, event: SlotsRead, now: float) -> None:
    """Take the beats and all else that was read, as happens once a second."""
    late = 0.0 if service.read_at is None else now - service.read_at - READ_SECONDS
    service.read_at = now
    if late > LATE_SECONDS:
        service.postpone(late)
    for worker in service.roster.workers.values():
        deaths.forgive(service, worker, now)
        reading = event.readings.get(worker.id)
        if reading:
            worker.note(reading)
            if reading.beat_at > worker.heard_at and worker.state in (WorkerState.READY, WorkerState.DRAINING):
                hear(service, worker, reading.beat_at)
            _judge(service, worker, reading, now)
    deaths.recover(service, now)
    if service.state in (ServiceState.BOOTING, ServiceState.STOPPING) and not service.roster.only_killed():
        # both have deadlines of their own; the service manager's would cut them short
        service.want(Notify("extend", ""))
    service.notify_status()


def hear(service: Service, worker: Worker, at: float) -> None:
    """Note a sign of life."""
    worker.heard_at, worker.silence = at, "none"
    service.expect_beat(worker)


def silent(service: Service, worker: Worker, event: Event, now: float) -> None:
    """A READY worker is silent: take the next stage.

    One stage a deadline, by what was done and not by how long it is silent: times that were added up before would
    compare unequal by a rounding error, and the loop would spin.
    """
    timeout = worker.worker_timeout
    state = "stopped by SIGSTOP or a debugger" if worker.stopped else "silent"
    text = f"worker {worker.slot} (pid {worker.pid}) is {state} for {now - worker.heard_at:.0f} s"
    if worker.silence == "none":
        worker.silence = "hung"
        worker.deadline_at = worker.heard_at + max(HUNG_SECONDS, timeout / 2)
        service.log("warning", f"{text}; it gets no new clients")
    elif worker.silence == "hung":
        worker.silence = "dumped"
        worker.deadline_at = worker.heard_at + timeout
        if not worker.stopped:
            service.want(Signal(worker.id, "SIGUSR2"))
    elif worker.stopped:
        worker.doom = "hung"
        service.log("error", f"{text} and is killed")
        service.kill(worker, now)
    else:
        worker.doom = "hung"
        service.doom(worker, now)
        worker.deadline_at = now + ABORT_SECONDS
        service.log("error", f"{text} and is replaced")
        service.want(Signal(worker.id, "SIGABRT"))


def overdue(service: Service, worker: Worker, event: Event, now: float) -> None:
    """Its time to boot, to drain or to die is over."""
    if worker.state is WorkerState.STARTING and worker.failure is None:
        error = f"worker {worker.slot} was not ready within {now - worker.since:.0f} s; see `boot_timeout`"
        worker.failure = WorkerFailed(worker.id, "boot", error)
    if worker.state is not WorkerState.KILLED:
        service.log("warning", f"worker {worker.slot} ({worker.state.value}) is killed: its time is over")
    service.kill(worker, now)


def remember(service: Service, worker: Worker, event: WorkerFailed, now: float) -> None:
    """It says why it cannot go on. It is to exit now; its deadline becomes a short one."""
    assert worker.deadline_at is not None
    worker.failure = event
    worker.deadline_at = min(worker.deadline_at, now + FAILED_SECONDS)


def note_crash(service: Service, worker: Worker, event: WorkerFailed, now: float) -> None:
    """A READY worker says what it dies of; its exit follows."""
    worker.failure = event


def show_stacks(service: Service, worker: Worker, event: WorkerDumped, now: float) -> None:
    """Log where a worker is."""
    service.log("warning", f"worker {worker.slot} (pid {worker.pid}): its stacks", event.words)


def wants_to_go(service: Service, worker: Worker, event: WorkerLeaving, now: float) -> None:
    """A worker was sent SIGTERM by somebody else."""
    if not worker.leaving:
        worker.leaving = True
        service.log("info", f"worker {worker.slot} was told to go from outside; its replacement starts first")


def _judge(service: Service, worker: Worker, reading: Reading, now: float) -> None:
    """Replace a worker that is over one of its limits, or kill it if it is far over the one for memory."""
    if worker.state not in (WorkerState.READY, WorkerState.DRAINING):
        return
    verdict = recycling.judge(worker.limits, reading, now - worker.since)
    if isinstance(verdict, Kill):
        worker.doom = "memory"
        service.log("error", f"worker {worker.slot} (pid {worker.pid}) {verdict.reason}, and is killed")
        service.kill(worker, now)
    elif verdict and worker.state is WorkerState.READY and not worker.leaving:
        worker.leaving = True
        service.log("info", f"worker {worker.slot} {verdict.reason}; its replacement starts first")
