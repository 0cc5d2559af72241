"""Connections on real sockets: the handshake, messages, both ways of closing, every way of ending, backpressure."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from typing import Any

import pytest
from websockets.frames import Opcode
from websockets.sync.client import connect

from tests.worker.conftest import Run
from tests.worker.service import Peer, Service, closing, frame, head, make_app, make_hub, serving, text, until
from wsworker.errors import Reject
from wsworker.protocol.request import Address
from wsworker.worker import connection as connection_module
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

KIB = 1024


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


class Journal:
    """Callbacks that write down what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.seen: list[Connection] = []

    def on_connect(self, connection: Connection) -> None:
        self.seen.append(connection)
        self.calls.append(("connect",))

    def on_message(self, connection: Connection, data: str | bytes) -> None:
        self.calls.append(("message", data))

    def on_close(self, connection: Connection, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))

    def on_error(self, connection: Connection, exc: Exception) -> None:
        self.calls.append(("error", str(exc)))

    def app(self, **others: Any) -> App:
        names = ("on_connect", "on_message", "on_close", "on_error")
        return make_app(**({name: getattr(self, name) for name in names} | others))

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == "close"]


class Recorder(asyncio.Transport):
    """A transport that writes down what is asked of it; everything written is taken at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.calls: list[str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def abort(self) -> None:
        self.calls.append("abort")

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class Dam(Recorder):
    """A transport of which nothing is taken before open(): then all of it is, also what comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.dammed = True

    def open(self, connection: Connection) -> None:
        self.dammed = False
        connection.resume_writing()

    def get_write_buffer_size(self) -> int:
        return sum(len(data) for data in self.writes) if self.dammed else 0


def recorded(app: App) -> tuple[Connection, Recorder]:
    """Return a connection without a socket, its handshake done and its 101 taken out."""
    transport = Recorder()
    connection = Connection(make_hub(app))
    connection.connection_made(transport)
    connection.data_received(head())
    assert transport.writes.pop().startswith(b"HTTP/1.1 101 ")
    return connection, transport


async def gone(service: Service) -> None:
    """Wait until the hub has no connection left."""
    await until(service.hub.empty.is_set)


# The handshake


def test_a_client_of_another_maker_is_served(run: Run) -> None:
    """The client of websockets connects, is echoed text and binary, and closes cleanly."""

    def talk(url: str) -> tuple[object, ...]:
        with connect(url, compression=None) as client:
            client.send("tom")
            client.send(b"\0" * 70_000)
            answers = client.recv(), client.recv()
        return *answers, client.close_code

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            assert ("tom", b"\0" * 70_000, 1000) == await asyncio.to_thread(talk, service.url)

    run(main())


def test_the_handle_tells_what_the_client_asked_for(run: Run) -> None:
    """In on_connect the connection has its id, request, subprotocol, remote, worker and state, and can send."""
    seen: list[object] = []

    def on_connect(connection: Connection) -> None:
        host = connection.remote.host
        seen.append((connection.id, connection.request.query["room"], connection.subprotocol, host, connection.state))
        seen.append(connection.worker.connections[connection.id] is connection)
        connection.data["greeted"] = connection.send("hello")

    async def main() -> None:
        async with serving(make_app(on_connect=on_connect), subprotocols=("chat",)) as service:
            peer = await service.dial()
            peer.send(head("/?room=1", "Sec-WebSocket-Protocol: other, chat\r\n"))
            assert "Sec-WebSocket-Protocol: chat\r\n" in await peer.response()
            assert "hello" == await peer.message()
            assert {"greeted": True} == service.connection.data
            assert f"<Connection node.boot.1 from {service.connection.remote}, open>" == repr(service.connection)
            assert 1 == service.hub.counters.accepted
        assert [("node.boot.1", "1", "chat", "127.0.0.1", "open"), True] == seen

    run(main())


def test_the_address_is_the_one_that_accept_gave(run: Run) -> None:
    """A client that has reset the connection at once has no address in the transport any more."""

    async def main() -> None:
        connection = Connection(make_hub(make_app()), ("192.0.2.1", 4711))
        connection.connection_made(Recorder())
        connection.data_received(head())
        assert Address("192.0.2.1", 4711) == connection.remote == connection.request.remote

    run(main())


