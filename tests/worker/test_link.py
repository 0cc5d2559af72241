"""Links on real sockets: the stages of a connection, both ways of closing and every way of ending."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Opcode
from websockets.sync.client import connect as connect_client

from tests.worker.conftest import Run
from tests.worker.service import (
    Journal,
    Peer,
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
from wsworker.errors import Reject
from wsworker.protocol.request import Address
from wsworker.sections import HttpConfig
from wsworker.speaker import begin_task, connection_id
from wsworker.worker import connection as connection_module
from wsworker.worker import link as link_module
from wsworker.worker.connection import Connection
from wsworker.worker.intake import FRAMES_PER_TURN

KIB = 1024


def echo(connection: Connection, data: str | bytes) -> None:
    """The shortest app."""
    connection.send(data)


async def gone(service: Service) -> None:
    """Wait until the hub has no connection left."""
    await until(service.hub.empty.is_set)


# The handshake


def test_a_client_of_another_maker_is_served(run: Run) -> None:
    """The client of websockets connects, is echoed text and binary, and closes cleanly."""

    def talk(url: str) -> tuple[object, ...]:
        with connect_client(url, compression=None) as client:
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
        connection = connect(make_hub(make_app()), Recorder(), head(), peer=("192.0.2.1", 4711))
        assert Address("192.0.2.1", 4711) == connection.remote == connection.request.remote

    run(main())


def test_a_client_that_half_closes_in_its_head_lingers_and_goes(run: Run) -> None:
    """It gets a FIN and no answer; a drain that begins meanwhile leaves it alone."""

    async def main() -> None:
        hub, transport = make_hub(make_app()), Recorder()
        connection = connect(hub, transport, b"GET / HT")
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


def test_what_is_sent_after_a_refusal_is_discarded_up_to_a_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused client that goes on sending is read for a while, so that it gets its answer, and then cut."""
    monkeypatch.setattr(link_module, "DISCARD_SECONDS", 60.0)

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
        async with serving(make_app(), open_timeout=1.0) as service:
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
        async with serving(make_app(on_handshake=on_handshake), open_timeout=1.0) as service:
            peer = await service.dial()
            peer.send(head())
            assert (await peer.response()).startswith("HTTP/1.1 408 ")
            await until(lambda: ended)
            assert 1 == service.hub.counters.rejected

    run(main())
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


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
    monkeypatch.setattr(link_module, "DISCARD_SECONDS", 0.25)

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
        # who answers may be late; who does not leave is cut by the other time
        patience = {} if scene is _nobody_answers_our_close else {"close_timeout": 10.0}
        async with serving(journal.app(**slow), **(PATIENT | pings | patience)) as service:
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
            # where we have failed it, it is our code that counts
            counted = reason.removeprefix("we closed with ").rstrip(": ") if "closed with" in reason else str(code)
            label = counted if int(counted) < 3000 else f"{counted[0]}xxx"
            assert {label: 1} == {label: count for label, count in service.hub.counters.closed.items() if count}
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


# Pages


@pytest.fixture
def site(tmp_path: Path) -> HttpConfig:
    """The section http of a worker that serves one file of 3 MB."""
    (tmp_path / "large.bin").write_bytes(bytes(3_000_000))
    return HttpConfig(static=str(tmp_path))


GET = b"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("half_closes", [False, True])
def test_a_page_arrives_whole(run: Run, site: HttpConfig, half_closes: bool) -> None:
    """Also at a client that reads slowly, and at one that has nothing more to say and says so."""

    async def main() -> None:
        journal = Journal()
        async with serving(journal.app(), http=site) as service:
            peer = await service.dial(receive_buffer=4 * KIB)
            peer.send(GET)
            if half_closes:
                peer.writer.write_eof()
            assert (await peer.response()).startswith("HTTP/1.1 200 ")
            assert bytes(3_000_000) == await peer.rest()
            peer.leave()
            await gone(service)
        assert [] == journal.calls

    run(main())


