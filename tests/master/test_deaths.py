"""What follows the end of a worker, story by story."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.master.test_supervisor import Story, kinds, only
from wsworker.master import events
from wsworker.master.events import Action, Exit, Log, Notify, Reading, Spawn
from wsworker.master.restarts import RestartPolicy
from wsworker.master.roster import ServiceState
from wsworker.master.supervisor import Supervisor


def at_the_budget(workers: int = 10) -> Story:
    """Let ten workers die once and be followed: what the budget has room for."""
    story = Story(workers=workers).serve()
    for worker in range(1, 11):
        story.tell(events.WorkerExited(worker, signal="SIGSEGV"))
        story.tell(events.WorkerReady(workers + worker))
    return story


def crash(story: Story, *workers: int) -> None:
    """Let some workers die."""
    for worker in workers:
        story.tell(events.WorkerExited(worker, signal="SIGSEGV"))


def last_exit(story: Story, slot: int = 1) -> dict[str, Any]:
    """Return what status shows of a slot's last exit."""
    shown: dict[str, Any] = story.supervisor.status(story.now)["workers"][slot - 1]["last_exit"]
    return shown


def test_the_crash_budget_is_ten_exits_a_minute() -> None:
    """The eleventh is told loudly, once, and the service is degraded."""
    story = at_the_budget()
    assert not story.supervisor.status(story.now)["over_budget"]
    crash(story, 11, 12)
    text = "crash budget exceeded: 11 workers died within a minute; at most one starts each second from now on"
    assert [Log("error", text)] == [log for log in only(story.said, Log) if "budget" in log.text]
    status = story.supervisor.status(story.now)
    assert (True, "degraded") == (status["over_budget"], status["state"])
    assert story.supervisor.service.summary().startswith("degraded: ")


def test_over_budget_at_most_one_worker_starts_each_second() -> None:
    """However many died together, and the deadline says when the next one's turn is."""
    story = at_the_budget()
    crash(story, 11, 12, 13, 14)
    starts: list[float] = []
    while len(starts) < 4:
        at = story.supervisor.next_deadline()
        assert at is not None
        for spawn in only(story.later(max(0.0, at - story.now)), Spawn):
            starts.append(story.now)
            story.tell(events.WorkerReady(spawn.worker))
        story.tell(events.SlotsRead({w: Reading(story.now) for w in story.supervisor.roster.workers}))
    assert starts[0] < 102
    assert all(later >= earlier + 1 for earlier, later in pairwise(starts))
    assert starts[3] < starts[0] + 4


def test_a_parked_slot_does_not_keep_the_others_waiting() -> None:
    """Its own next try is minutes away; theirs is within seconds."""
    story = at_the_budget()
    story.supervisor.roster.slots[1].history = tuple(float(n) for n in range(9))
    crash(story, 11, 12)
    assert story.supervisor.roster.slots[1].parked
    assert [2] == [spawn.slot for spawn in only(story.later(2), Spawn)]


def test_a_minute_later_the_budget_is_whole_again() -> None:
    """The exits are older than that, the log says so, and a lone death is followed at once."""
    story = at_the_budget()
    crash(story, 11)
    (spawn,) = only(story.later(1), Spawn)
    story.tell(events.WorkerReady(spawn.worker))
    actions = story.live(60, beating=[*story.supervisor.roster.workers])
    assert [Log("info", "crash budget: workers die no more than they may")] == kinds(actions, Log)
    status = story.supervisor.status(story.now)
    assert (False, "running") == (status["over_budget"], status["state"])
    assert [2] == [spawn.slot for spawn in only(story.tell(events.WorkerExited(12, code=1)), Spawn)]


def test_a_larger_service_has_a_larger_budget() -> None:
    """One exit for each slot; twelve of twelve are none too many."""
    story = at_the_budget(workers=12)
    crash(story, 11, 12)
    assert not story.supervisor.service.over_budget
    crash(story, 13)
    assert story.supervisor.service.over_budget


def test_what_a_worker_says_it_dies_of_is_shown() -> None:
    """Its last words are the reason; the exit alone would only say the code."""
    story = Story(workers=1).serve()
    story.tell(events.WorkerFailed(1, "crash", "the loop failed", "Traceback\nValueError: 3"))
    actions = story.tell(events.WorkerExited(1, code=1))
    text = "worker 1 (pid 1001) died: exit 1: the loop failed"
    assert [Log("error", text, "Traceback\nValueError: 3")] == kinds(actions, Log)
    row = last_exit(story)
    assert ("crash", "the loop failed", "ValueError: 3") == (row["class"], row["reason"], row["error"])