def test_a_client_that_half_closes_in_its_head_lingers_and_goes(run: Run) -> None:
    """It gets a FIN and no answer; a drain that begins meanwhile leaves it alone."""

    async def main() -> None:
        connection, transport = Connection(make_hub(make_app())), Recorder()
        hub = connection._home
        assert isinstance(hub, Hub)
        connection.connection_made(transport)
        connection.data_received(b"GET / HT")
        connection.eof_received()
        hub.drain()
        assert ([], ["write_eof"]) == (transport.writes, transport.calls)
        assert 0 == hub.counters.rejected
        connection.connection_lost(None)
        assert hub.empty.is_set()

    run(main())


def test_messages_that_come_with_the_head_are_delivered_after_on_connect(run: Run) -> None:
    """Frames glued to the handshake wait for the answer, also for that of an async on_handshake."""

    async def on_handshake(request: object) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(on_handshake=on_handshake)) as service:
            await service.open(text("a"), text("b"))
            await until(lambda: len(journal.calls) == 3)
        assert [("connect",), ("message", "a"), ("message", "b")] == journal.calls[:3]

    run(main())


def test_a_handshake_split_at_every_byte_succeeds(run: Run) -> None:
    """A head that comes byte by byte is as good as any."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.dial()
            for byte in head() + text("x"):
                peer.send(bytes([byte]))
                await asyncio.sleep(0)
            assert "101" in await peer.response()
            assert "x" == await peer.message()

    run(main())


def _reject_async(**fields: Any) -> Any:
    async def on_handshake(request: object) -> None:
        raise Reject(**fields)

    return on_handshake


def _reject_sync(**fields: Any) -> Any:
    def on_handshake(request: object) -> None:
        raise Reject(**fields)

    return on_handshake


@pytest.mark.parametrize("reject", [_reject_sync, _reject_async])
def test_reject_is_answered_as_given(run: Run, reject: Any) -> None:
    """Status, headers and body of a Reject reach the client, then FIN; on_close is not called for it."""

    async def main() -> None:
        journal = Journal()
        refuse = reject(status=401, headers={"WWW-Authenticate": "Basic"}, body="who are you?")
        async with serving(journal.app(on_handshake=refuse)) as service:
            peer = await service.dial()
            peer.send(head(), text("too early"))
            response = await peer.response()
            assert response.startswith("HTTP/1.1 401 Unauthorized\r\n")
            assert "WWW-Authenticate: Basic\r\n" in response
            assert "Connection: close\r\n" in response
            assert b"who are you?" == await peer.rest()
            peer.leave()
            await gone(service)
            assert (0, 1, 0) == (
                service.hub.counters.accepted,
                service.hub.counters.rejected,
                service.hub.counters.errors,
            )
        assert [] == journal.calls

    run(main())


def _fails_sync(request: object) -> None:
    raise KeyError("the secret")


async def _fails_async(request: object) -> None:
    raise KeyError("the secret")


async def _is_cancelled(request: object) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "on_handshake", [_fails_sync, _fails_async, _is_cancelled, _reject_sync(headers={"X-Name": "Zoë"})]
)
def test_another_exception_of_on_handshake_is_500_without_its_text(
    run: Run, on_handshake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing; the log has the traceback, from the user's own frame on. A wrong header is one too."""

    async def main() -> None:
        async with serving(make_app(on_handshake=on_handshake)) as service:
            peer = await service.dial()
            peer.send(head())
            assert (await peer.response()).startswith("HTTP/1.1 500 ")
            assert b"Internal server error.\n" == await peer.rest()
            assert 1 == service.hub.counters.errors
            assert 1 == service.hub.counters.rejected

    run(main())
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("on_handshake raised ")
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        (b"nonsense\r\n", 400),
        (b"GET /" + b"x" * 9000, 414),
        (head(more="Origin: https://evil.example\r\n"), 403),
        (head(more="X: " + "y" * 9000 + "\r\n"), 431),
    ],
)
def test_a_refused_request_gets_one_answer_and_fin(run: Run, data: bytes, status: int) -> None:
    """Whatever is refused gets its status, Connection: close and FIN, and a second request behind it nothing."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.dial()
            peer.send(data, head(), head())
            response = await peer.response()
            assert response.startswith(f"HTTP/1.1 {status} ")
            assert "Connection: close\r\n" in response
            assert b"Connection:" not in await peer.rest()
            assert 1 == service.hub.counters.rejected
            peer.leave()
            await gone(service)

    run(main())


def test_a_full_worker_answers_503(run: Run) -> None:
    """A client above worker_connections may come again after 1 to 5 s; once a place is free, the next one gets it."""

    async def main() -> None:
        async with serving(make_app(), worker_connections=1) as service:
            first = await service.open()
            late = await service.dial()
            late.send(head())
            response = await late.response()
            assert response.startswith("HTTP/1.1 503 ")
            assert re.search("Retry-After: [1-5]\r\n", response)
            first.leave()
            await until(lambda: not service.hub.full)
            await service.open()

    run(main())


def test_what_is_sent_after_a_refusal_is_discarded_up_to_a_limit(run: Run) -> None:
    """A refused client that goes on sending is read for a while, so that it gets its answer, and then cut."""

    async def main() -> None:
        async with serving(make_app()) as service:
            peer = await service.dial()
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert "426" in await peer.response()
            peer.send(b"x" * 60 * KIB)
            assert b"" != await peer.rest()
            assert not service.hub.empty.is_set()
            peer.send(b"x" * 10 * KIB)
            await gone(service)

    run(main())


def test_a_refused_client_that_stays_is_cut_after_a_second(run: Run) -> None:
    """Nobody waits for the FIN of a refused client for long."""

    async def main() -> None:
        async with serving(make_app()) as service:
            peer = await service.dial()
            peer.send(b"nonsense\r\n")
            await gone(service)

    run(main())


def test_a_handshake_that_takes_too_long_is_answered_408(run: Run) -> None:
    """open_timeout ends a head that does not come to its end."""

    async def main() -> None:
        async with serving(make_app(), open_timeout=0.2) as service:
            peer = await service.dial()
            peer.send(b"GET / HT")
            assert (await peer.response()).startswith("HTTP/1.1 408 ")

    run(main())


def test_a_client_that_says_nothing_is_dropped_without_an_answer(run: Run) -> None:
    """open_timeout closes a silent connection; nothing is written and nothing counted."""

    async def main() -> None:
        async with serving(make_app(), open_timeout=0.2) as service:
            peer = await service.dial()
            with suppress(ConnectionResetError):
                assert b"" == await peer.rest()
            await gone(service)
            assert 0 == service.hub.counters.rejected

    run(main())


@pytest.mark.parametrize("then", ["passes", "returns", "answers"])
def test_an_async_on_handshake_that_takes_too_long_is_cancelled_and_answered_408(
    run: Run, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    """open_timeout covers the user's part of the handshake too; what it makes of that comes too late for anything."""
    ended: list[str] = []

    async def on_handshake(request: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            if then == "passes":
                raise
            if then == "answers":
                raise Reject(403) from None

    async def main() -> None:
        async with serving(make_app(on_handshake=on_handshake), open_timeout=0.2) as service:
            peer = await service.dial()
            peer.send(head())
            assert (await peer.response()).startswith("HTTP/1.1 408 ")
            await until(lambda: ended)
            assert 1 == service.hub.counters.rejected

    run(main())
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


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


def test_large_frames_are_written_by_themselves(run: Run) -> None:
    """A frame of 16 KiB or more is not copied into a joined write, and the order stays."""

    async def main() -> None:
        connection, transport = recorded(make_app())
        for size in (1, 2, 16 * KIB, 3, 4):
            connection.send(bytes(size))
        await asyncio.sleep(0)
        assert [3 + 4, 4 + 16 * KIB, 5 + 6] == [len(data) for data in transport.writes]

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
    """The counters hold messages and payload bytes of both directions; text counts as UTF-8."""

    async def main() -> None:
        async with serving(make_app(on_message=echo)) as service:
            peer = await service.open()
            peer.send(text("é"), text("abc"), frame(Opcode.BINARY, bytes(5)))
            for _ in range(3):
                await peer.receive()
            counters = service.hub.counters
            assert (3, 10, 3, 10) == (
                counters.messages_in,
                counters.bytes_in,
                counters.messages_out,
                counters.bytes_out,
            )

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


def test_reading_pauses_while_sixteen_messages_wait(run: Run) -> None:
    """One message runs, sixteen wait, and the rest stays undelivered until one is done; none is lost."""
    leave = asyncio.Event()
    done: list[str] = []

    async def on_message(connection: Connection, data: str) -> None:
        await leave.wait()
        done.append(data)

    async def main() -> None:
        hub = make_hub(make_app(on_message=on_message))
        transport = Recorder()
        connection = Connection(hub)
        connection.connection_made(transport)
        connection.data_received(head())
        connection.data_received(b"".join(text(str(number)) for number in range(100)))
        assert 16 == hub.counters.messages_in
        assert ["pause_reading"] == transport.calls
        await asyncio.sleep(0)
        assert 16 == hub.counters.messages_in
        leave.set()
        await until(lambda: len(done) == 100)
        assert [str(number) for number in range(100)] == done
        await until(lambda: transport.calls == ["pause_reading", "resume_reading"])

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
    """A sync callback of more than 100 ms is named with its duration and its place."""
    now = [1000.0]
    monkeypatch.setattr("wsworker.worker.delivery.monotonic", lambda: now[0])

    def on_message(connection: Connection, data: str) -> None:
        now[0] += float(data)

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=on_message))
        connection.data_received(text("0.09") + text("0.8125"))

    run(main())
    assert ["on_message blocked worker 7 for 812 ms (app.py:on_message)"] == [r.getMessage() for r in caplog.records]


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


