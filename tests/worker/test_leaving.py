"""Leaving: which steps each reason has, in which order, and which order overtakes which."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.worker.conftest import Run
from tests.worker.moving import make_pair
from tests.worker.service import DEADLINE_SECONDS, Peer, closing, head, make_app, make_hub, text, until
from wsworker.config import Config
from wsworker.wire import DrainReason
from wsworker.worker import accept
from wsworker.worker.accept import Acceptor
from wsworker.worker.connection import Connection
from wsworker.worker.entrance import Entrance
from wsworker.worker.giving import Outcome
from wsworker.worker.hub import Hub
from wsworker.worker.leaving import Leaving
from wsworker.worker.taking import Taking


class Scene:
    """A worker that is about to leave; said: what its callbacks were called for; outcomes: of its hand-overs."""

    def __init__(self, listener: socket.socket, hub: Hub, said: list[str], **settings: Any) -> None:
        self.listener = listener
        self.hub = hub
        self.said = said
        entrance = Entrance(
            hub.loop,
            lambda arrival: Connection(hub, arrival),
            config=Config(app="app"),
            tls=None,
            changed=lambda: None,
            counters=hub.counters,
            log=hub.log,
        )
        self.acceptor = Acceptor(
            hub.loop,
            [listener.dup()],
            entrance,
            shared=[],
            full=lambda: hub.full,
            others=lambda: True,
            unfinished=lambda: 0,
            most_handshakes=512,
            changed=lambda: None,
            counters=hub.counters,
            log=hub.log,
        )
        self.acceptor.start()
        self.outcomes: list[Outcome] = []
        self.leaving = Leaving(hub.loop, Config(app="app", **settings), self.outcomes.append)
        self.peers: list[Peer] = []
        self.task = hub.loop.create_task(self._live())

    async def _live(self) -> None:
        await self.leaving.told()
        await self.leaving.leave(self.hub, self.acceptor)

    async def open(self) -> Peer:
        """Connect a client and complete its handshake."""
        peer = await self.dial()
        peer.send(head())
        assert "101 Switching Protocols" in await peer.response()
        return peer

    async def dial(self) -> Peer:
        """Connect a client that says nothing; it stands in the queue before the loop turns again."""
        client = socket.create_connection(self.listener.getsockname())
        peer = Peer(*await asyncio.open_connection(sock=client))
        self.peers.append(peer)
        return peer

    async def end(self) -> None:
        """Wait until it has left."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.task
            for peer in self.peers:
                peer.leave()
                with suppress(ConnectionError):
                    await peer.writer.wait_closed()


@asynccontextmanager
async def scene(**settings: Any) -> AsyncIterator[Scene]:
    """Serve on a listener of a slot."""
    said: list[str] = []
    app = make_app(
        on_message=print,
        on_worker_reload=lambda worker: said.append("reload"),
        on_worker_stop=lambda worker: said.append("stop"),
    )
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        one = Scene(listener, make_hub(app), said, **settings)
        yield one
        await one.end()


async def goodbye(peer: Peer) -> int:
    """Take the server's Close, answer it and leave; return its code."""
    code = await peer.close_code()
    peer.send(closing(code))
    assert b"" == await peer.rest()
    peer.leave()
    return code


