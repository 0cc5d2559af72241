"""The access log: what opened, what closed and by whom, who was refused; one test for each way to end."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.worker.conftest import Run
from tests.worker.service import Peer, Service, closing, frame, head, make_app, serving, text, until
from wsworker.errors import Reject
from wsworker.protocol.request import Address
from wsworker.sections import LogConfig
from wsworker.worker.access import Access, _word
from wsworker.worker.connection import Connection
from wsworker.worker.drain import STOP_CODE, Drain

ON = LogConfig(access=True)
KIB = 1024


@pytest.fixture(autouse=True)
def access_level() -> Iterator[None]:
    """Give the logger back as it was."""
    yield
    logging.getLogger("wsworker.access").setLevel(logging.NOTSET)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the access log."""
    return [record.getMessage() for record in caplog.records if record.name == "wsworker.access"]


def field(line: str, name: str) -> str:
    """Return the value of a field, without quotes; "" if there is none."""
    found = re.search(rf' {name}=(?:"([^"]*)"|(\S+))', line)
    return (found[1] or found[2]) if found else ""


def echo(connection: Connection, data: str | bytes) -> None:
    """Send back what came."""
    connection.send(data)


def test_a_life(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A line when it opens and one when it closes, with the id; of the target the path alone: a query has secrets."""

    def on_connect(connection: Connection) -> None:
        connection.user = "tom"

    async def main() -> None:
        async with serving(make_app(on_connect=on_connect, on_message=echo), log=ON, origins="*") as service:
            peer = await service.dial()
            peer.send(head("/chat?token=secret", 'Origin: https://example.org\r\nUser-Agent: a "b"\r\n'))
            await peer.response()
            name = service.connection.id
            for _ in range(2):
                peer.send(text("hello"))
                assert "hello" == await peer.message()
            peer.send(closing(4001, "see you"))
            assert 4001 == await peer.close_code()
            peer.leave()
            await until(service.hub.empty.is_set)
            opened, closed = (record for record in caplog.records if record.name == "wsworker.access")
            assert re.fullmatch(
                r'open remote=127\.0\.0\.1:\d+ path=/chat origin=https://example\.org agent="a \\x22b\\x22"',
                opened.getMessage(),
            )
            assert re.fullmatch(
                r'close code=4001 by=client reason="see you" age=\d\.\d+ messages_in=2 messages_out=2 '
                r"bytes_in=\d+ bytes_out=\d+ remote=127\.0\.0\.1:\d+ path=/chat user=tom",
                closed.getMessage(),
            )
            facts = vars(closed)
            assert (name, "close", 4001, "client", "see you") == tuple(
                facts[key] for key in ("connection", "event", "code", "by", "reason")
            )
            assert (service.hub.counters.bytes_in, service.hub.counters.bytes_out) == (
                facts["bytes_in"],
                facts["bytes_out"],
            )
            assert vars(opened)["subprotocol"] is None
            assert "secret" not in caplog.text

    run(main())


def test_no_level_keeps_it_back(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """It was asked for by a setting of its own."""

    async def main() -> None:
        async with serving(make_app(), log=LogConfig(access=True, level="error")) as service:
            await service.open()

    caplog.set_level(logging.ERROR)
    caplog.handler.setLevel(logging.NOTSET)
    run(main())
    assert ["open", "close"] == [line.split()[0] for line in told(caplog)]


def test_off(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is told then, not even for debugging."""

    async def main() -> None:
        async with serving(make_app()) as service:
            await service.open()

    caplog.set_level(logging.DEBUG)
    run(main())
    assert [] == told(caplog)


async def _client_closes(service: Service, peer: Peer) -> None:
    peer.send(closing(1000, "bye"))
    await peer.close_code()
    peer.leave()


async def _client_vanishes(service: Service, peer: Peer) -> None:
    peer.leave()


async def _client_resets(service: Service, peer: Peer) -> None:
    peer.writer.transport.abort()


async def _app_closes(service: Service, peer: Peer) -> None:
    service.connection.close(4000, "enough")
    await peer.close_code()
    peer.send(closing(4000))
    peer.leave()


async def _app_closes_and_the_client_does_not_answer(service: Service, peer: Peer) -> None:
    service.connection.close(4000, "enough")
    await peer.close_code()
    peer.leave()


async def _app_terminates(service: Service, peer: Peer) -> None:
    service.connection.terminate()


async def _too_large(service: Service, peer: Peer) -> None:
    peer.send(frame(Opcode.BINARY, b"x" * 2 * KIB))


async def _breaks_a_rule(service: Service, peer: Peer) -> None:
    peer.send(b"\xff\xff")


async def _raises(service: Service, peer: Peer) -> None:
    peer.send(text("raise"))
    await peer.close_code()
    peer.leave()


async def _stops(service: Service, peer: Peer) -> None:
    drain = asyncio.ensure_future(Drain(service.hub, STOP_CODE, "going away").run(0.1, 5))
    await peer.close_code()
    peer.send(closing(STOP_CODE))
    peer.leave()
    await drain


@pytest.mark.parametrize(
    ("end", "code", "by", "reason"),
    [
        (_client_closes, "1000", "client", "bye"),
        (_client_vanishes, "1006", "nobody", "the client ended the stream without a Close"),
        (_client_resets, "1006", "nobody", "the "),
        (_app_closes, "4000", "server", "enough"),
        (_app_closes_and_the_client_does_not_answer, "4000", "server", "enough"),
        (_app_terminates, "1006", "server", "terminate() was called"),
        (_too_large, "1009", "server", "the message is larger than"),
        (_breaks_a_rule, "1002", "server", ""),
        (_raises, "1011", "server", "internal error"),
        (_stops, "1001", "server", "going away"),
    ],
)
def test_who_closed(
    end: Callable[[Service, Peer], Any], code: str, by: str, reason: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The side that ended it, with its code; 1006 where there was no Close."""

    def on_message(connection: Connection, data: str) -> None:
        raise ValueError(data)

    async def main() -> None:
        async with serving(make_app(on_message=on_message), log=ON, max_size=KIB) as service:
            peer = await service.open()
            await end(service, peer)
            await until(lambda: len(told(caplog)) == 2)
            line = told(caplog)[1]
            assert (code, by) == (field(line, "code"), field(line, "by"))
            assert field(line, "reason").startswith(reason)

    run(main())


def test_silence_is_cut_by_us(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Who answers no ping is dropped by the server, and the reason says so."""

    async def main() -> None:
        async with serving(make_app(), log=ON, ping_interval=0.1, ping_timeout=0.1) as service:
            await service.open()
            await until(lambda: len(told(caplog)) == 2)
            line = told(caplog)[1]
            assert ("1006", "server") == (field(line, "code"), field(line, "by"))
            assert "after a ping" in field(line, "reason")

    run(main())


def test_refusals(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each, with the status and the word under which it is counted; what has no head has no path."""

    def on_handshake(request: Any) -> None:
        raise Reject(402)

    async def main() -> None:
        async with serving(make_app(on_handshake=on_handshake), log=ON) as service:
            for request in (head("/a"), head("/b"), head("/c", "Origin: https://evil.example\r\n"), b"\0\r\n\r\n"):
                peer = await service.dial()
                peer.send(request)
                await peer.response()
                peer.leave()
            expected = [("/a", "402", "app"), ("/b", "402", "app"), ("/c", "403", "origin"), ("", "400", "bad_request")]
            assert expected == [
                tuple(field(line, name) for name in ("path", "status", "reason")) for line in told(caplog)
            ]

    run(main())


def test_long_texts_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A client does not decide how long a line is."""
    Access(lambda: 0.0).refused(Address("192.0.2.1", 1), "/" + "x" * 300, 404, "app")
    (record,) = caplog.records
    assert "/" + "x" * 199 + "..." == vars(record)["path"]
    assert f"path=/{'x' * 199}... " in record.getMessage()


@given(st.text())
def test_no_text_makes_up_a_field(value: str) -> None:
    """A value is one word, or stands in quotes that nothing in it can end."""
    word = _word(value)
    assert re.fullmatch(r'[^\s"=]+|"[^"]*"', word)
    assert [word] == word.splitlines()
