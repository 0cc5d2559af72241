"""Freezing: all that a connection is comes over, and the one that goes on does what this one would have done."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.certificates import Authority
from tests.worker.clock import arrive, on_the_clock, passes, turns
from tests.worker.conftest import Run
from tests.worker.lines import Line, on_a_line, thawed
from tests.worker.moving import Move, Place, descriptors, move, texts, two
from tests.worker.service import (
    Journal,
    Service,
    closing,
    frame,
    head,
    make_app,
    make_hub,
    serving,
    text,
    until,
)
from wsworker.bus.topics import Origin
from wsworker.worker import freezing
from wsworker.worker.connection import Connection
from wsworker.worker.cork import Cork
from wsworker.worker.intake import MOVING
from wsworker.worker.limbo import Limbo


@pytest.fixture(scope="module")
def sock() -> Any:
    """A socket that is never used."""
    with socket.socket() as one:
        yield one


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


# Every field


def test_what_users_see_is_the_same(run: Run) -> None:
    """Id, request, subprotocol, address, user, topics, data; and those that count them know."""

    async def main() -> None:
        async with two(make_app(on_message=echo), subprotocols=["chat"], max_per_address=1, max_per_user=1) as (
            old,
            new,
        ):
            peer = await old.service.dial()
            peer.send(head("/room?a=1", "Sec-WebSocket-Protocol: chat\r\nCookie: k=v\r\n"))
            assert "101" in await peer.response()
            before = old.connection
            before.user = "zoë"
            before.subscribe("news")
            before.subscribe("wörld")
            before.data["cart"] = [1, 2.5, None, {"x": "y"}]
            facts = before.id, before.request.path, dict(before.request.headers), before.request.cookies
            assert 1 == (await move(old, new)).moved
            after = new.connection
            assert after is not before
            assert facts == (after.id, after.request.path, dict(after.request.headers), after.request.cookies)
            assert before.request.query == after.request.query
            assert ("chat", "zoë") == (after.subprotocol, after.user)
            assert {"news", "wörld"} == after.topics == before.topics
            assert {"cart": [1, 2.5, None, {"x": "y"}]} == after.data
            assert before.remote == after.remote
            assert new.hub.worker is after.worker
            assert (0, 1) == (old.hub.worker.count("news"), new.hub.worker.count("news"))
            assert ((), (after,)) == (old.hub.users.of("zoë"), new.hub.users.of("zoë"))
            # its place at that address
            assert old.hub.visitors.enter("127.0.0.1")
            assert not new.hub.visitors.enter("127.0.0.1")
            old.hub.visitors.leave("127.0.0.1")
            new.hub.worker.send_to("zoë", "a")
            old.hub.worker.publish("wörld", "b")
            assert ["a", "b"] == [await peer.message(), await peer.message()]

    run(main())


def test_its_counters_go_on(run: Run) -> None:
    """What wsworker connections shows of it; the totals of a worker count what happened there."""

    async def main() -> None:
        async with two(make_app(on_message=echo)) as (old, new):
            peer = await old.service.open()
            peer.send(text("four"))
            await peer.message()
            first = old.connection
            facts = first._bytes_in, first._messages_in, first._cork.bytes_out, first._cork.messages_out
            assert (1, 1) == (facts[1], facts[3])
            await move(old, new)
            after = new.connection
            assert facts == (after._bytes_in, after._messages_in, after._cork.bytes_out, after._cork.messages_out)
            assert (0, 0) == (new.hub.counters.bytes_in, new.hub.counters.messages_in)
            peer.send(text("four"))
            await peer.message()
            assert (2, 2) == (after._messages_in, after._cork.messages_out)
            assert (1, 1) == (new.hub.counters.messages_in, new.hub.counters.messages_out)

    run(main())


def test_clocks_and_rates(sock: socket.socket) -> None:
    """Age, the wait for its user, and the buckets, in a worker whose clock has stood still as it was empty."""

    async def main() -> None:
        facts: dict[str, Any] = {"auth_timeout": 30.0, "rate_messages": 5, "rate_control": 3, "ping_interval": 20.0}
        app = make_app(on_message=echo)
        old = make_hub(app, **facts)
        # it is idle, and its wheel stands still
        new = make_hub(app, **facts)
        await passes(1000)
        first, line = await on_a_line(old, sock)
        await passes(20)
        line.protocol.data_received(text("1") + text("2") + text("3") + frame(Opcode.PING) + frame(Opcode.PING))
        line.sent()
        freezing.hold(first)
        await turns()
        frozen = freezing.freeze(first, None)
        assert 20 == pytest.approx(frozen.state.opened_age, abs=1)
        assert frozen.state.quota
        assert frozen.state.control_bucket
        after = thawed(new, frozen)
        wire = Line(sock)
        after.connection_made(wire)
        wire.protocol = after
        await turns()
        assert 20 == pytest.approx(new.loop.time() - after._opened_at, abs=1)
        # five may come at once, of which three have
        after.data_received(text("4") + text("5"))
        assert [b"4", b"5"] == [payload for _, payload in wire.sent()]
        # 30 seconds since it was opened, and not since it came
        await passes(8)
        assert [] == [opcode for opcode, _ in wire.sent() if opcode is Opcode.CLOSE]
        await passes(4)
        assert [(Opcode.CLOSE, (3502).to_bytes(2, "big") + b"not signed in in time")] == [
            each for each in wire.sent() if each[0] is Opcode.CLOSE
        ]
        new.terminate_all()
        await turns()

    on_the_clock(main)


@pytest.mark.parametrize("moves", [False, True])
def test_a_flood_is_not_forgiven(sock: socket.socket, moves: bool) -> None:
    """A rate that is used up is used up behind the move as well."""

    async def main() -> None:
        app = make_app(on_message=echo)
        old, new = (make_hub(app, rate_control=3) for _ in range(2))
        connection, line = await on_a_line(old, sock)
        connection.data_received(frame(Opcode.PING) * 3)
        line.sent()
        if moves:
            freezing.hold(connection)
            connection, line = thawed(new, freezing.freeze(connection, None)), Line(sock)
            line.protocol = connection
            connection.connection_made(line)
            await turns()
        connection.data_received(frame(Opcode.PING))
        assert Opcode.CLOSE in [opcode for opcode, _ in line.sent()]
        connection.terminate()
        await turns()

    on_the_clock(main)


def test_a_paused_connection_stays_paused(run: Run) -> None:
    """What has come and what comes is delivered after resume(), there."""

    async def main() -> None:
        journal = Journal()
        async with two(Journal().app(), journal.app()) as (old, new):
            peer = await old.service.open()
            connection = old.connection
            connection.pause()
            peer.send(text("1"))
            await move(old, new)
            peer.send(text("2"))
            after = new.connection
            await until(lambda: after._holds & MOVING == 0)
            assert [] == journal.calls
            after.resume()
            await until(lambda: len(journal.calls) == 2)
            assert [("message", "1"), ("message", "2")] == journal.calls

    run(main())


def test_a_slow_reader_with_megabytes_behind(run: Run) -> None:
    """The rest of what was begun, the frames behind it, later ones: each byte once; the episode ends there."""

    async def main() -> None:
        calls: list[str] = []
        app = make_app(
            on_message=lambda connection, data: None,
            on_buffer_full=lambda connection: calls.append(f"full {connection.worker is here.hub.worker}"),
            on_buffer_drain=lambda connection: calls.append(f"drain {connection.worker is here.hub.worker}"),
        )
        async with two(app, send_buffer=2**20) as (here, there):
            peer = await here.service.open(receive_buffer=4096)
            connection, count = here.connection, 0
            while connection.send(f"{count:06}" + "x" * 40_000):
                count += 1
            assert 20 < count
            assert ["full True"] == calls
            assert 1 == (await move(here, there)).moved
            after = there.connection
            assert after.buffered > 2**19
            for number in range(count):
                assert f"{number:06}" == (await peer.message())[:6]
            await until(lambda: len(calls) == 2)
            assert ["full True", "drain False"] == calls
            assert after.send("later")
            assert "later" == await peer.message()

    run(main())


def test_what_waits_for_an_async_callback(run: Run) -> None:
    """Messages in line are given to the new code, in order, and those that were read and not handled behind them."""

    async def main() -> None:
        gate = asyncio.Event()

        async def on_message(connection: Connection, data: str) -> None:
            await gate.wait()

        journal = Journal()
        async with two(make_app(on_message=on_message), journal.app()) as (old, new):
            peer = await old.service.open()
            peer.send(*(text(f"{number}") for number in range(50)))
            await until(lambda: old.connection._delivery.waiting == 15)
            moving = asyncio.ensure_future(move(old, new))
            await until(lambda: old.connection._holds & MOVING)
            gate.set()
            assert 1 == (await moving).moved
            await until(lambda: len(journal.calls) == 49)
            assert [("message", f"{number}") for number in range(1, 50)] == journal.calls

    run(main())


def test_a_client_that_goes_and_says_so_meanwhile(run: Run) -> None:
    """Its last messages, its Close and its FIN are the new worker's; a reset too."""

    async def main() -> None:
        old, new = Journal(), Journal()
        async with two(old.app(), new.app()) as (giver, taker):
            says, resets = await giver.service.open(), await giver.service.open()
            for connection in giver.connections:
                freezing.hold(connection)
            says.send(text("last"), closing(4003, "bye"))
            says.writer.write_eof()
            resets.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            resets.writer.transport.abort()
            await asyncio.sleep(0)
            outcome = await move(giver, taker)
            await until(lambda: len(old.ends + new.ends) == 2)
            assert ("message", "last") in new.calls
            assert (4003, "bye") in new.ends
            assert 1006 in [end[0] for end in old.ends + new.ends]
            assert {} == dict(outcome.left)

    run(main())


