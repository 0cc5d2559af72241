"""From the start to the first client, story by story; the shorter ones."""

from __future__ import annotations

from tests.master.test_supervisor import GO, Story, kinds
from wsworker.master import events
from wsworker.master.events import Exit, Spawn, Tell
from wsworker.master.supervisor import Supervisor


def test_slots_that_were_kept_boot_too() -> None:
    """The service manager kept three listeners, two workers are wanted: all three have clients to serve."""
    story = Story(workers=2)
    story.supervisor = Supervisor(lambda: 0.5)
    story.tell(events.Started(story.config, 3))
    assert [2, 3] == [action.slot for action in story.tell(events.WorkerReady(1)) if isinstance(action, Spawn)]
    assert 3 == story.supervisor.status(story.now)["slots_ever"]


def test_a_slot_that_is_made_while_the_service_stops_gets_no_worker() -> None:
    """Nobody is started any more, and a slot that failed changes nothing either."""
    for outcome in (events.SlotAdded(2), events.SlotFailed(2, "no")):
        story = Story(workers=1).serve()
        story.supervisor.handle(events.ScaleRequested(1), story.now)
        story.tell(events.StopRequested())
        assert not story.tell(outcome)
        assert Exit(0) == story.tell(events.WorkerExited(1, code=0))[-1]


def test_a_worker_that_is_ready_before_its_slot_listens_waits_for_go() -> None:
    """It may accept once the slot is open, not before."""
    story = Story(workers=1)
    assert not kinds(story.supervisor.handle(events.WorkerReady(1), story.now), Tell)
    assert [Tell(1, GO)] == kinds(story.tell(events.SlotOpened(1)), Tell)


def test_the_pid_of_a_worker_is_shown() -> None:
    """It is known once the fork worked."""
    story = Story(workers=1)
    assert 1001 == story.supervisor.status(story.now)["workers"][0]["pid"]