@pytest.mark.parametrize(
    ("why", "code", "said"),
    [
        ("reload", 1012, ["reload", "stop"]),
        ("replace", 1012, ["stop"]),
        ("scale", 1012, ["stop"]),
        ("stop", 1001, ["stop"]),
        ("quick", 1001, ["stop"]),
    ],
)
def test_each_reason_has_its_steps(
    run: Run, monkeypatch: pytest.MonkeyPatch, why: DrainReason, code: int, said: list[str]
) -> None:
    """The code of the goodbyes, and whether on_worker_reload is called; on_worker_stop is the last of it."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 0.05)

    async def main() -> None:
        async with scene() as one:
            peer = await one.open()
            seen = [one.leaving.is_told]
            one.leaving.tell(why)
            assert [False, True] == [*seen, one.leaving.is_told]
            assert code == await goodbye(peer)
            await one.end()
            assert said == one.said

    run(main())


def test_a_slot_that_goes_serves_its_last_clients(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are let in, since the service goes on, and say goodbye with the others."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 1.0)

    async def main() -> None:
        async with scene() as one:
            first = await one.open()
            one.leaving.tell("scale")
            second = await one.open()
            assert [1012, 1012] == [*await asyncio.gather(goodbye(first), goodbye(second))]

    run(main())


def test_a_flood_is_not_served_for_ever(run: Run) -> None:
    """Half of graceful_timeout at most; then the goodbyes come although nobody was quiet."""

    async def main() -> None:
        async with scene(graceful_timeout=4.0) as one:
            peer = await one.open()
            one.leaving.tell("scale")
            assert 1012 == await goodbye(peer)

    run(main())


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("why", ["stop", "quick"])
def test_a_stop_overtakes_a_queue_that_runs_dry(run: Run, why: DrainReason, together: bool) -> None:
    """Who waits gets 503 from then on, and the goodbyes are those of the stop."""

    async def main() -> None:
        async with scene() as one:
            peer = await one.open()
            one.leaving.tell("scale")
            if not together:
                for _ in range(5):
                    await asyncio.sleep(0)
            late = one.hub.loop.create_task(one.dial())
            await asyncio.sleep(0)
            one.leaving.tell(why)
            assert 1001 == await goodbye(peer)
            waiting = await late
            assert (await waiting.response()).startswith("HTTP/1.1 503 ")
            waiting.leave()

    run(main())


def refused(listener: socket.socket) -> Callable[[], bool]:
    """Return whether our own copy is closed: the queue is then another one's."""
    return lambda: listener.fileno() < 0


def test_later_orders_change_nothing_but_the_pace(run: Run) -> None:
    """The goodbyes are under way with their code; a second stop is none, and an order to be quick hurries them."""

    async def main() -> None:
        async with scene(graceful_timeout=60.0, drain_window=60.0) as one:
            peers = [await one.open() for _ in range(3)]
            (copy,) = one.acceptor._own
            one.leaving.tell("replace")
            await until(refused(copy))
            later: list[DrainReason] = ["reload", "scale", "stop", "stop", "quick", "quick"]
            for why in later:
                one.leaving.tell(why)
            assert [1012] * 3 == await asyncio.gather(*(goodbye(peer) for peer in peers))
            await one.end()
            assert ["stop"] == one.said

    run(main())


