"""Weights: level slots share equally, those behind get more, reluctant ones next to nothing; and what moves."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.master.balance import FULL, LEVEL, Share, moves, shares, weights

COUNTS = st.lists(st.integers(0, 60) | st.integers(0, 100_000), max_size=60)
SHARES = st.lists(st.builds(Share, st.booleans(), st.integers(0, 1_000_000), st.booleans()), max_size=256)


def willing(*connections: int) -> list[Share]:
    """Return slots that take connections and have no reason not to."""
    return [Share(True, count, False) for count in connections]


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ((), ()),
        ((0,), (256,)),
        ((10_000,), (256,)),
        ((0, 0, 0), (256, 256, 256)),
        ((95, 100, 105), (256, 256, 256)),
        ((94, 100, 105), (256, 1, 1)),
        ((0, 1), (256, 1)),
        ((0, 50, 100), (256, 1, 1)),
        ((0, 25, 75, 100), (256, 129, 1, 1)),
    ],
)
def test_slots_behind_the_mean_get_the_new_connections(connections: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Level slots are equal; over a tenth of the mean apart, the odds follow what each lacks of the mean."""
    assert expected == weights(willing(*connections))


def test_who_takes_none_weighs_nothing_and_is_not_reckoned_with() -> None:
    """A dead slot holds no connections, which says nothing of the others."""
    assert (0, 256, 256) == weights([Share(False, 0, False), *willing(100, 100)])
    assert (0, 0) == weights([Share(False, 0, False), Share(False, 0, True)])


def test_a_reluctant_slot_weighs_one() -> None:
    """Also when it is the emptiest: what it lacks is not made up for, and does not make the others look full."""
    assert (1, 256, 256) == weights([Share(True, 0, True), *willing(100, 104)])
    assert (1, 256, 1) == weights([Share(True, 0, True), *willing(100, 200)])


def test_reluctant_slots_among_themselves_share_equally() -> None:
    """Somebody has to take the clients."""
    assert (256, 0, 256) == weights([Share(True, 0, True), Share(False, 0, False), Share(True, 500, True)])


def test_a_roll_fills_the_renewed_slots_evenly() -> None:
    """Halfway: those on old code get next to nothing, of the renewed the last one gets the most."""
    renewed = willing(160, 80, 0)
    old = [Share(True, 100, True)] * 3
    assert (1, 1, 256, 1, 1, 1) == weights([*renewed, *old])


@given(SHARES)
def test_bounds_and_zeroes(shares: list[Share]) -> None:
    """One weight per slot: 0 exactly where the slot takes none, else 1 to 256; the whole fits the kernel's 32 bits."""
    made = weights(shares)
    assert len(shares) == len(made)
    assert [share.takes for share in shares] == [weight > 0 for weight in made]
    assert all(0 <= weight <= FULL for weight in made)
    assert any(share.takes for share in shares) == (sum(made) > 0)
    assert sum(made) <= FULL * FULL


@given(SHARES)
def test_fewer_connections_never_mean_a_smaller_weight(shares: list[Share]) -> None:
    """The odds of willing slots are in the order of what they lack, and one of them gets the full weight."""
    made = sorted(
        (share.connections, -weight)
        for share, weight in zip(shares, weights(shares), strict=True)
        if share.takes and not share.reluctant
    )
    assert all(fuller[1] >= emptier[1] for emptier, fuller in pairwise(made))
    if made:
        assert -FULL == made[0][1]


@given(SHARES)
def test_few_clients_reach_a_reluctant_slot(shares: list[Share]) -> None:
    """As long as a willing one takes, a reluctant one is sent less than one client in 256."""
    made = weights(shares)
    if any(share.takes and not share.reluctant for share in shares):
        for share, weight in zip(shares, made, strict=True):
            if share.takes and share.reluctant:
                assert weight * FULL < sum(made)


@given(SHARES, st.randoms(use_true_random=False))
def test_the_order_of_slots_does_not_matter(shares: list[Share], random: Random) -> None:
    """A slot's weight depends on what the slots hold, not on their numbers."""
    order = [*range(len(shares))]
    random.shuffle(order)
    made = weights(shares)
    assert tuple(made[number] for number in order) == weights([shares[number] for number in order])


@pytest.mark.parametrize(
    ("connections", "coming", "expected"),
    [
        ((0,), 7, (7,)),
        ((5, 5), 4, (2, 2)),
        ((5, 5), 1, (1, 0)),
        ((0, 100), 30, (30, 0)),
        ((0, 100), 102, (101, 1)),
        ((90, 10, 20), 30, (0, 20, 10)),
        ((3, 0, 3), 0, (0, 0, 0)),
    ],
)
def test_who_holds_fewest_is_filled_up_first(
    connections: tuple[int, ...], coming: int, expected: tuple[int, ...]
) -> None:
    """What is over after level ones have got the same goes to the first of them."""
    assert expected == shares(connections, coming)


@given(COUNTS.filter(bool), st.integers(0, 1_000_000))
def test_shares_add_up_and_level(connections: list[int], coming: int) -> None:
    """All that come are given, and nobody has got any who holds two more than another one in the end."""
    got = shares(connections, coming)
    assert coming == sum(got)
    assert min(got) >= 0
    after = [held + more for held, more in zip(connections, got, strict=True)]
    assert all(held <= min(after) + 1 for held, more in zip(after, got, strict=True) if more)


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ((), ()),
        ((5,), ((),)),
        ((0, 0), ((), ())),
        ((0, 1), ((), ())),
        ((95, 100, 105), ((), (), ())),
        ((94, 100, 106), ((), (), ((0, 6),))),
        ((100, 20, 90, 30), (((1, 40),), (), ((3, 30),), ())),
        ((0, 0, 10), ((), (), ((1, 3), (0, 3)))),
    ],
)
def test_the_fullest_give_to_the_emptiest(
    connections: tuple[int, ...], expected: tuple[tuple[tuple[int, int], ...], ...]
) -> None:
    """Until each holds the mean; a rest stays with the fullest. What is level stays as it is."""
    assert expected == moves(connections)


@given(COUNTS)
def test_moves_level_and_no_connection_moves_for_nothing(connections: list[int]) -> None:
    """All are still there, at most one apart; who has more than the mean only gives, who has less only takes."""
    made = moves(connections)
    after, gives, takes = [*connections], set(), set()
    for giver, to in enumerate(made):
        assert len({taker for taker, _ in to}) == len(to)
        for taker, count in to:
            assert count > 0
            after[giver] -= count
            after[taker] += count
            gives.add(giver)
            takes.add(taker)
    assert sum(connections) == sum(after)
    assert not gives & takes
    if gives:
        assert max(after) - min(after) <= 1
        mean = sum(connections) / len(connections)
        assert all(after[giver] >= int(mean) for giver in gives)
        assert all(after[taker] < mean + 1 for taker in takes)
        assert sum(map(len, made)) < len(connections)
    elif connections:
        spread = max(connections) - min(connections)
        assert spread <= max(1, LEVEL * sum(connections) / len(connections))
