"""The supervisor, story by story: what it wants done at each turn, without a process anywhere."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from wsworker.config import Config
from wsworker.master import events
from wsworker.master.events import (
    Action,
    Answer,
    Event,
    Exit,
    Handover,
    Log,
    Notify,
    Progress,
    Reading,
    Signal,
    Spawn,
    Tell,
)
from wsworker.master.roster import ServiceState, WorkerState
from wsworker.master.supervisor import SERVICE_TABLE, WORKER_TABLE, Supervisor
from wsworker.wire import Order

GO = Order("go")
Kind = TypeVar("Kind")


class Story:
    """A supervisor and a clock; keeps what it wanted, and performs what needs no process."""

    def __init__(self, workers: int = 2, **settings: Any) -> None:
        self.config = Config(app="hello", workers=workers, **settings)
        self.supervisor = Supervisor(lambda: 0.5)
        self.now = 100.0
        self.said: list[Action] = []
        self.tell(events.Started(self.config, workers))

    def tell(self, event: Event) -> list[Action]:
        """Feed one event and all that performing brings; return the actions of all of them."""
        wanted: list[Action] = []
        waiting = [event]
        while waiting:
            for action in self.supervisor.handle(waiting.pop(0), self.now):
                wanted.append(action)
                if isinstance(action, Spawn):
                    waiting.append(events.Spawned(action.worker, 1000 + action.worker))
                elif isinstance(action, events.AddSlot):
                    waiting.append(events.SlotAdded(action.slot))
                elif isinstance(action, events.OpenSlot):
                    waiting.append(events.SlotOpened(action.slot))
        self.said += wanted
        return wanted

    def serve(self) -> Story:
        """Boot every worker."""
        for worker in self.supervisor.roster.slots:
            self.tell(events.WorkerReady(worker))
        return self

    def later(self, seconds: float) -> list[Action]:
        """Let time go by without a beat, then say that the deadline passed."""
        self.now += seconds
        return self.tell(events.DeadlinePassed())

    def live(self, seconds: int, beating: list[int]) -> list[Action]:
        """Let time go by as in the master: the table is read each second, deadlines pass; only some workers beat."""
        wanted = self.tell(events.SlotsRead({worker: Reading(self.now) for worker in beating}))
        for _ in range(seconds):
            self.now += 1
            wanted += self.tell(events.SlotsRead({worker: Reading(self.now) for worker in beating}))
            wanted += self.later(0)
        return wanted

    @property
    def state(self) -> ServiceState:
        return self.supervisor.state

    def states(self) -> dict[int, str]:
        return {worker.id: worker.state.value for worker in self.supervisor.roster.workers.values()}


def kinds(actions: list[Action], *wanted: type) -> list[Action]:
    """Keep the actions of some kinds."""
    return [action for action in actions if isinstance(action, wanted)]


def only(actions: list[Action], kind: type[Kind]) -> list[Kind]:
    """Keep the actions of one kind, whose fields are then known."""
    return [action for action in actions if isinstance(action, kind)]


def test_the_tables_know_every_state() -> None:
    """A state without a row would be found only when an event comes in it."""
    assert set(WorkerState) == set(WORKER_TABLE)
    assert set(ServiceState) == set(SERVICE_TABLE)


def test_slot_1_boots_alone_and_then_the_ports_open() -> None:
    """Nothing listens before a worker is ready; then every slot opens in order, and the others start together."""
    story = Story(workers=3)
    assert [Spawn(1, 1, 1, story.config)] == story.said
    actions = story.tell(events.WorkerReady(1))
    assert [events.OpenSlot(1), events.OpenSlot(2), events.OpenSlot(3)] == actions[:3]
    assert [Tell(1, GO), Spawn(2, 2, 1, story.config), Spawn(3, 3, 1, story.config)] == kinds(actions, Tell, Spawn)
    assert ServiceState.BOOTING is story.state


def test_the_service_settles_when_the_last_worker_is_ready() -> None:
    """READY means that every slot has been judged and one serves."""
    story = Story(workers=2)
    assert not kinds(story.tell(events.WorkerReady(1)), Notify)
    assert [Notify("ready", "2/2 workers, 0 connections")] == kinds(story.tell(events.WorkerReady(2)), Notify)
    assert ServiceState.SERVING is story.state


@pytest.mark.parametrize(("kind", "code"), [("app", 78), ("boot", 1)])
def test_a_first_worker_that_cannot_boot_ends_the_start(kind: Any, code: int) -> None:
    """Broken code costs one traceback; the port was never opened."""
    story = Story()
    story.tell(events.WorkerFailed(1, kind, "cannot import app 'hello'", "Traceback"))
    actions = story.tell(events.WorkerExited(1, code=code))
    assert Exit(code, "cannot import app 'hello'\nTraceback") == actions[-1]
    assert not kinds(story.said, events.OpenSlot)


def test_a_first_worker_that_dies_without_a_word_ends_the_start() -> None:
    """A segmentation fault while importing is told by its signal."""
    story = Story()
    actions = story.tell(events.WorkerExited(1, signal="SIGSEGV"))
    assert Exit(1, "worker 1 died before it was ready: killed by SIGSEGV; see dmesg") == actions[-1]


def test_a_first_worker_that_cannot_be_forked_ends_the_start() -> None:
    """Nothing serves yet, so there is nothing to keep alive."""
    story = Story()
    assert Exit(1, "cannot fork worker 1: no memory") == story.tell(events.SpawnFailed(1, "no memory"))[-1]


def test_a_port_that_cannot_listen_ends_the_start() -> None:
    """Worker 1 is sent away again, and the error is the master's last word."""
    story = Story()
    story.tell(events.WorkerReady(1))
    actions = story.tell(events.SlotFailed(1, "cannot listen"))
    assert [Tell(1, Order("drain", "quick")), Tell(2, Order("drain", "quick"))] == kinds(actions, Tell)
    story.tell(events.WorkerExited(1, code=0))
    # a slot that opens afterwards starts nobody
    assert not story.tell(events.SlotOpened(2))
    assert Exit(1, "cannot listen") == story.tell(events.WorkerExited(2, code=0))[-1]
    assert not story.tell(events.SlotFailed(1, "again"))


