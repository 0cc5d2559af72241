"""Hand-overs, story by story: who is told what, what is counted where, and what happens when a taker dies."""

from __future__ import annotations

from typing import Any

from tests.master.test_supervisor import GO, Story, kinds, only
from wsworker.config import Config
from wsworker.master import events
from wsworker.master.events import Answer, Handover, HandoverFinished, Log, Reading, Signal, Tell
from wsworker.master.handover import said
from wsworker.wire import Order

RELOAD = Order("drain", "reload")


def read(story: Story, **connections: int) -> None:
    """Let the table show how many connections each worker has: w1=4."""
    story.tell(events.SlotsRead({int(name[1:]): Reading(story.now, count) for name, count in connections.items()}))


def last_reload(story: Story) -> dict[str, Any]:
    """Return what `status` shows of the last reload."""
    shown: dict[str, Any] = story.supervisor.status(story.now)["last_reload"]
    return shown


def reloaded(**settings: Any) -> Story:
    """Return a service of two workers that was just reloaded: 1 and 2 drain, 3 and 4 serve in their slots."""
    story = Story(workers=2, **settings).serve()
    read(story, w1=4, w2=3)
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    story.tell(events.WorkerReady(4))
    return story


def test_an_old_worker_hands_over_to_the_new_one_of_its_slot() -> None:
    """The new one is told to accept first; the old one drains by the same rules as ever."""
    story = Story(workers=1, graceful_timeout=9).serve()
    story.tell(events.ReloadRequested(story.config))
    actions = story.tell(events.WorkerReady(2))
    assert [Tell(2, GO), Handover(1, ((2, 1),), RELOAD)] == kinds(actions, Tell, Handover, Signal)
    assert {1: "draining", 2: "ready"} == story.states()
    assert story.now + 9 + 5 == story.supervisor.roster.workers[1].drain_until


def test_the_old_worker_goes_by_its_own_configuration() -> None:
    """With the strategy drain it says goodbye to all, also if the new code hands over; and the other way round."""
    story = Story(workers=1, reload_strategy="drain").serve()
    story.tell(events.ReloadRequested(Config(app="hello", workers=1)))
    assert [Tell(2, GO), Tell(1, RELOAD)] == kinds(story.tell(events.WorkerReady(2)), Tell, Handover)
    story.tell(events.WorkerExited(1, code=0))
    story.tell(events.ReloadRequested(Config(app="hello", workers=1, reload_strategy="drain")))
    assert [Handover(2, ((3, 1),), RELOAD)] == only(story.tell(events.WorkerReady(3)), Handover)


def test_a_worker_that_hangs_is_only_told_to_drain() -> None:
    """It could not hand over; it hears the order when its loop goes on."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config))
    story.later(3)
    assert [Tell(2, GO), Tell(1, RELOAD)] == kinds(story.tell(events.WorkerReady(2)), Tell, Handover)


def test_a_recycled_worker_hands_over_too() -> None:
    """To its replacement; that is no reload, so none is shown, and it counts for the service."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerLeaving(2))
    actions = story.tell(events.WorkerReady(3))
    assert [Handover(2, ((3, 1),), Order("drain", "replace"))] == only(actions, Handover)
    story.tell(HandoverFinished(2, 5, {"busy": 2}, 0.25))
    status = story.supervisor.status(story.now)
    assert None is status["last_reload"]
    assert {"moved": 5, "drained": {"busy": 2}, "longest_pause": 0.25, "last_pause": 0.25} == status["handover"]


def test_one_worker_less_shares_its_connections_out() -> None:
    """The others get what they lack."""
    story = Story(workers=3).serve()
    read(story, w1=10, w2=30, w3=30)
    actions = story.tell(events.ScaleRequested(-1))
    assert [Handover(3, ((1, 25), (2, 5)), Order("drain", "scale"))] == only(actions, Handover)


def test_at_a_stop_nothing_moves() -> None:
    """Everybody leaves; a worker that drains already waits for no taker any more."""
    story = reloaded()
    story.tell(HandoverFinished(1, 1, {}, 0.0, waits=3))
    assert not only(story.tell(events.StopRequested()), Handover)
    assert not only(story.tell(HandoverFinished(2, 1, {}, 0.0, waits=3)), Handover)


def test_the_result_counts_what_was_told_to_reconnect() -> None:
    """Those that could not move, by reason; nobody is asked to reconnect who has moved."""
    story = Story(workers=2).serve()
    read(story, w1=4, w2=3)
    story.tell(events.ReloadRequested(story.config, 7))
    story.tell(events.WorkerReady(3))
    story.tell(HandoverFinished(1, 1, {"busy": 2, "tls": 1}, 0.25))
    (answer,) = only(story.tell(events.WorkerReady(4)), Answer)
    counted = {"asked": 3, "moved": 1, "drained": {"busy": 2, "tls": 1}, "longest_pause": 0.25, "dropped": 0}
    assert counted == {key: answer.body[key] for key in counted}


