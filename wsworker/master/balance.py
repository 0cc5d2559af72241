"""How new connections are shared out among the slots: a pure function of what each slot holds.

Connections are long, so a slot that is behind stays behind unless it is sent more than its share of the new ones. The
kernel draws a slot for each new client with these weights as odds (see the program in steering.py). While all are
level the weights are equal; once the fullest and the emptiest differ by more than a tenth of their mean, each gets new
clients in proportion to what it lacks of the mean. Without this a rolling restart of eight slots ends with 1.6 times
the mean on the first and 0.3 on the last, since the clients of each slot move to those renewed before it.

A reluctant slot is one whose loop is late, or whose worker runs old code and will send its clients away soon. It weighs
1, the least there is, and stays out of the reckoning: it lacks connections for a reason, and measured against what it
lacks the others would seem to need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FULL: Final = 256
LEAST: Final = 1
LEVEL: Final = 0.1
"""Slots count as level while the fullest and the emptiest differ by at most this part of their mean."""


@dataclass(frozen=True, slots=True)
class Share:
    """What counts of one slot: may it get new connections, how many it holds, should it get few."""

    takes: bool
    connections: int
    reluctant: bool


def weights(shares: Sequence[Share]) -> tuple[int, ...]:
    """Return one weight per slot, in the order of shares: 0 for a slot that takes none, else 1 to 256.

    shares: one per slot, perhaps none. Any slot that takes makes the sum greater than 0. If only reluctant ones take,
    they share equally. Never raises.
    """
    willing = [share.connections for share in shares if share.takes and not share.reluctant]
    if not willing:
        return tuple(FULL if share.takes else 0 for share in shares)
    mean = sum(willing) / len(willing)
    level = max(willing) - min(willing) <= LEVEL * mean
    greatest_shortfall = mean - min(willing)

    def weigh(share: Share) -> int:
        if not share.takes:
            return 0
        if share.reluctant:
            return LEAST
        if level:
            return FULL
        shortfall = max(0.0, mean - share.connections)
        return LEAST + round((FULL - LEAST) * shortfall / greatest_shortfall)

    return tuple(weigh(share) for share in shares)
