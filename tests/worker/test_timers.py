"""Timers: the beat, cancelling, async runs, and exceptions that do not end them."""

import asyncio
import gc
import logging
import math
import os
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.counters import Counters
from wsworker.speaker import begin_task, connection_id
from wsworker.worker.stalls import Stalls
from wsworker.worker.timers import Timers, next_due

SOON = 0.001
LOG = logging.getLogger("tests.timers")


def run(scenario: Callable[[Timers], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a fresh loop, with a deadline for all of it."""

    async def main() -> None:
        counters = Counters()
        timers = Timers(asyncio.get_running_loop(), LOG, counters, Stalls(7, counters, LOG), os.path.dirname(__file__))
        async with asyncio.timeout(20):
            await scenario(timers)
        timers.cancel_all()

    asyncio.run(main())


async def until(fact: Callable[[], bool]) -> None:
    """Let the loop turn until the fact holds."""
    while not fact():
        await asyncio.sleep(0)


def test_a_timer_speaks_for_nobody() -> None:
    """Also one that a connection's callback has made: its lines in the log have no connection."""

    class Somebody:
        id = "srv-1.1.1"

    async def scenario(timers: Timers) -> None:
        heard: list[str | None] = []

        async def turn() -> None:
            begin_task(Somebody())
            timers.every(0.001, lambda: heard.append(connection_id()))

        async def poll() -> None:
            heard.append(connection_id())

        await asyncio.create_task(turn())
        timers.every(0.001, poll)
        await until(lambda: len(heard) >= 6)
        assert {None} == {*heard}

    run(scenario)


def test_a_timer_in_time_is_due_one_interval_later() -> None:
    """Lateness below one interval does not move the beat."""
    assert next_due(10.0, 10.0, 5.0) == 15.0
    assert next_due(10.0, 14.9, 5.0) == 15.0
    assert next_due(10.0, 9.999, 5.0) == 15.0


def test_missed_beats_are_skipped() -> None:
    """A loop that was blocked for three intervals and a half gets one run at the next beat."""
    assert next_due(10.0, 27.5, 5.0) == 30.0
    assert next_due(10.0, 25.0, 5.0) == 30.0


def test_a_tiny_interval_does_not_overflow() -> None:
    """The number of beats that a tiny interval has missed may be beyond any float."""
    assert next_due(0.0, 1e9, 5e-324) == 1e9


@given(
    due=st.floats(0, 1e6),
    late=st.floats(-1, 1e5),
    seconds=st.floats(0.001, 1e5),
)
def test_the_next_beat_is_the_first_after_now_and_on_the_grid(due: float, late: float, seconds: float) -> None:
    """It lies after now, by at most one interval unless nothing was missed, and a whole number of intervals on."""
    now = due + late
    after = next_due(due, now, seconds)
    assert after > now
    assert after <= max(now, due) + seconds + 1e-6
    beats = (after - due) / seconds
    assert math.isclose(beats, round(beats), abs_tol=1e-6 / seconds + 1e-6)


def test_every_calls_again_and_again_until_cancelled() -> None:
    """A sync function is called until cancel(), after which nothing is kept."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []
        timer = timers.every(SOON, lambda: runs.append(1))
        assert len(timers) == 1
        await until(lambda: len(runs) == 3)
        timer.cancel()
        timer.cancel()
        assert len(timers) == 0
        later = asyncio.Event()
        timers.after(5 * SOON, later.set)
        await later.wait()
        assert len(runs) == 3

    run(scenario)


def test_after_calls_once() -> None:
    """A timer of after() is forgotten once it has run; the loop goes on without it."""

    async def scenario(timers: Timers) -> None:
        runs: list[str] = []
        later = asyncio.Event()
        timer = timers.after(SOON, lambda: runs.append("once"))
        timers.after(5 * SOON, later.set)
        await later.wait()
        assert runs == ["once"]
        assert len(timers) == 0
        timer.cancel()

    run(scenario)


def test_cancel_before_the_time_prevents_the_call() -> None:
    """What was cancelled in time never runs, and cancel_all() cancels everything."""

    async def scenario(timers: Timers) -> None:
        runs: list[str] = []
        timers.after(SOON, lambda: runs.append("after")).cancel()
        timers.every(SOON, lambda: runs.append("every"))
        timers.cancel_all()
        later = asyncio.Event()
        timers.after(5 * SOON, later.set)
        await later.wait()
        assert runs == []
        assert len(timers) == 0

    run(scenario)


def test_a_function_may_cancel_its_own_timer() -> None:
    """cancel() inside a run ends the repetition."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []

        def once() -> None:
            runs.append(1)
            timer.cancel()

        timer = timers.every(SOON, once)
        await until(lambda: len(timers) == 0)
        assert runs == [1]

    run(scenario)


async def refresh(ran: asyncio.Event) -> None:
    """Do what the tests below call in several ways."""
    ran.set()


@pytest.mark.parametrize("kind", ["async function", "lambda that gives a coroutine", "lambda that gives a task"])
def test_an_awaitable_is_awaited_however_it_is_made(kind: str) -> None:
    """Async is what gives an awaitable back, not only what was written with async def."""

    async def scenario(timers: Timers) -> None:
        ran = asyncio.Event()

        async def direct() -> None:
            await refresh(ran)

        functions: dict[str, Callable[[], Awaitable[None]]] = {
            "async function": direct,
            "lambda that gives a coroutine": lambda: refresh(ran),
            "lambda that gives a task": lambda: asyncio.create_task(refresh(ran)),
        }
        timers.after(SOON, functions[kind])
        await ran.wait()
        await until(lambda: len(timers) == 0)

    run(scenario)


def test_an_async_run_never_overlaps_itself() -> None:
    """While a run waits, the beats it misses are skipped; the next run starts after its end."""

    async def scenario(timers: Timers) -> None:
        running, most, starts = 0, 0, 0
        gate = asyncio.Event()

        async def slow() -> None:
            nonlocal running, most, starts
            starts += 1
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1

        timers.every(SOON, slow)
        later = asyncio.Event()
        timers.after(10 * SOON, later.set)
        await later.wait()
        assert starts == 1
        gate.set()
        await until(lambda: starts >= 3)
        assert most == 1

    run(scenario)


def test_a_cancelled_timer_lets_its_run_finish() -> None:
    """The run that is going on when cancel() comes ends by itself; it is kept alive meanwhile and not repeated."""

    async def scenario(timers: Timers) -> None:
        started, gate = asyncio.Event(), asyncio.Event()
        ended: list[str] = []

        async def work() -> None:
            started.set()
            await gate.wait()
            ended.append("ended")

        timers.every(SOON, work)
        await started.wait()
        timers.cancel_all()
        gc.collect()
        assert len(timers) == 1
        gate.set()
        await until(lambda: len(timers) == 0)
        assert ended == ["ended"]

    run(scenario)


def test_an_exception_is_logged_and_the_timer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A sync function that raises is called again, and the log has its name and traceback."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []

        def broken() -> None:
            runs.append(1)
            raise ValueError("no database")

        timers.every(SOON, broken)
        await until(lambda: len(runs) == 2)
        assert 2 == timers.counters.raised["timer"] == timers.counters.errors

    run(scenario)
    record = caplog.records[0]
    assert record.name == "tests.timers"
    assert record.getMessage().startswith("every(0.001, test_an_exception_is_logged")
    assert record.getMessage().endswith("broken) raised ValueError; the timer goes on")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no database"


def test_the_time_of_a_run_is_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A sync one keeps the loop like a callback, also when it raises, and is logged if it is slow."""
    now = [1000.0]
    monkeypatch.setattr("wsworker.worker.timers.monotonic", lambda: now[0])

    async def scenario(timers: Timers) -> None:
        counters = timers.counters

        def broken() -> None:
            now[0] += 0.25
            raise ValueError

        async def poll() -> None:
            now[0] += 3.0

        timers.after(SOON, broken)
        await until(lambda: not len(timers))
        calls = counters.sync_calls
        assert (1, 0.25, 1) == (sum(calls.counts), calls.seconds, counters.slow_callbacks)
        timers.after(SOON, poll)
        await until(lambda: not len(timers))
        assert (1, 3.0) == (sum(counters.async_calls.counts), counters.async_calls.seconds)
        assert (1, 0.25) == (sum(calls.counts), timers.stalls.take_longest())

    run(scenario)
    slow, raised = [record.getMessage() for record in caplog.records]
    assert slow.startswith("after(0.001, test_the_time_of_a_run_is_counted")
    assert re.search(r"broken\) blocked worker 7 for 250 ms \(test_timers.py:\d+\)$", slow)
    assert raised.endswith("broken) raised ValueError")


def test_what_has_no_place_is_named_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function of C may block as well."""
    times = iter([0.0, 0.5])
    monkeypatch.setattr("wsworker.worker.timers.monotonic", lambda: next(times))

    async def scenario(timers: Timers) -> None:
        timers.after(SOON, [].clear)
        await until(lambda: not len(timers))

    run(scenario)
    assert ["after(0.001, list.clear) blocked worker 7 for 500 ms (not in Python)"] == caplog.messages


@pytest.mark.parametrize("exception", [asyncio.CancelledError, GeneratorExit])
def test_whatever_is_raised_the_timer_goes_on(exception: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """Also an exception that is none; what is meant for the process passes."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []

        def broken() -> None:
            runs.append(1)
            raise exception

        timers.every(SOON, broken)
        await until(lambda: len(runs) == 2)

    run(scenario)
    assert caplog.records[0].getMessage().endswith(f"broken) raised {exception.__name__}; the timer goes on")


def test_an_async_exception_is_logged_and_the_timer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The same for an async function."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []

        async def broken() -> None:
            runs.append(1)
            raise ValueError("no database")

        timers.every(SOON, broken)
        await until(lambda: len(runs) == 2)

    run(scenario)
    assert caplog.records[0].getMessage().endswith("broken) raised ValueError; the timer goes on")


def test_an_exception_in_after_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line does not promise a repetition; a function without a name shows as it prints."""

    class Job:
        def __repr__(self) -> str:
            return "the job"

        def __call__(self) -> None:
            raise ValueError

    async def scenario(timers: Timers) -> None:
        timers.after(SOON, Job())
        await until(lambda: len(timers) == 0)

    run(scenario)
    assert [record.getMessage() for record in caplog.records] == ["after(0.001, the job) raised ValueError"]


def test_a_run_that_awaits_something_cancelled_does_not_end_the_timer(caplog: pytest.LogCaptureFixture) -> None:
    """CancelledError from inside a run is no error, and the next run comes."""

    async def scenario(timers: Timers) -> None:
        runs: list[int] = []

        async def awaits_cancelled() -> None:
            runs.append(1)
            inner = asyncio.get_running_loop().create_future()
            inner.cancel()
            await inner

        timers.every(SOON, awaits_cancelled)
        await until(lambda: len(runs) == 2)

    run(scenario)
    assert caplog.records == []


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_seconds_are_above_zero_and_finite(seconds: float) -> None:
    """Anything else is a ValueError, for both kinds, and adds no timer."""

    async def scenario(timers: Timers) -> None:
        with pytest.raises(ValueError, match="seconds above 0"):
            timers.every(seconds, lambda: None)
        with pytest.raises(ValueError, match="seconds above 0"):
            timers.after(seconds, lambda: None)
        assert len(timers) == 0

    run(scenario)


def test_what_cannot_be_called_is_a_type_error() -> None:
    """A coroutine instead of a function is the usual slip."""

    async def scenario(timers: Timers) -> None:
        with pytest.raises(TypeError, match="takes a function, not 5"):
            timers.every(1, 5)  # type: ignore[arg-type]

    run(scenario)
