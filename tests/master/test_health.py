"""What is done about workers that are silent, too old or too big, story by story."""

from __future__ import annotations

from typing import Any

import pytest

from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Action, Handover, Log, Notify, Reading, Signal, Spawn, Tell
from wsworker.wire import Order

MIB = 1024**2


def test_a_stopped_worker_is_killed() -> None:
    """In state T it can neither write its stacks nor die of SIGABRT."""
    story = Story(workers=2, worker_timeout=20).serve()
    signals: list[Action] = []
    for _ in range(20):
        story.now += 1
        readings = {1: Reading(story.now), 2: Reading(100.0, stopped=True)}
        signals += kinds(story.tell(events.SlotsRead(readings)), Signal)
        signals += kinds(story.later(0), Signal)
        if story.now == 104:
            assert "stopped" == story.supervisor.status(story.now)["workers"][1]["state"]
    assert [Signal(2, "SIGKILL")] == signals
    said = "worker 2 (pid 1002) is stopped by SIGSTOP or a debugger for 20 s and is killed"
    assert Log("error", said) in story.said
    story.tell(events.WorkerExited(2, signal="SIGKILL"))
    row = story.supervisor.status(story.now)["workers"][1]["last_exit"]
    assert ("hung", "killed by SIGKILL: its loop was silent") == (row["class"], row["reason"])


@pytest.mark.parametrize("state", ["starting", "ready", "draining", "killed"])
def test_stacks_are_logged(state: str) -> None:
    """Whatever the worker does meanwhile, someone asked for them."""
    story = Story(workers=1)
    if state != "starting":
        story.serve()
    if state == "draining":
        story.tell(events.StopRequested())
    if state == "killed":
        story.later(3)
        story.later(27)
        story.later(30)
    assert {1: state} == story.states()
    said = Log("warning", "worker 1 (pid 1001): its stacks", "File app.py, line 3")
    assert [said] == story.tell(events.WorkerDumped(1, "File app.py, line 3"))


def test_a_draining_worker_that_is_silent_for_worker_timeout_is_killed() -> None:
    """A blocked loop would never end its clients; one that beats has the whole of its time."""
    for beating, after in (([1, 2], 35), ([1], 10)):
        story = Story(workers=2, worker_timeout=10, graceful_timeout=30).serve()
        story.tell(events.ScaleRequested(-1))
        assert not kinds(story.live(after - 1, beating), Signal)
        assert [Signal(2, "SIGKILL")] == kinds(story.live(1, beating), Signal)
        story.tell(events.WorkerExited(2, signal="SIGKILL"))
        assert Log("warning", "worker 2 (pid 1002) has left: killed by SIGKILL") in story.said


LIMITS = [
    ({"max_messages": 100}, {"messages": 105}, 0.0, "received 105 messages (max_messages)"),
    ({"max_worker_age": 3600}, {}, 3780.0, "is 63 min old (max_worker_age)"),
    ({"max_worker_rss": 100 * MIB}, {"rss_bytes": 150 * MIB}, 0.0, "holds 150 MiB (max_worker_rss)"),
]


@pytest.mark.parametrize(("settings", "used", "age", "why"), LIMITS)
def test_workers_that_have_served_enough_are_replaced_one_at_a_time(
    settings: dict[str, Any], used: dict[str, Any], age: float, why: str
) -> None:
    """The replacement is READY first, and the next one boots only after that. The log says it once."""
    story = Story(workers=2, **settings).serve()
    story.now += age
    reading = Reading(story.now, **used)
    actions = story.tell(events.SlotsRead({1: reading, 2: reading}))
    said = [Log("info", f"worker {slot} {why}; its replacement starts first") for slot in (1, 2)]
    assert said == kinds(actions, Log)
    assert [Spawn(3, 1, 1, story.config)] == kinds(actions, Spawn, Tell)
    assert not kinds(story.tell(events.SlotsRead({1: reading, 2: reading})), Log, Spawn)
    actions = story.tell(events.WorkerReady(3))
    assert [(1, Order("drain", "replace"))] == [(action.giver, action.order) for action in only(actions, Handover)]
    assert [Spawn(4, 2, 1, story.config)] == kinds(actions, Spawn)