def test_a_later_slot_that_cannot_boot_backs_off_and_the_service_settles() -> None:
    """Slot 2 is in back-off, slot 1 serves, the service is up and degraded."""
    story = Story(workers=2)
    story.tell(events.WorkerReady(1))
    story.tell(events.WorkerFailed(2, "app", "no module"))
    actions = story.tell(events.WorkerExited(2, code=78))
    assert [Notify("ready", "degraded: 1/2 workers, 0 connections")] == kinds(actions, Notify)
    assert "degraded" == story.supervisor.status(story.now)["state"]
    assert "no module" == story.supervisor.status(story.now)["workers"][1]["last_exit"]["reason"]


def test_a_worker_that_says_it_failed_and_stays_is_killed() -> None:
    """It has five seconds to go, whatever boot_timeout says."""
    story = Story()
    story.tell(events.WorkerFailed(1, "boot", "on_worker_start raised"))
    assert story.now + 5 == story.supervisor.next_deadline()
    assert [Signal(1, "SIGKILL")] == kinds(story.later(5), Signal)
    assert Exit(1, "on_worker_start raised") == story.tell(events.WorkerExited(1, signal="SIGKILL"))[-1]


def test_a_boot_that_hangs_is_killed_at_boot_timeout() -> None:
    """The first start then fails, and says which setting there is."""
    story = Story(boot_timeout=7)
    assert story.now + 7 == story.supervisor.next_deadline()
    assert [Signal(1, "SIGKILL")] == kinds(story.later(7), Signal)
    # a process in uninterruptible sleep takes its time
    assert [Signal(1, "SIGKILL")] == kinds(story.later(5), Signal)
    last = story.tell(events.WorkerExited(1, signal="SIGKILL"))[-1]
    assert Exit(1, "worker 1 was not ready within 7 s; see `boot_timeout`") == last


def test_a_dead_worker_is_followed_at_once_and_weighs_nothing_meanwhile() -> None:
    """The same turn of the loop takes its slot out of the spread and starts the next one."""
    story = Story(workers=2).serve()
    actions = story.tell(events.WorkerExited(2, signal="SIGKILL"))
    assert [Spawn(3, 2, 1, story.config), events.Weigh((256, 0))] == kinds(actions, Spawn, events.Weigh)
    assert [Tell(3, GO), events.Weigh((256, 256))] == kinds(story.tell(events.WorkerReady(3)), Tell, events.Weigh)
    row = story.supervisor.status(story.now)["workers"][1]
    assert (1, "killed by SIGKILL") == (row["restarts"], row["last_exit"]["reason"])
    assert 1 == story.supervisor.status(story.now)["restarts"]


