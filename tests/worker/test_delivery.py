"""Calling callbacks: order, turns, exceptions. What that means for the connection is tested there."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.service import make_app, until
from wsworker.counters import BOUNDS, Counters
from wsworker.speaker import begin_task, connection_id
from wsworker.worker.app import App, Callback
from wsworker.worker.delivery import MESSAGES_WAITING, OURS, Caller, Delivery
from wsworker.worker.stalls import Stalls


class Client:
    """Writes down what it is told and what its callbacks do."""

    def __init__(self, app: App) -> None:
        self.id = "srv-1.1.1"
        self.calls: list[str] = []
        self._stopped = False
        self.counters = Counters()
        log = logging.getLogger("wsworker.worker")
        self.stalls = Stalls(7, self.counters, log)
        self.caller = Caller(app, self.stalls, self.counters, log)
        self.delivery = Delivery(self, self.caller, asyncio.get_running_loop())

    def _not_resumed(self) -> None:
        self.calls.append("not resumed")

    def _turn_over(self) -> None:
        self.calls.append("turn over")

    def _crowded(self) -> None:
        self.calls.append("crowded")
        self._stopped = True

    def _idle(self) -> None:
        self.calls.append("idle")

    def _broke(self) -> None:
        self.calls.append("broke")
        self._stopped = True

    def _fail(self) -> None:
        self.calls.append("fail")


def _says(word: str) -> Callback:
    return Callback(lambda client: client.calls.append(word), False, "app.py:1")


def _says_later(word: str, gate: asyncio.Event | None = None) -> Callback:
    async def function(client: Client) -> None:
        client.calls.append(f"{word} begins")
        await (gate.wait() if gate else asyncio.sleep(0))
        client.calls.append(word)

    return Callback(function, True, "app.py:1")


def test_a_sync_callback_runs_at_once_and_an_async_one_in_its_task() -> None:
    """Everything behind an async callback waits, sync ones too; then the client hears that all is done."""

    async def main() -> None:
        client = Client(make_app())
        delivery = client.delivery
        delivery.call(None)
        delivery.call(_says("a"))
        assert (["a"], False) == (client.calls, delivery.busy)
        delivery.call(_says_later("b"))
        delivery.call(_says("c"))
        assert (2, True) == (delivery.waiting, delivery.busy)
        await until(lambda: not delivery.busy)
        assert ["a", "b begins", "b", "turn over", "c", "turn over", "idle"] == client.calls

    asyncio.run(main())


def test_whoever_is_called_has_the_floor() -> None:
    """What runs in a callback speaks for its connection, one inside the other too; afterwards nobody does."""

    async def main() -> None:
        heard: list[str | None] = []

        def on_message(client: Client, data: str) -> None:
            heard.append(connection_id())
            if data == "nested":
                other.delivery.call(Callback(lambda _: heard.append(connection_id()), False, "app.py:1"))
                heard.append(connection_id())
                raise ValueError(data)

        async def later(client: Client) -> None:
            await asyncio.sleep(0)
            heard.append(connection_id())

        client, other = Client(make_app(on_message=on_message)), Client(make_app())
        other.id = "srv-1.1.2"
        client.delivery.deliver(["plain", "nested"], client)
        assert connection_id() is None
        client.delivery.call(Callback(later, True, "app.py:1"))
        await until(lambda: "idle" in client.calls)
        assert ["srv-1.1.1", "srv-1.1.1", "srv-1.1.2", "srv-1.1.1", "srv-1.1.1"] == heard
        assert connection_id() is None

    asyncio.run(main())


def test_what_the_task_of_another_brings_about() -> None:
    """A sync callback, and the tasks that it starts, do not speak for the connection whose task has led there."""

    async def main() -> None:
        heard: list[str | None] = []
        tasks: list[asyncio.Task[None]] = []

        async def note() -> None:
            heard.append(connection_id())

        def on_connect(client: Client) -> None:
            tasks.append(asyncio.create_task(note()))

        client, other = Client(make_app()), Client(make_app())
        other.id = "srv-1.1.2"

        async def turn() -> None:
            begin_task(other)
            client.delivery.call(Callback(on_connect, False, "app.py:1"))
            await asyncio.gather(*tasks)
            assert "srv-1.1.2" == connection_id()

        await asyncio.create_task(turn())
        assert [None] == heard

    asyncio.run(main())


def test_a_signal_passes_what_waits_if_it_can() -> None:
    """A sync signal is given inside an async callback's wait, an async one behind it."""

    async def main() -> None:
        client = Client(make_app())
        gate = asyncio.Event()
        client.delivery.call(_says_later("a", gate))
        await until(lambda: client.calls)
        client.delivery.signal(_says("full"))
        client.delivery.signal(_says_later("drain"))
        client.delivery.signal(None)
        gate.set()
        await until(lambda: "idle" in client.calls)
        said = [call for call in client.calls if call not in ("turn over", "idle")]
        assert ["a begins", "full", "a", "drain begins", "drain"] == said

    asyncio.run(main())


