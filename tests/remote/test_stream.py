"""A stream to a server: it connects, reads, writes and ends in time, whoever is there."""

from __future__ import annotations

import select
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.remote.peer import DEADLINE_SECONDS, HOST, Peer, Talk, soon, until
from wsworker.brokers import Server, parse
from wsworker.errors import WireError
from wsworker.remote.stream import Stream, clause, context_of


def echo(talk: Talk) -> None:
    """Say what is said."""
    while line := talk.hear():
        talk.say(line)


def silence(talk: Talk) -> None:
    """Say nothing, and read nothing, until the client goes."""
    # not even the client's end is read, but the peer's own end is seen
    poll = select.poll()
    poll.register(talk.connection, select.POLLRDHUP)
    poll.poll(1000 * DEADLINE_SECONDS)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return an authority that nobody trusts."""
    return Authority(tmp_path)


@pytest.fixture
def safe(authority: Authority) -> Iterator[Peer]:
    """Run a server with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    with Peer(echo, context=context) as peer:
        yield peer


def test_bytes_there_and_back() -> None:
    """What is sent arrives whole, also what is larger than any buffer of the kernel."""
    with Peer(echo) as peer:
        made = Stream(Server("localhost", peer.port), soon(60))
        made.send(b"hello\r\n")
        assert b"hello\r\n" == made.receive()
        assert b"" == made.arrived()
        large = b"x" * 2**22 + b"\r\n"
        made.send(large)
        received = b""
        while len(received) < len(large):
            received += made.receive()
        assert large == received
        made.close()


def test_a_unix_socket(tmp_path: Path) -> None:
    """It is named by its path."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        made = Stream(str(path), soon())
        made.send(b"x")
        accepted, _ = listener.accept()
        assert b"x" == accepted.recv(10)
        accepted.close()
        made.close()


def test_what_has_come_already() -> None:
    """It is read without waiting; the end is told too."""
    with Peer(lambda talk: talk.say(b"bye")) as peer:
        made = Stream(Server(HOST, peer.port), soon())
        seen = []
        with pytest.raises(WireError, match="it has closed the connection"):
            until(lambda: seen.append(made.arrived()))
        made.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Server("nobody.invalid", 1), "nobody.invalid: "),
        (Server("a" * 64 + ".invalid", 1), "a" * 64),
        (Server(HOST, 1), "Connection refused"),
        ("/none/s", "No such file or directory"),
        ("/" + "s" * 200, "AF_UNIX path too long"),
    ],
)
def test_nobody_there(where: Server | str, said: str) -> None:
    """It is told why."""
    with pytest.raises(OSError, match=r".*") as told:
        Stream(where, soon())
    assert said in clause(told.value)


def test_time_is_up() -> None:
    """Connecting, reading and writing each end at the time that is set, though the server lives."""
    with Peer(silence) as peer:
        where = Server(HOST, peer.port)
        for late in (where, Server("localhost", peer.port)):
            with pytest.raises(TimeoutError):
                Stream(late, soon(-1))
        made = Stream(where, soon())
        made.give_up_at = soon(0.05)
        with pytest.raises(TimeoutError):
            made.receive()
        made.give_up_at = soon(0.05)
        with pytest.raises(TimeoutError):
            made.send(bytes(2**26))
        made.close()


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it longer than for anything else."""
    answers = threading.Event()

    def look_up(*_: object, flags: int = 0, **others: object) -> object:
        if not flags:
            answers.wait()
        raise socket.gaierror

    monkeypatch.setattr("wsworker.remote.stream.socket.getaddrinfo", look_up)
    with pytest.raises(TimeoutError) as told:
        Stream(Server("name", 1), soon(0.05))
    answers.set()
    assert "no answer in time" == clause(told.value)


def test_tls(authority: Authority, safe: Peer) -> None:
    """The server proves who it is to whom the URL says."""
    url = parse(f"rediss://{HOST}:{safe.port}?ca={authority.file}")
    made = Stream(url.servers[0], soon())
    made.secure(context_of(url), HOST)
    made.send(b"hello\r\n")
    assert b"hello\r\n" == made.receive()
    assert b"" == made.arrived()
    made.close()


def test_a_server_that_is_not_trusted(safe: Peer) -> None:
    """That is the end of it."""
    url = parse(f"rediss://{HOST}:{safe.port}")
    made = Stream(url.servers[0], soon())
    with pytest.raises(ssl.SSLCertVerificationError) as told:
        made.secure(context_of(url), HOST)
    made.close()
    assert "its certificate is not trusted: unable to get local issuer certificate" == clause(told.value)


def test_a_server_without_tls() -> None:
    """It is said that TLS is the matter."""
    with Peer(lambda talk: talk.say(b"-ERR what is that\r\n")) as peer:
        made = Stream(Server(HOST, peer.port), soon())
        with pytest.raises(ssl.SSLError) as told:
            made.secure(context_of(parse("rediss://h")), HOST)
        made.close()
    assert clause(told.value).startswith("TLS: ")


def test_files_that_tls_cannot_use(authority: Authority, tmp_path: Path) -> None:
    """The one that is wrong is named, and nobody is asked for a pass phrase at the terminal."""
    pair = authority.issue("client")
    for query, said in (
        (f"ca={tmp_path}/none.pem", f"{tmp_path}/none.pem: No such file or directory"),
        (f"ca={pair.keyfile}", f"{pair.keyfile}: "),
        (f"ca={authority.file}&cert={tmp_path}/none.crt&key={pair.keyfile}", f"{tmp_path}/none.crt or its key: "),
        (f"cert={authority.file}&key={pair.keyfile}", f"{authority.file} or its key: "),
    ):
        with pytest.raises(OSError, match=r".*") as told:
            context_of(parse(f"rediss://h?{query}"))
        assert clause(told.value).startswith(said)
    context_of(parse(f"rediss://h?ca={authority.file}&cert={pair.certfile}&key={pair.keyfile}"))


@pytest.mark.parametrize("tls", [False, True])
def test_no_signal(tls: bool, authority: Authority) -> None:
    """A server that has gone raises an error, whatever SIGPIPE means in this program, and no signal."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("server"))
    raised: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: raised.append(number))
    try:
        with Peer(lambda talk: None, context=context if tls else None) as peer:
            made = Stream(Server(HOST, peer.port), soon())
            if tls:
                made.secure(context_of(parse(f"rediss://h?ca={authority.file}")), HOST)
            with pytest.raises(OSError, match=r"Broken pipe|reset|EOF|closed"):
                made.send(bytes(2**26))
            made.close()
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert [] == raised


def test_letting_go_leaves_the_connection() -> None:
    """A forked child closes its descriptor, and the parent's connection goes on."""
    with Peer(echo) as peer:
        made = Stream(Server(HOST, peer.port), soon())
        copy = made._socket.dup()
        made.let_go()
        copy.sendall(b"x\r\n")
        assert b"x\r\n" == copy.recv(10)
        copy.close()
