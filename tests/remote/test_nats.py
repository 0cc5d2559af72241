"""What is said to NATS, and what it answers: a real server, and one that does what no real one would on demand."""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from pathlib import Path

import nats
import pytest

from tests.bus.nats.server import NatsServer
from tests.certificates import Authority
from tests.remote.peer import HOST, Peer, Talk, soon, until
from wsworker.brokers import Server, parse
from wsworker.bus.topics import Key
from wsworker.errors import PublishError, WireError
from wsworker.remote import nats as remote_nats
from wsworker.remote.nats import NatsLink

NEWS = Key("topic", "news")
INFO = b'INFO {"max_payload":1000}\r\n'


@pytest.fixture
def server(tmp_path: Path) -> NatsServer:
    """Return a server that the test starts, and that ends with it."""
    return NatsServer(tmp_path)


def linked(url: str, seconds: float = 10.0) -> NatsLink:
    """Return a connection to the first server of a URL."""
    where = parse(url)
    return NatsLink(where, where.servers[0], soon(seconds))


def publish(url: str, payload: bytes = b"x", prefix: str = "chat:") -> None:
    """Publish over a connection of its own."""
    link = linked(url)
    try:
        link.send(prefix, NEWS, payload)
        assert link.answer() is None
    finally:
        link.stream.close()


def greet(talk: Talk) -> bytes:
    """Let a client in; return what it says of itself."""
    talk.say(INFO)
    connect = talk.hear()
    assert b"PING\r\n" == talk.hear()
    talk.say(b"PONG\r\n")
    return connect


def test_what_others_get(server: NatsServer) -> None:
    """A message is at the subject of its topic byte for byte."""
    payload = struct.pack("!BBBBI", 1, 4, 1, 0, 0) + b"\r\n\0\xff"

    async def main() -> bytes:
        client = await nats.connect(server.url)
        subscription = await client.subscribe("chat.topic.%C3%B6%20%2Ea")
        await client.flush()

        def act() -> None:
            link = linked(server.url)
            link.send("chat:", Key("topic", "ö .a"), payload)
            assert link.answer() is None
            assert link.stays()
            link.stream.close()

        await asyncio.to_thread(act)
        message = await subscription.next_msg(timeout=10)
        await client.close()
        return message.data

    try:
        server.start()
        assert payload == asyncio.run(main())
    finally:
        server.kill()


def test_who_is_let_in(server: NatsServer) -> None:
    """By user and password or by a token; a wrong one is refused, and stands in no sentence."""
    try:
        server.start(authorization={"user": "ada", "password": "gehe/im"})
        publish(f"nats://ada:gehe%2Fim@{server.address}")
        for login in ("", "ada:wrong@", "gehe%2Fim@"):
            with pytest.raises(PublishError, match=r"let this program in \(Authorization Violation\)") as told:
                publish(f"nats://{login}{server.address}")
            assert ("refused", False) == (told.value.code, "gehe" in str(told.value))
        server.kill()
        server.start(authorization={"token": "geheim"})
        publish(f"nats://geheim@{server.address}")
    finally:
        server.kill()


def test_what_is_refused(server: NatsServer) -> None:
    """A subject that the user may not publish to, and what is larger than the server takes."""
    try:
        server.start(max_payload=1000)
        publish(server.url, bytes(1000))
        with pytest.raises(
            PublishError, match="a message of 1001 bytes with its head is over max_payload = 1000"
        ) as told:
            publish(server.url, bytes(1001))
        assert "too_large" == told.value.code
        server.kill()
        user = {"user": "ada", "password": "geheim", "permissions": {"publish": ["chat.>"]}}
        server.start(authorization={"users": [user]})
        url = f"nats://ada:geheim@{server.address}"
        publish(url)
        with pytest.raises(
            PublishError, match="does not take the message: Permissions Violation for Publish to"
        ) as told:
            publish(url, prefix="other:")
        assert "refused" == told.value.code
    finally:
        server.kill()


