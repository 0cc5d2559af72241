"""Giving: a whole hand-over between workers on real sockets, and what stands against it."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.frames import RSV1, deflated
from tests.frames import frame as raw
from tests.worker.conftest import Run
from tests.worker.moving import Move, Stranger, make_pair, move, nothing_left, scene, texts, two
from tests.worker.service import Journal, closing, frame, head, make_app, text, until
from wsworker.handover.packets import Done, Keys, Ready, State
from wsworker.worker.connection import Connection
from wsworker.worker.giving import Giving
from wsworker.worker.limbo import Limbo
from wsworker.worker.taking import Taking


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


# What moves


def test_a_client_sees_nothing_of_it(run: Run) -> None:
    """Its messages are answered by the new code; neither on_connect nor on_close is called, at neither side."""

    async def main() -> None:
        old, new = Journal(), Journal()
        new_app = new.app(on_message=lambda connection, data: connection.send(f"new {data}"))
        async with two(old.app(on_message=echo), new_app) as (giver, taker):
            peers = [await giver.service.open() for _ in range(5)]
            for number, peer in enumerate(peers):
                peer.send(text(f"{number}"))
                assert f"{number}" == await peer.message()
            ids = {connection.id for connection in giver.connections}
            before = giver.connections
            outcome = await move(giver, taker)
            assert (5, {}, 0) == (outcome.moved, dict(outcome.left), outcome.waits)
            assert 0 < outcome.pause_seconds < 10
            assert str(outcome).startswith("5 moved, longest pause ")
            assert (0, 5) == (len(giver), len(taker))
            assert ids == {connection.id for connection in taker.connections}
            assert (5, 0) == (giver.hub.counters.moved_out, giver.hub.counters.moved_in)
            assert (0, 5) == (taker.hub.counters.moved_out, taker.hub.counters.moved_in)
            for number, peer in enumerate(peers):
                peer.send(text(f"{number}"))
                assert f"new {number}" == await peer.message()
            # what the old code still holds is a shell
            assert {"closed"} == {connection.state for connection in before}
            assert not any(connection.send("x") for connection in before)
            assert [("connect",)] * 5 == old.calls
            assert [] == new.calls
            assert nothing_left(giver)
            assert nothing_left(taker)
            assert giver.hub.empty.is_set()
            peers[0].send(closing(4001))
            await until(lambda: new.ends)
            assert [(4001, "")] == new.ends

    run(main())


def test_it_moves_many_times(run: Run) -> None:
    """Back and forth, with compression, in the middle of frames and while answers wait."""

    async def main() -> None:
        async with two(make_app(on_message=echo), compression="deflate") as (one, other):
            peer = await one.service.dial()
            peer.send(head(more="Sec-WebSocket-Extensions: permessage-deflate\r\n"))
            assert "permessage-deflate" in await peer.response()
            word = "y" * 50
            message = raw(0x81 | RSV1, deflated(word.encode()))
            for at in range(0, len(message), 3):
                peer.send(message[:at])
                await until(lambda: not at or one.connection._session.unread)  # noqa: B023
                outcome = await move(one, other)
                assert 1 == outcome.moved
                one, other = other, one
                peer.send(message[at:])
                first, length = await asyncio.wait_for(peer.reader.readexactly(2), 10)
                assert 0x81 == first & ~RSV1
                await asyncio.wait_for(peer.reader.readexactly(length), 10)
            assert 20 > len(message) // 3 > 3

    run(main())


def test_a_publisher_is_heard_exactly_once_and_in_order(run: Run) -> None:
    """Of two workers beside them, of the old and of the new: topics, users and broadcasts, all through the move."""

    async def main() -> None:
        async with scene() as workers:
            giver, taker, *others = [await workers.add(make_app(on_message=echo)) for _ in range(4)]
            peers = []
            for number in range(60):
                peers.append(await giver.service.open())
                connection = giver.connections[-1]
                connection.subscribe("all")
                connection.subscribe(f"some{number % 7}")
                connection.user = f"user{number % 5}"
            count, going = 0, True

            async def publish() -> None:
                nonlocal count
                while going:
                    for name, place in zip("gtab", (giver, taker, *others), strict=True):
                        place.hub.worker.publish("all", f"{name} {count}")
                        place.hub.worker.send_to(f"user{count % 5}", f"{name}u {count}")
                        if not count % 10:
                            place.hub.worker.broadcast(f"{name}b {count}")
                    count += 1
                    # in every turn of the loop it would starve the others on a busy machine
                    await asyncio.sleep(0.001)

            publishing = asyncio.ensure_future(publish())
            await until(lambda: count > 5)
            outcome = await move(giver, taker)
            assert 60 == outcome.moved
            after = count
            await until(lambda: count > after + 5)
            going = False
            await publishing
            for name, place in zip("gtab", (giver, taker, *others), strict=True):
                place.hub.worker.broadcast(f"{name}end 0")
            for number, peer in enumerate(peers):
                got: dict[str, list[int]] = {}
                while len([name for name in got if name.endswith("end")]) < 4:
                    name, value = (await peer.message()).split()
                    got.setdefault(name, []).append(int(value))
                for name in "gtab":
                    assert [*range(count)] == got[name]
                    assert [*range(0, count, 10)] == got[f"{name}b"]
                    assert [each for each in range(count) if each % 5 == number % 5] == got[f"{name}u"]
            assert nothing_left(giver)
            assert nothing_left(taker)

    run(main())


def test_a_crowd_does_not_hold_the_loop(run: Run) -> None:
    """Thousands of keys and hundreds of connections: no turn of the loop is long."""

    async def main() -> None:
        async with two(make_app(on_message=echo), worker_connections=2000) as (
            giver,
            taker,
        ):
            for number in range(400):
                await giver.service.open()
                for topic in range(10):
                    giver.connections[-1].subscribe(f"topic {number} {topic}")
            longest, last = 0.0, monotonic()
            moving = Move(giver, taker)
            ended = asyncio.ensure_future(moving.end())
            while not ended.done():
                await asyncio.sleep(0)
                longest, last = max(longest, monotonic() - last), monotonic()
            assert 400 == (await ended).moved
            assert longest < 0.5

    run(main())


# Several takers


def test_shares(run: Run) -> None:
    """Each taker gets its part, by weight; counted, it gets so many and the others stay and go on."""

    async def main() -> None:
        async with scene() as workers:
            giver, one, other = [await workers.add(make_app(on_message=echo)) for _ in range(3)]
            peers = [await giver.service.open() for _ in range(12)]
            outcome = await move(giver, one, other, shares=[1, 2], counted=True, expected=2)
            assert (3, {}, 0) == (outcome.moved, dict(outcome.left), outcome.waits)
            assert (9, 1, 2) == (len(giver), len(one), len(other))
            assert 9 == (await move(giver, one, other, shares=[1, 2])).moved
            assert (0, 4, 8) == (len(giver), len(one), len(other))
            for peer in peers:
                peer.send(text("x"))
                assert "x" == await peer.message()
            assert nothing_left(giver)
            assert nothing_left(one)
            assert nothing_left(other)

    run(main())


def test_counted_goes_past_those_that_cannot_move(run: Run) -> None:
    """A place that one does not take, as it cannot, is another one's; and it ends when nobody is left to try."""

    async def main() -> None:
        def on_handover(connection: Connection) -> dict[str, Any]:
            if connection.data.get("stays"):
                raise ValueError("no")
            return {}

        async with two(make_app(on_message=echo, on_handover=on_handover)) as (giver, taker):
            [await giver.service.open() for _ in range(6)]
            for connection in giver.connections[:4]:
                connection.data["stays"] = True
            outcome = await asyncio.wait_for(move(giver, taker, shares=[3], counted=True, seconds=60.0), 10)
            assert (2, {"on_handover": 4}) == (outcome.moved, dict(outcome.left))

    run(main())


