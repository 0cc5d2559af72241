"""The master's cgroup: how many CPUs it grants, and whether the kernel has killed in it for want of memory.

The master and its workers live in one cgroup (a container's or a systemd unit's), whose files the kernel shows under
/sys/fs/cgroup. Only cgroup v2 is read, see "Control Group v2" in the kernel's documentation. Where it is not mounted
both questions have a plain answer: all CPUs of the affinity, and no.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

from wsworker.config import Config

ROOT: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")

FRESH_SECONDS: Final = 3.0
"""A growth of the count speaks for deaths that are seen so soon after it; it is looked at once a second."""


def usable_cpus(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Return how many CPUs this process may use: its affinity, cut by the quota of its cgroup. At least 1.

    membership: the file that names this process's cgroup, as in cgroups(7).
    Affinity alone does not show a container's quota: cpu.max of every cgroup above counts (cgroup-v2, "cpu.max").
    """
    cpus = float(len(os.sched_getaffinity(0)))
    for folder in _own_and_above(root, membership):
        cpus = min(cpus, _quota(folder / "cpu.max"))
    return max(1, math.ceil(cpus))


def with_number_of_workers(config: Config) -> Config:
    """Return a configuration whose `workers` is a number: for "auto" that of the CPUs."""
    return config if config.workers != "auto" else config.model_copy(update={"workers": usable_cpus()})


class OomCounter:
    """Knows when the kernel has last killed here for want of memory; root, membership: as in usable_cpus.

    The count does not say whom. A victim may be a process that user code has started, hours before somebody kills a
    worker by hand, so only a death right after the growth is put down to it. You must call look about once a second.

    The kernel counts a victim in the nearest cgroup that has the memory controller, and in every one above that. So the
    nearest memory.events is read and no other: in those above, a neighbour's death would pass for one of ours.
    """

    def __init__(self, root: Path = ROOT, membership: Path = MEMBERSHIP) -> None:
        files = (folder / "memory.events" for folder in _own_and_above(root, membership))
        self._file = next((file for file in files if _kills(file) is not None), None)
        self._seen = _kills(self._file) or 0 if self._file else 0
        self._grown_at = -math.inf

    def look(self, now: float) -> None:
        """Note whether the count has grown since the last look, or since the start. now: on CLOCK_MONOTONIC."""
        kills = _kills(self._file) if self._file else None
        if kills is None:
            # gone, or out of descriptors for now
            return
        if kills > self._seen:
            self._grown_at = now
        self._seen = kills

    def just_killed(self, now: float) -> bool:
        """Whether the kernel has killed here so short a time ago that a death seen now may be of that. now: as in look.

        The count is raised before the victim is seen dead, so the look that this takes is never too early.
        """
        self.look(now)
        return now - self._grown_at <= FRESH_SECONDS


def _own_and_above(root: Path, membership: Path) -> list[Path]:
    """Return the folder of this process's cgroup and those above it, up to and with root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / own.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]


def _quota(file: Path) -> float:
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota == "max" else int(quota) / int(period)


def _kills(file: Path) -> int | None:
    """Return the count oom_kill of a memory.events, None if there is none to read."""
    try:
        counts = dict(line.split() for line in file.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
