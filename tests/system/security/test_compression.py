"""Rows 9 and 17: messages that inflate to more than they say, and compressed frames that break a rule."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, deflated
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.security.hostile import ECHO, MIB, RSV1, Client, Frame, framed, rss, steadfast

LIMIT = 64 * 1024
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker that takes compressed messages of up to LIMIT bytes and sends them back."""
    settings = {"max_size": LIMIT, "compression": "deflate"}
    with Daemon(ECHO, websocket=settings) as daemon, steadfast(daemon):
        yield daemon


def verdict(daemon: Daemon, *data: bytes) -> int:
    """Return with which code a client that compresses is closed for what it sends."""
    with Client(daemon, OFFER) as client:
        client.send(*data)
        return client.close_code()


# Row 9


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 125, LIMIT + 126, 10 * MIB, 100 * MIB])
def test_row_9_a_bomb(daemon: Daemon, size: int) -> None:
    """A message that inflates to more than max_size is 1009, in one frame and in its last fragment."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(compressor.compress(bytes(min(MIB, size - at))) for at in range(0, size, MIB))
    packed += compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
    # zeros become a thousandth, so the largest of them is over the limit also as it is sent
    assert 1009 == verdict(daemon, framed(BINARY, packed, rsv=RSV1))
    first, last = packed[:2], packed[2:]
    assert 1009 == verdict(daemon, framed(BINARY, first, fin=False, rsv=RSV1) + framed(CONTINUATION, last))


def test_row_9_the_limit_is_what_it_inflates_to(daemon: Daemon) -> None:
    """max_size itself comes in, whole, in fragments, and with an empty fragment behind it."""
    payload = os.urandom(1000) + bytes(LIMIT - 1000)
    packed = deflated(payload)
    with Client(daemon, OFFER) as client:
        client.send(framed(BINARY, packed, rsv=RSV1))
        assert payload == client.message()
        client.send(framed(BINARY, packed[:500], fin=False, rsv=RSV1) + framed(CONTINUATION, packed[500:]))
        assert payload == client.message()
        client.send(framed(BINARY, packed, fin=False, rsv=RSV1) + framed(CONTINUATION))
        assert payload == client.message()
        # not one byte more
        packed = deflated(payload + b"x")
        client.send(framed(BINARY, packed, fin=False, rsv=RSV1) + framed(CONTINUATION))
        assert 1009 == client.close_code()


def test_row_9_many_bombs(make_daemon: MakeDaemon) -> None:
    """A hundred bombs of 10 MiB each take no more memory than a message of max_size."""
    bomb = framed(BINARY, deflated(bytes(10 * MIB)), rsv=RSV1)
    with steadfast(make_daemon(ECHO, websocket={"compression": "deflate"})) as daemon, ExitStack() as stack:
        assert 1009 == verdict(daemon, bomb)
        before = rss(daemon)
        clients = [stack.enter_context(Client(daemon, OFFER)) for _ in range(100)]
        for client in clients:
            client.send(bomb)
        for client in clients:
            assert 1009 == client.close_code()
        assert rss(daemon) - before < 16 * MIB


def test_row_9_no_compression_by_default(make_daemon: MakeDaemon) -> None:
    """Unless it is switched on, an offer is not taken up, and a frame that says it is compressed is 1002."""
    with steadfast(make_daemon(ECHO)) as daemon:
        with Client(daemon, OFFER) as client:
            assert b"" == client.extensions
        assert 1002 == verdict(daemon, framed(TEXT, deflated(b"hello"), rsv=RSV1))


# Row 17


def test_row_17_what_is_agreed_on(daemon: Daemon) -> None:
    """Neither side keeps its context, whatever the client offers; who does not offer it gets none of it."""
    for offer in (OFFER, "Sec-WebSocket-Extensions: permessage-deflate", f"{OFFER}, permessage-deflate"):
        with Client(daemon, offer) as client:
            assert b"permessage-deflate" == client.extensions.split(b";")[0]
            assert b"server_no_context_takeover" in client.extensions
            assert b"client_no_context_takeover" in client.extensions
            client.send(framed(TEXT, deflated(b"hello" * 1000), rsv=RSV1))
            assert b"hello" * 1000 == client.message()
    for offer in ("X-None: 1", "Sec-WebSocket-Extensions: x-webkit-deflate-frame"):
        with Client(daemon, offer) as client:
            assert b"" == client.extensions
            client.send(framed(TEXT, deflated(b"hello"), rsv=RSV1))
            assert 1002 == client.close_code()


@pytest.mark.parametrize(
    ("breach", "code"),
    [
        pytest.param(framed(CONTINUATION, b"ab", rsv=RSV1), 1002, id="a continuation of nothing"),
        pytest.param(
            framed(TEXT, b"ab", fin=False) + framed(CONTINUATION, b"ab", rsv=RSV1),
            1002,
            id="a continuation of a plain one",
        ),
        pytest.param(
            framed(TEXT, deflated(b"ab"), fin=False, rsv=RSV1) + framed(CONTINUATION, b"", rsv=RSV1),
            1002,
            id="a continuation of a compressed one",
        ),
        pytest.param(framed(PING, b"ab", rsv=RSV1), 1002, id="a ping"),
        pytest.param(framed(PONG, b"ab", rsv=RSV1), 1002, id="a pong"),
        pytest.param(framed(CLOSE, b"\x03\xe8", rsv=RSV1), 1002, id="a close"),
        pytest.param(framed(TEXT, deflated(b"ab"), rsv=RSV1 | 2), 1002, id="RSV2 as well"),
        pytest.param(framed(TEXT, deflated(b"ab"), rsv=2), 1002, id="RSV2 alone"),
        pytest.param(framed(TEXT, deflated(b"ab"), rsv=1), 1002, id="RSV3 alone"),
        pytest.param(framed(TEXT, b"\xff" * 100, rsv=RSV1), 1002, id="what does not inflate"),
        pytest.param(framed(TEXT, deflated(b"\xff\xfe"), rsv=RSV1), 1007, id="what inflates to no text"),
    ],
)
def test_row_17_a_compressed_frame_that_breaks_a_rule(daemon: Daemon, breach: bytes, code: int) -> None:
    """Each is the end of its connection, by the right code, after the message before it was answered."""
    with Client(daemon, OFFER) as client:
        client.send(framed(TEXT, deflated(b"good"), rsv=RSV1) + breach)
        assert b"good" == client.message()
        assert code == client.close_code()


def test_row_17_control_frames_within_a_compressed_message(daemon: Daemon) -> None:
    """Pings between compressed fragments are answered at once and do not disturb what is inflated."""
    payload = os.urandom(5000)
    packed = deflated(payload)
    with Client(daemon, OFFER) as client:
        for at in range(0, len(packed), 500):
            rest = at + 500 < len(packed)
            opcode, rsv = (CONTINUATION, 0) if at else (BINARY, RSV1)
            client.send(framed(PING, b"now") + framed(opcode, packed[at : at + 500], fin=not rest, rsv=rsv))
            assert Frame(PONG, b"now") == client.frame()
        assert payload == client.message()


def test_row_17_compressed_and_plain_in_turns(daemon: Daemon) -> None:
    """Any message may be compressed or not, empty ones too, and each stands for itself."""
    with Client(daemon, OFFER) as client:
        for payload in (b"", b"a", b"hello" * 500, b"\xc3\xa9" * 1000):
            client.send(framed(TEXT, payload), framed(TEXT, deflated(payload), rsv=RSV1))
            assert [payload, payload] == [client.message(), client.message()]
            # nothing is known from the message before
            compressor = zlib.compressobj(1, zlib.DEFLATED, -9)
            other = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
            client.send(framed(BINARY, other[:-4], rsv=RSV1))
            assert payload == client.message()
        # RFC 7692 section 7.2.3.4: a final block, and an empty one behind it
        client.send(framed(TEXT, bytes.fromhex("f348cdc9c9070000"), rsv=RSV1))
        assert b"Hello" == client.message()


@pytest.mark.parametrize("seed", range(8))
def test_row_17_rubbish_costs_its_own_connection(daemon: Daemon, seed: int) -> None:
    """Whatever says it is compressed ends in an answer or in one of four codes; the worker goes on."""
    for number in range(20):
        rubbish = bytes((seed * 37 + number * 11 + at * at) % 256 for at in range(number * 3 + 1))
        with Client(daemon, OFFER) as client:
            client.send(framed(BINARY, rubbish, rsv=RSV1) + framed(CLOSE, b"\x0f\xa0"))
            opcode, payload = client.frame()
            if opcode == BINARY:
                opcode, payload = client.frame()
            assert (CLOSE, True) == (opcode, int.from_bytes(payload[:2], "big") in (1002, 1009, 4000))
    assert "on" == daemon.echo("on")
