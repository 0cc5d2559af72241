"""When a slot whose worker died gets the next one: a pure function of its history.

Only exits that nobody asked for count. The first replacement comes at once, since most deaths are single; from the
second on the delay starts at policy.first_delay and doubles up to policy.longest_delay, each drawn from +-20 % so that
slots that died together do not come back together. After policy.intensity exits in a row the slot is parked: tried
again only every policy.parked_seconds, and at a reload. Whoever keeps the history clears it once a worker of the slot
has been READY for policy.healthy_seconds, and when a reload brings new code.

All slots together have a budget too: after more than max(10, slots) such exits within a minute replacements start at
most one a second until that is over. It never ends the service.

OTP's supervisor counts restarts in a window and then gives up itself (supervisor.erl, add_restart). Here a crash loop
costs one slot and not the service, hence the delay instead of an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JITTER: Final = 0.2
BUDGET_SECONDS: Final = 60.0
LEAST_BUDGET: Final = 10
SPACING_SECONDS: Final = 1.0
"""Between two replacements while the budget is exceeded."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The numbers of the back-off; all times in seconds."""

    first_delay: float = 0.1
    longest_delay: float = 30.0
    intensity: int = 10
    parked_seconds: float = 300.0
    healthy_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Respawn:
    """Start the next worker at `at`; keep `history`."""

    at: float
    history: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """Give the slot up for now; try once more at `at`; keep `history`."""

    at: float
    history: tuple[float, ...]


def verdict(history: tuple[float, ...], now: float, policy: RestartPolicy, draw: float) -> Respawn | Park:
    """Decide what a slot does after an exit that nobody asked for.

    history: earlier exits of this slot in a row, oldest first, seconds on CLOCK_MONOTONIC; may be empty; none after
    now. draw: a random number from 0 to 1, which places the delay between -20 % and +20 %.
    You must keep the returned history; it never grows beyond policy.intensity entries.
    Never raises. Source: the shape of OTP supervisor.erl, add_restart.
    """
    exits = (*history, now)[-policy.intensity :]
    if len(exits) >= policy.intensity:
        return Park(now + policy.parked_seconds, exits)
    return Respawn(now + wait(len(exits), policy, draw), exits)


def wait(exits: int, policy: RestartPolicy, draw: float) -> float:
    """Return the delay in seconds with jitter. exits: as in delay; draw: as in verdict.

    A fork that failed waits by it too, without a history: nothing has died, so nothing is parked for it.
    """
    return delay(exits, policy) * (1 - JITTER + 2 * JITTER * draw)


def delay(exits: int, policy: RestartPolicy) -> float:
    """Return the delay in seconds, without jitter, before the worker that follows the nth exit in a row, n from 1."""
    if exits <= 1:
        return 0.0
    doubled: float = policy.first_delay * 2.0 ** (exits - 2)
    return min(doubled, policy.longest_delay)


def recent(exits: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Return the exits, oldest first, that still count for the budget of the whole service."""
    return tuple(at for at in exits if now - at < BUDGET_SECONDS)


def over_budget(exits: tuple[float, ...], slots: int) -> bool:
    """Whether so many exits are more than the service should have in a minute.

    exits: of all slots together, as recent gives them. It takes a message that kills each worker it is tried on, and a
    client that tries again: each slot by itself has exits that are far apart, all together show it.
    """
    return len(exits) > max(LEAST_BUDGET, slots)