def test_a_reload_callback_has_its_share_of_the_time(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Half of graceful_timeout, then it is cancelled; what the others raise is logged and keeps nobody."""

    async def forever(worker: Any) -> None:
        await asyncio.Event().wait()

    def fail(worker: Any) -> None:
        raise OSError("too late")

    async def main() -> None:
        async with scene(graceful_timeout=4.0) as one:
            app = make_app(on_worker_reload=forever, on_worker_stop=fail)
            one.hub.app = one.hub.caller.app = app
            peer = await one.open()
            one.leaving.tell("reload")
            assert 1012 == await goodbye(peer)

    run(main())
    assert any("took longer than 2 s and was cancelled" in line for line in caplog.messages)
    assert any("on_worker_stop raised OSError" in line for line in caplog.messages)


# The hand-over


class Heir:
    """A worker that takes connections over; its code answers with "new". pair: the end of the one that leaves."""

    def __init__(self, one: Scene) -> None:
        self.hub = make_hub(make_app(on_message=lambda connection, data: connection.send(f"new {data}")))
        self.pair, theirs = make_pair()
        self.task = one.hub.loop.create_task(Taking(self.hub, theirs).run())

    def __len__(self) -> int:
        return len(self.hub.worker.connections)

    async def end(self) -> None:
        """Drop all that it has."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.task
            self.hub.terminate_all()
            await self.hub.empty.wait()


@pytest.mark.parametrize("why", ["reload", "replace", "scale"])
def test_connections_move_before_the_goodbyes(run: Run, monkeypatch: pytest.MonkeyPatch, why: DrainReason) -> None:
    """Nobody is closed, on_worker_stop is called all the same, and it is told how it went."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 0.05)

    async def main() -> None:
        async with scene() as one:
            peers = [await one.open() for _ in range(3)]
            heir = Heir(one)
            one.leaving.tell(why, [heir.pair], [1])
            await one.task
            assert (0, 3) == (len(one.hub.worker.connections), len(heir))
            for peer in peers:
                peer.send(text("x"))
                assert "new x" == await peer.message()
            assert [(3, {}, 0)] == [(each.moved, dict(each.left), each.waits) for each in one.outcomes]
            assert ["reload", "stop"][why != "reload" :] == one.said
            await heir.end()

    run(main())


def test_who_could_not_move_is_closed(run: Run) -> None:
    """With 1012, and told by reason."""

    async def main() -> None:
        async with scene() as one:
            moves, stays = await one.open(), await one.open()
            [*one.hub.worker.connections.values()][1].data["x"] = object()
            heir = Heir(one)
            one.leaving.tell("reload", [heir.pair], [1])
            assert 1012 == await goodbye(stays)
            moves.send(text("x"))
            assert "new x" == await moves.message()
            await one.end()
            assert [(1, {"data": 1})] == [(each.moved, dict(each.left)) for each in one.outcomes]
            await heir.end()

    run(main())


@pytest.mark.parametrize("why", ["stop", "quick"])
def test_a_stop_ends_the_hand_over(run: Run, why: DrainReason) -> None:
    """What a busy callback keeps open is closed with 1001, and so is all else here; no time is lost."""

    async def busy(connection: Connection, data: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with scene(graceful_timeout=60.0, handover_timeout=50.0) as one:
            one.hub.app = one.hub.caller.app = make_app(on_message=busy)
            peer = await one.open()
            peer.send(text("x"))
            await until(lambda: next(iter(one.hub.worker.connections.values()))._delivery.busy)
            heir = Heir(one)
            one.leaving.tell("reload", [heir.pair], [1])
            await until(lambda: next(iter(one.hub.worker.connections.values()))._holds)
            one.leaving.tell(why)
            if why == "stop":
                assert 1001 == await peer.close_code()
                one.leaving.tell("quick")
                peer.send(closing(1001))
            await one.end()
            # nothing is told of a hand-over that was not to be
            assert [] == one.outcomes
            assert 0 == len(heir)
            await heir.end()

    run(main())


def test_a_taker_that_dies_is_followed_by_another(run: Run) -> None:
    """Meanwhile clients are served on; then they move to the next one."""

    async def main() -> None:
        async with scene(graceful_timeout=60.0) as one:
            one.hub.app = one.hub.caller.app = make_app(on_message=lambda connection, data: connection.send(data))
            peer = await one.open()
            ours, theirs = make_pair()
            theirs.close()
            one.leaving.tell("reload", [ours], [1])
            await until(lambda: one.outcomes)
            assert 1 == one.outcomes[0].waits
            peer.send(text("still here"))
            assert "still here" == await peer.message()
            heir = Heir(one)
            one.leaving.tell("reload", [heir.pair], [1])
            await one.task
            assert [(0, 1), (1, 0)] == [(each.moved, each.waits) for each in one.outcomes]
            peer.send(text("x"))
            assert "new x" == await peer.message()
            await heir.end()

    run(main())


def test_no_other_taker_comes(run: Run) -> None:
    """Half of graceful_timeout at most; then they are closed with 1012, and counted."""

    async def main() -> None:
        async with scene(graceful_timeout=4.0) as one:
            peer = await one.open()
            ours, theirs = make_pair()
            theirs.close()
            one.leaving.tell("replace", [ours], [1])
            assert 1012 == await goodbye(peer)
            await one.end()
            assert [(0, {}, 1), (0, {"no_taker": 1}, 0)] == [
                (each.moved, dict(each.left), each.waits) for each in one.outcomes
            ]
            assert 1 == one.hub.counters.unmoved["no_taker"]

    run(main())


def test_pairs_that_are_not_needed_any_more_are_closed(run: Run) -> None:
    """A second word before the first was followed, and one behind the hand-over: no descriptor stays open."""

    async def main() -> None:
        async with scene() as one:
            first, theirs = make_pair()
            second, others = make_pair()
            one.leaving.tell("reload", [first], [1])
            one.leaving.tell("stop", [second], [1])
            assert (-1, True) == (first.fileno(), second.fileno() >= 0)
            await one.end()
            assert -1 == second.fileno()
            theirs.close()
            others.close()

    run(main())