# Every way of ending


async def _client_closes(peer: Peer, connection: Connection) -> None:
    peer.send(closing(3456, "bye"))
    assert (Opcode.CLOSE, b"\x0d\x80bye") == await peer.receive()
    assert b"" == await peer.rest()
    peer.leave()


async def _client_closes_without_code(peer: Peer, connection: Connection) -> None:
    peer.send(frame(Opcode.CLOSE))
    assert 1005 == await peer.close_code()
    peer.leave()


async def _we_close(peer: Peer, connection: Connection) -> None:
    connection.send("last")
    connection.close(4000, "enough")
    assert "closing" == connection.state
    connection.close(4001)
    assert not connection.send("too late")
    assert "last" == await peer.message()
    assert (Opcode.CLOSE, b"\x0f\xa0enough") == await peer.receive()
    peer.send(text("on its way"), closing(4000, "enough"))
    assert b"" == await peer.rest()
    peer.leave()


async def _both_close_at_once(peer: Peer, connection: Connection) -> None:
    peer.send(closing(1001))
    connection.close(4000)
    assert 4000 == await peer.close_code()
    assert b"" == await peer.rest()
    peer.leave()


async def _nobody_answers_our_close(peer: Peer, connection: Connection) -> None:
    connection.close(4000)
    assert 4000 == await peer.close_code()
    assert b"" == await peer.rest()  # the FIN comes without the answer
    peer.leave()


