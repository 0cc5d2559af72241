"""Row 16: Close frames, of clients and of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.frames import CLOSE, PING, TEXT
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.security.hostile import ECHO, Client, Frame, framed, steadfast
from tests.system.security.test_frames import BAD_TEXTS, verdict

CLOSES = """
def on_message(connection, data):
    code, _, reason = data.partition(" ")
    connection.close(int(code), reason)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker that sends back what it gets, and remembers how connections ended."""
    with Daemon(ECHO) as daemon, steadfast(daemon):
        yield daemon


LEGAL = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
ILLEGAL = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 32767, 65535]


def closes(daemon: Daemon) -> list[list[object]]:
    """Return what the calls of on_close so far were given."""
    found = json.loads(daemon.echo("closed?"))
    assert isinstance(found, list)
    return found


def test_row_16_codes_from_the_client(daemon: Daemon) -> None:
    """A legal code is answered by itself and told to on_close; any other is 1002, and on_close gets 1006."""
    for code in LEGAL:
        with Client(daemon) as client:
            client.send(framed(CLOSE, code.to_bytes(2, "big") + b"why"))
            assert Frame(CLOSE, code.to_bytes(2, "big") + b"why") == client.frame()
            assert b"" == client.rest()
        # its echo may have been counted meanwhile, with 1000
        assert [code, "why"] in closes(daemon)
    for code in ILLEGAL:
        assert 1002 == verdict(daemon, framed(CLOSE, code.to_bytes(2, "big")))
    assert not {code for code, _ in closes(daemon)} & {*ILLEGAL} - {1005, 1006}


def test_row_16_bodies_from_the_client(daemon: Daemon) -> None:
    """Half a code is 1002, a reason that is no text 1007, 123 bytes of it are taken, and no body is 1005."""
    assert 1002 == verdict(daemon, framed(CLOSE, b"\x03"))
    for bad in BAD_TEXTS.values():
        assert verdict(daemon, framed(CLOSE, b"\x03\xe8" + bad)) == 1007
    for reason in (b"r" * 123, "é".encode() * 61):
        with Client(daemon) as client:
            client.send(framed(CLOSE, b"\x03\xe8" + reason))
            assert Frame(CLOSE, b"\x03\xe8" + reason) == client.frame()
        assert [1000, reason.decode()] in closes(daemon)
    assert 1002 == verdict(daemon, framed(CLOSE, b"\x03\xe8" + b"r" * 124))
    assert 1005 == verdict(daemon, framed(CLOSE))
    assert [1005, ""] in closes(daemon)


def test_row_16_nothing_counts_behind_a_close(daemon: Daemon) -> None:
    """Messages and pings behind the client's Close are not looked at."""
    with Client(daemon) as client:
        client.send(framed(CLOSE, b"\x03\xe8") + framed(TEXT, b"late") + framed(PING, b"late") + b"\xff\xff\xff")
        assert 1000 == client.close_code()


def test_row_16_codes_and_reasons_of_the_server(make_daemon: MakeDaemon) -> None:
    """close() sends what may travel, its reason cut to 123 bytes between characters, and never anything else."""
    with steadfast(make_daemon(CLOSES)) as daemon:

        def answer(code: int, reason: str) -> bytes:
            with Client(daemon) as client:
                client.send(framed(TEXT, f"{code} {reason}".encode()))
                return client.closed()

        for code in LEGAL:
            assert code.to_bytes(2, "big") + b"why" == answer(code, "why")
        for code in (-1, *ILLEGAL, 65536, 10**9):
            assert (1011).to_bytes(2, "big") + b"internal error" == answer(code, "why")
        for reason, kept in (("r" * 122, 122), ("r" * 123, 123), ("r" * 124, 123), ("é" * 62, 122), ("😀" * 31, 120)):
            assert b"\x03\xe8" + reason.encode()[:kept] == answer(1000, reason)
