"""What is published before it is known whether the broker can be reached."""

from __future__ import annotations

from wsworker.bus.broker.early import Early
from wsworker.bus.broker.payload import EXTRA_BYTES
from wsworker.bus.topics import Envelope, Key

ROOM = Key("topic", "room")


def test_it_is_kept_in_order() -> None:
    """And given back once."""
    early = Early(10_000)
    messages = [Envelope(ROOM, body) for body in (b"1", b"22", b"333")]
    assert [True, True, True] == [early.push(message) for message in messages]
    assert 3 * EXTRA_BYTES + 6 == early.size
    assert (messages, 0, []) == (early.take(), early.size, early.take())


def test_it_has_a_bound() -> None:
    """Empty messages count too; what does not fit does not stand in the way of what does."""
    early = Early(2 * EXTRA_BYTES + 10)
    assert [True, False, True, False] == [early.push(Envelope(ROOM, bytes(size))) for size in (5, 6, 5, 0)]
    assert 2 * EXTRA_BYTES + 10 == early.size


def test_one_message_always_fits() -> None:
    """The bound may be smaller than that."""
    early = Early(1)
    assert early.push(Envelope(ROOM, bytes(1000)))
    assert not early.push(Envelope(ROOM, b""))
    early.take()
    assert early.push(Envelope(ROOM, b""))
