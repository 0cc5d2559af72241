"""What a server refuses: to whom it is told, and how it is counted beside what has come through."""

from __future__ import annotations

from tests.bus.contract import ANN, ROOM
from wsworker.bus.broker.channels import service_subject, subject
from wsworker.bus.losses import Gap
from wsworker.bus.nats.refusals import Refusals

PREFIX = "chat:"
WORD_OF_A_GAP = Gap(3, frozenset({ANN}))


def publish_to(name: str) -> str:
    """Return what a server says of a subject."""
    return f'Permissions Violation for Publish to "{name}"'


def test_messages() -> None:
    """They are owed to those who want their key, and have not come through; once each, with their batch."""
    refusals = Refusals(PREFIX)
    assert not refusals.debts
    assert refusals.add(publish_to(subject(PREFIX, ROOM)))
    assert refusals.add(publish_to(subject(PREFIX, ROOM)).lower())
    assert 1 == refusals.confirmed([ROOM, ANN, ROOM, None, WORD_OF_A_GAP])
    assert Gap(2, frozenset({ROOM})) == refusals.debts.take()
    assert 2 == refusals.confirmed([ROOM, ANN])
    assert (False, 0) == (bool(refusals.debts), refusals.subscriptions)


def test_a_batch_without_an_answer() -> None:
    """What of it was refused is not given up a second time, and is owed all the same."""
    refusals = Refusals(PREFIX)
    refusals.add(publish_to(subject(PREFIX, ROOM)))
    assert (4, 5) == (refusals.over(5), refusals.over(5))
    refusals.add(publish_to(subject(PREFIX, ROOM)))
    assert 0 == refusals.over(0)
    assert Gap(2, frozenset({ROOM})) == refusals.debts.take()


def test_word_of_a_gap() -> None:
    """It is owed again, if it was of this batch."""
    refusals = Refusals(PREFIX)
    assert not refusals.add(publish_to(service_subject(PREFIX)))
    assert 1 == refusals.confirmed([WORD_OF_A_GAP, ROOM])
    assert WORD_OF_A_GAP == refusals.debts.take()
    assert 0 == refusals.confirmed([WORD_OF_A_GAP])
    assert not refusals.debts


def test_anything_else() -> None:
    """A subscription is counted; what is of no key of ours is nothing."""
    refusals = Refusals(PREFIX)
    assert not refusals.add(f'Permissions Violation for Subscription to "{subject(PREFIX, ROOM)}"')
    assert not refusals.add(publish_to("other.topic.room"))
    assert (1, False) == (refusals.subscriptions, bool(refusals.debts))
