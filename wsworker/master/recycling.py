"""When a worker has served enough: limits drawn once per worker, and a verdict on what it has used of them.

Three settings bound what a leak in the user's code can cost: max_messages, max_worker_age and max_worker_rss. A worker
over one of them is replaced in good order, its successor ready first. One that holds twice the memory it may is killed:
it grows faster than it can be replaced, and would take the machine's other workers with it.

Workers that started together would reach a limit together. So messages and age are each raised by a random part of
0 to 10 %, fixed when the worker is spawned: a limit that moved with each look would be reached at its lowest draw. The
jitter only spreads the load; that one replacement at most boots at any time is the supervisor's promise. Memory gets
none, as it is a bound and not a date. gunicorn's jitter works with its limit switched off; here 0 stays off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wsworker.config import Config
from wsworker.master.events import Reading
from wsworker.values import GIB

JITTER: Final = 0.1
KILL_FACTOR: Final = 2
_MIB: Final = 1024**2
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use up: messages received, age, resident memory; 0 is no limit."""

    messages: float
    age_seconds: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Replace:
    """Start a successor and let this one go when that is ready; reason is a clause that fits behind "worker 3 "."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End this worker now; reason is a clause that fits behind "worker 3 "."""

    reason: str


def draw_limits(config: Config, draw: Callable[[], float]) -> Limits:
    """Return the limits of a worker that is spawned now.

    draw: gives a random number from 0 to 1; always called twice, so that a replay with the same numbers is exact
    whatever the settings are. You must keep the result for the worker's life.
    """
    return Limits(
        messages=config.max_messages * (1 + JITTER * draw()),
        age_seconds=config.max_worker_age * (1 + JITTER * draw()),
        rss_bytes=config.max_worker_rss,
    )


def judge(limits: Limits, reading: Reading, age_seconds: float) -> Replace | Kill | None:
    """Decide whether a worker may go on.

    reading: what it has used; age_seconds: since its spawn. Memory is judged first, as that cannot wait. Never raises.
    """
    rss = reading.rss_bytes
    if 0 < KILL_FACTOR * limits.rss_bytes < rss:
        return Kill(f"holds {_memory(rss)}, over twice max_worker_rss")
    if 0 < limits.rss_bytes < rss:
        return Replace(f"holds {_memory(rss)} (max_worker_rss)")
    if 0 < limits.messages <= reading.messages:
        return Replace(f"received {reading.messages} messages (max_messages)")
    if 0 < limits.age_seconds <= age_seconds:
        return Replace(f"is {_age(age_seconds)} old (max_worker_age)")
    return None


def _memory(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / _MIB:.0f} MiB"


def _age(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"