def test_a_client_that_leaves_its_page(run: Run, site: HttpConfig) -> None:
    """The file is closed, and nobody is told."""

    async def main() -> None:
        async with serving(make_app(), http=site) as service:
            peer = await service.dial(receive_buffer=4 * KIB)
            peer.send(GET)
            await peer.response()
            (connection,) = service.hub._present
            download = connection._download
            assert download is not None
            peer.writer.transport.abort()
            await gone(service)
            assert "gone" == connection._stage

    run(main())


@pytest.mark.parametrize("half_closes", [False, True])
def test_a_half_close_during_a_page(run: Run, site: HttpConfig, half_closes: bool) -> None:
    """The transport is asked to stay, if it can: with TLS it cannot, and would complain of being asked."""

    class Stuck(Recorder):
        def can_write_eof(self) -> bool:
            return half_closes

    async def main() -> None:
        transport = Stuck()
        connection = connect(make_hub(make_app(), http=site), transport, GET)
        assert "page" == connection._stage
        assert half_closes == connection.eof_received()
        connection.connection_lost(None)

    run(main())


# Stages


def test_a_buffer_that_fills_while_closing_is_no_news(run: Run) -> None:
    """on_buffer_full and on_buffer_drain are for those who may still send."""
    edges: list[str] = []

    class Full(Recorder):
        full = False

        def get_write_buffer_size(self) -> int:
            return 10**6 if self.full else 0

    async def main() -> None:
        app = make_app(
            on_buffer_full=lambda connection: edges.append("full"),
            on_buffer_drain=lambda connection: edges.append("drain"),
        )
        transport = Full()
        connection = connect(make_hub(app, send_buffer=1000, rate_control=0), transport, head())
        connection.close()
        transport.full = True
        connection.data_received(frame(Opcode.PING, bytes(125)) * 10)
        assert connection._cork.choked
        assert "pause_reading" == transport.calls[-1]
        transport.full = False
        connection.resume_writing()
        await asyncio.sleep(0)
        assert "resume_reading" == transport.calls[-1]
        assert [] == edges

    run(main())


def test_the_busiest_connection_comes_last(run: Run) -> None:
    """A drain says goodbye first to those of whom nothing runs, then to those that have taken all."""

    async def on_message(connection: Connection, data: str) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        hub = make_hub(make_app(on_message=on_message))
        idle, sending, busy = (connect(hub, Recorder(), head()) for _ in range(3))
        sending.send("x")
        busy.data_received(text("x"))
        assert [idle, sending, busy] == sorted([busy, idle, sending], key=Connection._business)
        for connection in (idle, sending, busy):
            connection._give_up()
            connection.connection_lost(None)
        await until(hub.empty.is_set)

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("how", ["lost", "lost for a reason", "lost for no reason", "closed", "failed", "terminated"])
def test_on_close_follows_all_that_came_before(run: Run, how: str, is_async: bool) -> None:
    """Messages of the same read are handled first, sync or async; those that terminate() finds waiting are dropped."""
    calls: list[object] = []

    async def later(connection: Connection, data: str) -> None:
        await asyncio.sleep(0)
        calls.append(data)

    async def main() -> None:
        def at_once(connection: Connection, data: str) -> None:
            calls.append(data)

        app = make_app(
            on_message=later if is_async else at_once,
            on_close=lambda connection, code, reason: calls.append((code, reason)),
        )
        connection, _ = recorded(app)
        end = {"closed": closing(3000, "bye"), "failed": b"\x81\x01a"}.get(how, b"")
        connection.data_received(text("a") + text("b") + end)
        if how == "terminated":
            connection.terminate()
        causes = {"lost for a reason": OSError("cable"), "lost for no reason": OSError()}
        connection.connection_lost(causes.get(how))
        await until(connection._home.empty.is_set)  # type: ignore[attr-defined]
        code = 3000 if how == "closed" else 1006
        reason = {
            "lost": "the connection was lost",
            "lost for a reason": "the connection was lost: cable",
            "lost for no reason": "the connection was lost",
            "closed": "bye",
            "failed": "we closed with 1002: frames from a client must be masked",
            "terminated": "terminate() was called",
        }[how]
        messages = [] if how == "terminated" and is_async else ["a", "b"]
        assert [*messages, (code, reason)] == calls

    run(main())


