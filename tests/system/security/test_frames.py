"""Rows 8 and 13 to 15: frames that are too large or break a rule, and text that is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.security.hostile import ECHO, MIB, Client, Frame, framed, header, open_sockets, rss, steadfast

LIMIT = 1000


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One worker that sends back what it gets, up to LIMIT bytes."""
    with Daemon(ECHO, websocket={"max_size": LIMIT}) as daemon, steadfast(daemon):
        yield daemon


@pytest.fixture(autouse=True)
def _others_go_on(daemon: Daemon) -> Iterator[None]:
    """A client that was there before is served after each test."""
    with Client(daemon) as other:
        yield
        other.send(framed(TEXT, b"still here?"))
        assert b"still here?" == other.message()


def verdict(daemon: Daemon, *data: bytes) -> int:
    """Return with which code a client is closed for what it sends, each piece in a write of its own."""
    with Client(daemon) as client:
        client.send(*data)
        return client.close_code()


# Row 8: sizes


def whole(payload: bytes) -> list[bytes]:
    """One frame in one piece."""
    return [framed(BINARY, payload)]


def split(payload: bytes) -> list[bytes]:
    """One frame, the header by itself, the payload in two pieces."""
    return [header(BINARY, len(payload)), payload[:500], payload[500:]]


def fragmented(payload: bytes) -> list[bytes]:
    """Three frames, of which the last one alone is small."""
    return [
        framed(BINARY, payload[:900], fin=False)
        + framed(CONTINUATION, payload[900:999], fin=False)
        + framed(CONTINUATION, payload[999:])
    ]


def interrupted(payload: bytes) -> list[bytes]:
    """Two frames with a ping between, which counts for nothing."""
    return [framed(BINARY, payload[:900], fin=False) + framed(PING, b"p" * 125) + framed(CONTINUATION, payload[900:])]


@pytest.mark.parametrize("cut", [whole, split, fragmented, interrupted], ids=lambda cut: str(cut.__name__))
def test_row_8_a_message_at_the_limit(daemon: Daemon, cut: object) -> None:
    """A message of max_size is taken, one of a byte more is 1009, whatever it comes in."""
    assert callable(cut)
    for size in (LIMIT - 1, LIMIT):
        payload = os.urandom(size)
        with Client(daemon) as client:
            client.send(*cut(payload))
            if cut is interrupted:
                assert Frame(PONG, b"p" * 125) == client.frame()
            assert payload == client.message()
            # and once more on a connection that is no fresh one
            client.send(*whole(payload))
            assert payload == client.message()
    with Client(daemon) as client:
        pieces = cut(os.urandom(LIMIT + 1))
        # the header is enough for the verdict, so the rest may find a closed door
        client.send(pieces[0])
        if cut is interrupted:
            assert Frame(PONG, b"p" * 125) == client.frame()
        assert 1009 == client.close_code()


