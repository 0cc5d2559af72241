"""The supervisor's promises, as a state machine over a fake kernel.

The kernel holds fake processes. Rules boot them, fail them, hang them, kill them, let time go by, and send what people
send; every action is checked as it comes, and the whole roster after each rule. At the end the world gets well and the
service has to as well, in time; then it is stopped, and processes die of nothing but SIGKILL.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsworker.config import Config
from wsworker.master import events
from wsworker.master.events import Action, Event, Exit, Reading, Spawn, WorkerId
from wsworker.master.health import ABORT_SECONDS, FAILED_SECONDS
from wsworker.master.restarts import RestartPolicy, delay
from wsworker.master.roster import KILL_MARGIN_SECONDS, ServiceState, Slot, WorkerState
from wsworker.master.service import QUICK_SECONDS
from wsworker.master.supervisor import Supervisor
from wsworker.query import Query

MIB = 1024**2
CONFIG = Config(
    app="hello",
    boot_timeout=20,
    worker_timeout=8,
    graceful_timeout=6,
    max_messages=1000,
    max_worker_age=3600,
    max_worker_rss=100 * MIB,
)
POLICY = RestartPolicy()
STRANGE: list[Event] = [
    events.WorkerReady(999_999),
    events.WorkerExited(999_999),
    events.WorkerLeaving(999_999),
    events.HandoverFinished(999_999, 1, {"busy": 1}, 0.5, 1),
]
WELL_SECONDS = 400
"""A parked slot gets its next worker within five minutes."""
END_SECONDS = CONFIG.graceful_timeout + KILL_MARGIN_SECONDS + 2


@dataclass
class Process:
    """A fake worker process as the kernel sees it."""

    slot: int
    generation: int
    spawned_at: float
    ready_at: float | None = None
    failed_at: float | None = None
    drained: bool = False
    killed_at: float = math.inf
    aborted_at: float | None = None
    hung: bool = False
    stopped: bool = False
    killed: bool = False
    beat_at: float = 0.0
    messages: int = 0
    rss: int = 50 * MIB
    full: bool = False
    connections: int = 1
    takers: frozenset[WorkerId] = frozenset()
    hands_over: bool = False

    @property
    def serving(self) -> bool:
        return self.ready_at is not None and not self.drained and not self.killed and self.aborted_at is None


@dataclass
class Kernel:
    """Feeds events as master/main.py does, performs the actions on fake processes, and checks each."""

    slots: int
    seed: int
    extra: int = 0
    now: float = 1000.0
    processes: dict[WorkerId, Process] = field(default_factory=dict)
    gone: set[WorkerId] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)
    exits: list[Exit] = field(default_factory=list)
    journal: list[tuple[Event, float, list[Action]]] = field(default_factory=list)
    fork_fails: bool = False
    stop_asked: bool = False
    reload_ready: int | None = None
    reload_deaths: int = 0
    bound: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    closing_at: dict[int, float] = field(default_factory=dict)
    loans: dict[int, WorkerId] = field(default_factory=dict)
    no_more_slots: bool = False
    unborn: set[WorkerId] = field(default_factory=set)
    lists: list[tuple[WorkerId, int]] = field(default_factory=list)
    drains: bool = False
    no_pairs: bool = False

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(random.Random(self.seed).random, POLICY)
        strategy = "drain" if self.drains else "handover"
        self.config = CONFIG.model_copy(update={"workers": self.slots, "reload_strategy": strategy})
        self.bound = [*range(1, self.slots + self.extra + 1)]

    def feed(self, event: Event) -> None:
        waiting = [event]
        while waiting:
            event = waiting.pop(0)
            if isinstance(event, events.SpawnFailed):
                self.unborn.discard(event.worker)
            actions = self.supervisor.handle(event, self.now)
            self.journal.append((event, self.now, actions))
            self.note_reload()
            for action in actions:
                outcome = self.perform(action)
                if outcome:
                    waiting.append(outcome)

    def note_reload(self) -> None:
        reloading = self.supervisor.state is ServiceState.RELOADING
        if reloading and self.reload_ready is None:
            self.reload_ready, self.reload_deaths = self.ready_slots(), 0
        elif not reloading:
            self.reload_ready = None

    def ready_slots(self) -> int:
        """Count the slots that have a READY worker, whether it beats or not."""
        return sum(slot.ready is not None for slot in self.supervisor.roster.slots.values() if not slot.closing)

    def perform(self, action: Action) -> Event | None:
        match action:
            case events.Tell(worker) | events.Signal(worker) if worker in self.unborn:
                pass  # that it could not be forked is not known yet: nobody hears this
            case Spawn():
                return self.spawn(action)
            case events.AddSlot(slot):
                assert slot == len(self.bound) + 1 <= 256
                if self.no_more_slots:
                    return events.SlotFailed(slot, "no descriptors")
                self.bound.append(slot)
                return events.SlotAdded(slot)
            case events.OpenSlot(slot):
                assert slot in self.bound
                assert self.open == [*range(1, slot)], "the kernel numbers listeners in the order of listen"
                self.open.append(slot)
                return events.SlotOpened(slot)
            case events.CloseSlot(slot):
                self.close_slot(slot)
            case events.Tell(worker, order):
                self.check_known(worker)
                process = self.processes[worker]
                if order.name == "list":
                    assert order.until > self.now
                    assert process.ready_at is not None, "it has no connections"
                    self.lists.append((worker, order.token))
                if order.name in ("lend", "recall"):
                    self.lend(worker, order.name, order.slot)
                if order.name == "drain":
                    self.drain(process, order.why)
            case events.Handover():
                return self.hand_over(action)
            case events.Signal(worker, name):
                self.check_known(worker)
                self.check_signal(self.processes[worker], name)
            case events.Weigh(weights):
                self.check_weights(weights)
            case events.Progress(reply):
                assert reply in self.unanswered
            case events.Answer(reply) | events.ShowStatus(reply):
                self.unanswered.remove(reply)
            case Exit():
                assert not self.processes
                self.exits.append(action)
            case _:
                pass
        return None

    def spawn(self, action: Spawn) -> Event:
        assert not self.stop_asked, "a spawn after stop"
        assert not self.exits
        assert action.worker not in self.gone | self.processes.keys()
        living = [process for process in self.processes.values() if process.slot == action.slot]
        assert len(living) <= 1
        slot = self.supervisor.roster.slots[action.slot]
        exits = slot.history
        # a parked slot that a reload could not fork for is tried again by the delays of forks
        if exits and not living and not slot.failed_forks and self.supervisor.state is not ServiceState.RELOADING:
            parked = len(exits) >= POLICY.intensity
            least = POLICY.parked_seconds if parked else delay(len(exits), POLICY) * 0.8
            assert self.now - exits[-1] >= least - 1e-6, "a respawn came before its delay was over"
        if self.fork_fails:
            self.gone.add(action.worker)
            self.unborn.add(action.worker)
            return events.SpawnFailed(action.worker, "no memory")
        self.processes[action.worker] = Process(action.slot, action.generation, self.now, beat_at=self.now)
        return events.Spawned(action.worker, 10_000 + action.worker)

    def close_slot(self, slot: int) -> None:
        assert slot == self.bound[-1] > 1, "only the last slot may close"
        assert all(process.slot != slot for process in self.processes.values())
        if slot in self.open:
            assert self.now - self.closing_at.pop(slot, -math.inf) >= 3 - 1e-6, "closed before its queue was empty"
            self.open.remove(slot)
        self.bound.pop()
        self.loans.pop(slot, None)

    def lend(self, worker: WorkerId, name: str, slot: int) -> None:
        if name == "recall":
            assert self.loans.pop(slot) == worker
            return
        assert not self.stop_asked
        assert slot in self.open
        assert slot not in self.loans, "lent to two workers"
        assert self.processes[worker].serving, "lent to one who does not serve"
        assert not any(p.slot == slot and self.takes(p) for p in self.processes.values()), "the slot is served"
        self.loans[slot] = worker

    def takes(self, process: Process) -> bool:
        """Whether it serves, and is known to."""
        return process.serving and not process.full and not process.hung

    def drain(self, process: Process, why: str) -> None:
        self.check_drain(process, why)
        grace = QUICK_SECONDS if why == "quick" else CONFIG.graceful_timeout + KILL_MARGIN_SECONDS
        process.drained, process.hands_over = True, False
        process.killed_at = min(process.killed_at, self.now + grace)

    def hand_over(self, action: events.Handover) -> Event | None:
        """Check a hand-over. It ends by a rule, or at once if no pair is to be had."""
        assert not self.drains
        assert not self.stop_asked
        giver, order, shares = self.processes[action.giver], action.order, [share for _, share in action.takers]
        takers = frozenset(worker for worker, _ in action.takers)
        assert len(shares) == len(takers) > 0
        assert min(shares) > 0
        assert giver.ready_at is not None, "it has no connections"
        for worker in takers:
            taker = self.processes[worker]
            assert taker.serving, "connections go to one who does not serve"
            assert taker is not giver
            in_its_place = order.why in ("reload", "replace") and giver.slot <= self.supervisor.service.target
            assert not in_its_place or taker.slot == giver.slot
        if order.name == "give":
            assert giver.serving
            assert self.supervisor.state is ServiceState.SERVING
            assert sum(shares) <= giver.connections
        elif giver.drained:
            assert order.why in ("reload", "replace", "scale")
            assert takers != giver.takers, "told to a taker that broke off"
            assert not giver.hands_over, "told before it has said that the one before is over"
        else:
            self.drain(giver, order.why)
        if self.no_pairs:
            return events.HandoverFinished(action.giver, 0, {"descriptors": 1}, 0.0)
        giver.takers, giver.hands_over = takers, True
        return None

    def check_known(self, worker: WorkerId) -> None:
        assert worker in self.processes, "an action names a worker that has exited"

    def check_drain(self, process: Process, why: str) -> None:
        if why == "scale":
            assert process.slot > self.supervisor.service.target
            self.closing_at.setdefault(process.slot, self.now)
            self.reload_deaths += process.serving
        elif why in ("reload", "replace"):
            others = [other for other in self.processes.values() if other.slot == process.slot and other is not process]
            assert any(other.serving for other in others), "drained before its replacement was ready"
        else:
            assert self.stop_asked or self.supervisor.state is ServiceState.STOPPING

    def check_signal(self, process: Process, name: str) -> None:
        stopping = self.supervisor.state is ServiceState.STOPPING
        match name:
            case "SIGKILL":
                assert process.killed or self.grace_is_over(process), "killed before its grace was over"
                self.reload_deaths += process.serving
                process.killed = True
            case "SIGABRT":
                assert self.now - process.beat_at >= self.config.worker_timeout - 1e-6
                process.aborted_at = self.now
                self.reload_deaths += 1
            case "SIGUSR2":
                assert not process.stopped, "a stopped process shows no stacks"
                assert self.now - process.beat_at >= self.config.worker_timeout / 2 - 1e-6
            case "SIGTERM":
                assert process.ready_at is None
                beside = [other for other in self.processes.values() if other.slot == process.slot and other.serving]
                assert stopping or process.slot > self.supervisor.service.target or beside
            case "SIGCONT":
                assert stopping

    def grace_is_over(self, process: Process) -> bool:
        graces = [process.killed_at]
        if process.aborted_at is not None:
            graces.append(process.aborted_at + ABORT_SECONDS)
        if process.ready_at is None:
            graces.append(process.spawned_at + self.config.boot_timeout)
        if process.failed_at is not None:
            graces.append(process.failed_at + FAILED_SECONDS)
        if process.drained or process.stopped:
            graces.append(process.beat_at + self.config.worker_timeout)
        too_big = process.rss > 2 * CONFIG.max_worker_rss
        return too_big or self.now >= min(graces) - 1e-6

    def check_weights(self, weights: tuple[int, ...]) -> None:
        assert len(weights) == len(self.open)
        serving = {process.slot for process in self.processes.values() if process.serving}
        for slot, weight in enumerate(weights, 1):
            assert weight == 0 or slot in serving, "a slot without a READY worker has weight"

    def exit(self, worker: WorkerId, **how: Any) -> None:
        process = self.processes.pop(worker)
        self.gone.add(worker)
        self.loans = {slot: borrower for slot, borrower in self.loans.items() if borrower != worker}
        self.reload_deaths += process.serving
        self.feed(events.WorkerExited(worker, **how))

    def read_table(self) -> None:
        for process in self.processes.values():
            if not process.hung:
                process.beat_at = self.now
        readings = {
            worker: Reading(
                beat_at=process.beat_at,
                connections=process.connections,
                full=process.full,
                messages=process.messages,
                rss_bytes=process.rss,
                stopped=process.stopped,
            )
            for worker, process in self.processes.items()
        }
        self.feed(events.SlotsRead(readings))

    def advance(self, seconds: float) -> None:
        """Let time go by as main.py does: the table once a second, each deadline when it is due."""
        end = self.now + seconds
        next_read = self.now + 1.0
        for _ in range(10_000):
            deadline = self.supervisor.next_deadline()
            step = min(next_read, end if deadline is None else deadline)
            if step > end:
                break
            self.now = max(self.now, step)
            if self.now >= next_read:
                self.read_table()
                next_read = self.now + 1.0
            deadline = self.supervisor.next_deadline()
            if deadline is not None and deadline <= self.now:
                before = self.snapshot()
                self.feed(events.DeadlinePassed())
                assert before != self.snapshot(), "DeadlinePassed changed nothing: the loop would spin"
            elif self.now >= end:
                break
        else:
            raise AssertionError("time stands still")
        self.now = end

    def snapshot(self) -> str:
        service = self.supervisor.service
        known = (service.generation, service.censuses, service.rebalance, service.handovers)
        return repr((self.supervisor.state, self.supervisor.roster, known))


class Supervision(RuleBasedStateMachine):
    """Rules are what the world does; invariants and the checks of Kernel are what the supervisor promises."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Kernel = Kernel(1, 0)
        self.token = 0

    @initialize(
        slots=st.integers(1, 4),
        extra=st.sampled_from([0, 0, 2]),
        seed=st.integers(0, 3),
        boots=st.booleans(),
        drains=st.sampled_from([False, False, False, True]),
    )
    def start(self, slots: int, extra: int, seed: int, boots: bool, drains: bool) -> None:
        self.kernel = Kernel(slots, seed, extra, drains=drains)
        self.kernel.feed(events.Started(self.kernel.config, slots + extra))
        # most stories begin with a service that runs
        while boots and self.booting():
            self.ready(self.booting()[0])

    def booting(self) -> list[WorkerId]:
        return [w for w, p in self.kernel.processes.items() if p.ready_at is None and p.failed_at is None]

    def serving(self) -> list[WorkerId]:
        return [w for w, p in self.kernel.processes.items() if p.serving]

    def ready(self, worker: WorkerId) -> None:
        process = self.kernel.processes[worker]
        if not process.drained and not process.killed:
            process.ready_at = process.beat_at = self.kernel.now
        else:
            process.failed_at = self.kernel.now
        self.kernel.feed(events.WorkerReady(worker))

    def ask(self) -> int:
        self.token += 1
        self.kernel.unanswered.add(self.token)
        return self.token

    @precondition(lambda self: self.booting())
    @rule(data=st.data())
    def boots(self, data: st.DataObject) -> None:
        self.ready(data.draw(st.sampled_from(self.booting())))

    @precondition(lambda self: self.booting())
    @rule(data=st.data(), kind=st.sampled_from(["app", "boot"]), exits=st.booleans())
    def fails(self, data: st.DataObject, kind: Any, exits: bool) -> None:
        worker = data.draw(st.sampled_from(self.booting()))
        self.kernel.processes[worker].failed_at = self.kernel.now
        self.kernel.feed(events.WorkerFailed(worker, kind, "it does not import", "a traceback"))
        if exits:
            self.kernel.exit(worker, code=78)

    @precondition(lambda self: self.kernel.processes)
    @rule(data=st.data(), signal=st.sampled_from([None, "SIGKILL", "SIGSEGV"]))
    def dies(self, data: st.DataObject, signal: str | None) -> None:
        worker = data.draw(st.sampled_from(sorted(self.kernel.processes)))
        self.kernel.exit(worker, code=None if signal else 0, signal=signal)

    @precondition(lambda self: self.serving())
    @rule(data=st.data(), hung=st.booleans(), stopped=st.booleans())
    def hangs(self, data: st.DataObject, hung: bool, stopped: bool) -> None:
        process = self.kernel.processes[data.draw(st.sampled_from(self.serving()))]
        # a process that goes on is known to go on once the table is read
        process.hung, process.stopped = hung, hung and stopped
        self.kernel.read_table()

    @precondition(lambda self: self.serving())
    @rule(data=st.data(), connections=st.integers(0, 50), full=st.booleans())
    def clients_come(self, data: st.DataObject, connections: int, full: bool) -> None:
        process = self.kernel.processes[data.draw(st.sampled_from(self.serving()))]
        process.connections, process.full = connections, full
        self.kernel.read_table()

    @precondition(lambda self: self.serving())
    @rule(data=st.data(), messages=st.sampled_from([900, 1200]), rss=st.sampled_from([50, 150, 250]))
    def grows(self, data: st.DataObject, messages: int, rss: int) -> None:
        process = self.kernel.processes[data.draw(st.sampled_from(self.serving()))]
        process.messages, process.rss = messages, rss * MIB

    def handing(self) -> list[WorkerId]:
        return [w for w, p in self.kernel.processes.items() if p.hands_over]

    @precondition(lambda self: self.handing())
    @rule(data=st.data(), moved=st.integers(0, 9), busy=st.integers(0, 2), waits=st.sampled_from([0, 0, 3]))
    def has_handed_over(self, data: st.DataObject, moved: int, busy: int, waits: int) -> None:
        worker = data.draw(st.sampled_from(self.handing()))
        self.kernel.processes[worker].hands_over = False
        left = {"busy": busy} if busy else {}
        self.kernel.feed(events.HandoverFinished(worker, moved, left, 0.01, waits))

    @precondition(lambda self: self.handing())
    @rule(data=st.data(), boots=st.booleans())
    def a_taker_dies(self, data: st.DataObject, boots: bool) -> None:
        giver = data.draw(st.sampled_from(self.handing()))
        takers = sorted(self.kernel.processes[giver].takers & self.kernel.processes.keys())
        if takers:
            self.kernel.exit(data.draw(st.sampled_from(takers)), signal="SIGKILL")
        if giver in self.kernel.processes:
            self.kernel.processes[giver].hands_over = False
            self.kernel.feed(events.HandoverFinished(giver, 1, {}, 0.01, 2))
        for worker in self.booting() if boots else ():
            self.ready(worker)

    @rule(crowds=st.lists(st.integers(0, 60), min_size=6, max_size=6), settles=st.booleans())
    def rebalance(self, crowds: list[int], settles: bool) -> None:
        if settles:
            self.all_boot_and_leave()
        for worker, connections in zip(self.serving(), crowds, strict=False):
            self.kernel.processes[worker].connections = connections
        self.kernel.read_table()
        self.kernel.feed(events.RebalanceRequested(self.ask()))

    def all_boot_and_leave(self) -> None:
        for _ in range(10):
            for worker in self.booting():
                self.ready(worker)
            for worker in [w for w, p in self.kernel.processes.items() if p.drained or p.killed]:
                self.kernel.exit(worker, code=0)

    @rule()
    def new_code_comes_to_its_end(self) -> None:
        self.all_boot_and_leave()
        self.kernel.feed(events.ReloadRequested(self.kernel.config))
        for _ in range(8):
            for worker in self.booting():
                self.ready(worker)

    @rule(short=st.booleans())
    def descriptors_get_short(self, short: bool) -> None:
        self.kernel.no_pairs = short

    @rule(delta=st.sampled_from([-3, -1, 1, 2]), fails=st.booleans())
    def scale(self, delta: int, fails: bool) -> None:
        self.kernel.no_more_slots = fails
        self.kernel.feed(events.ScaleRequested(delta))

    @precondition(lambda self: self.serving())
    @rule(data=st.data())
    def is_told_from_outside(self, data: st.DataObject) -> None:
        self.kernel.feed(events.WorkerLeaving(data.draw(st.sampled_from(self.serving()))))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 1.0, 3.0, 9.0, 30.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.kernel.advance(seconds)

    @rule()
    def those_told_to_go_have_gone(self) -> None:
        going = [w for w, p in self.kernel.processes.items() if p.drained or p.killed]
        for worker in going:
            self.kernel.exit(worker, code=0)

    @rule(fails=st.booleans())
    def memory_gets_short(self, fails: bool) -> None:
        self.kernel.fork_fails = fails

    @rule(by_signal=st.booleans(), workers=st.sampled_from([None, None, 1, 3]))
    def reload(self, by_signal: bool, workers: int | None) -> None:
        kernel = self.kernel
        kernel.config = kernel.config.model_copy(update={"workers": workers or kernel.config.workers})
        kernel.feed(events.ReloadRequested(kernel.config, None if by_signal else self.ask()))

    @rule(by_signal=st.booleans())
    def reload_with_a_bad_config(self, by_signal: bool) -> None:
        self.kernel.feed(events.ReloadRefused("line 3", None if by_signal else self.ask()))

    @rule()
    def status(self) -> None:
        self.kernel.feed(events.StatusRequested(self.ask()))
        self.kernel.supervisor.status(self.kernel.now)

    @rule(slot=st.sampled_from([None, None, 1, 3]))
    def connections(self, slot: int | None) -> None:
        self.kernel.feed(events.ConnectionsRequested(Query(slot=slot), self.ask()))

    @precondition(lambda self: self.kernel.lists)
    @rule(data=st.data(), last=st.booleans())
    def a_list_comes(self, data: st.DataObject, last: bool) -> None:
        worker, reply = asked = data.draw(st.sampled_from(self.kernel.lists))
        if last:
            self.kernel.lists.remove(asked)
        # of a worker that has died, or to a caller that waits no longer, too
        self.kernel.feed(events.WorkerAnswered(worker, reply, 1, ({"slot": 1},), last))

    @precondition(lambda self: self.kernel.now > 1003)
    @rule(quick=st.booleans(), by_signal=st.booleans())
    def stop(self, quick: bool, by_signal: bool) -> None:
        self.kernel.stop_asked = True
        self.kernel.feed(events.StopRequested(quick, None if by_signal else self.ask()))

    @rule(event=st.sampled_from(STRANGE))
    def a_stranger_speaks(self, event: Event) -> None:
        before = self.kernel.snapshot()
        self.kernel.feed(event)
        assert before == self.kernel.snapshot(), "an unknown worker changed something"

    @invariant()
    def never_too_many_workers(self) -> None:
        roster = self.kernel.supervisor.roster
        active = [w for w in roster.workers.values() if w.state in (WorkerState.STARTING, WorkerState.READY)]
        assert len(active) <= len(roster.slots) + 1
        for slot in roster.slots:
            living = roster.slots[slot].workers
            generations = [worker.generation for worker in living if worker.state is WorkerState.READY]
            assert len(living) <= 2
            assert len(generations) == len(set(generations))

    @invariant()
    def the_roster_is_the_kernel(self) -> None:
        assert self.kernel.supervisor.roster.workers.keys() == self.kernel.processes.keys()

    @invariant()
    def the_slots_are_the_kernels(self) -> None:
        roster = self.kernel.supervisor.roster
        assert [slot.number for slot in roster.slots.values() if slot.bound] == self.kernel.bound
        assert {slot.number: slot.lent_to for slot in roster.slots.values() if self.is_lent(slot)} == self.kernel.loans
        assert self.kernel.supervisor.service.target >= 1

    def is_lent(self, slot: Slot) -> bool:
        return slot.lent_to in self.kernel.processes

    @invariant()
    def nobody_waits_for_a_taker_that_is_there(self) -> None:
        roster = self.kernel.supervisor.roster
        for worker in roster.workers.values():
            slot = roster.slots[worker.slot]
            if worker.stranded and not slot.closing and slot.ready and slot.ready.silence == "none":
                assert self.kernel.stop_asked or slot.ready.id in worker.takers

    @invariant()
    def who_gives_serves_on(self) -> None:
        service = self.kernel.supervisor.service
        for worker in service.rebalance.awaited if service.rebalance else ():
            assert service.roster.workers[worker].state is WorkerState.READY

    @invariant()
    def who_is_not_wanted_goes(self) -> None:
        service = self.kernel.supervisor.service
        if service.state is ServiceState.SERVING and not service.rebalance:
            assert all(slot.number <= service.target for slot in service.roster.staying())

    @invariant()
    def a_reload_loses_no_ready_worker(self) -> None:
        kernel = self.kernel
        if kernel.supervisor.state is ServiceState.RELOADING and kernel.reload_ready is not None:
            assert kernel.ready_slots() >= kernel.reload_ready - kernel.reload_deaths

    @invariant()
    def histories_stay_short(self) -> None:
        assert all(len(slot.history) <= POLICY.intensity for slot in self.kernel.supervisor.roster.slots.values())

    def teardown(self) -> None:
        kernel = self.kernel
        if not kernel.journal:
            return
        if kernel.supervisor.state not in (ServiceState.STOPPING, ServiceState.ENDED):
            self.get_well()
        if not kernel.stop_asked:
            self.stop(False, False)
        self.end()
        kernel.advance(400.0)
        assert len(kernel.exits) == 1
        assert not kernel.unanswered, "a caller never got an answer"
        again = Supervisor(random.Random(kernel.seed).random, POLICY)
        for event, now, actions in kernel.journal:
            assert again.handle(event, now) == actions, "the same events and times gave other actions"

    def get_well(self) -> None:
        """Let everything go well from now on: then the service does so too, and nobody waits for an answer."""
        kernel = self.kernel
        kernel.fork_fails = kernel.no_more_slots = kernel.no_pairs = False
        for _ in range(WELL_SECONDS):
            for process in kernel.processes.values():
                process.hung = process.stopped = process.full = False
                process.messages, process.rss = 0, 50 * MIB
            kernel.read_table()
            for worker, process in [*kernel.processes.items()]:
                if process.drained or process.killed or process.aborted_at or process.failed_at:
                    kernel.exit(worker, code=0)
                elif process.ready_at is None:
                    self.ready(worker)
            kernel.advance(1.0)
            if self.is_well() or kernel.exits:
                return
        raise AssertionError("the service does not get well")

    def is_well(self) -> bool:
        """Whether as many workers as are wanted are READY, no reload is under way, and no queue is lent."""
        service = self.kernel.supervisor.service
        ready = self.kernel.supervisor.roster.ready_count()
        return (
            service.state is ServiceState.SERVING
            and ready == len(service.roster.slots) == len(service.roster.workers) == service.target
            and not (service.waiting or self.kernel.unanswered or self.kernel.loans)
        )

    def end(self) -> None:
        """Let nobody leave by itself: each has its time, and then it is killed."""
        began_at = self.kernel.now
        while self.kernel.processes:
            self.kernel.advance(1.0)
            for worker in [worker for worker, process in self.kernel.processes.items() if process.killed]:
                self.kernel.exit(worker, signal="SIGKILL")
            assert self.kernel.now < began_at + END_SECONDS, "a worker that does not leave is not killed"


TestSupervision = Supervision.TestCase
TestSupervision.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