def test_a_worker_of_twice_the_memory_it_may_hold_is_killed() -> None:
    """It grows faster than it can be replaced, also while it drains; one that boots is not judged."""
    story = Story(workers=2, max_worker_rss=100 * MIB).serve()
    big = Reading(story.now, rss_bytes=201 * MIB)
    actions = story.tell(events.SlotsRead({1: Reading(story.now), 2: big}))
    assert [Signal(2, "SIGKILL")] == kinds(actions, Signal)
    said = "worker 2 (pid 1002) holds 201 MiB, over twice max_worker_rss, and is killed"
    assert [Log("error", said)] == kinds(actions, Log)
    assert not kinds(story.tell(events.SlotsRead({2: big})), Signal)
    assert [Spawn(3, 2, 1, story.config)] == kinds(story.tell(events.WorkerExited(2, signal="SIGKILL")), Spawn)
    row = story.supervisor.status(story.now)["workers"][1]["last_exit"]
    assert ("memory", "killed by SIGKILL: it held twice max_worker_rss") == (row["class"], row["reason"])
    assert not kinds(story.tell(events.SlotsRead({3: big})), Signal)
    story.tell(events.WorkerReady(3))
    story.tell(events.ScaleRequested(-1))
    assert [Signal(3, "SIGKILL")] == kinds(story.tell(events.SlotsRead({3: big})), Signal)


def test_a_draining_worker_over_a_limit_is_left_to_that() -> None:
    """It goes already."""
    story = Story(workers=2, max_messages=100).serve()
    story.tell(events.ScaleRequested(-1))
    assert not kinds(story.tell(events.SlotsRead({2: Reading(story.now, messages=500)})), Log, Spawn)


def test_the_service_manager_gives_more_time_while_it_boots_or_stops() -> None:
    """Both have deadlines of their own; a service that serves needs none."""
    story = Story(workers=1)
    extend = Notify("extend", "")
    assert [extend] == story.tell(events.SlotsRead({}))
    story.serve()
    assert extend not in story.tell(events.SlotsRead({}))
    story.tell(events.StopRequested())
    assert extend in story.tell(events.SlotsRead({}))
    story.supervisor.service.kill(story.supervisor.roster.workers[1], story.now)
    # if SIGKILL does not end it, the service manager's own deadline is to
    assert extend not in story.tell(events.SlotsRead({}))


def test_a_pause_moves_what_a_slot_waits_for() -> None:
    """A slot that goes was to close after three seconds and its queue to be lent after one: neither is over."""
    story = Story(workers=2).serve()
    story.live(1, beating=[1, 2])
    story.tell(events.WorkerExited(2, code=1))
    story.tell(events.WorkerExited(3, code=1))
    slot = story.supervisor.roster.slots[2]
    slot.retry_at = story.now + 5
    story.now += 61
    assert not only(story.tell(events.SlotsRead({1: Reading(story.now)})), Spawn)
    assert story.now + 4 == slot.retry_at
    story.tell(events.ScaleRequested(-1))
    story.now += 61
    actions = story.tell(events.SlotsRead({1: Reading(story.now)}))
    assert not kinds(actions, events.CloseSlot)
    assert [events.CloseSlot(2)] == kinds(story.live(3, beating=[1]), events.CloseSlot)
    assert "lend" in [tell.order.name for tell in only(story.said, Tell)]


def test_a_beat_that_was_seen_before_is_no_sign_of_life() -> None:
    """The table keeps the last one; the time in it counts, not that it was read."""
    story = Story(workers=1).serve()
    story.now += 1
    story.tell(events.SlotsRead({1: Reading(100.0)}))
    assert 103.0 == story.supervisor.next_deadline()


def test_a_worker_that_beats_again_before_its_end_is_forgiven() -> None:
    """Its stacks were asked for, and that was all."""
    story = Story(workers=1, worker_timeout=10).serve()
    assert [Signal(1, "SIGUSR2")] == kinds(story.live(6, beating=[]), Signal)
    assert not kinds(story.live(10, beating=[1]), Signal)
    assert "ready" == story.supervisor.status(story.now)["workers"][0]["state"]