def test_a_second_death_waits_and_a_minute_of_health_forgives() -> None:
    """0.1 s after the second exit in a row; at once again after 60 s of READY."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, code=3))
    story.tell(events.WorkerReady(3))
    assert not kinds(story.tell(events.WorkerExited(3, code=3)), Spawn)
    assert story.now + 0.1 == story.supervisor.next_deadline()
    assert "waiting" == story.supervisor.status(story.now)["workers"][1]["state"]
    assert [Spawn(4, 2, 1, story.config)] == kinds(story.later(0.1), Spawn)
    story.tell(events.WorkerReady(4))
    story.now += 60
    assert [Spawn(5, 2, 1, story.config)] == kinds(story.tell(events.WorkerExited(4, code=3)), Spawn)


def test_health_forgives_also_when_the_worker_lives_on() -> None:
    """Nine deaths, a minute of READY, then a reload and one more death: that one is the first again."""
    story = Story(workers=1).serve()
    story.supervisor.roster.slots[1].history = tuple(float(n) for n in range(9))
    story.live(60, beating=[1])
    assert () == story.supervisor.roster.slots[1].history


def test_when_every_slot_is_parked_the_master_gives_up_with_70() -> None:
    """Ten exits in a row park the only slot; systemd is to act."""
    story = Story(workers=1).serve()
    worker = 1
    while not kinds(story.said, Exit):
        story.tell(events.WorkerExited(worker, code=1))
        deadline = story.supervisor.next_deadline()
        if deadline is not None and not story.supervisor.roster.workers:
            story.later(deadline - story.now)
        worker += 1
        assert worker < 20
    assert 11 == worker
    assert 70 == only(story.said, Exit)[0].code


def test_a_silent_worker_gets_no_clients_then_shows_its_stacks_then_ends() -> None:
    """3 s: weight 0; half of worker_timeout: stacks; worker_timeout: ABRT; 2 s later: KILL."""
    story = Story(workers=2, worker_timeout=20).serve()
    actions = story.later(3)
    assert [events.Weigh((0, 0))] == kinds(actions, events.Weigh)
    assert "hung" == story.supervisor.status(story.now)["workers"][0]["state"]
    assert [Signal(2, "SIGUSR2")] == kinds(story.live(7, beating=[1]), Signal)
    assert [Signal(2, "SIGABRT")] == kinds(story.live(10, beating=[1]), Signal)
    assert [Signal(2, "SIGKILL")] == kinds(story.live(2, beating=[1]), Signal)
    actions = story.tell(events.WorkerExited(2, signal="SIGKILL"))
    assert [Spawn(3, 2, 1, story.config)] == kinds(actions, Spawn)


def test_a_worker_that_beats_again_gets_clients_again() -> None:
    """One beat is enough, and a full worker gets none."""
    story = Story(workers=2).serve()
    story.later(3)
    story.tell(events.SlotsRead({1: Reading(story.now), 2: Reading(story.now, 5, full=True)}))
    assert events.Weigh((256, 0)) == kinds(story.said, events.Weigh)[-1]
    assert "full" == story.supervisor.status(story.now)["workers"][1]["state"]
    assert Notify("status", "2/2 workers, 5 connections") == kinds(story.said, Notify)[-1]


def test_a_pause_of_the_machine_is_nobodys_fault() -> None:
    """When the reading itself comes a minute late, every deadline moves by that minute."""
    story = Story(workers=1).serve()
    story.tell(events.SlotsRead({1: Reading(story.now)}))
    beat_at = story.now
    story.now += 61
    actions = story.tell(events.SlotsRead({1: Reading(beat_at)}))
    assert not kinds(actions, Signal)
    assert beat_at + 60 + 3 == story.supervisor.next_deadline()


def test_a_reload_rolls_slot_by_slot_behind_its_canary() -> None:
    """The canary is READY before anybody drains; then one slot after the other; the caller hears of each."""
    story = Story(workers=2).serve()
    new = Config(app="hello", workers=2, graceful_timeout=9)
    actions = story.tell(events.ReloadRequested(new, 7, ("listen",)))
    assert [Spawn(3, 1, 2, new)] == kinds(actions, Spawn, Tell, Signal)
    assert "reloading" == story.supervisor.status(story.now)["state"]
    story.now += 0.25
    actions = story.tell(events.WorkerReady(3))
    drain = Handover(1, ((3, 1),), Order("drain", "reload"))
    assert [Tell(3, GO), drain, Spawn(4, 2, 2, new)] == kinds(actions, Tell, Handover, Spawn)
    row = {"slot": 1, "old_pid": 1001, "new_pid": 1003, "seconds": 0.25, "canary": True}
    assert [Progress(7, {"event": "replaced"} | row)] == kinds(actions, Progress)
    story.now += 2
    actions = story.tell(events.WorkerReady(4))
    (answer,) = only(actions, Answer)
    assert ("ok", 2, 2.25, ["listen"]) == tuple(
        answer.body[key] for key in ("result", "generation", "seconds", "restart_needed")
    )
    assert [row, row | {"slot": 2, "old_pid": 1002, "new_pid": 1004, "seconds": 2.0, "canary": False}] == answer.body[
        "workers"
    ]
    assert {1: "draining", 2: "draining", 3: "ready", 4: "ready"} == story.states()
    assert new is story.supervisor.service.config


def test_a_broken_canary_touches_nobody() -> None:
    """The caller gets the user's traceback; the old workers were never told anything."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerFailed(3, "app", "SyntaxError in app.py", "line 7"))
    actions = story.tell(events.WorkerExited(3, code=78))
    (answer,) = only(actions, Answer)
    error = {
        "code": "reload_refused",
        "message": "the new code does not start; the 2 old workers keep serving",
        "cause": "SyntaxError in app.py",
        "trace": "line 7",
    }
    assert ("refused", error, 1) == (answer.body["result"], answer.body["error"], answer.body["generation"])
    assert not kinds(actions, Tell, Signal, Spawn)
    news = "2/2 workers, 0 connections; last reload refused: SyntaxError in app.py"
    assert [Notify("ready", news)] == kinds(actions, Notify)
    assert {1: "ready", 2: "ready"} == story.states()


