"""The supervisor: every decision of the master, and nothing but decisions.

handle(event, now) takes one fact and the time and returns what is to be done about it; next_deadline() says when it
wants to hear DeadlinePassed. It knows nothing of descriptors, pids or clocks, so its tests need no process, and a log
of its events and times replays to the same actions.

An event goes through one of the two tables below, by the state of the worker it is about or of the service, to one
method. After each event settle() does what has become possible: it starts workers whose delay is over, takes the next
step of a roll, begins a reload that waited, ends the service. So no method has to remember what waits for it, and the
order in which things happen is written in one place.

The lease: at most one worker boots beside a READY one it is to replace, whatever the reason, so that STARTING and READY
workers never exceed the slots by more than one. A worker that follows a dead one needs no lease: its place is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from wsworker.config import Config
from wsworker.master import roll
from wsworker.master.events import (
    Action,
    Answer,
    CloseSlots,
    DeadlinePassed,
    Event,
    Exit,
    Log,
    LogLevel,
    Notify,
    OpenSlot,
    Progress,
    ReloadRequested,
    ShowStatus,
    Signal,
    SlotFailed,
    SlotOpened,
    SlotsRead,
    Spawn,
    Spawned,
    SpawnFailed,
    Started,
    StatusRequested,
    StopRequested,
    Tell,
    Token,
    Weigh,
    WorkerExited,
    WorkerFailed,
    WorkerId,
    WorkerLeaving,
    WorkerReady,
)
from wsworker.master.restarts import Park, RestartPolicy, verdict
from wsworker.master.roll import Replace, Roll, Wait
from wsworker.master.roster import Roster, ServiceState, Slot, Worker, WorkerState, exit_row
from wsworker.wire import DrainReason, Order

STARTING, READY, DRAINING, KILLED = WorkerState
BOOTING, SERVING, RELOADING, STOPPING, ENDED = ServiceState

WORKER_TABLE: Final[Mapping[WorkerState, Mapping[type, str]]] = {
    STARTING: {WorkerReady: "serve", WorkerFailed: "remember", WorkerExited: "boot_failed", DeadlinePassed: "kill"},
    READY: {WorkerLeaving: "replace", WorkerExited: "died", DeadlinePassed: "silent"},
    DRAINING: {WorkerExited: "left", DeadlinePassed: "kill"},
    KILLED: {WorkerExited: "killed", DeadlinePassed: "kill"},
}
"""What an event about a worker does in each state; what is not listed is ignored."""

SERVICE_TABLE: Final[Mapping[ServiceState, Mapping[type, str]]] = {
    BOOTING: {ReloadRequested: "ask_reload", StopRequested: "stop"},
    SERVING: {ReloadRequested: "ask_reload", StopRequested: "stop"},
    RELOADING: {ReloadRequested: "ask_reload", StopRequested: "stop"},
    STOPPING: {ReloadRequested: "refuse_reload", StopRequested: "hurry"},
    ENDED: {ReloadRequested: "refuse_reload", StopRequested: "answer_stop"},
}
"""What a request does in each state of the service; a reload that cannot begin yet waits, and later ones join it."""

HUNG_SECONDS: Final = 3.0
"""A beat comes each second and is read each second, so a healthy one is up to two seconds old."""
KILL_MARGIN_SECONDS: Final = 5.0
ABORT_SECONDS: Final = 2.0
QUICK_SECONDS: Final = 3.0
FAILED_SECONDS: Final = 5.0
READ_SECONDS: Final = 1.0
LATE_SECONDS: Final = 2.0
EX_SOFTWARE: Final = 70
EX_CONFIG: Final = 78


class Supervisor:
    """The state machine. draw: gives a random number from 0 to 1 at each call; hand in a seeded one."""

    def __init__(self, draw: Callable[[], float], policy: RestartPolicy | None = None) -> None:
        self.state = BOOTING
        self.generation = 1
        self.roster = Roster()
        self._draw = draw
        self._policy = policy or RestartPolicy()
        self._config: Config | None = None
        self._actions: list[Action] = []
        self._next_worker = 1
        self._roll: Roll | None = None
        self._waiting: Roll | None = None
        self._reloads = 0
        self._last_reload: dict[str, Any] | None = None
        self._stop_replies: list[Token] = []
        self._exit = Exit(0)
        self._weights: tuple[int, ...] | None = None
        self._read_at: float | None = None
        self._told = ""

    @property
    def config(self) -> Config:
        """The accepted configuration."""
        assert self._config is not None, "Started comes first"
        return self._config

    # The surface

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event; return the actions to perform, in their order, before the next event is handled.

        now: seconds on CLOCK_MONOTONIC, never less than in the call before. You must feed back what performing brings
        (Spawned or SpawnFailed, SlotOpened or SlotFailed). An event of an unknown worker, or one that means nothing in
        the present state, changes nothing. After Exit was returned, only answers are returned any more.
        """
        self._dispatch(event, now)
        self._settle(now)
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """Return when DeadlinePassed is due, on the clock of handle, or None; DeadlinePassed then changes something."""
        if self.state is ENDED:
            return None
        times = [worker.deadline_at for worker in self.roster.workers.values() if worker.deadline_at is not None]
        if self.state is not STOPPING:
            times += [
                slot.retry_at
                for slot in self.roster.slots.values()
                if slot.retry_at is not None and self.roster.can_spawn(slot.number)
            ]
        return min(times, default=None)

    def status(self, now: float) -> dict[str, Any]:
        """Return what `status` shows, without what only the processes know; JSON values, times in seconds."""
        shown = self.state.value
        if self.state is SERVING and self.roster.degraded():
            shown = "degraded"
        return {
            "state": shown,
            "generation": self.generation,
            "reloads": self._reloads,
            "last_reload": self._last_reload,
            "workers_configured": len(self.roster.slots),
            "workers_ready": self.roster.ready_count(),
            "workers": list(self.roster.rows(now)),
        }

    # Dispatch

    def _dispatch(self, event: Event, now: float) -> None:
        match event:
            case Started(config):
                self._start(config, now)
            case Spawned(worker_id, pid):
                if worker := self.roster.workers.get(worker_id):
                    worker.pid = pid
            case SpawnFailed(worker_id, reason):
                self._spawn_failed(worker_id, reason, now)
            case SlotOpened(slot):
                self._slot_opened(self.roster.slots[slot], now)
            case SlotFailed(_, error):
                self._end_with(Exit(1, error), now)
            case SlotsRead():
                self._read(event, now)
            case StatusRequested(reply):
                self._actions.append(ShowStatus(reply))
            case DeadlinePassed():
                for worker in [*self.roster.workers.values()]:
                    if worker.deadline_at is not None and worker.deadline_at <= now:
                        self._about_worker(worker, event, now)
            case ReloadRequested() | StopRequested():
                getattr(self, f"_{SERVICE_TABLE[self.state][type(event)]}")(event, now)
            case _:
                if worker := self.roster.workers.get(event.worker):
                    self._about_worker(worker, event, now)

    def _about_worker(self, worker: Worker, event: Event, now: float) -> None:
        method = WORKER_TABLE[worker.state].get(type(event))
        if method:
            getattr(self, f"_{method}")(worker, event, now)

    # Start

    def _start(self, config: Config, now: float) -> None:
        """Boot slot 1 alone: broken code must cost one traceback, and must never have opened the port."""
        assert isinstance(config.workers, int), "main resolves auto"
        self._config = config
        self.roster.slots = {number: Slot(number) for number in range(1, config.workers + 1)}
        self._spawn(1, now)

    def _slot_opened(self, slot: Slot, now: float) -> None:
        slot.open = True
        if self.state is STOPPING:
            return
        ready = self.roster.ready(slot.number)
        if ready:
            self._go(ready)
        elif self.roster.can_spawn(slot.number) and slot.retry_at is None:
            self._spawn(slot.number, now)

    def _judge(self, slot: Slot) -> None:
        """Note a slot's first verdict; the service is settled once every slot has one and a worker is READY."""
        slot.judged = True
        if self.state is BOOTING and all(slot.judged for slot in self.roster.slots.values()):
            self.state = SERVING
            self._notify_ready()

    # Workers

    def _spawn(self, slot: int, now: float, generation: int | None = None, config: Config | None = None) -> Worker:
        config = config or self.config
        worker = Worker(
            id=self._next_worker,
            slot=slot,
            generation=generation or self.generation,
            state=STARTING,
            since=now,
            deadline_at=now + config.boot_timeout,
        )
        self._next_worker += 1
        self.roster.workers[worker.id] = worker
        self.roster.slots[slot].retry_at = None
        self._actions.append(Spawn(worker.id, slot, worker.generation, config))
        return worker

    def _serve(self, worker: Worker, event: WorkerReady, now: float) -> None:
        """STARTING to READY: it gets go, and whoever it replaces gets drain."""
        slot = self.roster.slots[worker.slot]
        older = self.roster.ready(worker.slot)
        boot_seconds = now - worker.since
        worker.state, worker.since = READY, now
        self._hear(worker, now)
        slot.retry_at, slot.parked = None, False
        if slot.open:
            self._go(worker)
        else:
            # the first worker of the service: from now on there is somebody to accept
            self._actions += [OpenSlot(number) for number in self.roster.slots]
        if self._roll and worker.id == self._roll.current:
            self._rolled(self._roll, worker, older, boot_seconds)
        if older:
            self._drain(older, "replace" if older.leaving else "reload", now)
        self._judge(slot)

    def _go(self, worker: Worker) -> None:
        worker.accepting = True
        self._actions.append(Tell(worker.id, Order("go")))

    def _drain(self, worker: Worker, why: DrainReason, now: float) -> None:
        worker.state, worker.unasked, worker.accepting = DRAINING, False, False
        grace = QUICK_SECONDS if why == "quick" else self.config.graceful_timeout + KILL_MARGIN_SECONDS
        worker.deadline_at = now + grace
        self._actions.append(Tell(worker.id, Order("drain", why)))

    def _remember(self, worker: Worker, event: WorkerFailed, now: float) -> None:
        """It says that it cannot boot. It is to exit now; its deadline becomes a short one."""
        assert worker.deadline_at is not None
        worker.failure = event
        worker.deadline_at = min(worker.deadline_at, now + FAILED_SECONDS)

    def _replace(self, worker: Worker, event: WorkerLeaving, now: float) -> None:
        if not worker.leaving:
            worker.leaving = True
            self._log("info", f"worker {worker.slot} was told to go from outside; its replacement starts first")

    def _kill(self, worker: Worker, event: Event, now: float) -> None:
        """Its grace is over. SIGKILL is repeated until it is reaped, as s6-supervise does."""
        if worker.state is STARTING and worker.failure is None:
            error = f"worker {worker.slot} was not ready within {now - worker.since:.0f} s; see `boot_timeout`"
            worker.failure = WorkerFailed(worker.id, "boot", error)
        if worker.state is not KILLED:
            self._log("warning", f"worker {worker.slot} ({worker.state.value}) is killed: its time is over")
        worker.state, worker.accepting = KILLED, False
        worker.deadline_at = now + KILL_MARGIN_SECONDS
        self._actions.append(Signal(worker.id, "SIGKILL"))

    def _silent(self, worker: Worker, event: Event, now: float) -> None:
        """A READY worker's loop is silent: first no new connections, then its stacks are logged, then it ends.

        One stage a deadline, by what was done and not by how long it is silent: times that were added up before would
        compare unequal by a rounding error, and the loop would spin.
        """
        timeout, silent_seconds = self.config.worker_timeout, now - worker.heard_at
        if worker.silence == "none":
            worker.silence = "hung"
            worker.deadline_at = worker.heard_at + max(HUNG_SECONDS, timeout / 2)
        elif worker.silence == "hung":
            worker.silence = "dumped"
            worker.deadline_at = worker.heard_at + timeout
            self._log("warning", f"worker {worker.slot}: loop silent for {silent_seconds:.0f} s; its stacks follow")
            self._actions.append(Signal(worker.id, "SIGUSR2"))
        else:
            self._log("error", f"worker {worker.slot} is replaced: loop silent for {silent_seconds:.0f} s")
            worker.state, worker.accepting = KILLED, False
            worker.deadline_at = now + ABORT_SECONDS
            self._actions.append(Signal(worker.id, "SIGABRT"))

    def _hear(self, worker: Worker, at: float) -> None:
        """Note a sign of life of a READY worker."""
        worker.heard_at, worker.silence = at, "none"
        worker.deadline_at = at + HUNG_SECONDS

    def _read(self, event: SlotsRead, now: float) -> None:
        """Take the beats. If this very reading comes late, the machine or the master stood still: nobody is blamed."""
        late = 0.0 if self._read_at is None else now - self._read_at - READ_SECONDS
        self._read_at = now
        for worker in self.roster.workers.values():
            if late > LATE_SECONDS:
                worker.heard_at += late
                worker.deadline_at = None if worker.deadline_at is None else worker.deadline_at + late
            self._forgive(worker, now)
            reading = event.readings.get(worker.id)
            if reading:
                worker.connections, worker.full = reading.connections, reading.full
                if worker.state is READY and reading.beat_at > worker.heard_at:
                    self._hear(worker, reading.beat_at)
        self._tell_status()

    def _forgive(self, worker: Worker, now: float) -> None:
        """Forget the exits of a slot whose worker has been READY for long enough."""
        if worker.state is READY and now - worker.since >= self._policy.healthy_seconds:
            self.roster.slots[worker.slot].history = ()

    # Deaths

    def _boot_failed(self, worker: Worker, event: WorkerExited, now: float) -> None:
        failure = worker.failure or WorkerFailed(
            worker.id, "boot", f"worker {worker.slot} died before it was ready: {event}"
        )
        slot = self._remove(worker, event, failure, now)
        if not any(other.open for other in self.roster.slots.values()):
            text = f"{failure.error}\n{failure.trace}".rstrip()
            self._end_with(Exit(EX_CONFIG if failure.kind == "app" else 1, text), now)
            return
        if self._roll and worker.id == self._roll.current:
            self._roll_failed(self._roll, failure, now)
        else:
            self._log("error", f"worker {slot.number} does not start: {failure.error}", failure.trace)
        replaced = self.roster.ready(slot.number)
        if replaced:
            replaced.leaving = False
        elif slot.retry_at is None:
            self._retry(slot, now)
        self._judge(slot)

    def _spawn_failed(self, worker_id: WorkerId, reason: str, now: float) -> None:
        worker = self.roster.workers.get(worker_id)
        if worker:
            worker.failure = WorkerFailed(worker_id, "boot", f"cannot fork worker {worker.slot}: {reason}")
            self._boot_failed(worker, WorkerExited(worker_id), now)

    def _died(self, worker: Worker, event: WorkerExited, now: float) -> None:
        """A READY worker is gone, and nobody asked it to."""
        self._forgive(worker, now)
        slot = self._remove(worker, event, None, now)
        self._log("error", f"worker {slot.number} (pid {worker.pid}) died: {event}")
        self._retry(slot, now)

    def _left(self, worker: Worker, event: WorkerExited, now: float) -> None:
        """A worker that was told to go has gone."""
        del self.roster.workers[worker.id]
        # it said so itself, unless it ended in another way than it was asked to
        as_asked = event.code == 0 or event.signal == "SIGTERM"
        self._log("debug" if as_asked else "warning", f"worker {worker.slot} (pid {worker.pid}) has left: {event}")

    def _killed(self, worker: Worker, event: WorkerExited, now: float) -> None:
        """KILLED counts as the state it was killed in."""
        if not worker.unasked:
            self._left(worker, event, now)
        elif worker.failure:
            self._boot_failed(worker, event, now)
        else:
            self._died(worker, event, now)

    def _remove(self, worker: Worker, event: WorkerExited, failure: WorkerFailed | None, now: float) -> Slot:
        slot = self.roster.slots[worker.slot]
        slot.last_exit = exit_row(event, failure, now)
        del self.roster.workers[worker.id]
        return slot

    def _retry(self, slot: Slot, now: float) -> None:
        """Ask restarts.py when the slot gets its next worker."""
        decision = verdict(slot.history, now, self._policy, self._draw())
        slot.history, slot.retry_at, slot.parked = decision.history, decision.at, isinstance(decision, Park)
        if slot.parked:
            self._log("error", f"worker {slot.number} is parked after {len(slot.history)} exits in a row")
        elif decision.at > now:
            self._log("warning", f"worker {slot.number} starts again in {decision.at - now:.1f} s")

    # Reload

    def _ask_reload(self, event: ReloadRequested, now: float) -> None:
        replies = self._waiting.replies if self._waiting else []
        if event.reply is not None:
            replies.append(event.reply)
        self._waiting = Roll(event.config, replies, event.restart_needed)

    def _begin_reload(self, reload: Roll, now: float) -> None:
        self._roll, self._waiting, self.state = reload, None, RELOADING
        reload.began_at = now
        self._actions.append(Notify("reloading", f"generation {self.generation + 1}: trying the new code in worker 1"))
        canary = self._spawn(1, now, self.generation + 1, reload.config)
        reload.canary = reload.current = canary.id

    def _rolled(self, reload: Roll, worker: Worker, older: Worker | None, seconds: float) -> None:
        """The worker that the roll waited for is READY; with the canary the whole reload is accepted."""
        if worker.id == reload.canary:
            self.generation, self._config = worker.generation, reload.config
            self._reloads += 1
        row = roll.replaced(reload, worker, older, seconds)
        reload.rows.append(row)
        reload.asked += older.connections if older else 0
        reload.current = None
        self._actions += [Progress(reply, {"event": "replaced"} | row) for reply in reload.replies]

    def _roll_on(self, reload: Roll, now: float) -> None:
        step = roll.next_step(self.roster, self.generation)
        match step:
            case Replace(slot):
                reload.current = self._spawn(slot, now).id
            case Wait(worker):
                reload.current = worker
            case _:
                self._log("info", f"reloaded: generation {self.generation} runs in every slot")
                self._end_reload(reload, {"result": "ok", "error": None}, now)

    def _roll_failed(self, reload: Roll, failure: WorkerFailed, now: float) -> None:
        outcome = roll.failed(reload, failure, self.roster)
        text = f"reload {outcome['result']}: {outcome['error']['message']}: {failure.error}"
        self._log("error", text, failure.trace)
        self._end_reload(reload, outcome, now)

    def _end_reload(self, reload: Roll, outcome: Mapping[str, Any], now: float) -> None:
        self._last_reload = roll.summary(reload, outcome, self.generation, now)
        self._actions += [Answer(reply, self._last_reload) for reply in reload.replies]
        self._roll, self.state = None, SERVING
        error = outcome["error"]
        self._notify_ready(f"reload {outcome['result']}: {error['cause']}; " if error else "")

    def _refuse_reload(self, event: ReloadRequested, now: float) -> None:
        if event.reply is not None:
            self._actions.append(Answer(event.reply, roll.stopping()))

    # Stop

    def _stop(self, event: StopRequested, now: float) -> None:
        self._answer_stop(event, now)
        self._shut_down("quick" if event.quick else "stop", now)

    def _hurry(self, event: StopRequested, now: float) -> None:
        """A second signal, or `stop --quick`: whoever drains is told to be quick. A second `stop` joins the wait."""
        self._answer_stop(event, now)
        if event.reply is not None and not event.quick:
            return
        for worker in self.roster.workers.values():
            if worker.state is not KILLED:
                deadline_at = worker.deadline_at
                self._drain(worker, "quick", now)
                worker.deadline_at = min(now + QUICK_SECONDS, deadline_at or now + QUICK_SECONDS)

    def _answer_stop(self, event: StopRequested, now: float) -> None:
        """Keep the caller for the end, or answer at once if that has come."""
        if event.reply is not None:
            self._stop_replies.append(event.reply)

    def _end_with(self, final: Exit, now: float) -> None:
        """End the service because it cannot go on; whoever is still there is sent away quickly."""
        if self.state not in (STOPPING, ENDED):
            self._exit = final
            self._shut_down("quick", now)

    def _shut_down(self, why: DrainReason, now: float) -> None:
        self.state = STOPPING
        self._actions.append(Notify("stopping", "stopping"))
        for reload in filter(None, (self._roll, self._waiting)):
            self._actions += [Answer(reply, roll.stopping()) for reply in reload.replies]
        self._roll = self._waiting = None
        self._actions.append(CloseSlots())
        for worker in self.roster.workers.values():
            # a stopped process would neither read its order nor die of it politely
            self._actions.append(Signal(worker.id, "SIGCONT"))
            if worker.state is STARTING:
                # it may not read its channel yet; until READY this signal just ends it
                self._actions.append(Signal(worker.id, "SIGTERM"))
            if worker.state in (STARTING, READY) or (worker.state is DRAINING and why == "quick"):
                self._drain(worker, why, now)

    # After each event

    def _settle(self, now: float) -> None:
        if self.state is STOPPING and not self.roster.workers:
            self.state = ENDED
            self._actions.append(self._exit)
        if self.state is ENDED:
            self._actions[:0] = [Answer(reply, {"result": "stopped"}) for reply in self._stop_replies]
            self._stop_replies = []
            return
        if self.state is not STOPPING:
            self._spawn_due(now)
            self._move_on(now)
            self._weigh()
        if self.state is SERVING and self.roster.given_up():
            self._end_with(Exit(EX_SOFTWARE, "every worker is parked, none of them stays alive; see the log"), now)
            self._settle(now)

    def _spawn_due(self, now: float) -> None:
        for slot in self.roster.slots.values():
            if slot.retry_at is not None and slot.retry_at <= now and self.roster.can_spawn(slot.number):
                slot.restarts += 1
                self._spawn(slot.number, now)

    def _move_on(self, now: float) -> None:
        """Go on with what waits for the lease: the roll, a reload that was asked for, a worker that wants to go."""
        if self._roll and self._roll.current is None:
            self._roll_on(self._roll, now)
        if self.state is SERVING and self.roster.quiet():
            leaving = next((worker for worker in self.roster.workers.values() if worker.leaving), None)
            if self._waiting:
                self._begin_reload(self._waiting, now)
            elif leaving:
                self._spawn(leaving.slot, now)

    def _weigh(self) -> None:
        weights = self.roster.weights()
        if weights != self._weights and all(slot.open for slot in self.roster.slots.values()):
            self._weights = weights
            self._actions.append(Weigh(weights))

    def _notify_ready(self, news: str = "") -> None:
        self._told = self.roster.summary()
        self._actions.append(Notify("ready", news + self._told))

    def _tell_status(self) -> None:
        if self.state is SERVING and self._told != self.roster.summary():
            self._told = self.roster.summary()
            self._actions.append(Notify("status", self._told))

    def _log(self, level: LogLevel, text: str, trace: str = "") -> None:
        self._actions.append(Log(level, text, trace))
