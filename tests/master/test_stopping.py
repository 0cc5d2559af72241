"""The end of the service, story by story; the shorter ones."""

from __future__ import annotations

from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Answer, Exit, Signal, Spawn, Tell
from wsworker.wire import Order


def test_a_stop_wakes_workers_that_are_stopped() -> None:
    """A stopped process would neither read its order nor die politely."""
    story = Story(workers=2).serve()
    assert [Signal(1, "SIGCONT"), Signal(2, "SIGCONT")] == kinds(story.tell(events.StopRequested()), Signal)


def test_a_stop_leaves_those_alone_that_are_killed_or_on_their_way() -> None:
    """Each has a deadline already, and one that is being killed reads nothing any more."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(3))
    story.supervisor.service.kill(story.supervisor.roster.workers[2], story.now)
    told = [action.worker for action in only(story.tell(events.StopRequested()), Tell)]
    assert [3, 4] == told


def test_a_stop_during_the_start_ends_the_workers_that_boot() -> None:
    """They may not read their channel yet, so they get a signal too; nobody follows them."""
    story = Story(workers=2)
    actions = story.tell(events.StopRequested())
    assert [Signal(1, "SIGCONT"), Signal(1, "SIGTERM")] == kinds(actions, Signal)
    assert [Exit(0)] == kinds(story.tell(events.WorkerExited(1, signal="SIGTERM")), Exit, Spawn)


def test_a_quick_stop_gives_three_seconds() -> None:
    """Then whoever is left is killed."""
    story = Story(workers=1).serve()
    assert [Tell(1, Order("drain", "quick"))] == kinds(story.tell(events.StopRequested(quick=True)), Tell)
    assert story.now + 3 == story.supervisor.next_deadline()
    assert [Signal(1, "SIGKILL")] == kinds(story.later(3), Signal)


def test_hurry_never_lengthens_a_deadline() -> None:
    """A third signal does not give the three seconds anew."""
    story = Story(workers=1).serve()
    ends_at = story.now + 3
    story.tell(events.StopRequested(quick=True))
    story.now += 2
    story.tell(events.StopRequested())
    assert ends_at == story.supervisor.next_deadline()


def test_the_end_comes_after_the_answers_and_once() -> None:
    """After Exit nobody sends any answer; events that come later change nothing."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested(reply=3))
    actions = story.tell(events.WorkerExited(1, code=0))
    assert [Answer(3, {"result": "stopped"}), Exit(0)] == kinds(actions, Answer, Exit)
    assert not story.tell(events.StopRequested())
    assert not story.tell(events.DeadlinePassed())


def test_a_service_that_stops_is_not_scaled() -> None:
    """Nobody would work in the new slot."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested())
    assert not story.tell(events.ScaleRequested(1))
    assert 1 == story.supervisor.service.target