def test_one_of_two_takers_dies(run: Run) -> None:
    """What it had not acknowledged goes to the other one, with the messages that came meanwhile."""

    async def main() -> None:
        async with scene() as workers:
            giver, taker = [await workers.add(make_app(on_message=echo)) for _ in range(2)]
            peers = [await giver.service.open() for _ in range(10)]
            for connection in giver.connections:
                connection.subscribe("news")
            ours, theirs = make_pair()
            stranger = Stranger(giver.hub, theirs, "taker")
            both = Move(giver, taker)
            # the same hand-over with one taker more
            await both.end()
            giver, taker = taker, giver
            mine, its = make_pair()
            taking = asyncio.ensure_future(Taking(taker.hub, its).run())
            giving = Giving(giver.hub, 5.0)
            given = asyncio.ensure_future(
                giving.run([ours, mine], [1, 1], counted=False, deadline=giver.hub.loop.time() + 60)
            )
            await stranger.greet()
            keys = await stranger.hear_until(Keys)
            assert isinstance(keys, Keys)
            await stranger.say(Ready(keys.number))
            await stranger.hear_until(State)
            giver.hub.worker.publish("news", "meanwhile")
            stranger.die()
            outcome = await asyncio.wait_for(given, 20)
            assert (10, {}, 0) == (outcome.moved, dict(outcome.left), outcome.waits)
            assert 10 == await taking
            assert 10 == len(taker)
            for peer in peers:
                assert "meanwhile" == await peer.message()
                peer.send(text("x"))
                assert "x" == await peer.message()

    run(main())


