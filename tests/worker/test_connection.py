"""Connections as users have them: what can be called and when, exceptions, backpressure; partly on real sockets."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.certificates import Authority
from tests.worker.clock import Wire, arrive, opened
from tests.worker.conftest import Run
from tests.worker.service import (
    Journal,
    Recorder,
    Service,
    closing,
    connect,
    frame,
    head,
    make_app,
    make_hub,
    recorded,
    serving,
    text,
    until,
)
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.cork import FRAMES_WAITING
from wsworker.worker.hub import Hub
from wsworker.worker.intake import FRAMES_PER_TURN

KIB = 1024


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    certificates = Authority(tmp_path_factory.mktemp("tls"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificates.issue("server"))
    return server, certificates.client()


def _hub(connection: Connection) -> Hub:
    assert isinstance(connection._home, Hub)
    return connection._home


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


def dammed(app: App, **settings: Any) -> tuple[Connection, Wire]:
    """Return an open connection and its wire, of which nothing is taken before open(); settings: as for make_hub."""
    connection, wire = opened(app, **settings)
    wire.takes = False
    return connection, wire


def reads(wire: Wire) -> bool:
    """Whether the connection reads."""
    switches = [call for call in wire.calls if call in ("pause_reading", "resume_reading")]
    return switches[-1:] != ["pause_reading"]


async def gone(service: Service) -> None:
    """Wait until the hub has no connection left."""
    await until(service.hub.empty.is_set)


# Messages


def test_all_that_one_read_leads_to_leaves_in_one_write(run: Run) -> None:
    """Ten messages in one read are answered by one transport.write, and so is a goodbye behind them."""

    async def main() -> None:
        connection, transport = recorded(make_app(on_message=echo))
        connection.data_received(b"".join(text(str(number)) for number in range(10)) + closing(1000))
        assert 1 == len(transport.writes)
        assert [b"\x81\x01" + str(number).encode() for number in range(10)] == [
            transport.writes[0][3 * number : 3 * number + 3] for number in range(10)
        ]
        assert b"\x88\x02\x03\xe8" == transport.writes[0][30:]
        assert ["write_eof"] == transport.calls

    run(main())


def test_sends_outside_a_read_are_joined_per_tick(run: Run) -> None:
    """What a timer or a task sends within one tick of the loop leaves in one write, at its end."""

    async def main() -> None:
        connection, transport = recorded(make_app())
        assert connection.send("a")
        assert connection.send("b")
        assert [] == transport.writes
        assert 6 == connection.buffered
        await asyncio.sleep(0)
        assert [b"\x81\x01a\x81\x01b"] == transport.writes

    run(main())


def test_the_answer_to_a_good_message_leaves_before_the_verdict_on_a_bad_frame(run: Run) -> None:
    """A message and an unmasked frame in one read: first the echo, then 1002."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.open()
            peer.send(text("good"), b"\x81\x03bad")
            assert "good" == await peer.message()
            assert 1002 == await peer.close_code()
            assert b"" == await peer.rest()

    run(main())


def test_what_can_be_sent(run: Run) -> None:
    """A str is text, bytes-like is binary; other types and lone surrogates raise and send nothing."""

    async def main() -> None:
        connection, transport = recorded(make_app())
        for data in ("é", b"b", bytearray(b"a"), memoryview(b"m")):
            assert connection.send(data)
        for wrong in (None, 1, ["a"]):
            with pytest.raises(TypeError):
                connection.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            connection.send("\ud800")
        await asyncio.sleep(0)
        assert [b"\x81\x02\xc3\xa9\x82\x01b\x82\x01a\x82\x01m"] == transport.writes

    run(main())


def test_messages_and_bytes_are_counted(run: Run) -> None:
    """Messages count when they are handled and written, bytes as they travel: heads, headers and control frames."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            said = [text("é"), text("abc"), frame(Opcode.PING, b"p"), frame(Opcode.BINARY, bytes(5))]
            peer = await service.dial()
            peer.send(head(), *said)
            answer = await peer.response()
            for _ in range(4):
                await peer.receive()
            counters = service.hub.counters
            assert (3, len(head()) + len(b"".join(said))) == (counters.messages_in, counters.bytes_in)
            assert (3, len(answer) + 4 + 5 + 3 + 7) == (counters.messages_out, counters.bytes_out)

    run(main())


def test_pings_are_answered_and_more_than_a_turn_of_events_is_handled(run: Run) -> None:
    """A thousand pings and messages in one write are all answered in order, over several turns."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.open()
            peer.send(b"".join(frame(Opcode.PING, str(n).encode()) + text(str(n)) for n in range(500)))
            for number in range(500):
                assert (Opcode.PONG, str(number).encode()) == await peer.receive()
                assert str(number) == await peer.message()

    run(main())


