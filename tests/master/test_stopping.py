"""The end of the service, story by story; the shorter ones."""

from __future__ import annotations

from tests.master.test_supervisor import Story, kinds, only
from wsworker.config import Config
from wsworker.master import events
from wsworker.master.events import Answer, Exit, Log, Signal, Spawn, Tell
from wsworker.wire import Order


def test_a_stop_wakes_workers_that_are_stopped() -> None:
    """A stopped process would neither read its order nor die politely."""
    story = Story(workers=2).serve()
    assert [Signal(1, "SIGCONT"), Signal(2, "SIGCONT")] == kinds(story.tell(events.StopRequested()), Signal)


def test_a_stop_gives_nobody_more_time_who_is_on_its_way() -> None:
    """It is told, as it may be handing connections over that nobody takes now; who is being killed reads nothing."""
    story = Story(workers=2).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(3))
    workers = story.supervisor.roster.workers
    story.supervisor.service.kill(workers[2], story.now)
    until, workers[1].stranded = workers[1].drain_until, 5
    told = kinds(story.tell(events.StopRequested()), Tell)
    assert [Tell(worker, Order("drain", "stop")) for worker in (1, 3, 4)] == told
    assert (until, 0) == (workers[1].drain_until, workers[1].stranded)


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
    body = {"result": "stopped", "cut": 0, "killed": 0}
    assert [Answer(3, body), Exit(0)] == kinds(actions, Answer, Exit)
    assert not story.tell(events.StopRequested())
    assert not story.tell(events.DeadlinePassed())


def test_a_stop_counts_what_it_has_cost() -> None:
    """Who got no goodbye, and who had to be killed, whatever it began with; what went before is no part of it."""
    story = Story(workers=3).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerReady(4))
    story.tell(events.WorkerExited(1, code=0, dropped=9))
    story.tell(events.StopRequested(reply=3))
    story.tell(events.WorkerExited(2, signal="SIGKILL", dropped=5))
    for worker in story.supervisor.roster.workers.copy():
        actions = story.tell(events.WorkerExited(worker, code=0, dropped=1))
    (answer,) = only(actions, Answer)
    assert {"result": "stopped", "cut": 5 + 3, "killed": 1} == answer.body


def test_a_slot_whose_worker_has_left_waits_for_nobody() -> None:
    """Whatever it was before: nobody follows."""
    story = Story(workers=2).serve()
    for worker in (2, 3):
        story.tell(events.WorkerExited(worker, code=1))
    waits = story.supervisor.status(story.now)["workers"][1]
    story.tell(events.StopRequested())
    left = story.supervisor.status(story.now)["workers"][1]
    assert ("waiting", True) == (waits["state"], waits["retry_in"] is not None)
    assert ("left", None) == (left["state"], left["retry_in"])


def test_a_service_that_stops_is_not_scaled() -> None:
    """Nobody would work in the new slot."""
    story = Story(workers=1).serve()
    story.tell(events.StopRequested())
    assert not story.tell(events.ScaleRequested(1))
    assert 1 == story.supervisor.service.target


def test_hurry_gives_no_more_time_to_a_worker_that_beats() -> None:
    """Ctrl-C every second, and a worker whose end hangs: it has three seconds and not three more each time."""
    story = Story(workers=1).serve()
    killed = []
    for _ in range(4):
        killed += kinds(story.tell(events.StopRequested(quick=True)), Signal)
        killed += kinds(story.live(1, beating=[1]), Signal)
    assert [Signal(1, "SIGCONT"), Signal(1, "SIGKILL")] == killed


def test_hurry_keeps_a_graceful_end_that_is_nearer() -> None:
    """Also when a beat comes after it."""
    story = Story(workers=1, graceful_timeout=30).serve()
    story.tell(events.StopRequested())
    story.live(33, beating=[1])
    story.tell(events.StopRequested())
    assert [Signal(1, "SIGKILL")] == kinds(story.live(2, beating=[1]), Signal)


def test_the_death_of_a_hung_worker_during_a_stop_is_no_crash() -> None:
    """Nothing follows it, so nothing is said of its next start."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, code=1))
    story.tell(events.WorkerReady(3))
    story.supervisor.service.kill(story.supervisor.roster.workers[3], story.now)
    story.tell(events.StopRequested())
    (log,) = only(story.tell(events.WorkerExited(3, signal="SIGKILL")), Log)
    assert "worker 2 (pid 1003) has left: killed by SIGKILL" == log.text
    assert 1 == len(story.supervisor.service.deaths)


def test_a_worker_leaves_by_the_configuration_it_runs_with() -> None:
    """It knows no other graceful_timeout than the one it was started with."""
    story = Story(workers=1, graceful_timeout=60).serve()
    story.tell(events.ReloadRequested(Config(app="hello", workers=1, graceful_timeout=2)))
    story.tell(events.WorkerReady(2))
    assert not kinds(story.live(64, beating=[1, 2]), Signal)
    assert [Signal(1, "SIGKILL")] == kinds(story.live(1, beating=[1, 2]), Signal)
    story.tell(events.WorkerExited(1, signal="SIGKILL"))
    story.tell(events.StopRequested())
    assert [Signal(2, "SIGKILL")] == kinds(story.live(7, beating=[2]), Signal)