# What came before the end


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_client_said_before_it_left_is_heard(run: Run, is_async: bool) -> None:
    """More messages than may wait, and a Close, in one read, then a reset: all are handled, and the code is its own."""
    heard: list[str | bytes] = []
    ends: list[tuple[int, str]] = []

    async def slow(connection: Connection, data: str | bytes) -> None:
        await asyncio.sleep(0)
        heard.append(data)

    def quick(connection: Connection, data: str | bytes) -> None:
        heard.append(data)

    async def main() -> None:
        app = make_app(
            on_message=slow if is_async else quick, on_close=lambda c, code, reason: ends.append((code, reason))
        )
        connection, _ = recorded(app)
        messages = [str(number) for number in range(600)]
        connection.data_received(b"".join(map(text, messages)) + closing(4001, "bye"))
        connection.connection_lost(ConnectionResetError())
        await until(lambda: ends)
        assert messages == heard
        assert [(4001, "bye")] == ends
        assert connection._home.counters.messages_in == 600

    run(main())


def test_what_is_heard_at_the_end_speaks_for_nobody_else(run: Run) -> None:
    """Another connection's task may have dropped the socket; what the callbacks start and see is not that one's."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: list[str] = []
    speakers: list[str | None] = []
    tasks: list[asyncio.Task[None]] = []

    class Somebody:
        id = "srv-1.1.2"

    async def note() -> None:
        speakers.append(connection_id())

    def on_message(connection: Connection, data: str | bytes) -> None:
        seen.append(tenant.get())
        tasks.append(asyncio.create_task(note()))

    def on_close(connection: Connection, code: int, reason: str) -> None:
        seen.append(tenant.get())
        tenant.set(connection.id)

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=on_message, on_close=on_close))
        connection.data_received(text("a") * (FRAMES_PER_TURN + 1))
        # as asyncio has it where that task's write has failed
        of_its_task = copy_context()
        of_its_task.run(begin_task, Somebody())
        of_its_task.run(tenant.set, "somebody's")
        of_its_task.run(connection.connection_lost, None)
        await asyncio.gather(*tasks)
        assert "somebody's" == of_its_task[tenant]
        assert "" == connection._home.context.get(tenant, "")

    run(main())
    assert [None] * (FRAMES_PER_TURN + 1) == speakers
    assert [""] * (FRAMES_PER_TURN + 2) == seen


def test_what_a_paused_connection_had_not_delivered_is_lost_with_it(run: Run) -> None:
    """The app did not want it; and after an exception nothing is delivered either."""

    def pause(connection: Connection, data: str | bytes) -> None:
        heard.append(data)
        connection.pause()

    def fail(connection: Connection, data: str | bytes) -> None:
        heard.append(data)
        raise ValueError("no")

    async def main() -> None:
        for on_message in (pause, fail):
            heard.clear()
            connection, _ = recorded(make_app(on_message=on_message, on_error=lambda c, exc: None))
            connection.data_received(text("one") + text("two"))
            connection.connection_lost(None)
            await asyncio.sleep(0)
            assert ["one"] == heard

    heard: list[str | bytes] = []
    run(main())


def test_an_exception_behind_the_end_ends_the_delivery(run: Run) -> None:
    """What raises while the rest is delivered is reported, and nothing follows."""
    heard: list[str | bytes] = []

    def fail(connection: Connection, data: str | bytes) -> None:
        heard.append(data)
        if data == "300":
            raise ValueError("no")

    async def main() -> None:
        connection, _ = recorded(make_app(on_message=fail))
        connection.data_received(b"".join(text(str(number)) for number in range(600)))
        assert 256 == len(heard)
        connection.connection_lost(None)
        assert "300" == heard[-1]

    run(main())
