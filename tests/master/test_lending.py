"""Who empties the queue of a slot that nobody serves, story by story."""

from __future__ import annotations

from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Action, Reading, Tell


def loans(actions: list[Action]) -> list[tuple[int, str, int]]:
    """Return who was told to lend or to recall which slot."""
    told = ((action.worker, action.order) for action in only(actions, Tell))
    return [(worker, order.name, order.slot) for worker, order in told if order.name in ("lend", "recall")]


def read(story: Story, *readings: Reading) -> list[Action]:
    """Read the table: workers 1, 2 and so on."""
    return story.tell(events.SlotsRead(dict(enumerate(readings, 1))))


def test_a_slot_without_a_worker_is_lent_after_a_second() -> None:
    """To the worker with the fewest connections, and not before: most deaths are over sooner."""
    story = Story(workers=3).serve()
    read(story, Reading(story.now, 5), Reading(story.now, 3), Reading(story.now, 1))
    died_at = story.now
    assert not loans(story.tell(events.WorkerExited(3, code=1)))
    assert died_at + 1 == story.supervisor.next_deadline()
    assert [(2, "lend", 3)] == loans(story.later(1))
    assert 2 == story.supervisor.status(story.now)["workers"][2]["lent_to"]
    assert not loans(story.later(0.5))


def test_a_worker_that_is_hung_or_full_lends_at_once() -> None:
    """It will not be replaced soon, so there is nothing to wait for."""
    story = Story(workers=2).serve()
    assert [(1, "lend", 2)] == loans(read(story, Reading(story.now), Reading(story.now, full=True)))
    story = Story(workers=2).serve()
    assert [(1, "lend", 2)] == loans(story.live(3, beating=[1]))


def test_a_slot_that_is_served_again_gets_its_queue_back() -> None:
    """By the next worker, or by the same one when it has room again."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, code=1))
    story.later(1)
    assert [(1, "recall", 2)] == loans(story.tell(events.WorkerReady(3)))
    assert story.supervisor.roster.slots[2].unserved_since is None
    story = Story(workers=2).serve()
    read(story, Reading(story.now), Reading(story.now, full=True))
    assert [(1, "recall", 2)] == loans(read(story, Reading(story.now), Reading(story.now)))


def test_the_queue_of_a_borrower_that_dies_is_lent_anew() -> None:
    """The dead one is told nothing; its own queue waits its second."""
    story = Story(workers=3).serve()
    read(story, Reading(story.now), Reading(story.now), Reading(story.now, full=True))
    assert [(2, "lend", 3)] == loans(story.tell(events.WorkerExited(1, code=1)))


def test_the_queue_of_a_borrower_that_is_full_is_lent_to_another() -> None:
    """It gives it back first, since only one may borrow it."""
    story = Story(workers=3).serve()
    full = Reading(story.now, full=True)
    read(story, Reading(story.now), Reading(story.now), full)
    actions = read(story, full, Reading(story.now), full)
    assert [(2, "lend", 1), (1, "recall", 3), (2, "lend", 3)] == loans(actions)


def test_without_a_healthy_worker_the_queue_waits() -> None:
    """The supervisor then waits for no deadline either; the first worker that can takes it."""
    story = Story(workers=2).serve()
    full = Reading(story.now, full=True)
    assert not loans(read(story, full, full))
    assert story.now + 3 == story.supervisor.next_deadline()
    assert [(1, "lend", 2)] == loans(read(story, Reading(story.now), full))


def test_a_slot_that_does_not_listen_yet_has_no_queue() -> None:
    """One that was just added is lent to nobody while its worker boots."""
    story = Story(workers=1).serve()
    story.tell(events.ScaleRequested(1))
    assert not loans(story.later(2))


def test_nothing_is_lent_once_the_service_stops() -> None:
    """The listeners are closed, and the clients that wait there are refused."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, code=1))
    story.tell(events.StopRequested())
    assert not kinds(story.later(1), Tell)