def test_the_stacks_of_a_crash_are_logged_and_shown() -> None:
    """A segmentation fault has no failure that the worker could report."""
    story = Story(workers=1).serve()
    words = "Fatal Python error: Segmentation fault\n\n  File app.py"
    assert [words] == [
        log.trace for log in only(story.tell(events.WorkerExited(1, signal="SIGSEGV", words=words)), Log)
    ]
    row = last_exit(story)
    assert ("crash", "SIGSEGV", "Fatal Python error: Segmentation fault") == (
        row["class"],
        row["signal"],
        row["error"],
    )


def test_a_worker_that_the_kernel_killed_for_memory_is_classed_so() -> None:
    """It counts as a death like any other."""
    story = Story(workers=1).serve()
    story.tell(events.WorkerExited(1, signal="SIGKILL", oom=True))
    assert ("memory", "killed by SIGKILL, out of memory") == (last_exit(story)["class"], last_exit(story)["reason"])


def test_a_later_worker_that_does_not_start_is_classed_by_what_it_said() -> None:
    """The user's code is "app", everything else is "boot"."""
    story = Story(workers=2).serve()
    story.tell(events.WorkerExited(2, code=1))
    story.tell(events.WorkerFailed(3, "app", "no module", "ImportError: x"))
    story.tell(events.WorkerExited(3, code=78))
    assert ("app", "ImportError: x") == (last_exit(story, 2)["class"], last_exit(story, 2)["error"])
    story.later(0.2)
    story.tell(events.WorkerExited(4, signal="SIGSEGV"))
    assert "boot" == last_exit(story, 2)["class"]


def test_a_fork_that_fails_after_a_stop_is_only_forgotten() -> None:
    """The worker never lived, so the service need not wait for it; a fork that fails before is a failed start."""
    story = Story(workers=1).serve()
    assert [2] == [s.worker for s in only(story.supervisor.handle(events.WorkerExited(1, code=1), story.now), Spawn)]
    story.tell(events.StopRequested())
    assert [Exit(0)] == story.tell(events.SpawnFailed(2, "no memory"))


def test_a_fork_that_fails_while_it_serves_is_tried_again() -> None:
    """With the delay of a second exit in a row."""
    story = Story(workers=2).serve()
    story.supervisor.handle(events.WorkerExited(2, code=1), story.now)
    actions = story.tell(events.SpawnFailed(3, "no memory"))
    assert "worker 2 does not start: cannot fork worker 2: no memory" == only(actions, Log)[0].text
    assert [4] == [spawn.worker for spawn in only(story.later(0.1), Spawn)]


def test_a_worker_that_left_in_another_way_than_asked_is_told() -> None:
    """With exit 0 or by SIGTERM it is no news."""
    for code, signal, level in ((0, None, "debug"), (None, "SIGTERM", "debug"), (3, None, "warning")):
        story = Story(workers=2).serve()
        story.tell(events.ScaleRequested(-1))
        (log,) = only(story.tell(events.WorkerExited(2, code=code, signal=signal)), Log)
        assert level == log.level


def test_the_numbers_of_the_back_off_are_the_policys() -> None:
    """A slot that parks at its first exit gives the service up if it is the only one."""
    story = Story(workers=1)
    story.supervisor = Supervisor(lambda: 0.5, RestartPolicy(intensity=1))
    story.tell(events.Started(story.config, 1))
    story.serve()
    assert 70 == only(story.tell(events.WorkerExited(1, code=1)), Exit)[0].code


def test_forks_that_fail_are_tried_ever_later_and_are_no_deaths() -> None:
    """The delays are those of a crash loop, up to 30 s; nothing is parked, no budget is spent, nothing restarted."""
    story = Story(workers=2).serve()
    story.supervisor.handle(events.WorkerExited(2, code=1), story.now)
    waits = []
    for worker in range(3, 20):
        story.tell(events.SpawnFailed(worker, "no memory"))
        at = story.supervisor.service.roster.slots[2].retry_at
        assert at is not None
        waits.append(at - story.now)
        story.now = at
        story.supervisor.handle(events.DeadlinePassed(), story.now)
    assert [0.1, 0.2, 0.4] == [round(wait, 3) for wait in waits[:3]]
    assert [30.0, 30.0] == waits[-2:]
    status = story.supervisor.status(story.now)
    assert (False, 0) == (status["over_budget"], status["restarts"])
    assert "cannot fork worker 2: no memory" == status["workers"][1]["last_exit"]["reason"]
    story.tell(events.Spawned(20, 1020))
    assert (0, 1) == (story.supervisor.roster.slots[2].failed_forks, story.supervisor.status(story.now)["restarts"])