def test_async_messages_are_handled_in_order_and_one_at_a_time(run: Run) -> None:
    """Messages of one client wait for each other, those of two clients do not."""
    running: set[Connection] = set()
    most = 0

    async def on_message(connection: Connection, data: str) -> None:
        nonlocal most
        assert connection not in running
        running.add(connection)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(connection)
        connection.send(data)

    async def main() -> None:
        async with serving(make_app(on_message=on_message)) as service:
            peers = [await service.open() for _ in range(2)]
            for peer in peers:
                peer.send(b"".join(text(str(number)) for number in range(50)))
            for number in range(50):
                for peer in peers:
                    assert str(number) == await peer.message()
        assert 2 == most

    run(main())


def test_a_sync_callback_waits_for_an_async_one_before_it(run: Run) -> None:
    """on_message does not run while an async on_connect of the same connection does."""
    calls: list[str] = []
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def on_connect(connection: Connection) -> None:
        entered.set()
        await leave.wait()
        calls.append("connect")

    def on_message(connection: Connection, data: str) -> None:
        calls.append(data)

    async def main() -> None:
        async with serving(make_app(on_connect=on_connect, on_message=on_message)) as service:
            await service.open(text("a"))
            await entered.wait()
            await until(lambda: service.hub.counters.messages_in == 1)
            assert [] == calls
            leave.set()
            await until(lambda: len(calls) == 2)
        assert ["connect", "a"] == calls

    run(main())


def test_pause_holds_back_what_has_come_already(run: Run) -> None:
    """pause() in on_message: the message behind it in the same read waits for resume()."""

    async def main() -> None:
        journal = Journal()

        def on_message(connection: Connection, data: str) -> None:
            journal.on_message(connection, data)
            connection.pause()

        connection, transport = recorded(journal.app(on_message=on_message))
        connection.data_received(text("a") + text("b"))
        await asyncio.sleep(0)
        assert [("connect",), ("message", "a")] == journal.calls
        assert ["pause_reading"] == transport.calls
        connection.resume()
        await until(lambda: ("message", "b") in journal.calls)
        assert ["pause_reading"] == transport.calls  # on_message paused again before reading went on
        connection.resume()
        await until(lambda: transport.calls == ["pause_reading", "resume_reading"])

    run(main())


def test_pause_holds_back_async_messages_too(run: Run) -> None:
    """Messages that wait for an async callback keep waiting after pause()."""
    calls: list[str] = []

    async def on_message(connection: Connection, data: str) -> None:
        calls.append(data)
        connection.pause()

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=on_message))
        connection.data_received(text("a") + text("b") + text("c"))
        await until(lambda: calls == ["a"])
        for _ in range(5):
            await asyncio.sleep(0)
        assert ["a"] == calls
        connection.resume()
        await until(lambda: calls == ["a", "b"])

    run(main())


def test_a_slow_callback_is_logged(run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """Sync callbacks that take more than 100 ms of one read are named with their duration and their place."""
    now = [1000.0]
    monkeypatch.setattr("wsworker.worker.delivery.monotonic", lambda: now[0])

    def on_message(connection: Connection, data: str) -> None:
        now[0] += float(data)

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=on_message))
        connection.data_received(text("0.0625") + text("0.75"))

    run(main())
    assert ["on_message blocked worker 2 for 812 ms (app.py:on_message)"] == [r.getMessage() for r in caplog.records]


# Exceptions


def _raises_sync(connection: Connection, data: str) -> None:
    raise RuntimeError(f"no {data}")


async def _raises_async(connection: Connection, data: str) -> None:
    await asyncio.sleep(0)
    raise RuntimeError(f"no {data}")