# What stands against it


def test_a_callback_that_takes_too_long(run: Run) -> None:
    """It goes on here, counted as busy; the others move. A shorter one is waited for, and moves with what waits."""

    async def main() -> None:
        gates = {"long": asyncio.Event(), "short": asyncio.Event()}

        async def on_message(connection: Connection, data: str) -> None:
            if data in gates:
                await gates[data].wait()
            connection.send(f"{data} here")

        new = make_app(on_message=lambda connection, data: connection.send(f"{data} there"))
        async with two(make_app(on_message=on_message), new) as (giver, taker):
            long, short, idle = [await giver.service.open() for _ in range(3)]
            long.send(text("long"), text("1"))
            short.send(text("short"), *(text(f"{number}") for number in range(40)))
            await until(lambda: sum(connection._delivery.busy for connection in giver.connections) == 2)
            moving = Move(giver, taker, seconds=1.0)
            await until(lambda: len(taker) == 1)
            gates["short"].set()
            outcome = await moving.end()
            assert (2, {"busy": 1}) == (outcome.moved, dict(outcome.left))
            assert 1 == giver.hub.counters.unmoved["busy"]
            assert "1 could not move: 1 busy" in str(outcome)
            assert "short here" == await short.message()
            assert [f"{number} there" for number in range(40)] == await texts(short, 40)
            gates["long"].set()
            assert ["long here", "1 here"] == await texts(long, 2)
            idle.send(text("x"))
            assert "x there" == await idle.message()

    run(main())


def test_a_fragmented_message(run: Run) -> None:
    """One that ends in time is read on and answered here; one that does not stays, and goes on."""

    async def main() -> None:
        async with two(
            make_app(on_message=lambda connection, data: connection.send(f"{data} here")),
            make_app(on_message=lambda connection, data: connection.send(f"{data} there")),
        ) as (giver, taker):
            ends, stays = [await giver.service.open(frame(Opcode.TEXT, b"a", fin=False)) for _ in range(2)]
            await until(lambda: all(connection._session.in_message for connection in giver.connections))
            moving = Move(giver, taker, seconds=1.0)
            await until(lambda: moving.giving._why)
            ends.send(frame(Opcode.CONT, b"b"), text("c"))
            outcome = await moving.end()
            assert (1, {"fragment": 1}) == (outcome.moved, dict(outcome.left))
            assert "ab here" == await ends.message()
            # in the same read, or behind it
            assert (await ends.message()) in ("c here", "c there")
            stays.send(frame(Opcode.CONT, b"b"))
            assert "ab here" == await stays.message()

    run(main())