async def _answer_after_our_fin(peer: Peer, connection: Connection) -> None:
    connection.close(4000)
    await peer.close_code()
    assert b"" == await peer.rest()
    peer.send(closing(4002))
    peer.leave()


async def _client_half_closes(peer: Peer, connection: Connection) -> None:
    peer.writer.write_eof()
    assert b"" == await peer.rest()
    peer.leave()


async def _client_resets(peer: Peer, connection: Connection) -> None:
    peer.writer.transport.abort()


async def _unmasked(peer: Peer, connection: Connection) -> None:
    peer.send(b"\x81\x01a")
    assert 1002 == await peer.close_code()
    assert b"" == await peer.rest()
    peer.leave()


async def _not_utf8(peer: Peer, connection: Connection) -> None:
    peer.send(frame(Opcode.TEXT, b"\xff"))
    assert 1007 == await peer.close_code()
    peer.leave()


async def _too_big(peer: Peer, connection: Connection) -> None:
    peer.send(frame(Opcode.BINARY, bytes(2000)))
    assert 1009 == await peer.close_code()


async def _terminated(peer: Peer, connection: Connection) -> None:
    connection.terminate()
    assert "closed" == connection.state
    assert not connection.send("too late")
    connection.close()
    connection.terminate()
    connection.pause()
    connection.resume()


async def _paused_and_terminated(peer: Peer, connection: Connection) -> None:
    connection.pause()
    connection.terminate()


async def _silent_after_a_ping(peer: Peer, connection: Connection) -> None:
    assert Opcode.PING == (await peer.receive())[0]