def test_a_later_failure_stops_the_roll_halfway() -> None:
    """Done slots keep the new code, the others the old one; the caller hears "partial"."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(4))
    actions = story.tell(events.WorkerExited(5, code=1))
    (answer,) = only(actions, Answer)
    assert "partial" == answer.body["result"]
    assert "degraded" == story.supervisor.status(story.now)["state"]
    assert {1: "draining", 2: "ready", 3: "ready", 4: "ready"} == story.states()


def test_a_reload_asked_for_while_old_workers_drain_waits_and_later_ones_join_it() -> None:
    """Never two draining workers in a slot; the newest config wins; everybody is answered once."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(2))
    second, third = Config(app="second", workers=1), Config(app="third", workers=1)
    assert not story.tell(events.ReloadRequested(second, 8))
    assert not story.tell(events.ReloadRequested(third, 9))
    actions = story.tell(events.WorkerExited(1, code=0))
    assert [Spawn(3, 1, 3, third)] == kinds(actions, Spawn)
    assert [8, 9] == [answer.reply for answer in only(story.tell(events.WorkerReady(3)), Answer)]


def test_a_dead_worker_of_old_code_is_followed_by_new_code_once_the_reload_is_accepted() -> None:
    """A death in the middle of a roll does not bring the old generation back."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(4))
    actions = story.tell(events.WorkerExited(3, signal="SIGKILL"))
    assert [Spawn(6, 3, 2, story.config)] == kinds(actions, Spawn)
    story.tell(events.WorkerReady(5))
    assert [7] == [answer.reply for answer in only(story.tell(events.WorkerReady(6)), Answer)]


def test_a_roll_goes_over_a_worker_that_booted_with_old_code_meanwhile() -> None:
    """It was started before the canary was READY, so it is replaced like the others."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerExited(2, signal="SIGKILL"))
    story.tell(events.WorkerReady(3))
    assert {1: "draining", 3: "ready", 4: "starting"} == story.states()
    assert [Spawn(5, 2, 2, story.config)] == kinds(story.tell(events.WorkerReady(4)), Spawn)