@pytest.mark.parametrize("length", [LIMIT + 1, 2**16, 2**31, 2**32 + 1, 2**62, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_row_8_the_declared_length_is_enough(daemon: Daemon, length: int, opcode: int) -> None:
    """A length over the limit is answered at the header: nothing of the payload is waited for or kept."""
    assert 1009 == verdict(daemon, header(opcode, length))
    assert 1009 == verdict(daemon, framed(BINARY, b"x" * 10, fin=False) + header(CONTINUATION, length))
    assert 1009 == verdict(daemon, framed(BINARY, b"x" * LIMIT, fin=False), header(CONTINUATION, 1))


def test_row_8_a_promise_takes_no_memory(make_daemon: MakeDaemon) -> None:
    """300 clients that declare a message of max_size and send little of it cost what they have sent."""
    with steadfast(make_daemon(ECHO)) as daemon, ExitStack() as stack:
        before = rss(daemon)
        for _ in range(300):
            client = stack.enter_context(Client(daemon))
            client.send(header(BINARY, MIB) + b"x" * 1000)
        assert "on" == daemon.echo("on")
        assert rss(daemon) - before < 30 * MIB


@pytest.mark.parametrize("opcode", [BINARY, CONTINUATION], ids=["a frame", "fragments"])
def test_row_8_a_dead_connection_holds_nothing(make_daemon: MakeDaemon, opcode: int) -> None:
    """What had come of a message when its client reset the connection is gone at once, and not some time later."""
    with steadfast(make_daemon(ECHO)) as daemon:
        before = rss(daemon)
        for _ in range(60):
            with Client(daemon) as client:
                if opcode == BINARY:
                    client.send(framed(PING), header(BINARY, MIB), bytes(MIB - 1))
                else:
                    client.send(framed(BINARY, bytes(MIB - 1), fin=False), framed(PING))
                assert Frame(PONG, b"") == client.frame()
                client.reset()
        eventually(lambda: open_sockets(daemon) == 0, "closed sockets")
        assert rss(daemon) - before < 16 * MIB


# Row 13: masks


@pytest.mark.parametrize("earlier", [b"", framed(TEXT, b"good"), framed(BINARY, b"half", fin=False)])
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_row_13_an_unmasked_frame(daemon: Daemon, earlier: bytes, opcode: int) -> None:
    """It is 1002, at its first two bytes, as the first frame and as a later one."""
    for frame in (bytes([0x80 | opcode, 0]), bytes([0x80 | opcode, 100]), bytes([0x80 | opcode, 4]) + b"abcd"):
        with Client(daemon) as client:
            client.send(earlier + frame)
            if earlier.endswith(b"good"):
                assert b"good" == client.message()
            assert 1002 == client.close_code()


def test_row_13_every_mask_is_a_mask(daemon: Daemon) -> None:
    """A mask of zeros is legal, and any other gives what was meant."""
    with Client(daemon) as client:
        for key in (bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", os.urandom(4)):
            payload = "größe".encode()
            masked = bytes(byte ^ key[number % 4] for number, byte in enumerate(payload))
            client.send(header(TEXT, len(payload), key=key) + masked)
            assert payload == client.message()


# Row 14: reserved bits, opcodes, control frames, lengths


def breaches() -> Iterator[tuple[str, bytes]]:
    """Return each way to break a rule by a header alone, and a frame that does."""
    for opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        for rsv in range(1, 8):
            yield f"RSV {rsv} with opcode {opcode}", framed(opcode, b"ab", rsv=rsv)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"opcode {opcode}", framed(opcode, b"ab")
        yield f"opcode {opcode}, no end", framed(opcode, b"ab", fin=False)
    for opcode in (CLOSE, PING, PONG):
        yield f"control frame {opcode} in pieces", framed(opcode, b"\x03\xe8", fin=False)
        yield f"control frame {opcode} too long", header(opcode, 126)
        yield f"control frame {opcode} far too long", header(opcode, 2**40)
        yield f"control frame {opcode} in a long header", bytes([0x80 | opcode, 0xFE, 0, 2]) + bytes(4) + b"\x03\xe8"
    for size in (0, 1, 125):
        yield f"{size} in 16 bits", bytes([0x82, 0xFE]) + size.to_bytes(2, "big") + bytes(4) + bytes(size)
    for size in (0, 125, 126, 999, 65535):
        yield f"{size} in 64 bits", bytes([0x82, 0xFF]) + size.to_bytes(8, "big") + bytes(4)
    yield "a continuation of nothing", framed(CONTINUATION, b"ab")


@pytest.mark.parametrize(
    "earlier",
    [b"", framed(TEXT, b"good"), framed(PING, b"good") + framed(TEXT, b"good")],
    ids=["first", "behind a message", "behind a ping"],
)
def test_row_14_a_header_that_breaks_a_rule(daemon: Daemon, earlier: bytes) -> None:
    """Each breach is 1002, after what was right before it has been answered."""
    for name, frame in breaches():
        with Client(daemon) as client:
            client.send(earlier + frame)
            for _ in range(earlier.count(b"good")):
                assert b"good" == client.frame().payload, name
            assert 1002 == client.close_code(), name


def test_row_14_within_a_message(daemon: Daemon) -> None:
    """The same holds between two fragments, where another data frame is a breach too."""
    half = framed(TEXT, b"half", fin=False)
    for name, frame in breaches():
        if name != "a continuation of nothing":
            assert 1002 == verdict(daemon, half + frame), name
    assert 1002 == verdict(daemon, half + framed(TEXT, b"another"))
    assert 1002 == verdict(daemon, half + framed(BINARY, b"another", fin=False))


def test_row_14_the_top_bit_of_a_length(daemon: Daemon) -> None:
    """A length of 2^63 and more is none: the connection ends at the header."""
    for length in (2**63, 2**64 - 1):
        assert verdict(daemon, bytes([0x82, 0xFF]) + length.to_bytes(8, "big") + bytes(4)) in (1002, 1009)


# Row 15: text

BAD_TEXTS = {
    "a lone continuation": b"ab\x80cd",
    "a lone start": b"ab\xc3(",
    "cut off": b"ab\xe2\x82",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "over the last": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "FE and FF": b"\xfe\xff",
}


@pytest.mark.parametrize("bad", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_row_15_what_is_not_utf_8(daemon: Daemon, bad: bytes) -> None:
    """It is 1007, in one frame and cut at every byte, and the same bytes are taken as a binary message."""
    assert 1007 == verdict(daemon, framed(TEXT, bad))
    for at in range(len(bad) + 1):
        assert 1007 == verdict(daemon, framed(TEXT, bad[:at], fin=False) + framed(CONTINUATION, bad[at:]))
    with Client(daemon) as client:
        client.send(framed(BINARY, bad))
        assert bad == client.message()


@pytest.mark.parametrize("text", ["\x00", "é", "€", "😀", "\U0010ffff", "\ufeff", "\ufffe", "﷐"])
def test_row_15_text_cut_within_a_character(daemon: Daemon, text: str) -> None:
    """A character may be cut between any two bytes, also with a ping and an empty fragment in the gap."""
    payload = text.encode()
    with Client(daemon) as client:
        for at in range(len(payload) + 1):
            client.send(
                framed(TEXT, payload[:at], fin=False)
                + framed(PING, b"now")
                + framed(CONTINUATION, fin=False)
                + framed(CONTINUATION, payload[at:])
            )
            assert [Frame(PONG, b"now"), Frame(TEXT, payload)] == [client.frame(), client.frame()]


def test_row_15_text_fails_before_its_end(daemon: Daemon) -> None:
    """A bad byte in a fragment is answered at once: nobody waits for the rest of the message."""
    assert 1007 == verdict(daemon, framed(TEXT, b"abc\xff", fin=False))
