"""What a worker is told of its broker: each change once, and a gap when it can act on it."""

from __future__ import annotations

import asyncio

from tests.bus.contract import Sink
from tests.worker.conftest import Run
from wsworker.bus.broker.state import State
from wsworker.bus.topics import Key


class Witness(Sink):
    """Writes down the states in the order too. told: set when a gap is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    def on_gap(self, keys: frozenset[Key] | None, count: int | None) -> None:
        super().on_gap(keys, count)
        self.told.set()

    def on_state(self, up: bool, why: str) -> None:
        self.order.append((up, why))


def begun() -> tuple[State, Witness]:
    """Return a state, and what it tells."""
    state, witness = State("redis://there"), Witness()
    state.begin(witness)
    return state, witness


def test_each_change_is_told_once(run: Run) -> None:
    """And it is counted how often it came again: not the first time."""

    async def main() -> None:
        state, witness = begun()
        for _ in range(2):
            state.rise()
            state.rise()
            state.fall("it is gone")
            state.fall("it is still gone")
        assert 2 * [(True, ""), (False, "it is gone")] == witness.order
        assert 1 == state.reconnects

    run(main())


def test_a_gap_is_told_while_it_is_up(run: Run) -> None:
    """At once, or behind the news that it is up again; once, however often it was noted."""

    async def main() -> None:
        state, witness = begun()
        state.rise()
        state.miss()
        state.fall("it is gone")
        state.miss()
        state.miss()
        state.rise()
        assert [(True, ""), "gap", (False, "it is gone"), (True, ""), "gap"] == witness.order
        assert [(None, None)] * 2 == witness.gaps

    run(main())


def test_a_gap_that_is_over_waits_no_longer_than_its_patience(run: Run) -> None:
    """Then it is told though the broker is down, once; what is noted behind it is told when the broker is up."""

    async def main() -> None:
        state, witness = begun()
        state.fall("it is gone")
        state.miss(0.01)
        state.miss(60)
        await asyncio.wait_for(witness.told.wait(), 5)
        assert [(False, "it is gone"), "gap"] == witness.order
        state.miss(60)
        state.rise()
        assert [(True, ""), "gap"] == witness.order[2:]

    run(main())


def test_patience_ends_with_the_broker_up(run: Run) -> None:
    """What was told then is not told again; nor is anything after the end."""

    async def main() -> None:
        state, witness = begun()
        state.fall("it is gone")
        state.miss(0.01)
        state.rise()
        state.miss(0.01)
        state.fall("it is gone again")
        state.miss(0.01)
        state.end()
        await asyncio.sleep(0.05)
        told = [(False, "it is gone"), (True, ""), "gap", "gap", (False, "it is gone again")]
        assert told == witness.order

    run(main())


def test_nothing_is_told_after_the_end(run: Run) -> None:
    """Nor is anything reached any more."""

    async def main() -> None:
        state, witness = begun()
        state.rise()
        state.end()
        state.miss()
        state.fall("it is gone")
        state.rise()
        state.miss()
        assert [(True, "")] == witness.order

    run(main())


def test_who_waits_for_the_first_attempt(run: Run) -> None:
    """Is told how it went, or that it is not over; never waits longer than it wants to."""

    async def main() -> None:
        state, _ = begun()
        assert "redis://there does not answer (no answer came in time)" == await state.linked(0.01)
        waiting = asyncio.create_task(state.linked(10))
        await asyncio.sleep(0)
        state.fall("nobody is there")
        assert "redis://there does not answer (nobody is there)" == await waiting
        state.rise()
        assert "" == await state.linked(0)

    run(main())