def test_a_roll_waits_for_a_hung_worker_to_be_reaped() -> None:
    """Its slot is free for the new generation only then."""
    story = Story(workers=2, worker_timeout=4).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.live(5, beating=[1])
    assert "killed" == story.states()[2]
    assert not kinds(story.tell(events.WorkerReady(3)), Spawn)
    assert [2] == [s.slot for s in only(story.tell(events.WorkerExited(2, signal="SIGABRT")), Spawn)]


def test_an_old_worker_that_dies_beside_a_broken_canary_comes_back() -> None:
    """Its own exit is what counts, not the canary's on top."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerExited(1, signal="SIGKILL"))
    actions = story.tell(events.WorkerExited(2, code=1))
    assert [Spawn(3, 1, 1, story.config)] == kinds(actions, Spawn)
    assert 1 == len(story.supervisor.roster.slots[1].history)


def test_a_canary_in_an_empty_slot_that_fails_counts_as_an_exit() -> None:
    """Its slot was waiting for its next try, which the canary was."""
    story = Story(workers=2).serve()
    for worker in (1, 3):
        story.tell(events.WorkerExited(worker, code=1))
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerExited(4, code=1))
    assert (3, story.now + 0.2) == (len(story.supervisor.roster.slots[1].history), story.supervisor.next_deadline())


def test_a_worker_told_to_go_from_outside_is_replaced_first() -> None:
    """It drains when its replacement is READY, and that is no crash."""
    story = Story(workers=2).serve()
    actions = story.tell(events.WorkerLeaving(2))
    assert [Spawn(3, 2, 1, story.config)] == kinds(actions, Spawn, Tell)
    assert not story.tell(events.WorkerLeaving(2))
    drain = Handover(2, ((3, 1),), Order("drain", "replace"))
    assert [Tell(3, GO), drain] == kinds(story.tell(events.WorkerReady(3)), Tell, Handover)
    assert not kinds(story.tell(events.WorkerExited(2, code=0)), Spawn)
    assert 0 == story.supervisor.roster.slots[2].restarts


def test_a_replacement_that_fails_is_tried_again_and_the_old_worker_serves_on() -> None:
    """At once, then with the delays of a crash loop; serving with old code beats serving with nothing."""
    story = Story(workers=1).serve()
    story.tell(events.WorkerLeaving(1))
    assert [3] == [spawn.worker for spawn in only(story.tell(events.WorkerExited(2, code=1)), Spawn)]
    assert not kinds(story.tell(events.WorkerExited(3, code=1)), Spawn, Tell)
    assert {1: "ready"} == story.states()
    assert story.now + 0.1 == story.supervisor.next_deadline()
    assert [4] == [spawn.worker for spawn in only(story.later(0.1), Spawn)]
    story.tell(events.WorkerReady(4))
    assert {1: "draining", 4: "ready"} == story.states()
    assert () == story.supervisor.roster.slots[1].replacements
    assert 0 == story.supervisor.roster.slots[1].restarts


def test_a_stop_drains_everybody_and_ends_with_the_last() -> None:
    """STOPPING is told, the ports close, each worker gets one order, callers wait for the end."""
    story = Story(workers=2, worker_timeout=60).serve()
    actions = story.tell(events.StopRequested(reply=5))
    assert [Notify("stopping", "stopping"), events.CloseSlots()] == actions[:2]
    assert [Tell(1, Order("drain", "stop")), Tell(2, Order("drain", "stop"))] == kinds(actions, Tell)
    story.tell(events.WorkerExited(1, code=0))
    assert story.now + 35 == story.supervisor.next_deadline()
    actions = story.tell(events.WorkerExited(2, code=0))
    assert [Answer(5, {"result": "stopped", "cut": 0, "killed": 0}), Exit(0)] == kinds(actions, Answer, Exit)
    assert story.supervisor.next_deadline() is None


def test_a_second_stop_is_quick_and_what_stays_is_killed() -> None:
    """Three seconds from then; a worker that was killed already is left to that."""
    story = Story(workers=2).serve()
    story.tell(events.StopRequested())
    actions = story.tell(events.StopRequested())
    assert [Tell(1, Order("drain", "quick")), Tell(2, Order("drain", "quick"))] == kinds(actions, Tell)
    story.tell(events.WorkerExited(1, code=0))
    assert [Signal(2, "SIGKILL")] == kinds(story.later(3), Signal)
    assert not kinds(story.tell(events.StopRequested()), Tell)
    assert Exit(0) == story.tell(events.WorkerExited(2, signal="SIGKILL"))[-1]


def test_a_second_stop_command_joins_the_wait_of_the_first() -> None:
    """Only a signal or `stop --quick` is in a hurry: a script that asks twice must not cut anybody."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested(reply=5))
    assert not kinds(story.tell(events.StopRequested(reply=6)), Tell)
    assert [Tell(1, Order("drain", "quick"))] == kinds(story.tell(events.StopRequested(True, 7)), Tell)
    answers = only(story.tell(events.WorkerExited(1, code=0)), Answer)
    assert [5, 6, 7] == [answer.reply for answer in answers]


