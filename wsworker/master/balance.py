"""How connections are shared out: the new ones among the slots, those that move among the workers. Pure functions.

Connections are long, so a slot that is behind stays behind unless it is sent more than its share of the new ones. The
kernel draws a slot for each new client with these weights as odds (see the program in steering.py). While all are
level the weights are equal; once the fullest and the emptiest differ by more than a tenth of their mean, each gets new
clients in proportion to what it lacks of the mean. Without this a rolling restart of eight slots ends with 1.6 times
the mean on the first and 0.3 on the last, since the clients of each slot move to those renewed before it.

A reluctant slot is one whose loop is late, or whose worker runs old code and will send its clients away soon. It weighs
1, the least there is, and stays out of the reckoning: it lacks connections for a reason, and measured against what it
lacks the others would seem to need none.

Connections that move are counted, not drawn: those of a worker that goes fill up who has fewest, and a rebalance brings
each worker to the mean, by no more moves than that takes.
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


def shares(connections: Sequence[int], coming: int) -> tuple[int, ...]:
    """Return how many of the connections that come each worker gets: those that hold fewest are filled up first.

    connections: what each holds; at least one. coming: how many come. The result adds up to that, in the order of
    connections; afterwards whoever has got some is level with the others that have, to one connection. Never raises.
    """
    order = sorted(range(len(connections)), key=connections.__getitem__)
    raised, held = 1, connections[order[0]]
    # one more, as long as those before it would get above it
    while raised < len(order) and connections[order[raised]] * raised - held < coming:
        held += connections[order[raised]]
        raised += 1
    level, rest = divmod(held + coming, raised)
    got = [0] * len(connections)
    for place, number in enumerate(order[:raised]):
        got[number] = level - connections[number] + (place < rest)
    return tuple(got)


def moves(connections: Sequence[int]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return for each worker to whom it gives how many of its connections, so that all are level: (taker, number).

    connections: what each holds; perhaps nobody. A taker is named by its place among them. Nothing moves if they are
    level already, to a part of LEVEL. Else the mean is what all hold in the end, to one connection; who has more only
    gives, who has less only takes, and nobody does more than that. Never raises.
    """
    given: list[list[tuple[int, int]]] = [[] for _ in connections]
    mean, rest = divmod(sum(connections), max(1, len(connections)))
    if not connections or max(connections) - min(connections) <= LEVEL * sum(connections) / len(connections):
        return tuple(() for _ in connections)
    fullest_first = sorted(range(len(connections)), key=lambda number: -connections[number])
    # what is over when the mean is no whole number stays with the fullest, so that it need not move
    over = {number: connections[number] - mean - (place < rest) for place, number in enumerate(fullest_first)}
    lacking = [number for number in reversed(fullest_first) if over[number] < 0]
    for giver in fullest_first:
        while over[giver] > 0:
            taker = lacking[0]
            count = min(over[giver], -over[taker])
            given[giver].append((taker, count))
            over[giver] -= count
            over[taker] += count
            if not over[taker]:
                lacking.pop(0)
    return tuple(map(tuple, given))