# What stands against it


def test_hindrances(run: Run, tmp_path: Path) -> None:
    """None for a connection that rests; busy, fragment, tls; and who does not go at all."""

    async def main() -> None:
        gate = asyncio.Event()

        async def on_message(connection: Connection, data: str) -> None:
            await gate.wait()

        async with serving(make_app(on_message=on_message)) as service:
            peer = await service.open()
            connection = service.connection
            assert freezing.may_go(connection)
            assert None is freezing.hindrance(connection)
            peer.send(text("x"))
            await until(lambda: connection._delivery.busy)
            assert "busy" == freezing.hindrance(connection)
            gate.set()
            await until(lambda: not connection._delivery.busy)
            assert None is freezing.hindrance(connection)
            peer.send(frame(Opcode.TEXT, b"x", fin=False))
            await until(lambda: connection._session.in_message)
            assert freezing.may_go(connection)
            assert "fragment" == freezing.hindrance(connection)
            peer.send(frame(Opcode.CONT, b"x"))
            await until(lambda: not connection._session.in_message and not connection._delivery.busy)
            connection.close()
            assert not freezing.may_go(connection)
        certificates = Authority(tmp_path)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*certificates.issue("server"))
        async with serving(make_app(on_message=echo), server_tls=server, client_tls=certificates.client()) as service:
            await service.open()
            assert "tls" == freezing.hindrance(service.connection)
            assert freezing.may_go(service.connection)

    run(main())


