"""The pipeline: what waits, what is in flight, what is given up, and what is owed for it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.broker.pipeline import BATCH_BYTES, Pipeline, Stage
from wsworker.bus.losses import Debts, Gap
from wsworker.bus.topics import Key

A, B = Key("topic", "a"), Key("topic", "b")


def pipeline(limit: int = 1000, stage: Stage = Stage.UP) -> tuple[Pipeline, Debts]:
    """Return one at this stage, and what it owes."""
    debts = Debts()
    made = Pipeline(limit, debts)
    made.stage = stage
    return made, debts


def test_one_batch_at_a_time() -> None:
    """What is taken is in flight until it is answered, in order; its bytes count so long."""
    made, debts = pipeline()
    assert (None, None) == (made.push(b"one", A), made.push(b"two", B))
    made.force(b"probe", None)
    assert b"onetwoprobe" == made.take()
    assert made.push(b"next", A) is None
    assert (3, 15) == (made.in_flight, made.size)
    assert [A, B, None] == [made.answered() for _ in range(3)]
    assert (0, 4) == (made.in_flight, made.size)
    assert b"next" == made.take()
    made.answered()
    assert b"" == made.take()
    assert not debts


def test_a_batch_has_an_end() -> None:
    """It takes a little more than so many bytes at most."""
    made, _ = pipeline(limit=4 * BATCH_BYTES)
    half = BATCH_BYTES // 2
    for _ in range(5):
        made.push(bytes(half), A)
    counts = []
    while batch := made.take():
        counts.append(len(batch) // half)
        while made.in_flight:
            made.answered()
    assert [2, 2, 1] == counts


def test_it_waits_for_the_first_connection() -> None:
    """And gives everything up if there is none."""
    made, debts = pipeline(stage=Stage.BEGINNING)
    assert made.push(b"x", A) is None
    made.force(b"probe", None)
    assert 1 == made.fail()
    assert "down" == made.push(b"y", B)
    assert Gap(2, frozenset({A, B})) == debts.take()
    assert (0, b"") == (made.size, made.take())
    assert not debts


def test_a_full_one() -> None:
    """What does not fit is given up, and what comes after it, until half of the queue is answered."""
    made, debts = pipeline(limit=10)
    pushed = [made.push(record, A) for record in (bytes(4), bytes(5), b"xx", b"x")]
    assert [None, None, "full", "full"] == pushed
    made.take()
    made.answered()
    assert not made.stalled
    assert made.push(b"x", A) is None
    assert Gap(2, frozenset({A})) == debts.take()


def test_an_empty_one_takes_anything() -> None:
    """The limit may be smaller than one message."""
    made, _ = pipeline(limit=1)
    assert made.push(bytes(100), A) is None
    assert "full" == made.push(b"x", A)


def test_what_was_in_flight_is_lost_too() -> None:
    """Nobody knows whether it has come through; word of a loss is owed again, a probe is not."""
    made, debts = pipeline()
    made.force(b"gap", Gap(5, frozenset({B})))
    made.force(b"probe", None)
    made.push(b"x", A)
    made.take()
    made.push(b"y", A)
    assert 2 == made.fail()
    assert Stage.DOWN is made.stage
    assert Gap(7, frozenset({A, B})) == debts.take()
    assert not debts


def test_word_of_a_loss_on_its_way() -> None:
    """Until it is answered."""
    made, _ = pipeline()
    made.push(b"x", A)
    tells = [made.tells]
    made.force(b"gap", Gap(1, None))
    tells.append(made.tells)
    made.take()
    tells.append(made.tells)
    made.answered()
    made.answered()
    tells.append(made.tells)
    assert [False, True, True, False] == tells


@given(st.lists(st.sampled_from(["push", "take", "answer", "fail", "up"]), max_size=60))
def test_nothing_gets_lost_untold(steps: list[str]) -> None:
    """Whatever happens, each message is answered once, in order, or owed; and the queue stays within its bound."""
    made, debts = pipeline(limit=20, stage=Stage.BEGINNING)
    answered: list[str] = []
    pushed = 0
    for step in steps:
        if step == "push":
            made.push(bytes(6), Key("topic", str(pushed)))
            pushed += 1
        elif step == "take" and not made.in_flight:
            made.take()
        elif step == "answer" and made.in_flight:
            item = made.answered()
            assert isinstance(item, Key)
            answered.append(item.name)
        elif step == "fail":
            made.fail()
        elif step == "up":
            made.stage = Stage.UP
        assert made.size <= 20
    waiting = made.fail()
    lost = debts.take() if debts else Gap(0, frozenset())
    assert sorted(answered, key=int) == answered
    assert lost.keys is not None
    told = Counter(answered) + Counter(key.name for key in lost.keys)
    assert Counter(map(str, range(pushed))) == told
    assert waiting <= lost.lost == pushed - len(answered)
