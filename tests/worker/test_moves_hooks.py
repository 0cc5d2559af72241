"""Moves whose hooks end in strange ways: only their own connection is concerned, and nothing of it is left over."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import Stranger, make_pair, move, nothing_left, two
from tests.worker.service import DEADLINE_SECONDS, Journal, Peer, make_app, text, until
from wsworker.bus.topics import Key
from wsworker.handover import state as states
from wsworker.handover.packets import Ack, Hello, Keys, Ready, State
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.taking import Taking

NEWS = Key("topic", "news")


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


async def lives(peer: Peer) -> None:
    """Make sure that a client is served."""
    peer.send(text("lives"))
    assert "lives" == await peer.message()


@pytest.mark.parametrize("counted", [False, True])
def test_a_cancelled_error_of_on_handover(run: Run, counted: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is an exception like any other: that one stays and is served, the others move."""

    async def main() -> None:
        def on_handover(connection: Connection) -> None:
            if connection.data:
                raise asyncio.CancelledError

        async with two(make_app(on_message=echo, on_handover=on_handover)) as (old, new):
            peers = [await old.service.open() for _ in range(4)]
            old.connections[1].data["x"] = 1
            outcome = await move(old, new, counted=counted, shares=[4])
            assert (3, {"on_handover": 1}) == (outcome.moved, dict(outcome.left))
            assert (1, 3) == (len(old), len(new))
            assert (0, 1) == (old.connection._holds, old.hub.counters.raised["on_handover"])
            for peer in peers:
                await lives(peer)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "on_handover raised CancelledError" in caplog.text


def test_a_cancelled_error_of_on_resume(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """That one goes back; those behind it still come."""

    async def main() -> None:
        calls = 0

        def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise asyncio.CancelledError

        async with two(make_app(on_message=echo, on_resume=on_resume)) as (old, new):
            peers = [await old.service.open() for _ in range(6)]
            for connection in old.connections:
                connection.subscribe("news")
            outcome = await move(old, new)
            assert (5, {"on_resume": 1}) == (outcome.moved, dict(outcome.left))
            assert (1, 5) == (len(old), len(new))
            assert 5 == new.hub.worker.count("news")
            assert nothing_left(new)
            for peer in peers:
                await lives(peer)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert "on_resume raised CancelledError" in caplog.text


@pytest.mark.parametrize("act", ["terminate", "close", "nothing"])
def test_an_async_on_resume_and_the_giver_is_gone(run: Run, act: str) -> None:
    """It was never ours: whatever the hook has done to it, nothing of it is left, and the old worker goes on with it.

    Its on_close comes once at most.
    """

    async def main() -> None:
        journal, done = Journal(), asyncio.Event()

        async def on_resume(connection: Connection, state: dict[str, Any]) -> None:
            if act != "nothing":
                getattr(connection, act)()
            done.set()

        async with two(make_app(on_message=echo), journal.app(on_resume=on_resume)) as (old, new):
            peer = await old.service.open()
            old.connection.user = "me"
            old.connection.subscribe("news")
            ours, theirs = make_pair()
            stranger = Stranger(new.hub, ours, "giver")
            task = asyncio.ensure_future(Taking(new.hub, theirs, 1).run())
            assert isinstance(await stranger.hear(), Hello)
            await stranger.greet()
            await stranger.say(Keys(1, (NEWS,), True))
            assert Ready(1) == await stranger.hear()
            freezing.hold(old.connection)
            frozen = freezing.freeze(old.connection, None)
            await stranger.say(State(0, states.encode(frozen.state)), descriptor=frozen.descriptor)
            assert Ack((0,)) == await stranger.hear()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await done.wait()
            stranger.die()
            assert 0 == await asyncio.wait_for(task, DEADLINE_SECONDS)
            await until(lambda: not new.hub._present)
            assert (0, 0, ()) == (len(new), new.hub.worker.count("news"), tuple(new.hub.users.of("me")))
            assert 0 == new.hub.counters.moved_in
            assert nothing_left(new)
            assert new.hub.empty.is_set()
            assert len(journal.ends) <= 1
            await freezing.give_back(frozen)
            await lives(peer)

    run(main())