def test_tls_stays_and_is_counted(run: Run, tmp_path: Path) -> None:
    """Whoever else is there moves."""
    certificates = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificates.issue("server"))

    async def main() -> None:
        async with serving(make_app(on_message=echo), server_tls=server, client_tls=certificates.client()) as service:
            peer = await service.open()
            new = make_hub(make_app(on_message=echo))
            other = Service(new, None, None)
            outcome = await Move(Place(service, Origin("n", 1)), Place(other, Origin("n", 2))).end()
            assert (0, {"tls": 1}) == (outcome.moved, dict(outcome.left))
            peer.send(text("x"))
            assert "x" == await peer.message()
            await other.close()

    run(main())


def test_data_is_checked() -> None:
    """A dict of what JSON has, and nothing else."""

    async def main() -> None:
        connection, _ = arrive(make_hub(make_app(), log={"level": "debug"}), head())
        freezing.check_data(connection)
        connection.data.update(a=[1])
        freezing.check_data(connection)
        with pytest.raises(TypeError, match=r"connection\.data\[\"b\"\]"):
            connection.data["b"] = object()
        connection.data = {"c": object()}
        with pytest.raises(TypeError, match=r"connection\.data\[\"c\"\]"):
            freezing.check_data(connection)
        connection.data = None  # type: ignore[assignment]
        with pytest.raises(TypeError, match=r"connection\.data is a NoneType, and no dict"):
            freezing.check_data(connection)
        connection.terminate()
        await turns()

    on_the_clock(main)


def test_no_descriptor_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has changed, and it may be tried again."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.open()
            connection = service.connection
            connection.subscribe("news")

            def dup(descriptor: int) -> int:
                raise OSError(24, "Too many open files")

            freezing.hold(connection)
            with monkeypatch.context() as patch:
                patch.setattr(os, "dup", dup)
                with pytest.raises(OSError, match="Too many"):
                    freezing.freeze(connection, None)
            assert "open" == connection._stage
            freezing.let_go(connection)
            peer.send(text("x"))
            assert "x" == await peer.message()
            service.hub.worker.publish("news", "y")
            assert "y" == await peer.message()

    run(main())


