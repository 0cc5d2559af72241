"""The queue to one peer: bounds, what is dropped and told, and what is held for one that is not linked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.losses import MOST_NAMES, Gap
from wsworker.bus.mesh.outbox import HELD_SECONDS, JOINED_BYTES, Budget, Held, Outbox
from wsworker.bus.topics import Key

A, B = Key("topic", "a"), Key("topic", "b")


def test_records_leave_in_their_order_joined() -> None:
    """In one piece, up to a size that the kernel may take; what is written is off the size."""
    outbox = Outbox(10**6, Budget(10**6))
    assert outbox.push(b"one", A)
    outbox.force(b"two")
    assert outbox.push(b"three", B)
    assert (11, b"onetwothree", b"") == (outbox.size, outbox.take(), outbox.take())
    outbox.sent(4)
    assert 7 == outbox.size
    for _ in range(3):
        outbox.push(bytes(JOINED_BYTES // 2 + 1), A)
    assert JOINED_BYTES + 2 == len(outbox.take())
    assert JOINED_BYTES // 2 + 1 == len(outbox.take())


def test_what_meets_a_full_queue_is_dropped_and_told_when_half_is_written() -> None:
    """Nothing more is taken until then, so that the note stands in its place in the order."""
    budget = Budget(1000)
    outbox = Outbox(100, budget)
    assert outbox.push(bytes(80), A)
    assert [False, True, False] == [outbox.push(bytes(30), A), outbox.stalled, outbox.push(b"small", B)]
    outbox.take()
    outbox.sent(29)
    assert outbox.owed() is None
    outbox.sent(1)
    assert Gap(2, frozenset({A, B})) == outbox.owed()
    assert outbox.owed() is None
    assert not outbox.stalled
    assert outbox.push(b"small", B)
    assert (55, 55) == (outbox.size, budget.used)


def test_records_of_ours_are_never_dropped() -> None:
    """What peers must know goes in beyond the limit; it is seen that it does."""
    outbox = Outbox(10, Budget(10))
    assert (False, True) == (outbox.full, outbox.eased)
    outbox.force(bytes(100))
    assert (True, False) == (outbox.full, outbox.eased)
    assert not outbox.push(b"x", A)
    assert 100 == outbox.size


def test_an_empty_queue_takes_one_message_however_large() -> None:
    """The limit may be set below the size of a message, and below what others hold."""
    outbox = Outbox(10, Budget(10, used=10))
    assert outbox.push(bytes(100), A)
    assert not outbox.push(b"x", A)


def test_the_budget_of_all_queues() -> None:
    """A worker with many slow peers holds no more than that; what a queue gives back others may have."""
    budget = Budget(100)
    slow, other = Outbox(100, budget), Outbox(100, budget)
    assert slow.push(bytes(90), A)
    assert other.push(b"12345678", A)
    assert not other.push(b"123", A)
    slow.clear()
    assert (0, 8) == (slow.size, budget.used)
    other.take()
    other.sent(8)
    assert Gap(1, frozenset({A})) == other.owed()
    assert other.push(bytes(90), A)


def test_what_the_peer_does_not_take_is_told_at_once() -> None:
    """Too large for it: it is dropped though there is room."""
    outbox = Outbox(100, Budget(100))
    outbox.lose(A)
    assert Gap(1, frozenset({A})) == outbox.owed()


def test_the_end_of_a_link_is_the_end_of_what_waits() -> None:
    """Nothing is left, not even the note of what was dropped."""
    outbox = Outbox(10, Budget(10))
    outbox.push(bytes(10), A)
    outbox.push(bytes(10), A)
    outbox.clear()
    assert (0, b"", None, False) == (outbox.size, outbox.take(), outbox.owed(), outbox.stalled)


def test_what_is_held_is_for_those_who_want_it() -> None:
    """In its order; nothing is held any more afterwards."""
    budget = Budget(1000)
    held = Held(100, budget)
    assert not held
    held.push(b"1", A, 0.0)
    held.push(b"2", B, 0.0)
    held.push(b"3", A, HELD_SECONDS)
    assert held
    assert 3 == budget.used
    assert ([(A, b"1"), (A, b"3")], None, 0) == held.release(lambda key: key == A)
    assert (([], None, 0), 0) == (held.release(lambda key: True), budget.used)


def test_what_nobody_misses_is_no_gap() -> None:
    """Of what had to give way, that is told which the peer wanted; all of it if nobody knows whose it was."""
    for wanted, gap in ((A, Gap(2, frozenset({A}))), (Key("topic", "other"), None)):
        held = Held(1, Budget(100))
        for key in (A, B, A, B):
            held.push(b"xx", key, 0.0)
        assert ([], gap, 0) == held.release(wanted.__eq__)
    held = Held(1, Budget(100))
    for number in range(MOST_NAMES + 1):
        held.push(b"xx", Key("topic", str(number)), 0.0)
    assert ([], Gap(MOST_NAMES + 1, None), 0) == held.release(lambda key: False)


def test_what_is_held_too_long_or_too_much_gives_way() -> None:
    """The oldest goes first, and it is noted, with how many have only waited too long: no room would help them."""
    held = Held(10, Budget(1000))
    held.push(b"old", A, 0.0)
    held.push(b"new", B, HELD_SECONDS + 0.1)
    assert ([(B, b"new")], Gap(1, frozenset({A})), 1) == held.release(lambda key: True)
    held.push(bytes(6), A, 0.0)
    held.push(bytes(6), B, 0.0)
    assert ([(B, bytes(6))], Gap(1, frozenset({A})), 0) == held.release(lambda key: True)
    held = Held(10, Budget(5))
    held.push(bytes(6), A, 0.0)
    assert ([], Gap(1, frozenset({A})), 0) == held.release(lambda key: True)
    held = Held(10, Budget(1000))
    held.push(b"old", A, 0.0)
    held.push(b"older", A, 0.0)
    held.push(bytes(6), B, HELD_SECONDS + 0.1)
    held.push(bytes(6), A, HELD_SECONDS + 0.1)
    assert ([(A, bytes(6))], Gap(3, frozenset({A, B})), 2) == held.release(lambda key: True)


@given(st.lists(st.one_of(st.integers(1, 60), st.just(0))))
def test_the_size_is_what_is_in_it(moves: list[int]) -> None:
    """Pushes of some size, and writes of all there is (0): the bound holds, and nothing pushed is lost untold."""
    budget = Budget(10**6)
    outbox = Outbox(100, budget)
    inside, told, refused = 0, 0, 0
    for size in moves:
        if size:
            taken = outbox.push(bytes(size), A)
            inside += size if taken else 0
            refused += not taken
        else:
            data = outbox.take()
            outbox.sent(len(data))
            inside -= len(data)
            gap = outbox.owed()
            told += gap.lost if gap else 0
        assert (inside, inside) == (outbox.size, budget.used)
        assert inside <= 100
    outbox.sent(len(outbox.take()))
    gap = outbox.owed()
    assert refused == told + (gap.lost if gap else 0)
