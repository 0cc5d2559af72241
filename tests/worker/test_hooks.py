"""Hooks: on_handover and on_resume, sync and async, and what each of them can do wrong."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import move, nothing_left, texts, two
from tests.worker.service import Journal, closing, make_app, text, until
from wsworker.speaker import connection_id
from wsworker.worker.app import App
from wsworker.worker.connection import Connection


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


def later(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callback as an async one that takes a turn of the loop."""

    async def act(*args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    return act


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what makes a hook of a function: itself, or an async one."""
    return later if request.param else lambda function: function


Kind = Callable[[Callable[..., Any]], Callable[..., Any]]


def test_a_state_travels(run: Run, kind: Kind) -> None:
    """As it is; each hook is called once for each connection and speaks for it; what it sends comes before all else."""

    async def main() -> None:
        calls: list[Any] = []

        def on_handover(connection: Connection) -> dict[str, Any]:
            calls.append(("handover", connection_id() == connection.id, connection.state))
            connection.send("bye")
            return {"n": [1, {"x": None}]}

        def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            calls.append(("resume", connection_id() == connection.id, connection.state, state))
            connection.send("hello")

        journal = Journal()
        old = make_app(on_message=echo, on_handover=kind(on_handover))
        async with two(old, journal.app(on_message=echo, on_resume=kind(on_resume))) as (giver, taker):
            peer = await giver.service.open()
            assert 1 == (await move(giver, taker)).moved
            peer.send(text("x"))
            assert ["bye", "hello", "x"] == await texts(peer, 3)
            assert [("handover", True, "open"), ("resume", True, "open", {"n": [1, {"x": None}]})] == calls
            assert [] == journal.calls
            assert connection_id() is None

    run(main())


@pytest.mark.parametrize("state", [None, {}])
def test_no_state(run: Run, kind: Kind, state: Any) -> None:
    """on_resume gets an empty dict, also if there is no on_handover; without on_resume nothing is in the way."""

    async def main() -> None:
        calls: list[Any] = []
        none = make_app(on_message=echo)
        gives = make_app(on_message=echo, on_handover=kind(lambda connection: state))
        takes = make_app(on_message=echo, on_resume=kind(lambda connection, state: calls.append(state)))
        cases: list[tuple[App, App, list[Any]]] = [(gives, takes, [{}]), (none, takes, [{}]), (gives, none, [])]
        for old, new, found in cases:
            calls.clear()
            async with two(old, new) as (giver, taker):
                peer = await giver.service.open()
                assert 1 == (await move(giver, taker)).moved
                peer.send(text("x"))
                assert "x" == await peer.message()
                await until(lambda: calls == found)  # noqa: B023

    run(main())


def _raises(connection: Connection) -> None:
    raise ValueError("no")


def _tuple(connection: Connection) -> Any:
    return {"a": (1,)}


def _list(connection: Connection) -> Any:
    return [1]


def _cancels(connection: Connection) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (_raises, "on_handover raised ValueError"),
        (_tuple, 'what on_handover gave["a"] is a tuple'),
        (_list, "on_handover gives a dict or None, not list"),
    ],
)
def test_on_handover_that_does_not_work(
    run: Run, kind: Kind, hook: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection stays and goes on, without on_error; the others move; the log says it."""

    async def main() -> None:
        journal = Journal()
        app = journal.app(
            on_message=echo, on_handover=kind(lambda connection: hook(connection) if connection.data else None)
        )
        async with two(app) as (giver, taker):
            stays, _ = await giver.service.open(), await giver.service.open()
            giver.connections[0].data["x"] = 1
            outcome = await move(giver, taker)
            assert (1, {"on_handover": 1}) == (outcome.moved, dict(outcome.left))
            assert 1 == giver.hub.counters.raised["on_handover"]
            stays.send(text("x"))
            assert "x" == await stays.message()
            assert [("connect",)] * 2 == journal.calls

    with caplog.at_level(logging.ERROR):
        run(main())
    assert told in caplog.text


def test_on_resume_that_raises(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Its connection goes back and on at the old worker, which is told why; nothing of it is left in the new one."""

    async def main() -> None:
        old, new = Journal(), Journal()

        def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            if connection.data:
                connection.send("never seen")
                connection.subscribe("more")
                raise ValueError("no")

        async with two(old.app(on_message=echo), new.app(on_resume=on_resume)) as (giver, taker):
            stays, _ = await giver.service.open(), await giver.service.open()
            giver.connections[0].data["x"] = 1
            giver.connections[0].subscribe("news")
            giver.connections[0].user = "me"
            outcome = await move(giver, taker)
            assert (1, {"on_resume": 1}) == (outcome.moved, dict(outcome.left))
            assert (1, 1) == (len(giver), len(taker))
            assert (0, 0) == (taker.hub.worker.count("news"), taker.hub.worker.count("more"))
            assert () == taker.hub.users.of("me")
            assert 1 == taker.hub.counters.raised["on_resume"]
            taker.hub.worker.publish("news", "n")
            stays.send(text("x"))
            assert {"n", "x"} == {*await texts(stays, 2)}
            assert nothing_left(giver)
            assert nothing_left(taker)
            assert [] == new.calls
            assert [("connect",)] * 2 == old.calls

    run(main())
    assert "on_resume raised ValueError" in caplog.text


def test_async_on_resume_that_raises(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It is too late to go back: closed with 1012, as by a reload that moves nothing, counted, without on_error."""

    async def main() -> None:
        old, new = Journal(), Journal()

        async def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            raise ValueError("no")

        async with two(old.app(), new.app(on_resume=on_resume)) as (giver, taker):
            peer = await giver.service.open()
            await move(giver, taker)
            peer.send(text("not handled"))
            assert 1012 == await peer.close_code()
            peer.send(closing(1012))
            await until(lambda: new.ends)
            assert [("close", 1012, "")] == [call for call in new.calls if call[0] != "message"]
            assert 1 == taker.hub.counters.unmoved["on_resume"]
            assert [("connect",)] == old.calls

    run(main())
    assert "on_resume raised ValueError" in caplog.text


def test_a_state_that_nobody_takes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The new code has no on_resume: the connection stays, as its state would be lost."""

    async def main() -> None:
        old = make_app(on_message=echo, on_handover=lambda connection: {"x": 1})
        async with two(old, make_app(on_message=echo)) as (giver, taker):
            peer = await giver.service.open()
            outcome = await move(giver, taker)
            assert (0, {"on_resume": 1}) == (outcome.moved, dict(outcome.left))
            peer.send(text("x"))
            assert "x" == await peer.message()

    with caplog.at_level(logging.INFO):
        run(main())
    assert "the new code has no on_resume" in caplog.text


def test_messages_wait_for_an_async_on_resume(run: Run) -> None:
    """Also those that were in line, and what is published is sent meanwhile."""

    async def main() -> None:
        gate = asyncio.Event()
        journal = Journal()

        async def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            await gate.wait()
            journal.calls.append(("resumed",))

        async with two(make_app(on_message=echo), journal.app(on_resume=on_resume)) as (giver, taker):
            peer = await giver.service.open()
            giver.connection.subscribe("news")
            await move(giver, taker)
            peer.send(text("1"), text("2"))
            await until(lambda: taker.connection._delivery.waiting == 2)
            taker.hub.worker.publish("news", "n")
            assert "n" == await peer.message()
            assert [] == journal.calls
            gate.set()
            await until(lambda: len(journal.calls) == 3)
            assert [("resumed",), ("message", "1"), ("message", "2")] == journal.calls

    run(main())


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_on_resume_that_ends_its_connection(run: Run, kind: Kind, act: str) -> None:
    """It has come, and on_close is called there."""

    async def main() -> None:
        journal = Journal()

        def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            connection.close(4005) if act == "close" else connection.terminate()

        async with two(Journal().app(), journal.app(on_resume=kind(on_resume))) as (giver, taker):
            peer = await giver.service.open()
            assert 1 == (await move(giver, taker)).moved
            if act == "close":
                assert 4005 == await peer.close_code()
                peer.send(closing(4005))
            await until(lambda: journal.ends)
            assert [4005 if act == "close" else 1006] == [code for code, _ in journal.ends]

    run(main())


def test_a_hook_sees_nobody_elses_context(run: Run) -> None:
    """What one sets is not there for the next."""
    found: list[str] = []
    name = contextvars.ContextVar("name", default="none")

    async def main() -> None:
        def on_handover(connection: Connection) -> None:
            found.append(name.get())
            name.set(connection.id)

        async with two(make_app(on_message=echo, on_handover=on_handover)) as (giver, taker):
            for _ in range(3):
                await giver.service.open()
            assert 3 == (await move(giver, taker)).moved

    run(main())
    assert ["none"] * 3 == found


def test_a_hook_that_cancels(run: Run) -> None:
    """A cancellation that is the user's own is an exception like others."""

    async def main() -> None:
        async with two(make_app(on_message=echo, on_handover=later(_cancels))) as (giver, taker):
            peer = await giver.service.open()
            outcome = await move(giver, taker)
            assert (0, {"on_handover": 1}) == (outcome.moved, dict(outcome.left))
            peer.send(text("x"))
            assert "x" == await peer.message()

    run(main())