PATIENT: dict[str, Any] = {"ping_interval": 0, "max_size": 1000, "close_timeout": 0.3}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("scene", "code", "reason"),
    [
        (_client_closes, 3456, "bye"),
        (_client_closes_without_code, 1005, ""),
        (_we_close, 4000, "enough"),
        (_both_close_at_once, 1001, ""),
        (_nobody_answers_our_close, 1006, "the client"),
        (_answer_after_our_fin, 4002, ""),
        (_client_half_closes, 1006, "the client ended the stream"),
        (_client_resets, 1006, ""),
        (_unmasked, 1006, "we closed with 1002: "),
        (_not_utf8, 1006, "we closed with 1007: "),
        (_too_big, 1006, "we closed with 1009: "),
        (_terminated, 1006, "terminate() was called"),
        (_paused_and_terminated, 1006, "terminate() was called"),
        (_silent_after_a_ping, 1006, "nothing came for 0.25 s after a ping"),
    ],
)
def test_on_close_comes_exactly_once_and_last(
    run: Run, scene: Any, code: int, reason: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a connection ends, on_close is called once, after every message, with the client's code or with 1006."""
    monkeypatch.setattr(connection_module, "ECHO_SECONDS", 0.25)
    monkeypatch.setattr(connection_module, "DISCARD_SECONDS", 0.25)

    async def main() -> None:
        journal = Journal()

        async def on_message(connection: Connection, data: str) -> None:
            await asyncio.sleep(0)
            journal.on_message(connection, data)

        async def on_close(connection: Connection, code: int, reason: str) -> None:
            await asyncio.sleep(0)
            journal.on_close(connection, code, reason)

        slow = {"on_message": on_message, "on_close": on_close} if is_async else {}
        pings = {"ping_interval": 0.25, "ping_timeout": 0.25} if scene is _silent_after_a_ping else {}
        async with serving(journal.app(**slow), **(PATIENT | pings)) as service:
            peer = await service.open(text("a"))
            connection = service.connection
            await until(lambda: ("message", "a") in journal.calls)
            await scene(peer, connection)
            await gone(service)
            assert {} == service.hub.worker.connections
            assert "closed" == connection.state
            assert not connection.send("after the end")
            await connection.drain()
            assert 0 == connection.buffered
        assert [("connect",), ("message", "a")] == journal.calls[:2]
        (end,) = journal.ends
        assert journal.calls[-1][0] == "close"
        assert (code, True) == (end[0], end[1].startswith(reason)), end

    run(main())


def test_async_messages_before_the_close_are_handled_before_on_close(run: Run) -> None:
    """The Close is answered at once, on_close waits for the messages that came before it."""

    async def main() -> None:
        journal = Journal()
        leave = asyncio.Event()

        async def on_message(connection: Connection, data: str) -> None:
            await leave.wait()
            journal.on_message(connection, data)

        async with serving(journal.app(on_message=on_message)) as service:
            peer = await service.open(text("a"), text("b"), closing(1000))
            assert 1000 == await peer.close_code()
            assert b"" == await peer.rest()
            peer.leave()
            assert [("connect",)] == journal.calls
            assert not service.hub.empty.is_set()
            leave.set()
            await gone(service)
        assert [("connect",), ("message", "a"), ("message", "b"), ("close", 1000, "")] == journal.calls

    run(main())


def test_a_code_that_must_not_be_sent_is_refused(run: Run) -> None:
    """close() raises for codes that a browser would misread, whatever the state; the connection stays open."""

    async def main() -> None:
        connection, transport = recorded(make_app())
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000):
            with pytest.raises(ValueError, match=str(code)):
                connection.close(code)
        assert "open" == connection.state
        connection.close(1000, "é" * 100)
        await asyncio.sleep(0)
        assert 2 + 2 + 122 == len(transport.writes[0])
        with pytest.raises(ValueError, match="1005"):
            connection.close(1005)

    run(main())


def test_messages_after_close_are_not_delivered(run: Run) -> None:
    """close() in on_message ends the delivery of what came in the same read."""

    async def main() -> None:
        journal = Journal()

        def on_message(connection: Connection, data: str) -> None:
            journal.on_message(connection, data)
            connection.close()

        async with serving(journal.app(on_message=on_message)) as service:
            peer = await service.open(text("a"), text("b"))
            assert 1000 == await peer.close_code()
            peer.send(text("c"), closing(1000))
            assert b"" == await peer.rest()
        assert [("connect",), ("message", "a"), ("close", 1000, "")] == journal.calls

    run(main())


def test_terminate_in_a_callback_ends_the_delivery(run: Run) -> None:
    """No message is delivered after terminate(), whatever has come with it."""

    async def main() -> None:
        journal = Journal()

        def on_message(connection: Connection, data: str) -> None:
            journal.on_message(connection, data)
            connection.terminate()

        async with serving(journal.app(on_message=on_message)) as service:
            peer = await service.open()
            peer.send(text("a"), text("b"))
            await gone(service)
        assert [("connect",), ("message", "a"), ("close", 1006, "terminate() was called")] == journal.calls

    run(main())