def test_data_that_cannot_travel(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It stays, and the log names the key; also if on_handover has put it there."""

    async def main() -> None:
        def on_handover(connection: Connection) -> None:
            if "late" in connection.data:
                connection.data["late"] = object()

        async with two(make_app(on_message=echo, on_handover=on_handover)) as (giver, taker):
            peers = [await giver.service.open() for _ in range(4)]
            giver.connections[0].data["cart"] = {"since": (1, 2)}
            giver.connections[1].data = []  # type: ignore[assignment]
            giver.connections[2].data["late"] = True
            outcome = await move(giver, taker)
            assert (1, {"data": 3}) == (outcome.moved, dict(outcome.left))
            assert 3 == giver.hub.counters.unmoved["data"]
            for peer in peers:
                peer.send(text("x"))
                assert "x" == await peer.message()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "connection.data['cart']['since']" in caplog.text.replace('"', "'")


def test_who_leaves_while_it_is_waited_for(run: Run) -> None:
    """A client that goes, or a callback that closes: it has ended, and is not one that could not move."""

    async def main() -> None:
        gate = asyncio.Event()
        journal = Journal()

        async def on_message(connection: Connection, data: str) -> None:
            await gate.wait()
            connection.close(4002)

        async with two(journal.app(on_message=on_message)) as (giver, taker):
            leaves, closes, fragment = [await giver.service.open() for _ in range(3)]
            closes.send(text("x"))
            fragment.send(frame(Opcode.TEXT, b"a", fin=False))
            await until(lambda: any(connection._delivery.busy for connection in giver.connections))
            await until(lambda: any(connection._session.in_message for connection in giver.connections))
            moving = Move(giver, taker, seconds=30.0)
            await until(lambda: len(moving.giving._why) == 2)
            leaves.leave()
            fragment.leave()
            gate.set()
            assert 4002 == await closes.close_code()
            closes.send(closing(4002))
            outcome = await asyncio.wait_for(moving.end(), 15)
            assert (1, {}) == (outcome.moved, dict(outcome.left))
            assert 0 == sum(giver.hub.counters.unmoved.values())
            await until(lambda: (4002, "") in journal.ends)

    run(main())


@pytest.mark.parametrize("act", ["close", "terminate"])
@pytest.mark.parametrize("is_async", [False, True])
def test_on_handover_that_ends_its_connection(run: Run, act: str, is_async: bool) -> None:
    """Then there is nothing to move, and the others do."""

    async def main() -> None:
        journal = Journal()

        def on_handover(connection: Connection) -> None:
            if connection.data.get("ends"):
                getattr(connection, act)()

        async def on_handover_later(connection: Connection) -> None:
            await asyncio.sleep(0)
            on_handover(connection)

        app = journal.app(on_message=echo, on_handover=on_handover_later if is_async else on_handover)
        async with two(app) as (giver, taker):
            first, _ = await giver.service.open(), await giver.service.open()
            giver.connections[0].data["ends"] = True
            moving = Move(giver, taker)
            if act == "close":
                assert 1000 == await first.close_code()
                first.send(closing(1000))
            outcome = await moving.end()
            assert (1, {}) == (outcome.moved, dict(outcome.left))
            await until(lambda: journal.ends)

    run(main())


def test_on_handover_that_subscribes(run: Run) -> None:
    """The topic goes through a round of its own first, and the hook is not asked again."""

    async def main() -> None:
        calls = 0

        def on_handover(connection: Connection) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            connection.subscribe("late")
            return {"n": 1}

        got: list[Any] = []
        app = make_app(on_message=echo, on_handover=on_handover, on_resume=lambda connection, state: got.append(state))
        async with two(app) as (giver, taker):
            peer = await giver.service.open()
            assert 1 == (await move(giver, taker)).moved
            assert (1, [{"n": 1}]) == (calls, got)
            giver.hub.worker.publish("late", "from the old one")
            assert "from the old one" == await peer.message()
            assert nothing_left(giver)
            assert nothing_left(taker)

    run(main())


# Ends


def test_no_taker_is_left(run: Run) -> None:
    """All wait for the next one, open and served."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (giver, taker):
            peers = [await giver.service.open() for _ in range(3)]
            ours, theirs = make_pair()
            theirs.close()
            giving = Giving(giver.hub, 5.0)
            outcome = await giving.run([ours], [1], counted=False, deadline=giver.hub.loop.time() + 60)
            assert (0, {}, 3) == (outcome.moved, dict(outcome.left), outcome.waits)
            for peer in peers:
                peer.send(text("x"))
                assert "x" == await peer.message()
            assert 3 == (await move(giver, taker)).moved

    run(main())


def test_stop_in_the_middle(run: Run) -> None:
    """What is on its way comes back and goes on, with what was published and asked for meanwhile."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (giver, _):
            peers = [await giver.service.open() for _ in range(3)]
            for connection in giver.connections:
                connection.subscribe("news")
            ours, theirs = make_pair()
            stranger = Stranger(giver.hub, theirs, "taker")
            giving = Giving(giver.hub, 30.0)
            run = giving.run([ours], [1], counted=False, deadline=giver.hub.loop.time() + 60)
            given = asyncio.ensure_future(run)
            await stranger.greet()
            keys = await stranger.hear_until(Keys)
            assert isinstance(keys, Keys)
            await stranger.say(Ready(keys.number))
            await until(lambda: {connection._stage for connection in giver.connections} == {"moving"})
            assert all(isinstance(connection._transport, Limbo) for connection in giver.connections)
            giver.hub.worker.publish("news", "1")
            for connection in giver.connections:
                assert connection.send("2")
            giver.hub.worker.publish("news", "3")
            giving.stop()
            outcome = await asyncio.wait_for(given, 10)
            assert 0 == outcome.moved
            stranger.die()
            for peer in peers:
                peer.send(text("4"))
                assert ["1", "2", "3", "4"] == await texts(peer, 4)
            assert nothing_left(giver)

    run(main())


def test_an_async_hook_that_never_ends(run: Run) -> None:
    """It is cancelled when the time is over, and its connection goes on here."""

    async def main() -> None:
        ended: list[str] = []

        async def on_handover(connection: Connection) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        async with two(make_app(on_message=echo, on_handover=on_handover)) as (giver, taker):
            peer = await giver.service.open()
            outcome = await move(giver, taker, seconds=0.2)
            assert (0, {"busy": 1}) == (outcome.moved, dict(outcome.left))
            await until(lambda: ended)
            peer.send(text("x"))
            assert "x" == await peer.message()

    run(main())


def test_a_handshake_that_is_not_over_is_waited_for(run: Run) -> None:
    """Whoever was accepted here moves too, as soon as it is open."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (giver, taker):
            peer = await giver.service.dial()
            await until(lambda: giver.hub.unfinished)
            moving = Move(giver, taker, seconds=30.0)
            await until(lambda: moving.giving._lanes and moving.giving._lanes[0].begun)
            peer.send(head())
            assert "101" in await peer.response()
            outcome = await moving.end()
            assert 1 == outcome.moved
            peer.send(text("x"))
            assert "x" == await peer.message()
            assert 1 == len(taker)

    run(main())


def test_done_counts_what_was_sent(run: Run) -> None:
    """The last word says how many states there were, and nothing else is between."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (giver, _):
            ours, theirs = make_pair()
            stranger = Stranger(giver.hub, theirs, "taker")
            giving = Giving(giver.hub, 5.0)
            given = asyncio.ensure_future(giving.run([ours], [1], counted=False, deadline=giver.hub.loop.time() + 60))
            await stranger.greet()
            assert Done(0, True) == await stranger.hear_until(Done)
            stranger.die()
            assert 0 == (await given).moved

    run(main())
