"""The service as the supervisor's rules see it: what is known, what is wanted, and the few acts all rules share.

One record with plain fields. The rules stand beside it, one subject a file (health, deaths, reload, stopping, scaling,
lending): functions that take the service, change its facts and say through want() what is to be done. supervisor.py
calls them and hands out what was wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from wsworker.config import Config
from wsworker.master import balance, moves
from wsworker.master.census import Census
from wsworker.master.events import Action, Exit, Handover, Log, LogLevel, Notify, Signal, Spawn, Tell, Token, Weigh
from wsworker.master.moves import Rebalance, Takers, Tally
from wsworker.master.recycling import draw_limits
from wsworker.master.restarts import RestartPolicy
from wsworker.master.roll import Roll
from wsworker.master.roster import KILL_MARGIN_SECONDS, Roster, ServiceState, Slot, Worker, WorkerState
from wsworker.wire import DrainReason, Order

HUNG_SECONDS: Final = 3.0
"""A beat comes each second and is read each second, so a healthy one is up to two seconds old."""
QUICK_SECONDS: Final = 3.0
LATE_LOOP_SECONDS: Final = 1.0
"""A loop that lags so much gets hardly any new clients."""


@dataclass(slots=True)
class Service:
    """Everything the supervisor knows.

    draw: gives a random number from 0 to 1 at each call. target: how many workers are wanted. roll: the reload under
    way; waiting: the one behind it. restarts: how many workers have followed a dead one; restart_reasons: the
    same by slot and reason, and those that were replaced while they lived; reload_results: "ok", "refused" and
    "partial" of all reloads. handovers: what all hand-overs have done; rebalance: the one under way. deaths: unasked
    exits of the last minute, of all slots. spawn_after: the earliest next replacement while those are over budget.
    opening: listeners whose outcome is not known yet. stop_cut: connections that a stop has ended without a goodbye;
    stop_killed: workers that it had to kill. censuses: questions about connections that are not answered yet.
    """

    draw: Callable[[], float]
    policy: RestartPolicy
    state: ServiceState = ServiceState.BOOTING
    generation: int = 1
    roster: Roster = field(default_factory=Roster)
    accepted: Config | None = None
    target: int = 0
    slots_ever: int = 0
    roll: Roll | None = None
    waiting: Roll | None = None
    reloads: int = 0
    last_reload: dict[str, Any] | None = None
    stop_replies: list[Token] = field(default_factory=list)
    stop_cut: int = 0
    stop_killed: int = 0
    censuses: dict[Token, Census] = field(default_factory=dict)
    exit: Exit = field(default_factory=lambda: Exit(0))
    restarts: int = 0
    restart_reasons: Counter[tuple[int, str]] = field(default_factory=Counter)
    reload_results: Counter[str] = field(default_factory=Counter)
    handovers: Tally = field(default_factory=Tally)
    rebalance: Rebalance | None = None
    deaths: tuple[float, ...] = ()
    over_budget: bool = False
    spawn_after: float = 0.0
    read_at: float | None = None
    weights: tuple[int, ...] = ()
    opening: int = 0
    told: str = ""
    actions: list[Action] = field(default_factory=list)
    last_worker: int = 0

    @property
    def config(self) -> Config:
        """The accepted configuration."""
        assert self.accepted is not None, "Started comes first"
        return self.accepted

    @property
    def degraded(self) -> bool:
        """Whether it serves, and not as it should."""
        return self.over_budget or self.roster.degraded()

    def busy(self) -> str:
        """Say what the service as a whole is about, "" if it just serves."""
        match self.state:
            case ServiceState.SERVING:
                return "a reload is under way" if self.waiting else ""
            case ServiceState.RELOADING:
                return "a reload is under way"
            case ServiceState.BOOTING:
                return "the service starts"
            case _:
                return "the service stops"

    def want(self, *actions: Action) -> None:
        """Have something done, after all that was wanted before."""
        self.actions += actions

    def log(self, level: LogLevel, text: str, trace: str = "") -> None:
        """Have a line logged."""
        self.want(Log(level, text, trace))

    def end_reload(self, summary: dict[str, Any]) -> None:
        """Note how a reload went, as `status` shows it."""
        self.last_reload = summary
        self.reload_results[summary["result"]] += 1

    def add_slot(self, number: int, bound: bool) -> Slot:
        """Know one slot more; bound: its listeners are made already."""
        slot = self.roster.slots[number] = Slot(number, bound)
        self.slots_ever = max(self.slots_ever, number)
        return slot

    def spawn(self, slot: Slot, now: float, generation: int | None = None, config: Config | None = None) -> Worker:
        """Have a worker started in a slot that has room; by default of the accepted generation."""
        config = config or self.config
        self.last_worker += 1
        worker = Worker(
            id=self.last_worker,
            slot=slot.number,
            generation=generation or self.generation,
            state=WorkerState.STARTING,
            since=now,
            deadline_at=now + config.boot_timeout,
            limits=draw_limits(config, self.draw),
            graceful_timeout=config.graceful_timeout,
            worker_timeout=config.worker_timeout,
            hands_over=config.reload_strategy == "handover",
        )
        self.roster.add(worker)
        slot.retry_at = None
        self.want(Spawn(worker.id, slot.number, worker.generation, config))
        return worker

    def go(self, worker: Worker) -> None:
        """Let a READY worker accept."""
        worker.accepting = True
        self.want(Tell(worker.id, Order("go")))

    def drain(self, worker: Worker, why: DrainReason, now: float) -> None:
        """Tell a worker to leave, and give it its time for that; what is left of it never grows.

        Its connections move if there is somebody to take them.
        """
        may_give = worker.state is WorkerState.READY and moves.may_give(worker)
        takers = moves.takers(self.roster, worker, why) if may_give else ()
        grace = QUICK_SECONDS if why == "quick" else worker.graceful_timeout + KILL_MARGIN_SECONDS
        if worker.state is WorkerState.DRAINING:
            grace = min(grace, worker.drain_until - now)
        if worker.state is WorkerState.STARTING:
            # it may not read its channel yet; until READY this signal just ends it
            self.want(Signal(worker.id, "SIGTERM"))
        worker.state, worker.unasked, worker.accepting = WorkerState.DRAINING, False, False
        worker.drain_until, worker.why = now + grace, why
        self.expect_beat(worker)
        self.hand_over(worker, takers)

    def hand_over(self, worker: Worker, takers: Takers) -> None:
        """Have a worker that drains hand over what it has left; without takers it says goodbye to all of them."""
        worker.takers, worker.stranded = frozenset(taker for taker, _ in takers), 0
        order = Order("drain", worker.why)
        self.want(Handover(worker.id, takers, order) if takers else Tell(worker.id, order))

    def expect_beat(self, worker: Worker) -> None:
        """Set the deadline of a worker that beats: a few missed beats while READY, its own end while it drains."""
        if worker.state is WorkerState.READY:
            worker.deadline_at = worker.heard_at + HUNG_SECONDS
        elif worker.heard_at:
            worker.deadline_at = min(worker.drain_until, worker.heard_at + worker.worker_timeout)
        else:
            worker.deadline_at = worker.drain_until

    def kill(self, worker: Worker, now: float) -> None:
        """End a worker by force. SIGKILL is repeated until it is reaped, as s6-supervise does."""
        self.doom(worker, now)
        worker.deadline_at = now + KILL_MARGIN_SECONDS
        self.want(Signal(worker.id, "SIGKILL"))

    def doom(self, worker: Worker, now: float) -> None:
        """Know that a worker's end by force has begun."""
        if worker.state is not WorkerState.KILLED:
            worker.killed_at = now
        worker.state, worker.accepting = WorkerState.KILLED, False

    def postpone(self, seconds: float) -> None:
        """Move every deadline: the machine or the master stood still meanwhile, and nobody is to blame."""
        self.spawn_after += seconds
        for census in self.censuses.values():
            census.deadline_at += seconds
        if self.rebalance:
            self.rebalance.deadline_at += seconds
        for worker in self.roster.workers.values():
            worker.postpone(seconds)
        for slot in self.roster.slots.values():
            slot.postpone(seconds)

    def recall(self, slot: Slot) -> None:
        """Take the listeners of a slot back; a borrower that is dead has given them back already."""
        if borrower := self.roster.borrower(slot):
            self.want(Tell(borrower.id, Order("recall", slot=slot.number)))
        slot.lent_to = None

    def weigh(self) -> None:
        """Steer new clients by how many each worker has; away from those that take none."""
        slots = [slot for slot in self.roster.slots.values() if slot.open]
        weights = balance.weights([self._share(slot) for slot in slots])
        if weights != self.weights and not self.opening:
            self.weights = weights
            self.want(Weigh(weights))

    def _share(self, slot: Slot) -> balance.Share:
        worker = slot.ready
        if worker is None or slot.closing:
            return balance.Share(takes=False, connections=0, reluctant=False)
        rolling = self.roll is not None and self.roll.accepted
        return balance.Share(
            takes=worker.takes_connections,
            connections=worker.connections,
            reluctant=worker.lag_seconds > LATE_LOOP_SECONDS or (rolling and worker.generation != self.generation),
        )

    def summary(self) -> str:
        """Return one line for a person; a reload that went wrong is told until the next one."""
        news, last = "", self.last_reload
        if last and last["error"]:
            # a wrong configuration has a line for each mistake
            why, _, _ = (last["error"]["cause"] or last["error"]["message"]).partition("\n")
            news = f"; last reload {last['result']}: {why}"
        # the numbers first: what is too long is cut at its end
        return ("degraded: " if self.degraded else "") + self.roster.summary() + news

    def notify_ready(self) -> None:
        """Tell the service manager that the service runs, at the start and after each reload."""
        self.told = self.summary()
        self.want(Notify("ready", self.told))

    def notify_status(self) -> None:
        """Tell the service manager what has changed, if anything has."""
        if self.state is ServiceState.SERVING and self.told != self.summary():
            self.told = self.summary()
            self.want(Notify("status", self.told))
