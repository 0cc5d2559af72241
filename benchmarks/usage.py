"""What a server uses: CPU time and memory of its processes, and what the kernel keeps for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import psutil


def processes(pid: int) -> list[psutil.Process]:
    """Return a process and all that are below it; raises RuntimeError when it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise RuntimeError("the server is gone") from None


def cpu_seconds(servers: Sequence[psutil.Process]) -> float:
    """Return the user and system time of processes, in seconds; raises RuntimeError when one is gone."""
    try:
        times = [process.cpu_times() for process in servers]
    except psutil.NoSuchProcess as exc:
        raise RuntimeError(f"process {exc.pid} of the server is gone") from None
    return sum(spent.user + spent.system for spent in times)


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, where a page shared by n processes counts 1/n: proc_pid_smaps(5), Pss.

    Raises RuntimeError when it is gone, and OSError where its memory may not be read.
    """
    try:
        return _kibibytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    except (FileNotFoundError, ProcessLookupError):
        raise RuntimeError(f"process {pid} of the server is gone") from None


def slab_bytes() -> int:
    """Return what the kernel's own objects take, sockets among them, on the whole machine: proc_meminfo(5), Slab."""
    return _kibibytes(Path("/proc/meminfo"), "Slab")


def _kibibytes(path: Path, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{path} has no {key}")
    return int(found[1]) * 1024
