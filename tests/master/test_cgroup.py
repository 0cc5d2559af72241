"""The cgroup: how many CPUs there are to use, and whose death was one for want of memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.master.forks import in_child
from wsworker.config import Config
from wsworker.master.cgroup import OomCounter, usable_cpus, with_number_of_workers


def cgroup_tree(folder: Path, own: str, **quotas: str) -> tuple[Path, Path]:
    """Make a cgroup file system and the file that says where we are in it. quotas: cpu.max by folder, or of `root`."""
    root = folder / "cgroup"
    (root / own.lstrip("/")).mkdir(parents=True)
    for group, text in quotas.items():
        (root / group.replace("root", "") / "cpu.max").write_text(text)
    membership = folder / "membership"
    membership.write_text(f"4:memory:/elsewhere\n0::{own}\n")
    return root, membership


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 8),
        ({"a": "max 100000\n"}, 8),
        ({"a": "300000 100000\n"}, 3),
        ({"root": "200000 100000\n", "a": "max 100000\n"}, 2),
        ({"a": "150000 100000\n"}, 2),
        ({"a": "1000 100000\n"}, 1),
        ({"a": "1600000 100000\n"}, 8),
        ({"a": "\n"}, 8),
    ],
    ids=["no file", "max", "parent", "root", "rounded up", "at least 1", "more than there are", "empty"],
)
def test_usable_cpus_are_cut_by_every_quota_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quotas: dict[str, str], expected: int
) -> None:
    """The smallest quota from our cgroup to the root counts, and the affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    # outside of the root, hence not ours
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert expected == usable_cpus(*cgroup_tree(tmp_path, "/a/b", **quotas))


def test_usable_cpus_at_the_root_and_without_cgroups(tmp_path: Path) -> None:
    """In a container our cgroup looks like the root; a system without cgroup v2 has the affinity alone."""
    all_cpus = len(os.sched_getaffinity(0))
    assert 1 == usable_cpus(*cgroup_tree(tmp_path, "/", root="100000 100000\n"))
    assert all_cpus == usable_cpus(tmp_path / "none", tmp_path / "none")
    (tmp_path / "v1").write_text("4:memory:/elsewhere\n")
    assert all_cpus == usable_cpus(tmp_path / "none", tmp_path / "v1")


def test_usable_cpus_follow_the_affinity() -> None:
    """A process that is bound to one CPU uses one."""

    def bound() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return usable_cpus()

    assert 1 == in_child(bound)
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def test_workers_auto_is_the_number_of_cpus() -> None:
    """A number stays what it is."""
    assert Config(app="app", workers=usable_cpus()) == with_number_of_workers(Config(app="app", workers="auto"))
    assert Config(app="app", workers=200) == with_number_of_workers(Config(app="app", workers=200))


# --- out of memory ------------------------------------------------------------------------------------------------


def memory_events(kills: int) -> str:
    """Return what a memory.events says. cgroup-v2, "memory.events"."""
    return f"low 0\nhigh 3\nmax 40\noom 5\noom_kill {kills}\noom_group_kill 9\n"


def test_a_kill_is_told_while_it_is_fresh(tmp_path: Path) -> None:
    """Kills from before the start are no news; each later growth is for 3 s, to whoever asks then."""
    root, membership = cgroup_tree(tmp_path, "/a/b")
    events = root / "a" / "b" / "memory.events"
    events.write_text(memory_events(2))
    counter = OomCounter(root, membership)
    assert not counter.just_killed(10.0)
    events.write_text(memory_events(3))
    assert [True, True, True, False] == [counter.just_killed(now) for now in (11.0, 11.0, 14.0, 14.1)]
    events.write_text(memory_events(5))
    assert [True, False] == [counter.just_killed(now) for now in (20.0, 24.0)]


def test_a_kill_that_was_looked_at_before_is_no_news_later(tmp_path: Path) -> None:
    """A process that a worker had started was killed at noon: that says nothing of a death in the evening."""
    root, membership = cgroup_tree(tmp_path, "/a")
    events = root / "a" / "memory.events"
    events.write_text(memory_events(0))
    counter = OomCounter(root, membership)
    events.write_text(memory_events(1))
    counter.look(43_200.0)
    counter.look(43_201.0)
    assert counter.just_killed(43_203.0)
    assert not counter.just_killed(61_200.0)


def test_the_nearest_cgroup_with_the_memory_controller_counts(tmp_path: Path) -> None:
    """The kernel counts our dead there; further up it counts our neighbours' dead too."""
    root, membership = cgroup_tree(tmp_path, "/slice/unit/part")
    nearest, above = root / "slice" / "unit" / "memory.events", root / "slice" / "memory.events"
    for events in (nearest, above):
        events.write_text(memory_events(0))
    counter = OomCounter(root, membership)
    above.write_text(memory_events(1))
    assert not counter.just_killed(1.0)
    nearest.write_text(memory_events(1))
    assert counter.just_killed(1.0)


def test_in_a_container_the_root_is_ours(tmp_path: Path) -> None:
    """With a cgroup namespace of its own our cgroup looks like the root."""
    root, membership = cgroup_tree(tmp_path, "/")
    (root / "memory.events").write_text(memory_events(0))
    counter = OomCounter(root, membership)
    (root / "memory.events").write_text(memory_events(1))
    assert counter.just_killed(1.0)


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill many\n", "low 0\n", "a b c\n"])
def test_what_says_nothing_is_no_kill(tmp_path: Path, text: str) -> None:
    """A file that is gone or changes its form is not a reason to fail."""
    root, membership = cgroup_tree(tmp_path, "/a")
    events = root / "a" / "memory.events"
    events.write_text(memory_events(1))
    counter = OomCounter(root, membership)
    events.write_text(text)
    assert not counter.just_killed(1.0)
    events.unlink()
    assert not counter.just_killed(1.0)
    events.write_text(memory_events(2))
    assert counter.just_killed(1.0)


def test_without_cgroups_nobody_is_killed(tmp_path: Path) -> None:
    """No cgroup v2, or none with the memory controller."""
    assert not OomCounter(tmp_path / "none", tmp_path / "none").just_killed(1.0)
    assert not OomCounter(*cgroup_tree(tmp_path, "/a/b")).just_killed(1.0)


def test_without_descriptors_the_kill_is_told_later(tmp_path: Path) -> None:
    """A master that cannot read just now does not lose count."""
    root, membership = cgroup_tree(tmp_path, "/a")
    events = root / "a" / "memory.events"
    events.write_text(memory_events(0))

    def master() -> list[bool]:
        counter = OomCounter(root, membership)
        events.write_text(memory_events(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        blind = counter.just_killed(1.0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [blind, counter.just_killed(1.0)]

    assert [False, True] == in_child(master)
