"""More slots or fewer, story by story."""

from __future__ import annotations

import pytest

from tests.master.test_supervisor import GO, Story, kinds, only
from wsworker.config import Config
from wsworker.master import events
from wsworker.master.events import AddSlot, Answer, CloseSlot, Handover, Log, Signal, Spawn, Tell
from wsworker.master.supervisor import Supervisor
from wsworker.wire import Order

SCALE = Order("drain", "scale")


def gone(worker: int, *takers: int) -> Handover:
    """Return what sends a worker without connections away; who it hands them to, with a share each."""
    return Handover(worker, tuple((taker, 1) for taker in takers), SCALE)


def scale(story: Story, delta: int) -> list[events.Action]:
    """Want more workers or fewer."""
    return story.tell(events.ScaleRequested(delta))


def test_one_worker_more_gets_a_slot_of_its_own_behind_the_last() -> None:
    """Its listeners are made, its worker boots, and only then they listen and it may accept."""
    story = Story(workers=2).serve()
    actions = scale(story, 1)
    assert [AddSlot(3), Spawn(3, 3, 1, story.config)] == kinds(actions, AddSlot, Spawn, events.OpenSlot)
    actions = story.tell(events.WorkerReady(3))
    assert [events.OpenSlot(3), Tell(3, GO)] == kinds(actions, events.OpenSlot, Tell)
    status = story.supervisor.status(story.now)
    assert (3, 3, 3) == (status["workers_configured"], status["workers_ready"], status["slots_ever"])


def test_several_more_come_one_behind_the_other() -> None:
    """The next slot is made when the one before it is."""
    story = Story(workers=1).serve()
    assert [AddSlot(2)] == kinds(story.supervisor.handle(events.ScaleRequested(2), story.now), AddSlot)
    assert [AddSlot(3)] == kinds(story.tell(events.SlotAdded(2)), AddSlot)


def test_one_worker_less_is_the_last_and_its_slot_closes_after_three_seconds() -> None:
    """A handshake that was under way has ended by then, and its client has been accepted."""
    story = Story(workers=3).serve()
    assert [gone(3, 1)] == kinds(scale(story, -1), Tell, Handover, Signal, CloseSlot)
    assert (256, 256, 0) == story.supervisor.service.weights
    assert not kinds(story.tell(events.WorkerExited(3, code=0)), CloseSlot, Spawn)
    assert "closing" == story.supervisor.status(story.now)["workers"][2]["state"]
    end = story.supervisor.service.roster.slots[3].closing_since
    assert end is not None
    story.later(2)
    assert not only(story.said, CloseSlot)
    assert [CloseSlot(3)] == kinds(story.later(end + 3 - story.now), CloseSlot)
    assert [1, 2] == [*story.supervisor.roster.slots]
    story.live(0, beating=[1, 2])
    assert "2/2 workers, 0 connections" == story.supervisor.service.summary()


def test_restarts_are_counted_beyond_the_slot() -> None:
    """The total of the service never falls, as little as its counters do."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, signal="SIGKILL"))
    story.tell(events.WorkerReady(3))
    scale(story, -1)
    story.tell(events.WorkerExited(3, code=0))
    story.later(4)
    assert [1] == [*story.supervisor.roster.slots]
    assert 1 == story.supervisor.status(story.now)["restarts"]


def test_the_slot_that_closes_is_what_the_supervisor_waits_for() -> None:
    """Without a beat or an event the deadline alone must bring the close."""
    story = Story(workers=2).serve()
    closes_at = story.now + 3
    scale(story, -1)
    story.now += 2.5
    story.tell(events.SlotsRead({1: events.Reading(story.now)}))
    story.tell(events.WorkerExited(2, code=0))
    # its queue was lent out, and that is no reason to be woken again
    assert closes_at == story.supervisor.next_deadline()


def test_a_slot_closes_only_when_nobody_lives_there() -> None:
    """A worker that drains for long keeps its slot, long after the three seconds."""
    story = Story(workers=2).serve()
    scale(story, -1)
    assert not kinds(story.live(10, beating=[1, 2]), CloseSlot)
    assert [CloseSlot(2)] == kinds(story.tell(events.WorkerExited(2, code=0)), CloseSlot)


def test_slots_close_from_the_last_one_on() -> None:
    """The kernel knows listeners by their order, so the second may not go before the third."""
    story = Story(workers=3).serve()
    assert [gone(2, 1), gone(3, 1)] == kinds(scale(story, -2), Tell, Handover)
    story.tell(events.WorkerExited(2, code=0))
    assert not kinds(story.live(5, beating=[1, 3]), CloseSlot)
    assert [CloseSlot(3), CloseSlot(2)] == kinds(story.tell(events.WorkerExited(3, code=0)), CloseSlot)


def test_more_workers_wait_until_a_closing_slot_is_closed() -> None:
    """A number is not used again before its listeners are gone."""
    story = Story(workers=2).serve()
    scale(story, -1)
    assert not kinds(scale(story, 1), AddSlot)
    story.tell(events.WorkerExited(2, code=0))
    assert [CloseSlot(2), AddSlot(2)] == kinds(story.later(3), CloseSlot, AddSlot)


def test_a_borrower_gives_back_the_queue_of_a_slot_that_closes() -> None:
    """Its copies would keep the listeners alive behind the master's back."""
    story = Story(workers=2).serve()
    scale(story, -1)
    assert Tell(1, Order("lend", slot=2)) in story.later(1)
    story.tell(events.WorkerExited(2, code=0))
    actions = story.live(2, beating=[1])
    assert [Tell(1, Order("recall", slot=2)), CloseSlot(2)] == kinds(actions, Tell, CloseSlot)