@pytest.mark.parametrize("first", [False, True])
def test_tls(server: NatsServer, tmp_path: Path, first: bool) -> None:
    """By whichever side it begins; a server that nobody vouches for is told nothing."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    tls = {"cert_file": str(pair.certfile), "key_file": str(pair.keyfile)}
    try:
        server.start(tls={**tls, "handshake_first": first} if first else tls)
        publish(f"tls://{server.address}?ca={authority.file}")
        with pytest.raises(ssl.SSLCertVerificationError):
            linked(f"tls://geheim@{server.address}")
        if not first:
            with pytest.raises(ssl.SSLCertVerificationError):
                linked(f"nats://geheim@{server.address}")
    finally:
        server.kill()


def test_a_server_that_begins_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes half of the time there is, where that is short, to be found out; it is remembered while it is so."""
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    known: set[Server] = set()
    monkeypatch.setattr(remote_nats, "_tls_first", known)
    monkeypatch.setattr(remote_nats, "INFO_SECONDS", 600.0)

    def behind_tls(talk: Talk) -> None:
        greet(talk)
        talk.hear()

    with Peer(behind_tls, context=context) as peer:
        url = f"tls://{HOST}:{peer.port}?ca={authority.file}"
        for talks in (2, 3):
            linked(url, 5).stream.close()
            assert talks == peer.talks
        assert {Server(HOST, peer.port)} == known
    with Peer(lambda talk: talk.say(INFO)) as peer:
        known.add(Server(HOST, peer.port))
        with pytest.raises(ssl.SSLError):
            linked(f"tls://{HOST}:{peer.port}")
        assert Server(HOST, peer.port) not in known


def test_a_server_without_tls(server: NatsServer) -> None:
    """Where the URL asks for it, nothing is told in the clear."""
    try:
        server.start()
        with pytest.raises(WireError, match="it offers no TLS, which tls:// asks for"):
            linked(f"tls://geheim@{server.address}")
    finally:
        server.kill()


def test_a_server_that_asks_whether_anybody_is_here() -> None:
    """It gets its answer before the next message, and while one is waited for."""
    answered = []

    def script(talk: Talk) -> None:
        greet(talk)
        talk.say(b'PING\r\nINFO {"max_payload":7}\r\n')
        answered.append(talk.hear())
        answered.append(talk.hear(b"PING\r\n"))
        talk.say(b"PING\r\nPONG\r\n")
        answered.append(talk.hear())

    with Peer(script) as peer:
        link = linked(f"nats://{HOST}:{peer.port}")
        until(lambda: link.stays() and answered)
        link.send("chat:", NEWS, b"hello")
        assert link.answer() is None
        until(lambda: len(answered) == 3)
        link.stream.close()
    assert [b"PONG\r\n", b"PUB chat.topic.news 5\r\nhello\r\nPING\r\n", b"PONG\r\n"] == answered


@pytest.mark.parametrize("last", [b"", b"-ERR 'Stale Connection'\r\n", b"what\r\n"])
def test_a_connection_that_has_ended(last: bytes) -> None:
    """That is seen before the next message."""

    def script(talk: Talk) -> None:
        greet(talk)
        talk.say(last)

    with Peer(script) as peer:
        link = linked(f"nats://{HOST}:{peer.port}")
        until(lambda: not link.stays())
        link.stream.close()


@pytest.mark.parametrize(
    ("last", "error", "why"),
    [
        (b"", WireError, "it has closed the connection"),
        (b"-ERR 'User Authentication \x1b Expired'\r\n", WireError, r"it says 'User Authentication \x1b Expired'"),
        (b"+WHAT\r\n", WireError, "it does not speak as NATS does: it says '+WHAT'"),
        (b"-ERR 'Maximum Payload Violation'\r\n", PublishError, "Maximum Payload Violation"),
    ],
)
def test_a_server_that_ends_without_an_answer(last: bytes, error: type[Exception], why: str) -> None:
    """Nobody can tell what became of the message, unless it is what the server has refused; its last word is told."""

    def script(talk: Talk) -> None:
        greet(talk)
        talk.hear(b"hello\r\nPING\r\n")
        talk.say(last)

    with Peer(script) as peer:
        link = linked(f"nats://{HOST}:{peer.port}")
        link.send("chat:", NEWS, b"hello")
        with pytest.raises(error, match=re.escape(why)):
            link.answer()
        link.stream.close()


@pytest.mark.parametrize("greeting", [b"", b"+OK\r\n" + b"-ERR unknown\r\n", b"220 mail ESMTP\r\n", b"INFO {}\r\n"])
def test_no_nats(greeting: bytes) -> None:
    """It is said, and nothing is told to whoever that is."""
    with Peer(lambda talk: talk.say(greeting)) as peer, pytest.raises(WireError):
        linked(f"nats://geheim@{HOST}:{peer.port}")
