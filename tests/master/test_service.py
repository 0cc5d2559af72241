"""What all rules share: how new clients are steered, story by story."""

from __future__ import annotations

import pytest

from tests.master.test_supervisor import Story, kinds
from wsworker.master import events
from wsworker.master.events import Notify, Reading
from wsworker.master.inquiry import PATIENCE_SECONDS
from wsworker.query import Query


def test_a_worker_whose_loop_is_late_gets_hardly_any_clients() -> None:
    """More than a second of lag weighs 1, exactly a second does not yet; one that takes none weighs 0."""
    story = Story(workers=3).serve()
    late, prompt = Reading(story.now, lag_seconds=1.5), Reading(story.now, lag_seconds=1.0)
    actions = story.tell(events.SlotsRead({1: prompt, 2: late, 3: Reading(story.now, full=True)}))
    assert [events.Weigh((256, 1, 0))] == kinds(actions, events.Weigh)


def test_old_code_gets_hardly_any_clients_during_a_roll() -> None:
    """They would be sent away soon; before the canary is READY, and when the roll is over, nobody is reluctant."""
    story = Story(workers=3).serve()
    assert not kinds(story.tell(events.ReloadRequested(story.config)), events.Weigh)
    assert [events.Weigh((256, 1, 1))] == kinds(story.tell(events.WorkerReady(4)), events.Weigh)
    assert [events.Weigh((256, 256, 1))] == kinds(story.tell(events.WorkerReady(5)), events.Weigh)
    assert [events.Weigh((256, 256, 256))] == kinds(story.tell(events.WorkerReady(6)), events.Weigh)


def test_weights_wait_until_every_slot_listens() -> None:
    """The kernel's program names listeners by their order, so it is told when all are there."""
    story = Story(workers=2)
    story.supervisor.handle(events.WorkerReady(1), story.now)
    assert not kinds(story.supervisor.handle(events.SlotOpened(1), story.now), events.Weigh)
    assert kinds(story.supervisor.handle(events.SlotOpened(2), story.now), events.Weigh)


def test_a_worker_gets_its_clients_by_what_it_lacks() -> None:
    """The emptiest gets the most, the fullest the least there is."""
    story = Story(workers=2).serve()
    actions = story.tell(events.SlotsRead({1: Reading(story.now, 90), 2: Reading(story.now, 10)}))
    assert [events.Weigh((1, 256))] == kinds(actions, events.Weigh)


def test_the_service_manager_is_told_only_what_changed() -> None:
    """The same line twice would be noise."""
    story = Story(workers=1).serve()
    reading = events.SlotsRead({1: Reading(story.now, 4)})
    assert [Notify("status", "1/1 workers, 4 connections")] == kinds(story.tell(reading), Notify)
    assert not kinds(story.tell(reading), Notify)


@pytest.mark.parametrize("late", [3.0, 30.0])
def test_a_pause_of_the_machine_is_nobody_s_fault(late: float) -> None:
    """The time that a worker has to answer moves along with all others."""
    story = Story(workers=1).serve()
    story.live(1, beating=[1])
    story.tell(events.ConnectionsRequested(Query(), 7))
    until = story.now + PATIENCE_SECONDS
    story.now += 1 + late
    story.tell(events.SlotsRead({1: events.Reading(story.now)}))
    assert until + late == story.supervisor.service.censuses[7].deadline_at


def test_what_it_is_about() -> None:
    """From the start to the end; also a reload that has not begun, as it waits for an old worker to leave."""
    story = Story(workers=1)
    said = [story.supervisor.service.busy()]

    def then(*heard: events.Event) -> None:
        for event in heard:
            story.tell(event)
        said.append(story.supervisor.service.busy())

    then(events.WorkerReady(1))
    then(events.ReloadRequested(story.config))
    then(events.WorkerReady(2))
    then(events.ReloadRequested(story.config))
    then(events.WorkerExited(1, code=0), events.WorkerReady(3), events.WorkerExited(2, code=0))
    then(events.StopRequested())
    then(events.WorkerExited(3, code=0))
    reload, stop = "a reload is under way", "the service stops"
    assert ["the service starts", "", reload, "", reload, "", stop, stop] == said