def test_terminate_behind_the_clients_close_drops_no_on_close(run: Run) -> None:
    """An async on_close that waits for its turn is not a message that may be forgotten; its code is the client's."""
    ends: list[int] = []

    async def on_close(connection: Connection, code: int, reason: str) -> None:
        ends.append(code)

    async def main() -> None:
        connection, transport = recorded(make_app(on_close=on_close))
        connection.data_received(closing(3456))
        assert [] == ends
        connection.terminate()
        assert "abort" == transport.calls[-1]
        connection.connection_lost(None)
        await until(lambda: ends)
        await until(connection._home.empty.is_set)  # type: ignore[attr-defined]
        assert [3456] == ends

    run(main())


def test_a_paused_connection_is_closed_like_any_other(run: Run) -> None:
    """close() reads the client's answer although pause() was called."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), **PATIENT) as service:
            peer = await service.open()
            service.connection.pause()
            service.connection.close(4000)
            assert 4000 == await peer.close_code()
            peer.send(closing(4000))
            peer.leave()
            await gone(service)
        assert [(4000, "")] == journal.ends

    run(main())


def test_a_client_that_keeps_the_socket_open_is_cut_after_close_timeout(run: Run) -> None:
    """After both Closes and our FIN the client has close_timeout to leave."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), **PATIENT) as service:
            peer = await service.open(closing(1000))
            assert 1000 == await peer.close_code()
            peer.send(b"x" * 100)  # thrown away
            await gone(service)
        assert [(1000, "")] == journal.ends

    run(main())


# Liveness


def test_a_client_that_answers_pings_stays(run: Run) -> None:
    """Pings carry a counter; any byte is a sign of life."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), ping_interval=0.25, ping_timeout=5) as service:
            peer = await service.open()
            for number in (b"1", b"2", b"3"):
                assert (Opcode.PING, number) == await peer.receive()
                peer.send(frame(Opcode.PONG, number))
            assert "open" == service.connection.state
        assert 1 == len(journal.ends)

    run(main())


def test_the_wait_for_a_pong_stands_still_while_we_do_not_read(run: Run) -> None:
    """A paused connection is pinged and not dropped for its silence; after resume() it is."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), ping_interval=0.25, ping_timeout=0.25) as service:
            peer = await service.open()
            service.connection.pause()
            for _ in range(4):
                assert Opcode.PING == (await peer.receive())[0]
            assert [] == journal.ends
            service.connection.resume()
            await until(lambda: journal.ends)
        assert [(1006, "nothing came for 0.25 s after a ping")] == journal.ends

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
        hub = make_hub(make_app(on_message=echo), send_buffer=1000)
        connection, transport = Connection(hub), Dam()
        connection.connection_made(transport)
        connection.data_received(head())
        transport.writes.clear()
        connection.data_received(message * total)
        for _ in range(5):
            await asyncio.sleep(0)
        assert 1000 <= connection.buffered < 1000 + 2 + 125
        assert "pause_reading" == transport.calls[-1]
        stopped_at = hub.counters.messages_in
        assert stopped_at < total
        transport.open(connection)
        await until(lambda: hub.counters.messages_in == total)
        assert total * (2 + size) == sum(len(data) for data in transport.writes)
        assert 0 == hub.counters.refused
        assert "resume_reading" == transport.calls[-1]

    run(main())


def test_a_flood_of_pings_stops_the_reading(run: Run) -> None:
    """A client that pings and reads no pong cannot fill the memory: past the limit comes at most one turn's pongs."""
    limit = 100 * KIB

    async def main() -> None:
        async with serving(make_app(), send_buffer=limit) as service:
            peer = await service.open(receive_buffer=4 * KIB)
            connection = service.connection
            total = 80_000
            for _ in range(total // 100):
                peer.send(frame(Opcode.PING, bytes(125)) * 100)
            await until(lambda: connection.buffered >= limit)
            assert not connection._intake.reading
            assert connection.buffered < limit + 256 * 127
            for _ in range(total):
                assert (Opcode.PONG, bytes(125)) == await peer.receive()
            await until(lambda: connection._intake.reading)

    run(main())


def test_a_client_that_takes_nothing_for_long_is_cut(run: Run) -> None:
    """A full buffer stops our reading, and with it the wait for pongs; the client has to take something instead."""

    async def main() -> None:
        journal = Journal()
        settings = {"send_buffer": 100 * KIB, "ping_interval": 0.25, "ping_timeout": 0.25}
        async with serving(journal.app(), **settings) as service:
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