@pytest.mark.parametrize("on_message", [_raises_sync, _raises_async])
def test_an_exception_goes_to_on_error_and_closes_with_1011(
    run: Run, on_message: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """on_error may still send; then 1011, without the text; messages behind are not handled; on_close is last."""

    async def main() -> None:
        journal = Journal()

        def on_error(connection: Connection, exc: Exception) -> None:
            journal.on_error(connection, exc)
            connection.send("sorry")

        async with serving(journal.app(on_message=on_message, on_error=on_error)) as service:
            peer = await service.open()
            peer.send(text("a"), text("b"))
            assert "sorry" == await peer.message()
            assert (Opcode.CLOSE, b"\x03\xf3internal error") == await peer.receive()
            peer.send(closing(1011))
            assert b"" == await peer.rest()
            peer.leave()
            await gone(service)
            assert 1 == service.hub.counters.errors
        assert [("connect",), ("error", "no a"), ("close", 1011, "")] == journal.calls

    run(main())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "on_message raised RuntimeError (app.py:on_message)" == record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[2] is not None
    assert __file__ == record.exc_info[2].tb_frame.f_code.co_filename


class Odd(BaseException):
    """No Exception."""


def _raises_cancelled(connection: Connection, data: str) -> None:
    raise asyncio.CancelledError


async def _raises_odd(connection: Connection, data: str) -> None:
    raise Odd


async def _raises_generator_exit(connection: Connection, data: str) -> None:
    await asyncio.sleep(0)
    raise GeneratorExit


async def _cancels_itself(connection: Connection, data: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def _cancels_itself_at_its_end(connection: Connection, data: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("on_message", "name"),
    [
        (_raises_cancelled, "CancelledError"),
        (_raises_odd, "Odd"),
        (_raises_generator_exit, "GeneratorExit"),
        (_cancels_itself, "CancelledError"),
        (_cancels_itself_at_its_end, "CancelledError"),
    ],
)
def test_what_is_no_exception_is_treated_like_one(run: Run, on_message: Any, name: str, is_async: bool) -> None:
    """on_error, 1011, on_close once, and the connection leaves the worker."""
    calls: list[object] = []

    def on_error(connection: Connection, exc: BaseException) -> None:
        calls.append(type(exc).__name__)

    def on_close(connection: Connection, code: int, reason: str) -> None:
        calls.append(code)

    async def on_close_later(connection: Connection, code: int, reason: str) -> None:
        await asyncio.sleep(0)
        calls.append(code)

    async def main() -> None:
        app = make_app(on_message=on_message, on_error=on_error, on_close=on_close_later if is_async else on_close)
        async with serving(app) as service:
            peer = await service.open(text("a"), text("b"))
            assert 1011 == await peer.close_code()
            peer.send(closing(1011))
            assert b"" == await peer.rest()
            peer.leave()
            await gone(service)
            assert ({}, 1) == (service.hub.worker.connections, service.hub.counters.errors)
        assert [name, 1011] == calls

    run(main())


def test_an_async_on_error_is_waited_for_before_the_close(run: Run) -> None:
    """Nothing is delivered while on_error runs; 1011 comes after it."""

    async def on_error(connection: Connection, exc: Exception) -> None:
        await asyncio.sleep(0)
        connection.send("sorry")

    async def main() -> None:
        async with serving(make_app(on_message=_raises_sync, on_error=on_error)) as service:
            peer = await service.open()
            peer.send(text("a"), text("b"))
            assert "sorry" == await peer.message()
            assert 1011 == await peer.close_code()
            assert 1 == service.hub.counters.messages_in

    run(main())


def test_a_paused_connection_still_gets_its_on_error(run: Run) -> None:
    """pause() and then an exception: the connection does not hang."""

    async def on_message(connection: Connection, data: str) -> None:
        connection.pause()
        raise RuntimeError

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(on_message=on_message)) as service:
            peer = await service.open(text("a"))
            assert 1011 == await peer.close_code()
        assert "error" in [call[0] for call in journal.calls]

    run(main())


def test_an_exception_in_on_error_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Both exceptions are logged, and the connection is closed all the same."""

    def on_error(connection: Connection, exc: Exception) -> None:
        raise LookupError

    async def main() -> None:
        async with serving(make_app(on_message=_raises_sync, on_error=on_error)) as service:
            peer = await service.open(text("a"))
            assert 1011 == await peer.close_code()
            assert 2 == service.hub.counters.errors

    run(main())
    messages = [record.getMessage() for record in caplog.records]
    assert ["on_message raised RuntimeError (app.py:on_message)", "on_error raised LookupError (app.py:on_error)"] == (
        messages
    )


def test_an_exception_in_on_close_is_reported_and_ends_nothing_else(run: Run) -> None:
    """on_close may raise: on_error hears of it, and the connection leaves the worker."""
    errors: list[str] = []

    def on_close(connection: Connection, code: int, reason: str) -> None:
        raise RuntimeError("in on_close")

    async def main() -> None:
        app = make_app(on_close=on_close, on_error=lambda connection, exc: errors.append(str(exc)))
        async with serving(app) as service:
            peer = await service.open(closing(1000))
            assert 1000 == await peer.close_code()
            peer.leave()
            await gone(service)

    run(main())
    assert ["in on_close"] == errors


def test_without_on_error_the_connection_is_closed_at_once(run: Run) -> None:
    """An app needs no on_error."""

    async def main() -> None:
        async with serving(make_app(on_connect=lambda connection: 1 / 0)) as service:
            peer = await service.open()
            assert 1011 == await peer.close_code()

    run(main())


# Backpressure


def fill(connection: Connection) -> int:
    """Send until the buffer is full; return how many messages were accepted."""
    count = 0
    while connection.send(bytes(15 * KIB)):
        count += 1
        assert count < 10_000
    return count


def test_a_client_that_does_not_read_fills_the_buffer(run: Run) -> None:
    """send() gives False at the limit, both edges are told once, drain() waits, and nothing accepted is lost."""
    limit = 200 * KIB
    edges: list[str] = []

    async def main() -> None:
        app = make_app(
            on_buffer_full=lambda connection: edges.append("full"),
            on_buffer_drain=lambda connection: edges.append("drain"),
        )
        async with serving(app, send_buffer=limit) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            accepted = fill(connection)
            assert limit <= connection.buffered < limit + 16 * KIB
            assert ["full"] == edges
            assert not connection.send("x")
            assert 2 == service.hub.counters.refused
            drained = asyncio.ensure_future(connection.drain())
            await asyncio.sleep(0)
            assert not drained.done()
            for _ in range(accepted):
                assert (Opcode.BINARY, bytes(15 * KIB)) == await peer.receive()
            await until(lambda: edges == ["full", "drain"])
            assert drained.done()
            assert connection.send("again")
            assert "again" == await peer.message()
            fill(connection)
            assert ["full", "drain", "full"] == edges

    run(main())


def test_one_oversize_message_goes_in(run: Run) -> None:
    """A message larger than the whole buffer is accepted while there is any room."""

    async def main() -> None:
        async with serving(make_app(), send_buffer=1000) as service:
            peer = await service.open()
            assert service.connection.send(bytes(500 * KIB))
            assert (Opcode.BINARY, bytes(500 * KIB)) == await peer.receive()

    run(main())


def test_a_burst_to_a_client_that_reads_is_no_full_buffer(run: Run) -> None:
    """What the kernel takes at once never counts: the cork is written before anybody is told that it is full."""
    edges: list[str] = []

    async def main() -> None:
        connection, transport = recorded(make_app(on_buffer_full=lambda connection: edges.append("full")))
        for _ in range(100):
            assert connection.send(bytes(64 * KIB))
        assert [] == edges
        assert 100 > len(transport.writes) > 80

    run(main())


def test_a_burst_into_a_socket_that_takes_it_is_no_full_buffer(run: Run) -> None:
    """Three times the limit in one tick: the kernel is asked before anything is refused, whichever the loop."""
    edges: list[str] = []

    async def main() -> None:
        app = make_app(on_buffer_full=lambda connection: edges.append("full"))
        async with serving(app, send_buffer=100 * KIB) as service:
            peer = await service.open(receive_buffer=1024 * KIB)
            for _ in range(300):
                assert service.connection.send(bytes(KIB))
            for _ in range(300):
                assert (Opcode.BINARY, bytes(KIB)) == await peer.receive()
        assert [] == edges

    run(main())


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_two_slow_rounds_on_a_real_socket(run: Run, policy: str) -> None:
    """What was accepted and not dropped arrives in order and once, also when the client reads in fits and starts."""
    edges: list[str] = []

    async def main() -> None:
        app = make_app(
            on_buffer_full=lambda connection: edges.append("full"),
            on_buffer_drain=lambda connection: edges.append("drain"),
        )
        async with serving(app, send_buffer=300 * KIB, slow_consumer=policy) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            connection, counters = service.connection, service.hub.counters
            heard: list[int] = []
            number = 0
            for _ in range(2):
                while counters.refused + counters.dropped < 50 + len(heard):
                    # of many sizes, the number in front
                    connection.send(str(number) + "." * (number * 7919 % (30 * KIB)))
                    number += 1
                while len(heard) < number - counters.refused - counters.dropped:
                    heard.append(int((await peer.message()).rstrip(".")))
                await until(lambda: edges[-1] == "drain")
            assert sorted(set(heard)) == heard
            assert ["full", "drain"] * 2 == edges
            if policy == "drop_oldest":
                assert number - 1 == heard[-1]
            assert len(heard) == counters.messages_out

    run(main())


def test_an_echo_server_slows_a_client_that_does_not_read(run: Run) -> None:
    """While the buffer is full the client is not read, so nothing is refused and nothing lost."""

    async def main() -> None:
        async with serving(make_app(on_message=echo), send_buffer=100 * KIB) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            total = 3000
            message = frame(Opcode.BINARY, bytes(5000))
            for _ in range(total):
                peer.send(message)
            connection = service.connection
            await until(lambda: connection.buffered >= 100 * KIB)
            stopped_at = service.hub.counters.messages_in
            assert stopped_at < total
            for _ in range(total):
                assert (Opcode.BINARY, bytes(5000)) == await peer.receive()
            assert 0 == service.hub.counters.refused

    run(main())


@pytest.mark.parametrize("size", [0, 1, 125])
def test_an_echo_server_loses_no_small_message(run: Run, size: int) -> None:
    """However small messages are, reading stops before one has no room; all come back once the client reads."""
    total = 5000
    message = frame(Opcode.BINARY, bytes(size))

    async def main() -> None:
        connection, wire = dammed(make_app(on_message=echo), send_buffer=1000)
        connection.data_received(message * total)
        for _ in range(5):
            await asyncio.sleep(0)
        assert 1000 <= connection.buffered < 1000 + 2 + 125
        assert "pause_reading" == wire.calls[-1]
        stopped_at = connection._counters.messages_in
        assert stopped_at < total
        wire.open()
        await until(lambda: connection._counters.messages_in == total)
        assert total * (2 + size) == sum(len(data) for data in wire.writes)
        assert 0 == connection._counters.refused
        assert "resume_reading" == wire.calls[-1]

    run(main())


def test_a_flood_of_pings_stops_the_reading(run: Run) -> None:
    """A client that pings and reads no pong cannot fill the memory; once it reads, it gets all of them."""
    limit = 100 * KIB
    total = 30_000

    async def main() -> None:
        async with serving(make_app(), send_buffer=limit, rate_control=0) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            for _ in range(total // 100):
                peer.send(frame(Opcode.PING, bytes(125)) * 100)
            await until(lambda: connection.buffered >= limit)
            await until(lambda: not connection._reading)
            assert connection.buffered < limit + FRAMES_PER_TURN * 127
            for _ in range(total):
                assert (Opcode.PONG, bytes(125)) == await peer.receive()
            await until(lambda: connection._reading)

    run(main())


@pytest.mark.parametrize("size", [0, 125])
@pytest.mark.parametrize("what", ["ping", "echo", "ping while closing"])
def test_26_mb_of_what_is_answered_and_never_read_leave_memory_flat(run: Run, size: int, what: str) -> None:
    """The client is not read any more long before; what is kept is bounded in bytes and in number."""
    read = 256 * KIB

    async def main() -> None:
        connection, wire = dammed(make_app(on_message=echo), rate_control=0)
        if what == "ping while closing":
            connection.close()
        one = frame(Opcode.TEXT if what == "echo" else Opcode.PING, bytes(size))
        data = one * (read // len(one))
        taken = 0
        # a few ticks in which nothing is read: it has stopped for good
        for _ in range(20):
            while reads(wire) and taken < 26 * 10**6:
                connection.data_received(data)
                taken += len(data)
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert taken < 4 * 10**6
        assert connection.buffered < connection._cork.limit + FRAMES_PER_TURN * 127
        assert len(connection._cork.frames) <= FRAMES_WAITING + 2 * FRAMES_PER_TURN
        assert len(connection._session.unread) <= read
        wire.open()
        await until(lambda: reads(wire))

    run(main())


def test_a_client_that_takes_nothing_for_long_is_cut(run: Run) -> None:
    """A full buffer stops our reading, and with it the wait for pongs; the client has to take something instead."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), send_buffer=100 * KIB, write_timeout=0.25) as service:
            await service.open(receive_buffer=4 * KIB)
            fill(service.connection)
            await gone(service)
        assert [(1006, "the client took nothing for 0.25 s")] == journal.ends

    run(main())


def test_drain_returns_when_the_connection_ends(run: Run) -> None:
    """Nobody waits for a client that is gone."""

    async def main() -> None:
        async with serving(make_app(), send_buffer=100 * KIB) as service:
            await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            fill(connection)
            drained = asyncio.ensure_future(connection.drain())
            await asyncio.sleep(0)
            connection.terminate()
            async with asyncio.timeout(5):
                await drained

    run(main())


def test_an_async_on_buffer_full_takes_its_turn(run: Run) -> None:
    """The async edges are told too, behind the callback that filled the buffer."""
    calls: list[str] = []

    async def on_buffer_full(connection: Connection) -> None:
        calls.append("full")

    async def on_message(connection: Connection, data: str) -> None:
        fill(connection)
        calls.append("message")

    async def main() -> None:
        app = make_app(on_buffer_full=on_buffer_full, on_message=on_message)
        async with serving(app, send_buffer=100 * KIB) as service:
            await service.open(text("go"), receive_buffer=4 * KIB)
            await until(lambda: len(calls) == 2)
        assert ["message", "full"] == calls

    run(main())


def test_an_exception_in_on_buffer_full_closes_the_connection(run: Run) -> None:
    """send() itself does not raise what on_buffer_full raises."""

    async def main() -> None:
        journal = Journal()
        app = journal.app(on_buffer_full=lambda connection: 1 / 0)
        async with serving(app, send_buffer=100 * KIB, close_timeout=0.3) as service:
            await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            fill(connection)
            assert "closing" == connection.state
            await gone(service)
        assert [("connect",), ("error", "division by zero")] == journal.calls[:2]
        assert 1006 == journal.ends[0][0]

    run(main())


def test_the_buffer_is_full_before_anything_is_lost(run: Run) -> None:
    """on_buffer_full comes in the send that reaches the limit, which is accepted; only the next one is refused."""
    calls: list[object] = []

    async def main() -> None:
        app = make_app(
            on_buffer_full=lambda connection: calls.append(("full", connection.buffered)),
            on_buffer_drain=lambda connection: calls.append(("drain", connection.buffered)),
        )
        connection, wire = dammed(app, send_buffer=1000)
        for _ in range(4):
            calls.append(connection.send(bytes(396)))
        assert [True, True, ("full", 1200), True, False] == calls
        assert (1, 1200) == (connection._counters.refused, connection.buffered)
        wire.open()
        assert ("drain", 0) == calls[-1]
        assert 3 * 400 == len(b"".join(wire.writes))
        assert connection.send("x")

    run(main())


def test_one_message_of_any_size_goes_in_below_the_limit(run: Run) -> None:
    """One byte below the limit is room for a message larger than the limit."""

    async def main() -> None:
        connection, _ = dammed(make_app(), send_buffer=1000)
        assert connection.send(bytes(995))
        assert 999 == connection.buffered
        assert connection.send(bytes(5000))
        assert not connection.send("")
        assert 999 + 5004 == connection.buffered

    run(main())


def test_sending_in_the_edges(run: Run) -> None:
    """on_buffer_full may send, which is refused; what on_buffer_drain sends may fill the buffer again, and is told."""
    calls: list[object] = []

    def on_buffer_full(connection: Connection) -> None:
        calls.append(("full", connection.send("x")))

    async def main() -> None:
        def on_buffer_drain(connection: Connection) -> None:
            wire.takes = False
            calls.append(("drain", connection.send(bytes(1000))))

        app = make_app(on_buffer_full=on_buffer_full, on_buffer_drain=on_buffer_drain)
        connection, wire = dammed(app, send_buffer=1000)
        assert connection.send(bytes(1000))
        wire.open()
        assert [("full", False), ("full", False), ("drain", True)] == calls
        assert 1004 == connection.buffered

    run(main())


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_ending_in_on_buffer_full(run: Run, act: str) -> None:
    """A server may have no patience; the send that led to it still says what became of its message."""
    sent: list[bool] = []

    async def main() -> None:
        journal = Journal()
        app = journal.app(on_buffer_full=lambda connection: getattr(connection, act)())
        async with serving(app, send_buffer=100 * KIB, close_timeout=0.25) as service:
            await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            while connection.state == "open":
                sent.append(connection.send(bytes(15 * KIB)))
            assert all(sent)
            assert not connection.send("too late")
            await gone(service)
        assert 1006 == journal.ends[0][0]

    run(main())


def test_drop_newest_refuses_and_stays(run: Run) -> None:
    """The message that meets a full buffer is dropped, sent or published; all that were accepted arrive."""

    async def main() -> None:
        connection, wire = dammed(make_app(), send_buffer=1000, slow_consumer="drop_newest")
        accepted = [number for number in range(10) if connection.send(f"{number}" * 298)]
        assert [0, 1, 2, 3] == accepted
        assert 0 == _hub(connection).deliver("x" * 298, [connection])
        assert (7, 0) == (connection._counters.refused, connection._counters.dropped)
        wire.open()
        expected = [b"\x81\x7e\x01\x2a" + f"{number}".encode() * 298 for number in accepted]
        assert b"".join(expected) == b"".join(wire.writes)
        assert "open" == connection.state

    run(main())


def test_drop_oldest_keeps_the_latest(run: Run) -> None:
    """Messages that are still here give way, oldest first; those in the transport are beyond recall."""
    size = 20 * KIB  # with the header

    async def main() -> None:
        connection, wire = dammed(make_app(), send_buffer=10 * size, slow_consumer="drop_oldest")
        for letter in "abcdefghijklm":
            assert connection.send(letter * (size - 4))
        assert 1 == _hub(connection).deliver("p" * (size - 4), [connection])
        # of the first ten, one went to the transport; the four behind it had to make room
        assert (1, 4, 0) == (len(wire.writes), connection._counters.dropped, connection._counters.refused)
        wire.open()
        assert b"afghijklmp" == b"".join(wire.writes)[4::size]
        assert (10, 4) == (connection._counters.messages_out, connection._counters.dropped)

    run(main())


def test_drop_oldest_with_all_in_the_transport_refuses(run: Run) -> None:
    """There is nothing that could give way."""

    async def main() -> None:
        connection, _ = dammed(make_app(), send_buffer=1000, slow_consumer="drop_oldest")
        assert connection.send(bytes(5000))
        assert not connection.send("x")
        assert (1, 0) == (connection._counters.refused, connection._counters.dropped)

    run(main())


def test_disconnect_discards_the_queue_and_says_3008(run: Run) -> None:
    """What was not written is dropped and counted; the Close is behind what was, and the client may come again."""

    async def main() -> None:
        connection, wire = dammed(make_app(), send_buffer=200 * KIB, slow_consumer="disconnect")
        while connection.send(bytes(20 * KIB)):
            pass
        assert ("closing", 1) == (connection.state, connection._counters.refused)
        written = len(wire.writes)
        assert 10 == written + connection._counters.dropped
        assert connection._counters.dropped > 0
        await asyncio.sleep(0)
        wire.open()
        assert b"\x88\x0a\x0b\xc0too slow" == wire.writes[-1]
        assert written + 1 == len(wire.writes)
        connection.data_received(closing(3008))
        assert 1 == wire.calls.count("write_eof")

    run(main())


def test_disconnect_of_a_client_that_takes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut after close_timeout, on a real socket."""
    monkeypatch.setattr("wsworker.worker.connection.ECHO_SECONDS", 0.25)

    async def main() -> None:
        journal = Journal()
        settings: dict[str, Any] = {"slow_consumer": "disconnect", "send_buffer": 100 * KIB, "close_timeout": 0.25}
        async with serving(journal.app(), **settings) as service:
            await service.open(receive_buffer=4 * KIB)
            fill(service.connection)
            await gone(service)
        assert [(1006, "the client did not answer our Close")] == journal.ends

    run(main())


def test_what_many_wait_for_is_in_memory_once(run: Run) -> None:
    """A message to many clients that take nothing is one object in all their queues."""

    async def main() -> None:
        app = make_app()
        hub = make_hub(app)
        connections = []
        for _ in range(3):
            connection, wire = arrive(hub, head())
            wire.takes = False
            connection.send(bytes(100 * KIB))
            connections.append(connection)
        await asyncio.sleep(0)
        assert 3 == hub.deliver(b"x" * 1000, connections)
        await asyncio.sleep(0)
        assert 1 == len({id(connection._cork.frames[-1]) for connection in connections})

    run(main())


def test_what_was_accepted_before_close_arrives(run: Run) -> None:
    """A client that reads only when we no longer wait for its answer gets all, the Close and the FIN behind it."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), send_buffer=400 * KIB) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            accepted = fill(connection)
            connection.close(4000, "bye")
            await until(lambda: connection._cork.finished)
            for _ in range(accepted):
                assert (Opcode.BINARY, bytes(15 * KIB)) == await peer.receive()
            assert (Opcode.CLOSE, b"\x0f\xa0bye") == await peer.receive()
            assert b"" == await peer.rest()
            peer.send(closing(4000, "bye"))
            peer.leave()
            await gone(service)
            assert (accepted, 0) == (service.hub.counters.messages_out, service.hub.counters.dropped)
        assert [(4000, "bye")] == journal.ends

    run(main())


@pytest.mark.parametrize("bad", [closing(3456, "bye"), b"\x81\x01a"], ids=["closed", "failed"])
def test_what_was_accepted_before_the_clients_end_arrives(run: Run, bad: bytes) -> None:
    """The answer to a Close, and the Close for a broken rule, are behind what was accepted; so is the FIN."""

    async def main() -> None:
        connection, wire = dammed(make_app(), send_buffer=400 * KIB)
        for _ in range(10):
            assert connection.send(bytes(20 * KIB))
        await asyncio.sleep(0)
        assert wire.paused
        connection.data_received(bad)
        assert 10 == connection._counters.messages_out
        assert 10 * (20 * KIB + 4) == b"".join(wire.writes).rindex(b"\x88")
        assert "write_eof" in wire.calls

    run(main())


def test_tls(run: Run, authority: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Messages, a full buffer, the end: with TLS all of it is the same, but that there is no half-close."""
    server_tls, client_tls = authority
    edges: list[str] = []

    async def main() -> None:
        journal = Journal()
        app = journal.app(
            on_message=echo,
            on_buffer_full=lambda connection: edges.append("full"),
            on_buffer_drain=lambda connection: edges.append("drain"),
        )
        async with serving(app, send_buffer=200 * KIB, server_tls=server_tls, client_tls=client_tls) as service:
            peer = await service.open(text("a"), receive_buffer=4 * KIB)
            assert "a" == await peer.message()
            connection = service.connection
            for episode in (1, 2):
                accepted = fill(connection)
                assert ["full", "drain"] * (episode - 1) + ["full"] == edges
                assert not connection._reading
                drained = asyncio.ensure_future(connection.drain())
                for _ in range(accepted):
                    assert (Opcode.BINARY, bytes(15 * KIB)) == await peer.receive()
                await until(lambda: edges[-1] == "drain")
                await drained
                await until(lambda: connection._reading)
            connection.send("last")
            connection.close(4000)
            assert "last" == await peer.message()
            assert 4000 == await peer.close_code()
            peer.send(closing(4000))
            assert b"" == await peer.rest()
            await gone(service)
        assert [(4000, "")] == journal.ends

    run(main())


# What users see


def test_the_public_names(run: Run) -> None:
    """What users may use is what is documented: nothing else is without an underscore, but what asyncio calls."""

    async def main() -> None:
        connection, _ = recorded(make_app())
        names = {name for name in dir(connection) if not name.startswith("_")}
        assert {
            *("send", "drain", "close", "terminate", "pause", "resume", "state", "buffered", "user", "id"),
            *("request", "subprotocol", "remote", "worker", "data", "subscribe", "unsubscribe", "topics"),
        } == names - {name for name in dir(asyncio.Protocol) if not name.startswith("_")}

    run(main())


def test_no_connection_has_a_dictionary_but_data(run: Run) -> None:
    """Ten thousand of them have to fit; a misspelt name is an error and no new member."""

    async def main() -> None:
        connection, _ = recorded(make_app())
        parts = [connection, connection._session, connection._cork, connection._delivery]
        assert [] == [part for part in parts if hasattr(part, "__dict__")]
        with pytest.raises(AttributeError):
            connection.dta = 1  # type: ignore[attr-defined]
        assert {} == connection.data

    run(main())


def test_who_a_connection_is(run: Run) -> None:
    """The user is a name or None; the hub knows whose connections are open, and no longer once they have ended."""

    async def main() -> None:
        connection, _ = recorded(make_app())
        users = connection._home.users
        assert connection.user is None
        connection.user = "tom"
        assert ("tom", (connection,)) == (connection.user, users.of("tom"))
        connection.user = "tom"
        assert (connection,) == users.of("tom")
        connection.user = "ann"
        assert ((), (connection,)) == (users.of("tom"), users.of("ann"))
        for wrong in (1, b"tom", ["tom"]):
            with pytest.raises(TypeError, match="user is a str or None"):
                connection.user = wrong  # type: ignore[assignment]
        assert "ann" == connection.user
        connection.user = None
        assert () == users.of("ann")
        connection.user = "zoe"
        connection.terminate()
        assert ("zoe", ()) == (connection.user, users.of("zoe"))
        connection.user = "eve"
        assert ("eve", ()) == (connection.user, users.of("eve"))
        connection.connection_lost(None)
        assert () == users.of("eve")

    run(main())


def test_topics_have_limits(run: Run) -> None:
    """On their names, as those of users, and on their number; again costs nothing, and a place is free again."""

    async def main() -> None:
        connection, _ = recorded(make_app(), max_topics=2)
        for name in ("", "a" * 256, "é" * 128, "a\nb", "\x7f"):
            for call in (connection.subscribe, connection.unsubscribe):
                with pytest.raises(ValueError, match="a topic has"):
                    call(name)
            with pytest.raises(ValueError, match="a user has"):
                connection.user = name
        with pytest.raises(TypeError, match="a topic is a str, not bytes"):
            connection.subscribe(b"a")  # type: ignore[arg-type]
        assert (frozenset(), None) == (connection.topics, connection.user)
        for name in ("a" * 255, "b", "b"):
            connection.subscribe(name)
        with pytest.raises(ValueError, match=r"a connection has at most 2 topics, see websocket\.max_topics"):
            connection.subscribe("c")
        connection.unsubscribe("b")
        connection.unsubscribe("b")
        connection.subscribe("c")
        assert frozenset({"a" * 255, "c"}) == connection.topics
        assert 0 == connection.worker.count("b")

    run(main())


def test_any_number_of_topics(run: Run) -> None:
    """With 0 there is no limit; at the end all of them are given up."""

    async def main() -> None:
        connection, _ = recorded(make_app(), max_topics=0)
        hub = _hub(connection)
        for number in range(10_000):
            connection.subscribe(str(number))
        assert 10_000 == len(hub.post.subscribers.keys())
        connection.close()
        assert 0 == len(hub.post.subscribers.keys())

    run(main())


def test_too_many_connections_of_a_user(run: Run) -> None:
    """The one that is too many is closed with 3504, after which a client should not come again by itself."""

    async def main() -> None:
        hub = make_hub(make_app(), max_per_user=2)
        transports = [Recorder() for _ in range(3)]
        first, second, third = (connect(hub, transport, head()) for transport in transports)
        for connection in (first, second, third):
            connection.user = "tom"
        assert ["open", "open", "closing"] == [first.state, second.state, third.state]
        await asyncio.sleep(0)
        assert b"\x0d\xb0too many connections" in transports[2].writes[-1]
        assert (first, second) == hub.users.of("tom")
        first.user = "tom"
        assert "open" == first.state
        third.data_received(closing(3504))
        assert (second, first) == hub.users.of("tom")

    run(main())


def test_a_connection_that_is_gone(run: Run) -> None:
    """All may be called, nothing happens; errors of the caller are errors still."""
    answers: list[object] = []

    async def main() -> None:
        app = make_app(on_close=lambda connection, code, reason: answers.append(connection.send("x")))
        async with serving(app) as service:
            peer = await service.open()
            connection = service.connection
            connection.pause()
            fill(connection)
            connection.terminate()
            await gone(service)
            peer.leave()
        assert [False] == answers
        assert ("closed", 0, []) == (connection.state, connection.buffered, connection._cork.frames)
        for data in ("x", b"x", bytearray(b"x"), memoryview(b"x")):
            assert not connection.send(data)
        with pytest.raises(TypeError, match="not int"):
            connection.send(1)  # type: ignore[arg-type]
        await connection.drain()
        connection.pause()
        connection.resume()
        connection.terminate()
        connection.close(1000)
        with pytest.raises(ValueError, match="1005"):
            connection.close(1005)
        assert "closed" == connection.state
        assert connection.remote.host == connection.request.remote.host

    run(main())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_every_kind_of_message_in_every_size(run: Run, size: int) -> None:
    """Whatever the form of the length; views that are strided or of wider items are sent as their bytes."""

    async def main() -> None:
        async with serving(make_app()) as service:
            peer = await service.open()
            payload = bytes(range(256)) * (size // 256 + 1)
            wide = memoryview(payload * 4)[: 4 * size].cast("I") if size else memoryview(b"")
            for data in (payload[:size], bytearray(payload[:size]), memoryview(payload * 2)[: 2 * size : 2], wide):
                assert service.connection.send(data)
                assert (Opcode.BINARY, bytes(data)) == await peer.receive()
            assert service.connection.send("x" * size)
            assert (Opcode.TEXT, b"x" * size) == await peer.receive()

    run(main())


def test_a_str_of_a_class_of_ones_own_is_text(run: Run) -> None:
    """A subclass of str, an enumeration for one, is no less text."""

    class Word(str):
        __slots__ = ()

    async def main() -> None:
        connection, transport = recorded(make_app())
        assert connection.send(Word("é"))
        await asyncio.sleep(0)
        assert [b"\x81\x02\xc3\xa9"] == transport.writes

    run(main())