def test_held_callbacks_wait_for_release_and_dropped_ones_are_forgotten() -> None:
    """hold() lets the running one finish; release() goes on; drop() empties the line."""

    async def main() -> None:
        client = Client(make_app())
        delivery = client.delivery
        gate = asyncio.Event()
        delivery.call(_says_later("a", gate))
        delivery.call(_says_later("b"))
        await until(lambda: client.calls)
        delivery.hold()
        gate.set()
        await until(lambda: "turn over" in client.calls)
        await asyncio.sleep(0)
        assert ["a begins", "a", "turn over"] == client.calls
        assert 1 == delivery.waiting
        delivery.release()
        await until(lambda: "idle" in client.calls)
        delivery.hold()
        delivery.call(_says_later("c"))
        delivery.drop()
        delivery.release()
        assert 0 == delivery.waiting
        assert "c begins" not in client.calls

    asyncio.run(main())


async def _raises_later(client: Client) -> None:
    raise RuntimeError("later")


def _raises(client: Client) -> None:
    raise RuntimeError("at once")


async def _is_cancelled(client: Client) -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def _cancels_itself(client: Client) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def _cancels_itself_and_returns(client: Client) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _cancels_itself_and_raises(client: Client) -> None:
    await _cancels_itself_and_returns(client)
    raise RuntimeError


class Odd(BaseException):
    """No Exception."""


def _raises_cancelled(client: Client) -> None:
    raise asyncio.CancelledError


def _raises_odd(client: Client) -> None:
    raise Odd


async def _raises_odd_later(client: Client) -> None:
    raise Odd


async def _raises_generator_exit(client: Client) -> None:
    raise GeneratorExit


async def _on_error_later(client: Client, exc: BaseException) -> None:
    await asyncio.sleep(0)
    client.calls.append(type(exc).__name__)


def _on_error(client: Client, exc: BaseException) -> None:
    client.calls.append(type(exc).__name__)


