"""What a NATS server says, and what is said to it, as bytes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.nats.wire import (
    LINE_BYTES,
    MOST_BYTES,
    Event,
    Info,
    Message,
    Reader,
    Refusal,
    Word,
    connect,
    publish,
    subscribe,
    unsubscribe,
)

INFO = b'INFO {"max_payload": 1048576, "tls_available": true, "connect_urls": ["10.0.0.5:4222"]}\r\n'
STREAM = (
    INFO + b"MSG a.b 7 5\r\n\r\nxyz\r\nMSG a.b 8 reply.to 0\r\n\r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n"
)
EVENTS = [
    Info(1048576, offers_tls=True),
    Message(7, b"\r\nxyz"),
    Message(8, b""),
    Word.PING,
    Word.PONG,
    Word.OK,
    Refusal("Stale Connection"),
]


def read(*parts: bytes) -> tuple[list[Event], str]:
    """Return the events of a stream that comes in these parts, and the fault."""
    reader = Reader()
    events = [event for part in parts for event in reader.feed(part)]
    return events, reader.fault


def test_a_stream() -> None:
    """Every kind of line there is."""
    assert (EVENTS, "") == read(STREAM)


@given(st.lists(st.integers(0, len(STREAM))))
def test_every_split(cuts: list[int]) -> None:
    """It means the same, however it is cut."""
    places = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[begin:end] for begin, end in pairwise(places)]
    assert (EVENTS, "") == read(*parts)


@given(st.lists(st.binary(max_size=40)), st.lists(st.sampled_from([*STREAM.splitlines(keepends=True)])))
def test_anything(noise: list[bytes], lines: list[bytes]) -> None:
    """Whatever comes, nothing is raised, and its cuts make no difference."""
    parts = [part for pair in zip(lines, noise, strict=False) for part in pair]
    assert read(*parts) == read(b"".join(parts))
    assert read(*parts) == read(*(bytes([byte]) for byte in b"".join(parts)))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"HMSG a 1 12 12\r\n", "it says 'HMSG'"),
        (b"\r\n", "it says ''"),
        (b"HTTP/1.1 400 Bad Request\r\n", "it says 'HTTP/1.1'"),
        (b"\xff\r\n", "it says '\ufffd'"),
        (b"MSG a 1\r\n", "a broken MSG"),
        (b"MSG a 1 b c 1\r\n", "a broken MSG"),
        (b"MSG a x 1\r\n", "a broken MSG"),
        (b"MSG a 1 -1\r\n", "a broken MSG"),
        (b"MSG a 1 %d\r\n" % (MOST_BYTES + 1), "a MSG with a number that is too large"),
        (b"MSG a 1 " + b"9" * 5000 + b"\r\n", "a MSG with a number that is too large"),
        (b"MSG a " + b"9" * 5000 + b" 1\r\n", "a MSG with a number that is too large"),
        (b"MSG a 1 1\r\nxyz", "a message does not end where it should"),
        (b"INFO\r\n", "an INFO that is no JSON"),
        (b"INFO \xff\r\n", "an INFO that is no JSON"),
        (b"INFO " + b"[" * 60000 + b"\r\n", "an INFO that is no JSON"),
        (b"INFO []\r\n", "an INFO that is no object"),
        (b"INFO {}\r\n", "an INFO without max_payload"),
        (b'INFO {"max_payload": 0}\r\n', "an INFO without max_payload"),
        (b'INFO {"max_payload": "1"}\r\n', "an INFO without max_payload"),
        (b"x" * (LINE_BYTES + 1) + b"\r\n", f"a line of more than {LINE_BYTES} bytes"),
        (b"x" * (LINE_BYTES + 2), f"a line of more than {LINE_BYTES} bytes"),
    ],
    ids=range(21),
)
def test_faults(line: bytes, fault: str) -> None:
    """What came before one counts, and nothing behind it."""
    assert ([Word.PING], fault) == read(b"PING\r\n" + line, b"PONG\r\n")


def test_a_line_may_be_long() -> None:
    """Exactly as long as it may be, with its end in another piece."""
    line = b"-ERR '" + b"x" * (LINE_BYTES - 7) + b"'"
    assert ([Refusal("x" * (LINE_BYTES - 7))], "") == read(line, b"\r", b"\n")


def test_tls() -> None:
    """Who must speak it can, and it need not be said."""
    assert ([Info(1, True, True)], "") == read(b'INFO {"max_payload":1,"tls_required":true}\r\n')
    assert ([Info(1, False, False)], "") == read(b'INFO {"max_payload":1,"tls_required":false}\r\n')


def test_small_letters() -> None:
    """Words of the protocol are the same in them."""
    assert ([Word.PING, Refusal("x")], "") == read(b"ping\r\n-err x\r\n")


def test_what_is_said() -> None:
    """Commands as the protocol has them; a login never has lines of its own."""
    word, _, facts = connect({"user": 'a\r\n"', "echo": True}).partition(b" ")
    assert (b"CONNECT", True) == (word, facts.endswith(b"}\r\n"))
    assert {"user": 'a\r\n"', "echo": True, "headers": False, "verbose": False}.items() <= json.loads(facts).items()
    assert b"\r\n" not in facts[:-2]
    assert b"SUB a.b 7\r\n" == subscribe("a.b", 7)
    assert b"UNSUB 7\r\n" == unsubscribe(7)
    assert b"PUB a.b 3\r\nx\r\n\r\n" == publish("a.b", b"x\r\n")
