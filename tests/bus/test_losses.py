"""What is missing, counted and told: of few keys whose it was, of many that it may be any."""

from __future__ import annotations

from wsworker.bus.losses import MOST_NAMES, Debts, Gap, Losses, join
from wsworker.bus.topics import Key

A, B = Key("topic", "a"), Key("topic", "b")


def test_of_many_names_it_is_only_noted_that_they_are_many() -> None:
    """So a storm of topics does not fill the memory by its losses."""
    losses = Losses()
    for number in range(MOST_NAMES):
        losses.add(Key("topic", str(number)))
    gap = losses.take()
    assert gap.keys is not None
    assert (MOST_NAMES, MOST_NAMES) == (gap.lost, len(gap.keys))
    for number in range(MOST_NAMES + 5):
        losses.add(Key("topic", str(number)))
    assert Gap(MOST_NAMES + 5, None) == losses.take()
    assert not losses


def test_what_nobody_has_missed_is_forgotten() -> None:
    """Unless it is not known any more whose it was."""
    losses = Losses()
    for key in (A, B, B):
        losses.add(key)
    losses.keep(B.__eq__)
    assert Gap(2, frozenset({B})) == losses.take()
    for number in range(MOST_NAMES + 1):
        losses.add(Key("topic", str(number)))
    losses.keep(B.__eq__)
    assert Gap(MOST_NAMES + 1, None) == losses.take()


def test_what_is_owed_is_taken_once() -> None:
    """Messages, and word of a loss that has not come through, in one gap."""
    debts = Debts()
    assert not debts
    debts.add(A)
    assert Gap(1, frozenset({A})) == debts.take()
    debts.add(Gap(5, frozenset({B})))
    assert debts
    assert Gap(5, frozenset({B})) == debts.take()
    debts.add(Gap(5, frozenset({B})))
    debts.add(A)
    debts.add(Gap(6, None))
    assert Gap(12, None) == debts.take()
    assert not debts


def test_gaps_are_joined() -> None:
    """Of too many keys it is a gap of any; of how many nobody knows if nobody knows it of one of them."""
    assert Gap(3, frozenset({A, B})) == join(Gap(1, frozenset({A})), Gap(2, frozenset({B})))
    assert Gap(3, None) == join(Gap(1, None), Gap(2, frozenset({B})))
    assert Gap(3, None) == join(Gap(1, frozenset({A})), Gap(2, None))
    assert Gap(0, frozenset({A, B})) == join(Gap(0, frozenset({A})), Gap(2, frozenset({B})))
    assert Gap(0, None) == join(Gap(2, frozenset({A})), Gap(0, None))
    many = frozenset(Key("topic", str(number)) for number in range(MOST_NAMES))
    assert Gap(2, None) == join(Gap(1, many), Gap(1, frozenset({A})))
