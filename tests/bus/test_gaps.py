"""Gaps: collected, counted, logged and told once a second."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from tests.worker.clock import on_the_clock, passes, turns
from tests.worker.conftest import Run
from wsworker.bus.gaps import Gaps
from wsworker.bus.topics import EVERYBODY, Key
from wsworker.counters import Counters

A, B = Key("topic", "a"), Key("topic", "b")


class Made(Gaps):
    """Gaps on the running loop, and what they have told."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.told: list[frozenset[Key] | None] = []
        super().__init__(asyncio.get_running_loop(), copy_context(), self.counters, self.told.append)


def test_gaps_are_collected() -> None:
    """The first is told at once, those of the next second together; any topic is more than some."""

    async def main() -> None:
        gaps = Made()
        gaps.add("mesh", frozenset({A}), 1)
        await turns()
        assert [frozenset({A})] == gaps.told
        gaps.add("mesh", frozenset({A}), 1)
        gaps.add("broker", frozenset({B, EVERYBODY}), 2)
        await passes(0.75)
        assert 1 == len(gaps.told)
        await passes(0.25)
        assert [frozenset({A, B, EVERYBODY})] == gaps.told[1:]
        gaps.add("mesh", None, None)
        gaps.add("mesh", frozenset({B}), 2)
        await passes(1)
        assert [None] == gaps.told[2:]
        assert {"mesh": 3, "broker": 1} == gaps.counters.bus_gaps
        gaps.add("mesh", None, None)
        gaps.close()
        await passes(2)
        assert 3 == len(gaps.told)

    on_the_clock(main)


def test_what_others_tell_waits_a_moment() -> None:
    """Nobody knows how many they were: all others tell of a worker that was killed, each on its own."""

    async def main() -> None:
        gaps = Made()
        gaps.add("broker", None, 0)
        await passes(0.25)
        assert [None] == gaps.told
        await passes(1)
        for _ in range(3):
            gaps.add("broker", None, 0)
            await turns()
        assert [None] == gaps.told
        await passes(0.25)
        assert [None] * 2 == gaps.told
        assert 2 == gaps.counters.bus_gaps["broker"]
        # not oftener than others, and no later than the second asks for
        gaps.add("broker", None, 0)
        await passes(0.5)
        assert [None] * 2 == gaps.told
        await passes(0.5)
        assert [None] * 3 == gaps.told

    on_the_clock(main)


def test_what_has_its_place_does_not_wait() -> None:
    """What is newer comes behind it; what waits already is told with it."""

    async def main() -> None:
        for keys, count in ((frozenset({A}), 2), (None, None)):
            gaps = Made()
            gaps.add("broker", None, 0)
            gaps.add("broker", keys, count)
            gaps.add("broker", None, 0)
            await turns()
            assert [None] == gaps.told
            await passes(2)
            assert [None] == gaps.told

    on_the_clock(main)


def test_two_at_once(run: Run) -> None:
    """They are told together, on either loop: what uvloop is to call at once is no timer."""

    async def main() -> None:
        gaps = Made()
        gaps.add("mesh", frozenset({A}), 1)
        gaps.add("broker", frozenset({B}), 1)
        await turns()
        assert [frozenset({A, B})] == gaps.told

    run(main())


def test_what_is_told_is_of_that_time() -> None:
    """Whoever keeps it does not see it change, however many more keys come."""

    async def main() -> None:
        gaps = Made()
        given = frozenset({A})
        gaps.add("mesh", given, 1)
        gaps.add("mesh", frozenset({B}), 1)
        await turns()
        gaps.add("mesh", frozenset({EVERYBODY}), 1)
        assert ([frozenset({A, B})], frozenset({A})) == (gaps.told, given)
        await passes(1)
        assert [frozenset({A, B}), frozenset({EVERYBODY})] == gaps.told

    on_the_clock(main)


def test_they_are_logged_when_they_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """With sums: however many come, a line a second; those that nobody is told of any more are logged at the end."""

    async def main() -> None:
        gaps = Made()
        gaps.add("mesh", frozenset({A}), 1)
        await turns()
        for _ in range(100):
            gaps.add("mesh", frozenset({A, B}), 2)
        await passes(1)
        gaps.add("mesh", None, None)
        await passes(1)
        gaps.add("mesh", None, None)
        gaps.add("broker", None, None)
        gaps.add("broker", frozenset({A}), 3)
        await passes(1)
        gaps.add("mesh", frozenset({A}), 4)
        gaps.close()
        gaps.close()
        await passes(2)
        assert 4 == len(gaps.told)

    on_the_clock(main)
    died = "another worker has died, or its link was lost"
    far = "a worker of another machine has died, or the way to them was lost for a while"
    assert [
        f"messages of {text} ({'nobody is told any more' if '4 were' in text else 'on_bus_gap tells the app'})"
        for text in (
            "1 topic or user may be missing: 1 was dropped on its way to this worker",
            "2 topics or users may be missing: 200 were dropped on their way to this worker",
            f"any topic may be missing: {died}",
            f"any topic may be missing: {died}; {far}; 3 were dropped on their way to this worker",
            "1 topic or user may be missing: 4 were dropped on their way to this worker",
        )
    ] == caplog.messages
