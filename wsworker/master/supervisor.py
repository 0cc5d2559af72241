"""The supervisor: every decision of the master, and nothing but decisions.

handle(event, now) takes one fact and the time and returns what is to be done about it; next_deadline() says when it
wants to hear DeadlinePassed. It knows nothing of descriptors, pids or clocks, so its tests need no process, and a log
of its events and times replays to the same actions.

An event goes through one of the tables below, by the state of the worker it is about or of the service, to one
function. After each event _settle does what has become possible: it adds and closes slots, starts workers whose delay
is over, takes the next step of a roll, begins a reload that waited, lends queues, ends the service. So no function has
to remember what waits for it, and the order in which things happen is written in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from wsworker.master import (
    boot,
    deaths,
    handover,
    health,
    inquiry,
    lending,
    rebalance,
    reload,
    rows,
    scaling,
    stopping,
    upgrade,
)
from wsworker.master.events import (
    Action,
    ConnectionsRequested,
    DeadlinePassed,
    Event,
    Exit,
    HandoverFinished,
    RebalanceRequested,
    ReloadRefused,
    ReloadRequested,
    ReopenLog,
    ReopenRequested,
    ScaleRequested,
    ShowStatus,
    SlotAdded,
    SlotFailed,
    SlotOpened,
    SlotsRead,
    Spawned,
    SpawnFailed,
    Started,
    StatusRequested,
    StopRequested,
    UpgradeRehearsed,
    UpgradeRequested,
    WorkerAnswered,
    WorkerDumped,
    WorkerExited,
    WorkerFailed,
    WorkerLeaving,
    WorkerReady,
)
from wsworker.master.restarts import RestartPolicy
from wsworker.master.roster import Roster, ServiceState, Worker, WorkerState
from wsworker.master.service import Service

STARTING, READY, DRAINING, KILLED = WorkerState
BOOTING, SERVING, RELOADING, STOPPING, ENDED = ServiceState

AboutWorker: TypeAlias = Callable[[Service, Worker, Any, float], None]
AboutService: TypeAlias = Callable[[Service, Any, float], None]

WORKER_TABLE: Final[Mapping[WorkerState, Mapping[type, AboutWorker]]] = {
    STARTING: {
        WorkerReady: boot.serve,
        WorkerFailed: health.remember,
        WorkerDumped: health.show_stacks,
        WorkerExited: deaths.boot_failed,
        DeadlinePassed: health.overdue,
    },
    READY: {
        WorkerFailed: health.note_crash,
        WorkerLeaving: health.wants_to_go,
        HandoverFinished: handover.finished,
        WorkerDumped: health.show_stacks,
        WorkerExited: deaths.died,
        DeadlinePassed: health.silent,
    },
    DRAINING: {
        HandoverFinished: handover.finished,
        WorkerDumped: health.show_stacks,
        WorkerExited: deaths.left,
        DeadlinePassed: health.overdue,
    },
    KILLED: {
        HandoverFinished: handover.finished,
        WorkerDumped: health.show_stacks,
        WorkerExited: deaths.killed,
        DeadlinePassed: health.overdue,
    },
}
"""What an event about a worker does in each state; what is not listed is ignored."""

_WISHES: Final[dict[type, AboutService]] = {
    ReloadRequested: reload.ask,
    ReloadRefused: reload.refuse,
    ScaleRequested: scaling.ask,
    StopRequested: stopping.stop,
}
SERVICE_TABLE: Final[Mapping[ServiceState, dict[type, AboutService]]] = {
    BOOTING: _WISHES,
    SERVING: _WISHES,
    RELOADING: _WISHES,
    STOPPING: {
        ReloadRequested: reload.refuse_at_the_end,
        ReloadRefused: reload.refuse_at_the_end,
        StopRequested: stopping.hurry,
    },
    ENDED: {
        ReloadRequested: reload.refuse_at_the_end,
        ReloadRefused: reload.refuse_at_the_end,
        StopRequested: stopping.keep_caller,
    },
}
"""What a request does in each state of the service; a reload that cannot begin yet waits, and later ones join it."""

ALWAYS: Final[dict[type, AboutService]] = {
    Started: boot.start,
    Spawned: boot.spawned,
    SpawnFailed: deaths.spawn_failed,
    SlotAdded: boot.slot_added,
    SlotOpened: boot.slot_opened,
    SlotFailed: boot.slot_failed,
    SlotsRead: health.read,
    ReopenRequested: lambda service, event, now: service.want(ReopenLog(event.reply)),
    StatusRequested: lambda service, event, now: service.want(ShowStatus(event.reply)),
    ConnectionsRequested: inquiry.ask,
    RebalanceRequested: rebalance.ask,
    UpgradeRequested: upgrade.ask,
    UpgradeRehearsed: upgrade.rehearsed,
    WorkerAnswered: inquiry.take,
}
"""What the other events do, whatever the state of the service."""

ABOUT_A_WORKER: Final = (WorkerReady, WorkerFailed, WorkerLeaving, HandoverFinished, WorkerDumped, WorkerExited)
"""Events that go through the table of workers; DeadlinePassed does for each worker whose time has come."""

EX_SOFTWARE: Final = 70


class Supervisor:
    """The state machine. draw: gives a random number from 0 to 1 at each call; hand in a seeded one.

    service: what a former program of this process knew, to go on with; then Started must not come.
    """

    def __init__(
        self, draw: Callable[[], float], policy: RestartPolicy | None = None, service: Service | None = None
    ) -> None:
        self.service = service or Service(draw, policy or RestartPolicy())

    @property
    def state(self) -> ServiceState:
        """Where the service stands."""
        return self.service.state

    @property
    def roster(self) -> Roster:
        """Its slots and workers."""
        return self.service.roster

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; return the actions to perform, in their order, before the next event is handled.

        now: seconds on CLOCK_MONOTONIC, never less than in the call before. You must feed back what performing brings
        (Spawned or SpawnFailed; SlotAdded, SlotOpened or SlotFailed). An event of an unknown worker, or one that means
        nothing in the present state, changes nothing. After Exit was returned, only answers are returned any more.
        """
        service = self.service
        if isinstance(event, DeadlinePassed):
            for overdue in [*service.roster.workers.values()]:
                if overdue.deadline_at is not None and overdue.deadline_at <= now:
                    self._about_worker(overdue, event, now)
        elif isinstance(event, ABOUT_A_WORKER):
            worker = service.roster.workers.get(event.worker)
            if worker:
                self._about_worker(worker, event, now)
        else:
            act = (ALWAYS | SERVICE_TABLE[service.state]).get(type(event))
            if act:
                act(service, event, now)
        self._settle(now)
        actions, service.actions = service.actions, []
        return actions

    def next_deadline(self) -> float | None:
        """Return when DeadlinePassed is due, on the clock of handle, or None; DeadlinePassed then changes something."""
        service = self.service
        if service.state is ENDED:
            return None
        times = [worker.deadline_at for worker in service.roster.workers.values()]
        times += [inquiry.deadline(service), rebalance.deadline(service)]
        if service.state is not STOPPING:
            times += [deaths.deadline(service), scaling.deadline(service)]
            times += [reload.deadline(service), lending.deadline(service)]
        return min((at for at in times if at is not None), default=None)

    def status(self, now: float) -> dict[str, Any]:
        """Return what `status` shows, without what only the processes know; JSON values, times in seconds."""
        service = self.service
        shown = "degraded" if service.state is SERVING and service.degraded else service.state.value
        return {
            "state": shown,
            "generation": service.generation,
            "reloads": service.reloads,
            "last_reload": service.last_reload,
            "workers_configured": service.target,
            "workers_ready": service.roster.ready_count(),
            "slots_ever": service.slots_ever,
            "restarts": service.restarts,
            "restart_reasons": [[*where, count] for where, count in service.restart_reasons.items()],
            "reload_results": dict(service.reload_results),
            "handover": {
                "moved": service.handovers.moved,
                "drained": dict(service.handovers.drained),
                "longest_pause": service.handovers.longest_pause,
                "last_pause": service.handovers.last_pause,
            },
            "over_budget": service.over_budget,
            "workers": list(rows.rows(service.roster, service.weights, now, service.state in (STOPPING, ENDED))),
        }

    def _about_worker(self, worker: Worker, event: Event, now: float) -> None:
        act = WORKER_TABLE[worker.state].get(type(event))
        if act:
            act(self.service, worker, event, now)

    def _settle(self, now: float) -> None:
        service = self.service
        # first, as others wait for its end
        rebalance.follow(service, now)
        if service.state not in (STOPPING, ENDED):
            scaling.follow(service, now)
            deaths.spawn_due(service, now)
            handover.follow(service, now)
            reload.move_on(service, now)
            lending.follow(service, now)
            service.weigh()
        if service.state in (BOOTING, SERVING) and service.roster.given_up():
            error = "every worker is parked, none of them stays alive; see the log"
            stopping.end_with(service, Exit(EX_SOFTWARE, error), now)
        inquiry.follow(service, now)
        stopping.end(service)