@pytest.mark.parametrize("on_error", [_on_error, _on_error_later, None])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (_raises, "RuntimeError"),
        (_raises_later, "RuntimeError"),
        (_raises_odd, "Odd"),
        (_raises_odd_later, "Odd"),
        (_raises_generator_exit, "GeneratorExit"),
        (_raises_cancelled, "CancelledError"),
        (_is_cancelled, "CancelledError"),
        (_cancels_itself, "CancelledError"),
        (_cancels_itself_and_returns, "CancelledError"),
        (_cancels_itself_and_raises, "RuntimeError"),
    ],
)
def test_an_exception_has_on_error_and_then_the_end(
    function: Callable[..., Any], name: str, on_error: Callable[..., Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is delivered from the exception on; what waited is dropped; it is counted and logged once."""

    async def main() -> None:
        app = make_app(on_connect=function, **({"on_error": on_error} if on_error else {}))
        client = Client(app)
        client.delivery.call(app.on_connect)
        if inspect.iscoroutinefunction(function):
            client.delivery.call(_says("never"))
        await until(lambda: "fail" in client.calls and not client.delivery.busy)
        told = [call for call in client.calls if call not in ("turn over", "idle")]
        assert (["broke", name, "fail"] if on_error else ["fail"]) == told
        assert 1 == client.counters.errors

    asyncio.run(main())
    assert [f"on_connect raised {name} (app.py:on_connect)"] == [record.getMessage() for record in caplog.records]


def test_an_exception_of_on_error_is_the_end_too(caplog: pytest.LogCaptureFixture) -> None:
    """It does not go to on_error again."""

    def on_error(client: Client, exc: Exception) -> None:
        raise LookupError

    async def main() -> None:
        app = make_app(on_connect=_raises, on_error=on_error)
        client = Client(app)
        client.delivery.call(app.on_connect)
        assert ["broke", "fail"] == client.calls
        assert 2 == client.counters.errors

    asyncio.run(main())
    assert 2 == len(caplog.records)


def test_a_task_that_we_cancel_ends() -> None:
    """The end of the worker is no exception of the user's."""

    async def main() -> None:
        app = make_app(on_connect=_raises_later)
        client = Client(app)
        never = asyncio.Event()
        client.delivery.call(_says_later("a", never))
        await until(lambda: client.calls)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        assert task is not None
        task.cancel(OURS)
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: "idle" in client.calls)
        assert ["a begins", "idle"] == client.calls
        assert 0 == client.counters.errors

    asyncio.run(main())


def test_the_line_goes_on_after_a_cancellation() -> None:
    """A callback that cancels its own task harms none behind it, also if it awaits nothing any more."""

    async def main() -> None:
        app = make_app(on_connect=_cancels_itself_and_returns, on_close=_on_close_later)
        client = Client(app)
        client.delivery.call(app.on_connect)
        client.delivery.call(app.on_close)
        await until(lambda: "idle" in client.calls)
        assert ["fail", "turn over", "on_close", "turn over", "idle"] == client.calls
        assert 1 == client.counters.errors

    asyncio.run(main())


async def _on_close_later(client: Client) -> None:
    await asyncio.sleep(0)
    client.calls.append("on_close")


def test_drop_keeps_the_first_and_the_last_word() -> None:
    """Messages that wait are forgotten; on_connect and on_close come in any case."""

    async def main() -> None:
        app = make_app(on_connect=_is_later, on_message=_raises_later, on_close=_on_close_later)
        client = Client(app)
        client.delivery.call(app.on_connect)
        client.delivery.call(app.on_message)
        client.delivery.call(app.on_close)
        client.delivery.drop()
        assert 2 == client.delivery.waiting
        await until(lambda: "idle" in client.calls)
        assert ["connect", "turn over", "on_close", "turn over", "idle"] == client.calls

    asyncio.run(main())


async def _is_later(client: Client) -> None:
    await asyncio.sleep(0)
    client.calls.append("connect")


def test_stop_cancels_what_runs_and_what_remains_has_its_turn() -> None:
    """A callback without end gives way to on_close."""

    async def main() -> None:
        app = make_app(on_close=_on_close_later)
        client = Client(app)
        client.delivery.call(_says_later("a", asyncio.Event()))
        client.delivery.call(app.on_close)
        await until(lambda: client.calls)
        client.delivery.stop()
        await until(lambda: "idle" in client.calls)
        assert ["a begins", "on_close", "turn over", "idle"] == client.calls
        assert 0 == client.counters.errors
        client.delivery.stop()

    asyncio.run(main())


def test_stop_before_the_first_step_loses_nothing() -> None:
    """A task that is cancelled before it has begun still leaves the line to the next one."""

    async def main() -> None:
        app = make_app(on_close=_on_close_later)
        client = Client(app)
        client.delivery.call(app.on_close)
        client.delivery.stop()
        await until(lambda: "idle" in client.calls)
        assert ["on_close", "turn over", "idle"] == client.calls

    asyncio.run(main())


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_what_is_meant_for_the_process_passes(exception: type[BaseException]) -> None:
    """sys.exit() in a callback is not swallowed."""

    def function(client: Client) -> None:
        raise exception

    async def main() -> None:
        client = Client(make_app())
        with pytest.raises(exception):
            client.delivery.call(Callback(function, False, "app.py:1"))

    asyncio.run(main())


def test_wait_serves_sync_callbacks_too() -> None:
    """The caller of wait() need not ask which kind it has; a quick one is not logged."""

    async def main() -> None:
        client = Client(make_app())
        assert None is await client.caller.wait(_says("sync"), client)
        assert None is await client.caller.wait(_says_later("async"), client)
        assert isinstance(await client.caller.wait(Callback(_raises, False, ""), client), RuntimeError)
        assert ["sync", "async begins", "async"] == client.calls

    asyncio.run(main())


def test_a_hidden_async_callback_is_an_error_and_not_a_silence() -> None:
    """A decorator that hides an async def gives back a coroutine that nothing would ever run."""

    async def main() -> None:
        async def hidden(_: Client) -> None: ...

        client = Client(make_app())
        exc = client.caller.run(Callback(lambda c: hidden(c), False, "app.py:1"), client)
        assert isinstance(exc, TypeError)
        assert "functools.wraps" in str(exc)

    asyncio.run(main())


# Runs of messages


def _messages(count: int) -> list[str | bytes]:
    return [str(number) for number in range(count)]


def _hears(client: Client, data: str) -> object:
    client.calls.append(data)
    return True


def test_a_run_is_delivered_at_once_and_in_order() -> None:
    """All are taken; what a callback returns does not matter; without a callback all are taken as well."""

    async def main() -> None:
        client = Client(make_app(on_message=_hears))
        assert 3 == client.delivery.deliver(_messages(3), client)
        assert ["0", "1", "2"] == client.calls
        assert 0 == client.delivery.deliver([], client)
        assert 3 == Client(make_app()).delivery.deliver(_messages(3), client)

    asyncio.run(main())


def test_a_run_ends_behind_the_message_that_stops_it() -> None:
    """Whoever stops the turn gets no further message, and knows how many were taken."""

    def on_message(client: Client, data: str) -> None:
        client.calls.append(data)
        client._stopped = data == "1"

    async def main() -> None:
        client = Client(make_app(on_message=on_message))
        assert 2 == client.delivery.deliver(_messages(5), client)
        assert ["0", "1"] == client.calls

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_behind_an_async_callback_waits(is_async: bool) -> None:
    """Messages line up, sync or async, until so many wait; the client is told for each that does not fit any more."""

    async def on_message_later(client: Client, data: str) -> None:
        client.calls.append(data)

    async def main() -> None:
        app = make_app(on_message=on_message_later if is_async else _hears)
        client, gate = Client(app), asyncio.Event()
        client.delivery.call(_says_later("a", gate))
        await until(lambda: client.calls)
        assert MESSAGES_WAITING == client.delivery.deliver(_messages(100), client)
        assert ["a begins", "crowded"] == client.calls
        assert 1 == client.delivery.deliver(_messages(100), client)
        assert MESSAGES_WAITING + 1 == client.delivery.waiting
        gate.set()
        await until(lambda: "idle" in client.calls)
        heard = [call for call in client.calls if call.isdigit()]
        assert [*_messages(MESSAGES_WAITING), "0"] == heard
        assert MESSAGES_WAITING + 2 == client.calls.count("turn over")

    asyncio.run(main())


@pytest.mark.parametrize("on_error", [_on_error, _on_error_later, None])
def test_an_exception_ends_a_run(on_error: Callable[..., Any] | None) -> None:
    """The message that raised is the last; the client is told as of any callback."""

    def on_message(client: Client, data: str) -> None:
        client.calls.append(data)
        if data == "1":
            raise RuntimeError

    async def main() -> None:
        client = Client(make_app(on_message=on_message, **({"on_error": on_error} if on_error else {})))
        assert 2 == client.delivery.deliver(_messages(5), client)
        await until(lambda: "fail" in client.calls)
        assert ["0", "1", *(["broke", "RuntimeError"] if on_error else []), "fail"] == client.calls[
            : 5 if on_error else 3
        ]
        assert 1 == client.counters.errors

    asyncio.run(main())


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_what_is_meant_for_the_process_passes_out_of_a_run(exception: type[BaseException]) -> None:
    """sys.exit() in on_message is not swallowed."""

    def on_message(client: Client, data: str) -> None:
        raise exception

    async def main() -> None:
        client = Client(make_app(on_message=on_message))
        with pytest.raises(exception):
            client.delivery.deliver(_messages(1), client)
        assert 0 == client.counters.errors

    asyncio.run(main())


def test_a_hidden_async_on_message_is_an_error() -> None:
    """The coroutine that it gives back is closed, and the run ends as with any exception."""

    async def main() -> None:
        async def hidden(client: Client, data: str) -> None: ...

        client = Client(make_app(on_message=lambda client, data: hidden(client, data), on_error=_on_error))
        assert 1 == client.delivery.deliver(_messages(2), client)
        assert ["broke", "TypeError", "fail"] == client.calls

    asyncio.run(main())


def test_a_run_that_takes_long_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """Others are blocked by the sum of its messages; the line is the same when the last one raises."""
    now = [1000.0]
    monkeypatch.setattr("wsworker.worker.delivery.monotonic", lambda: now[0])

    def on_message(client: Client, data: str) -> None:
        now[0] += float(data)
        if data == "0.5":
            raise RuntimeError

    async def main() -> None:
        client = Client(make_app(on_message=on_message))
        client.delivery.deliver(["0.0625", "0.03125"], client)
        assert [] == caplog.records
        client.delivery.deliver(["0.0625", "0.0625"], client)
        client.delivery.deliver(["0.25", "0.5", "0.5"], client)
        client.delivery.deliver(["0.0625"], client)
        assert 0.75 == client.stalls.take_longest()
        client.delivery.deliver(["0.0078125"], client)
        assert 0.0 == client.stalls.take_longest()

    asyncio.run(main())
    place = "(app.py:on_message)"
    assert [
        f"on_message blocked worker 7 for 125 ms {place}",
        f"on_message blocked worker 7 for 750 ms {place}",
        f"on_message raised RuntimeError {place}",
    ] == [record.getMessage() for record in caplog.records]


def test_the_time_of_callbacks_is_counted(monkeypatch: Any) -> None:
    """A run counts once for each message, by their mean, also when the last one raises; an async call counts apart."""
    now = [1000.0]
    monkeypatch.setattr("wsworker.worker.delivery.monotonic", lambda: now[0])

    def on_message(client: Client, data: str) -> None:
        now[0] += float(data)
        if data == "0.5":
            raise RuntimeError

    async def on_connect(client: Client) -> None:
        now[0] += 3.0

    def on_close(client: Client) -> None:
        now[0] += 0.0078125

    async def main() -> None:
        app = make_app(on_message=on_message, on_connect=on_connect, on_close=on_close)
        client = Client(app)
        counters = client.counters
        client.delivery.deliver(["0", "0", "0"], client)
        assert (3, 0.0) == (counters.sync_calls.quick, counters.sync_calls.seconds)
        client.delivery.deliver([], client)
        client.delivery.deliver(["0.25", "0.5"], client)
        client.delivery.call(app.on_close)
        assert (6, 0.7578125) == (sum(counters.sync_calls.counts), counters.sync_calls.seconds)
        assert 2 == counters.sync_calls.counts[BOUNDS.index(0.5)]
        assert 1 == counters.sync_calls.counts[BOUNDS.index(0.01)]
        assert (1, 1) == (counters.slow_callbacks, counters.raised["on_message"])
        client.delivery.call(app.on_connect)
        await until(lambda: not client.delivery.busy)
        assert (1, 3.0) == (sum(counters.async_calls.counts), counters.async_calls.seconds)
        assert 6 == sum(counters.sync_calls.counts)

    asyncio.run(main())


# A connection that moves


def test_messages_in_line_can_be_taken_elsewhere() -> None:
    """While it rests; a callback that runs is waited for, and other callbacks that wait do not move."""
    gate = asyncio.Event()

    async def on_message(client: Client, data: str) -> None:
        await gate.wait()
        client.calls.append(data)

    async def main() -> None:
        app = make_app(on_message=on_message, on_close=on_message)
        client = Client(app)
        delivery = client.delivery
        assert (True, True, []) == (delivery.only_messages_wait, delivery.rests, delivery.take_waiting())
        delivery.deliver(["1", "2", "3"], client)
        await until(lambda: delivery.waiting == 2)
        delivery.hold()
        assert (True, False) == (delivery.only_messages_wait, delivery.rests)
        gate.set()
        await until(lambda: delivery.rests)
        assert ["2", "3"] == delivery.take_waiting()
        assert (0, False) == (delivery.waiting, delivery.busy)
        delivery.call(app.on_close, "closed")
        assert (False, False) == (delivery.only_messages_wait, delivery.rests)
        delivery.release()
        await until(lambda: not delivery.busy)
        assert ["1", "closed"] == [call for call in client.calls if call in ("1", "2", "3", "closed")]

    asyncio.run(main())


def test_on_resume_that_raises_is_no_error_of_the_app() -> None:
    """It is reported, what waits is dropped, on_error is not asked, and the client is told to come again."""
    asked: list[str] = []

    async def on_resume(client: Client, state: object) -> None:
        raise ValueError(state)

    async def main() -> None:
        app = make_app(
            on_resume=on_resume,
            on_message=lambda client, data: asked.append("message"),
            on_error=lambda client, error: asked.append("error"),
        )
        client = Client(app)
        client.delivery.call(app.on_resume, {})
        client.delivery.deliver(["1"], client)
        await until(lambda: not client.delivery.busy)
        assert "not resumed" in client.calls
        assert ([], 1) == (asked, client.counters.raised["on_resume"])

    asyncio.run(main())