def test_a_quick_stop_hurries_those_that_drain_already() -> None:
    """A reload's old workers get the quick order too; a graceful stop leaves them the time that they have."""
    for quick in (True, False):
        story = Story(workers=1).serve()
        story.tell(events.ReloadRequested(story.config))
        story.tell(events.WorkerReady(2))
        until = story.supervisor.roster.workers[1].drain_until
        told = kinds(story.tell(events.StopRequested(quick)), Tell)
        assert [Tell(worker, Order("drain", "quick" if quick else "stop")) for worker in (1, 2)] == told
        assert quick is (story.supervisor.roster.workers[1].drain_until < until)


def test_a_stop_wins_over_a_reload() -> None:
    """The canary is ended, both callers of reloads are answered, and nothing is spawned any more."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.ReloadRequested(story.config, 8))
    actions = story.tell(events.StopRequested())
    assert [(7, "stopping"), (8, "stopping")] == [(a.reply, a.body["result"]) for a in only(actions, Answer)]
    assert Signal(2, "SIGTERM") in actions
    actions = story.tell(events.ReloadRequested(story.config, 9))
    assert [9] == [a.reply for a in only(actions, Answer)]
    assert not story.tell(events.ReloadRequested(story.config))
    assert not kinds(story.tell(events.WorkerReady(2)), Tell)
    story.tell(events.WorkerExited(1, signal="SIGKILL"))
    actions = story.tell(events.WorkerExited(2, signal="SIGTERM"))
    assert Exit(0) == actions[-1]


def test_after_the_end_callers_are_still_answered() -> None:
    """A command that came in the last moment gets its answer, and nothing else happens."""
    story = Story(workers=1)
    story.tell(events.StopRequested())
    story.tell(events.WorkerExited(1, signal="SIGTERM"))
    assert [Answer(4, {"result": "stopped", "cut": 0, "killed": 0})] == story.tell(events.StopRequested(reply=4))
    assert [events.ShowStatus(5)] == story.tell(events.StatusRequested(5))
    assert 6 == only(story.tell(events.ReloadRequested(story.config, 6)), Answer)[0].reply
    assert not story.tell(events.SlotsRead({}))


def test_events_of_strangers_and_out_of_turn_change_nothing() -> None:
    """A worker that is not known, or an event that its state has no use for, is ignored."""
    story = Story(workers=1).serve()
    before = repr(story.supervisor.roster)
    strangers: list[Event] = [
        events.Spawned(99, 1),
        events.SpawnFailed(99, "no"),
        events.WorkerReady(99),
        events.WorkerReady(1),
        events.DeadlinePassed(),
    ]
    for event in strangers:
        assert not story.tell(event)
    assert before == repr(story.supervisor.roster)


def test_a_slot_that_opens_while_its_next_worker_has_to_wait_spawns_nobody() -> None:
    """The back-off of a dead slot decides, not the opening."""
    story = Story(workers=1).serve()
    for worker in (1, 2):
        story.tell(events.WorkerExited(worker, code=1))
    assert not kinds(story.tell(events.SlotOpened(1)), Spawn)


def test_what_it_says_in_the_log_names_the_worker_and_what_follows() -> None:
    """A death, a delay, a park: one line each, for a person."""
    story = Story(workers=1).serve()
    for worker in (1, 2):
        story.tell(events.WorkerExited(worker, code=3))
    step = "look in the app for what ends the process, such as os._exit()"
    assert [
        Log("error", "worker 1 (pid 1001) died: exit 3"),
        Log("error", f"worker 1 does not start: worker 1 died before it was ready: exit 3; {step}"),
        Log("warning", "worker 1 starts again in 0.1 s"),
    ] == kinds(story.said, Log)