@pytest.mark.parametrize(("end", "delta"), [(1, -1000), (256, 1000)])
def test_the_number_stays_between_1_and_256(end: int, delta: int) -> None:
    """At the end of the range nothing happens, and the log says why."""
    story = Story(workers=2)
    workers = f"{end} worker{'s' if end > 1 else ''}"
    assert [Log("info", f"{workers} wanted instead of 2")] == scale(story, delta)
    assert [Log("info", f"{workers} as before; the limits are 1 and 256")] == scale(story, delta)
    assert end == story.supervisor.status(story.now)["workers_configured"]


def test_a_slot_that_cannot_be_made_leaves_the_number_as_it_is() -> None:
    """The service goes on with the workers it has."""
    story = Story(workers=2).serve()
    story.supervisor.handle(events.ScaleRequested(2), story.now)
    actions = story.tell(events.SlotFailed(3, "too many open files"))
    assert [Log("error", "cannot have 3 workers: too many open files; 2 go on")] == actions
    assert (2, [1, 2]) == (story.supervisor.service.target, [*story.supervisor.roster.slots])
    assert [AddSlot(3)] == kinds(scale(story, 1), AddSlot)


def test_a_slot_that_cannot_listen_goes_again() -> None:
    """Its worker is sent away, and what was made of the slot closes after three seconds like any other."""
    story = Story(workers=1).serve()
    scale(story, 1)
    story.supervisor.handle(events.WorkerReady(2), story.now)
    assert [gone(2, 1)] == kinds(story.tell(events.SlotFailed(2, "address in use")), Tell, Handover)
    assert not kinds(story.tell(events.WorkerExited(2, code=0)), CloseSlot, Spawn)
    assert [CloseSlot(2)] == kinds(story.later(3), CloseSlot, Spawn)


def test_a_reload_with_another_number_scales() -> None:
    """The number changes when the canary is READY, not before."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(Config(app="hello", workers=2), 7))
    assert not only(story.said, AddSlot)
    actions = story.tell(events.WorkerReady(2))
    assert [AddSlot(2)] == kinds(actions, AddSlot)
    assert [7] == [answer.reply for answer in only(story.tell(events.WorkerReady(3)), Answer)]
    assert {1: "draining", 2: "ready", 3: "ready"} == story.states()


def test_a_reload_with_the_same_number_keeps_what_signals_have_made_of_it() -> None:
    """TTIN is not undone by a reload that says nothing of it."""
    story = Story(workers=1).serve()
    scale(story, 1)
    story.tell(events.WorkerReady(2))
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(3))
    story.tell(events.WorkerReady(4))
    assert (2, {1: "draining", 2: "draining", 3: "ready", 4: "ready"}) == (
        story.supervisor.service.target,
        story.states(),
    )


def test_nothing_is_scaled_before_the_canary_is_ready() -> None:
    """A reload that is refused must have touched nobody; the wish is kept."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config))
    assert not kinds(scale(story, -1), Tell, Handover, Signal)
    assert story.supervisor.next_deadline() is not None
    assert gone(2, 1) in story.tell(events.WorkerExited(3, code=1))


def test_a_roll_goes_on_when_the_slot_it_boots_in_goes() -> None:
    """Its new worker is sent away like the old one, and the reload ends without it."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    actions = scale(story, -1)
    assert [gone(2, 3), Signal(4, "SIGTERM"), Tell(4, SCALE)] == kinds(actions, Tell, Handover, Signal)
    assert ["ok"] == [answer.body["result"] for answer in only(actions, Answer)]


def test_a_worker_that_was_killed_in_a_slot_that_goes_is_not_followed() -> None:
    """It was told to go after all; one that drains already is left to that."""
    story = Story(workers=3, worker_timeout=4).serve()
    story.tell(events.WorkerLeaving(3))
    story.tell(events.WorkerReady(4))
    story.live(5, beating=[1, 3, 4])
    assert {1: "ready", 2: "killed", 3: "draining", 4: "ready"} == story.states()
    assert [gone(4, 1)] == kinds(scale(story, -2), Tell, Handover, Signal)
    assert not kinds(story.tell(events.WorkerExited(2, signal="SIGKILL")), Spawn)


def test_slots_that_the_service_manager_kept_are_closed_in_good_order() -> None:
    """Clients may wait there, so they are served once before they go."""
    story = Story(workers=1)
    story.supervisor = Supervisor(lambda: 0.5)
    story.tell(events.Started(story.config, 2))
    story.tell(events.WorkerReady(1))
    assert [Tell(2, GO), gone(2, 1)] == kinds(story.tell(events.WorkerReady(2)), Tell, Handover)
    story.tell(events.WorkerExited(2, code=0))
    assert [CloseSlot(2)] == kinds(story.later(3), CloseSlot)