def test_what_moves_behind_the_end_of_a_reload_is_added() -> None:
    """The last worker hands over when the caller has its answer."""
    story = reloaded()
    assert (0, 0) == (last_reload(story)["asked"], last_reload(story)["moved"])
    story.tell(HandoverFinished(1, 3, {"busy": 1}, 0.25))
    story.tell(HandoverFinished(2, 2, {"busy": 1, "tls": 0}, 0.125))
    counted = {"asked": 2, "moved": 5, "drained": {"busy": 2}, "longest_pause": 0.25}
    assert counted == {key: last_reload(story)[key] for key in counted}
    assert {"moved": 5, "longest_pause": 0.25, "last_pause": 0.125} == {
        key: value for key, value in story.supervisor.status(story.now)["handover"].items() if key != "drained"
    }


def test_a_refused_reload_moves_nothing() -> None:
    """What others tell after it is counted for the service alone."""
    story = reloaded()
    story.tell(events.ReloadRefused("wrong"))
    story.tell(HandoverFinished(1, 3, {"busy": 1}, 0.25))
    assert (0, 0, {}) == (last_reload(story)["asked"], last_reload(story)["moved"], last_reload(story)["drained"])
    assert 3 == story.supervisor.status(story.now)["handover"]["moved"]


def test_with_the_strategy_drain_all_are_asked() -> None:
    """As many as the old workers held when their successors were ready."""
    story = reloaded(reload_strategy="drain")
    assert (7, 0, {}) == (last_reload(story)["asked"], last_reload(story)["moved"], last_reload(story)["drained"])


def test_a_taker_that_dies_is_followed_and_the_rest_moves_there() -> None:
    """The giver serves on meanwhile, and its time does not grow."""
    story = reloaded()
    until = story.supervisor.roster.workers[1].drain_until
    story.now += 1
    # it sees the end of the pair before the master sees the death
    assert not only(story.tell(HandoverFinished(1, 1, {}, 0.0, waits=3)), Handover)
    assert not only(story.tell(events.WorkerExited(3, signal="SIGKILL")), Handover)
    assert [5] == [action.worker for action in only(story.said, events.Spawn)][-1:]
    assert [Handover(1, ((5, 1),), RELOAD)] == only(story.tell(events.WorkerReady(5)), Handover)
    assert until == story.supervisor.roster.workers[1].drain_until
    story.tell(HandoverFinished(1, 3, {}, 0.0))
    assert not only(story.tell(events.SlotsRead({})), Handover)
    assert 4 == last_reload(story)["moved"]


def test_a_taker_whose_successor_is_ready_already() -> None:
    """The giver tells late; the connections move at once."""
    story = reloaded()
    story.tell(events.WorkerExited(3, signal="SIGKILL"))
    story.tell(events.WorkerReady(5))
    assert [Handover(1, ((5, 1),), RELOAD)] == only(story.tell(HandoverFinished(1, 1, {}, 0.0, waits=3)), Handover)


def test_a_taker_that_lives_and_broke_off_is_not_asked_again() -> None:
    """The next try waits for another one."""
    story = reloaded()
    assert not only(story.tell(HandoverFinished(1, 0, {}, 0.0, waits=4)), Handover)
    assert not only(story.live(3, beating=[1, 2, 3, 4]), Handover)


def test_of_a_slot_that_goes_the_rest_moves_to_those_that_live() -> None:
    """One of several takers has died: the others, or who follows it, take its share."""
    story = Story(workers=3).serve()
    read(story, w1=10, w2=10, w3=30)
    story.tell(events.ScaleRequested(-1))
    story.tell(HandoverFinished(3, 15, {}, 0.0, waits=15))
    (action,) = only(story.tell(events.WorkerExited(1, signal="SIGKILL")), Handover)
    assert (3, [2]) == (action.giver, [worker for worker, _ in action.takers])


def test_what_is_told_of_it() -> None:
    """One line in the log, with all numbers; nothing where there was nothing to move."""
    assert "1 connection moved, longest pause 12 ms" == said(HandoverFinished(1, 1, {}, 0.012))
    assert "0 connections moved; 3 could not: 2 tls, 1 busy" == said(HandoverFinished(1, 0, {"busy": 1, "tls": 2}, 0.0))
    story = reloaded()
    (line,) = only(story.tell(HandoverFinished(1, 2, {}, 0.0, waits=3)), Log)
    waits = "3 wait for another worker, as the one that took them has died or broken off"
    assert ("warning", f"worker 1 (pid 1001): 2 connections moved, longest pause 0 ms; {waits}") == (
        line.level,
        line.text,
    )
    assert not only(story.tell(HandoverFinished(2, 0, {}, 0.0)), Log)


def test_a_last_word_of_a_killed_worker_counts() -> None:
    """Its report may stand in the channel when it is dead; it waits for nobody any more."""
    story = reloaded()
    story.supervisor.service.kill(story.supervisor.roster.workers[1], story.now)
    story.tell(HandoverFinished(1, 2, {"time": 1}, 0.0, waits=3))
    assert (2, 1, 0) == (
        last_reload(story)["moved"],
        last_reload(story)["asked"],
        story.supervisor.roster.workers[1].stranded,
    )