def test_restarts_are_counted_by_reason() -> None:
    """With those that were replaced while they lived; a slot that goes keeps its counts."""
    story = Story(workers=2, max_messages=100).serve()
    story.tell(events.WorkerExited(2, signal="SIGSEGV"))
    story.tell(events.WorkerReady(3))
    assert [[2, "signal", 1]] == story.supervisor.status(story.now)["restart_reasons"]
    story.tell(events.SlotsRead({1: Reading(story.now, messages=500)}))
    story.tell(events.WorkerReady(4))
    assert [[2, "signal", 1], [1, "recycled", 1]] == story.supervisor.status(story.now)["restart_reasons"]
    story.tell(events.ScaleRequested(-1))
    assert [2, "signal", 1] in story.supervisor.status(story.now)["restart_reasons"]


def test_exit_78_before_ready_is_the_app_s() -> None:
    """Also without a word: it may be what a supervisor must not start again."""
    story = Story(workers=1)
    assert 78 == only(story.tell(events.WorkerExited(1, code=78)), Exit)[0].code


def test_a_replacement_that_does_not_start_is_not_the_death_of_who_serves() -> None:
    """The log says who serves on and when it is tried again; the slot has had no exit."""
    story = Story(workers=1, max_messages=100).serve()
    story.tell(events.SlotsRead({1: Reading(story.now, messages=500)}))
    story.tell(events.WorkerFailed(2, "boot", "no database"))
    story.tell(events.WorkerExited(2, code=1))
    text = "worker 1 serves on, as its replacement does not start: no database"
    assert [Log("error", text)] == [log for log in only(story.said, Log) if log.level == "error"]
    story.tell(events.WorkerExited(3, code=1))
    assert Log("warning", "the next replacement of worker 1 starts in 0.1 s") == only(story.said, Log)[-1]
    assert last_exit(story) is None
    story.tell(events.ReloadRequested(story.config))
    assert last_exit(story) is None


def test_a_canary_that_does_not_start_is_not_the_death_of_who_serves() -> None:
    """The reload's result tells of it."""
    story = Story(workers=1).serve()
    story.tell(events.ReloadRequested(story.config))
    story.tell(events.WorkerExited(2, code=78))
    assert last_exit(story) is None


def test_it_is_not_ready_before_anybody_is() -> None:
    """All slots have had a verdict, and nobody serves yet: the service manager must wait."""
    story = Story(workers=2)
    story.tell(events.WorkerReady(1))
    story.tell(events.WorkerExited(1, signal="SIGKILL"))
    assert not only(story.tell(events.WorkerExited(2, code=1)), Notify)
    assert [Notify("ready", "degraded: 1/2 workers, 0 connections")] == only(story.tell(events.WorkerReady(3)), Notify)


def test_a_start_in_which_every_slot_is_parked_is_the_end() -> None:
    """Nobody would ever be ready."""
    story = Story(workers=1)
    story.tell(events.WorkerReady(1))
    story.supervisor.service.state = ServiceState.BOOTING
    for worker in range(1, 11):
        story.tell(events.WorkerExited(worker, code=1))
        story.later(30)
    assert 70 == only(story.said, Exit)[0].code


def test_forks_of_a_replacement_that_fail_do_not_put_it_off_for_long() -> None:
    """The leaking worker is replaced soon after memory is to be had again."""
    story = Story(workers=1, max_messages=100).serve()
    said: list[Action] = []
    for _ in range(200):
        story.now += 0.5
        read = events.SlotsRead({1: Reading(story.now, messages=500)})
        for spawn in only(story.supervisor.handle(read, story.now), Spawn):
            said += story.supervisor.handle(events.SpawnFailed(spawn.worker, "no memory"), story.now)
    assert "the next replacement of worker 1 starts in 30.0 s" == only(said, Log)[-1].text
    (spawn,) = only(story.live(30, beating=[1]), Spawn)
    story.tell(events.WorkerReady(spawn.worker))
    assert {1: "draining", spawn.worker: "ready"} == story.states()