@pytest.mark.parametrize("where", ["freeze", "give_back"])
def test_a_bug_leaves_no_descriptor(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The duplicate of the socket is closed, and whoever called is told."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            await service.open()
            connection = service.connection
            freezing.hold(connection)
            frozen = freezing.freeze(connection, None) if where == "give_back" else None
            before = descriptors()

            def wrong(*args: object) -> None:
                raise AssertionError("a bug")

            with monkeypatch.context() as patch:
                patch.setattr(Cork, "put_rest" if frozen else "take_rest", wrong)
                if frozen:
                    with pytest.raises(AssertionError, match="a bug"):
                        await freezing.give_back(frozen)
                    assert str(frozen.descriptor) not in descriptors()
                    connection.connection_lost(None)
                else:
                    with pytest.raises(AssertionError, match="a bug"):
                        freezing.freeze(connection, None)
                    assert before == descriptors()

    run(main())


# Back


def test_what_slips_out_of_the_transport_is_sent_once(run: Run) -> None:
    """With uvloop it writes on for a turn, if the client takes something at that moment: the state knows of it."""

    async def main() -> None:
        async with serving(make_app(on_message=echo), send_buffer=2**24) as service:
            loop = service.hub.loop
            with socket.create_connection(service._address) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, head())
                answer = await asyncio.wait_for(loop.sock_recv(client, 1000), 10)
                assert b" 101 " in answer
                assert answer.endswith(b"\r\n\r\n")
                connection, data = service.connection, os.urandom(8_000_000)
                connection.send(data)
                connection._cork.flush()
                freezing.hold(connection)
                frozen = freezing.freeze(connection, None)
                assert frozen.state.tail
                got = bytearray()

                def drink() -> None:
                    with suppress(BlockingIOError):
                        while part := client.recv(2**20):
                            got.extend(part)

                # before the loop turns, and so before the transport is closed
                drink()
                state = await frozen.settled()
                assert len(state.tail) <= len(frozen.state.tail)
                await freezing.give_back(frozen)
                async with asyncio.timeout(10):
                    while len(got) < len(data) + 10:
                        drink()
                        await asyncio.sleep(0.001)
                assert data == got[10:]

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_give_back(run: Run, is_async: bool) -> None:
    """It is the same object, with what was read, what waits and what is unsent, and what came meanwhile in order."""

    async def main() -> None:
        gate = asyncio.Event()
        journal = Journal()

        async def on_message(connection: Connection, data: str) -> None:
            await gate.wait()
            journal.on_message(connection, data)

        app = journal.app(on_message=on_message) if is_async else journal.app()
        async with serving(app, send_buffer=2**20) as service:
            peer = await service.open(receive_buffer=4096)
            connection, count = service.connection, 20
            connection.subscribe("news")
            if is_async:
                peer.send(*(text(f"{number}") for number in range(50)))
                await until(lambda: connection._delivery.waiting == 15)
            assert all(connection.send(f"{number:06}" + "x" * 40_000) for number in range(count))
            freezing.hold(connection)
            gate.set()
            await until(lambda: freezing.hindrance(connection) is None)
            if not is_async:
                peer.send(*(text(f"{number}") for number in range(50)))
            frozen = freezing.freeze(connection, None)
            assert connection._stage == "moving"
            assert connection.state == "open"
            assert isinstance(connection._transport, Limbo)
            waits = asyncio.ensure_future(connection.drain())
            assert connection.send("mine")
            service.hub.worker.publish("news", "all's")
            connection.unsubscribe("news")
            connection.user = "me"
            connection.data["late"] = True
            await freezing.give_back(frozen)
            assert service.connection is connection
            assert connection._wishes is None
            assert not waits.done()
            for number in range(count):
                assert f"{number:06}" == (await peer.message())[:6]
            assert connection.send("after")
            assert ["mine", "all's", "after"] == await texts(peer, 3)
            await asyncio.wait_for(waits, 30)
            assert ("me", frozenset(), {"late": True}) == (connection.user, connection.topics, connection.data)
            await until(lambda: len(journal.calls) >= 51)
            assert [("message", f"{number}") for number in range(50)] == journal.calls[1:]
            peer.send(text("last"))
            await until(lambda: len(journal.calls) == 52)

    run(main())


def test_it_can_be_discarded(run: Run) -> None:
    """A worker that has thawed it and cannot keep it knows nothing of it any more, and has not touched its socket."""

    async def main() -> None:
        journal = Journal()
        async with two(journal.app(on_message=echo), max_per_address=1, max_per_user=1) as (old, new):
            peer = await old.service.open()
            connection = old.connection
            connection.user = "me"
            connection.subscribe("news")
            freezing.hold(connection)
            frozen = freezing.freeze(connection, None)
            sock = socket.socket(fileno=os.dup(frozen.descriptor))
            copy = freezing.thaw(new.hub, frozen.state, sock)
            assert new.hub.resumed(copy)
            assert 1 == len(new) == new.hub.worker.count("news")
            copy.send("x")
            freezing.discard(copy)
            sock.close()
            assert 0 == len(new) == new.hub.worker.count("news")
            assert () == new.hub.users.of("me")
            assert new.hub.visitors.enter("127.0.0.1")
            assert "closed" == copy.state
            assert new.hub.empty.is_set()
            await freezing.give_back(frozen)
            peer.send(text("y"))
            assert "y" == await peer.message()
            assert [("connect",)] == journal.calls

    run(main())
