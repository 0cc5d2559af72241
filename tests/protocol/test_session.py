"""Session: the verdicts of RFC 6455, in both lanes; what is sent, and when; and that nothing comes after the end.

That both lanes, and all ways to cut the bytes, come to the same is test_lanes.py.
"""

from __future__ import annotations

import logging
import re
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from tests.protocol.peer import (
    FIN,
    HEAD,
    LIMIT,
    RSV1,
    Peer,
    both_lanes,
    close_frame,
    in_fragments,
    masked,
    offering,
    opened,
    raw,
    split,
    squeezed,
)
from wsworker.errors import InternalError
from wsworker.protocol.events import Closed, Event, Handled, Handshake, Ping, Pong, Refused
from wsworker.protocol.fragments import most_fragments
from wsworker.protocol.frames import TOO_LARGE, build, is_close_code
from wsworker.protocol.session import Session, StateName

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
LARGE = Closed(1009, TOO_LARGE, failed=True)


def outcome(data: bytes, cuts: Iterable[int] = (), max_size: int = LIMIT) -> tuple[list[Event], list[bytes], str]:
    """Return what happens if data comes cut at these places and the stream then ends; a Date is left out."""
    peer = Peer(max_size)
    peer.feed(*split(data, cuts))
    before = peer.session.state
    peer.eof()
    written = [re.sub(rb"Date: [^\r]*\r\n", b"", item) for item in peer.output]
    return peer.events, written, f"{before}, {peer.session.state}"


def taken(session: Session) -> list[bytes]:
    """Take what is in the output."""
    output = session.output[:]
    session.output.clear()
    return output


# --- handshake ---


def test_handshake() -> None:
    """The life of a connection, seen by its states."""
    session = Session(LIMIT)
    assert (session.state, session.head_started) == ("connecting", False)
    session.receive(HEAD[:5])
    assert session.next_event() is None
    assert (session.state, session.head_started) == ("connecting", True)
    session.receive(b"?" + HEAD[5:], 1)
    event = session.next_event()
    assert isinstance(event, Handshake)
    assert event.request.path == "/chat"
    assert (session.state, session.head_started) == ("connecting", True)
    assert not session.lane
    assert session.accept("chat", {"Set-Cookie": "a=1"})
    assert (session.state, session.head_started, session.lane) == ("open", True, True)
    [response] = taken(session)
    assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\n\r\n" in response
    session.close()
    assert (session.state, session.lane) == ("closing", False)
    session.receive_eof()
    assert isinstance(session.next_event(), Closed)
    assert (session.state, session.next_event()) == ("closed", None)
    assert {"connecting", "open", "closing", "closed"} == set(get_args(StateName))


def test_head_started_by_a_whole_line() -> None:
    """A head whose lines so far were all taken has started too."""
    session = Session(LIMIT)
    session.receive(b"GET / HTTP/1.1\r\n")
    assert session.next_event() is None
    assert session.head_started


def test_nothing_is_read_before_the_answer() -> None:
    """What comes with the head waits for the 101: no pong can leave before it."""
    session = Session(LIMIT)
    session.receive(HEAD + masked(Opcode.PING, b"1") + masked(TEXT, b"a"))
    session.receive_eof()
    assert isinstance(session.next_event(), Handshake)
    assert session.next_event() is None
    assert (session.next_run(9), taken(session)) == ([], [])
    assert session.accept(None)
    assert [session.next_event() for _ in range(4)] == [
        Ping(b"1"),
        "a",
        Closed(1006, "the client ended the stream without a Close"),
        None,
    ]
    [response, pong] = taken(session)
    assert response.startswith(b"HTTP/1.1 101 ")
    assert (pong, session.finished) == (b"\x8a\x011", True)


def test_reject() -> None:
    """A refused client gets a whole response and the half-close; what it sends is thrown away."""
    session = Session(LIMIT)
    session.receive(HEAD + masked(Opcode.PING, b""))
    assert isinstance(session.next_event(), Handshake)
    session.reject(403, {"X-Why": "policy"}, "no\n")
    [response] = taken(session)
    assert response.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert response.endswith(b"\r\nX-Why: policy\r\n\r\nno\n")
    assert (session.finished, session.control) == (True, 1)
    session.receive(HEAD)
    session.receive_eof()
    assert (session.next_event(), session.next_run(9), session.unread) == (None, [], b"")
    assert (taken(session), session.state) == ([], "closed")


def test_reject_in_the_middle_of_a_head() -> None:
    """A client that is too slow gets its 408."""
    session = Session(LIMIT)
    session.receive(HEAD[:30])
    assert session.next_event() is None
    session.reject(408, None, "too slow\n")
    assert session.output[0].startswith(b"HTTP/1.1 408 ")
    session.receive(HEAD[30:])
    assert session.next_event() is None


def test_accept_may_end_in_a_refusal() -> None:
    """If ServerProtocol finds a fault, its answer is the output and the connection is closed."""
    session = Session(LIMIT)
    session.receive(HEAD.replace(b"13", b"12"))
    assert isinstance(session.next_event(), Handshake)
    assert not session.accept(None)
    [response] = taken(session)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert (session.finished, session.state, session.next_event()) == (True, "closed", None)


def test_step_aside() -> None:
    """Plain HTTP is the caller's: the session writes nothing, finishes nothing and takes nothing more."""
    session = Session(LIMIT)
    session.receive(HEAD + b"GET / HTTP/1.1")
    assert isinstance(session.next_event(), Handshake)
    session.step_aside()
    assert (session.state, session.output, session.finished, session.unread) == ("closed", [], False, b"")
    session.receive(HEAD)
    assert (session.next_event(), session.unread) == (None, b"")


def test_an_error_in_the_answer_leaves_it_owed() -> None:
    """A header that cannot be sent raises in the caller, who may answer again."""
    session = Session(LIMIT)
    session.receive(HEAD)
    assert isinstance(session.next_event(), Handshake)
    with pytest.raises(ValueError, match="characters"):
        session.accept(None, {"X": "a\r\nb"})
    with pytest.raises(ValueError, match="characters"):
        session.reject(403, {"X": "a\r\nb"}, "")
    assert (session.state, session.output) == ("connecting", [])
    session.reject(500, None, "")
    assert session.state == "closed"


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"hello\r\n", 400), (b"x" * 8193, 414), (HEAD[:20] + b"x" * 8193, 431), (b"GET / HTTP/3.0\r\n", 505)],
)
def test_refused(data: bytes, status: int) -> None:
    """A bad head is answered by the session itself; a second request behind it never is."""
    events, output, states = outcome(data + HEAD)
    [refused] = events
    assert isinstance(refused, Refused)
    assert status == refused.status
    [response, eof] = output
    assert response.startswith(f"HTTP/1.1 {status} ".encode())
    assert response.endswith(f"\r\n\r\n{refused.reason}\n".encode())
    assert b"\r\nConnection: close\r\n" in response
    assert (eof, states) == (SEND_EOF, "closed, closed")


@pytest.mark.parametrize("data", [b"", b"GET", HEAD[:-2]])
def test_gone_before_the_handshake(data: bytes) -> None:
    """A client that leaves early is closed without an answer."""
    expected = Closed(1006, "the client left before its handshake was complete")
    assert outcome(data) == ([expected], [SEND_EOF], "connecting, closed")


@pytest.mark.parametrize(
    ("extension", "window_bits"),
    [
        ("permessage-deflate", 15),
        ("permessage-deflate; client_max_window_bits", 15),
        ("permessage-deflate; server_max_window_bits=10", 10),
        ("permessage-deflate; server_max_window_bits=9; client_max_window_bits=9", 9),
        ("permessage-deflate; server_max_window_bits=8", 0),
        ("x-webkit-deflate-frame", 0),
    ],
)
def test_window_bits(extension: str, window_bits: int) -> None:
    """The window that a client asked for is known behind the 101; 0 is none, and so is all that is not offered."""
    for deflate in (True, False):
        session = Session(LIMIT, deflate=deflate)
        session.receive(offering(extension))
        assert isinstance(session.next_event(), Handshake)
        assert session.accept(None)
        assert session.window_bits == (window_bits if deflate else 0)
        assert (b"permessage-deflate" in session.output[0]) == (session.window_bits > 0)


# --- messages ---


@pytest.mark.parametrize("message", ["", "a", "é€😀", "\ufeff", "\0", b"", b"\xff", b"x" * LIMIT])
def test_messages(message: str | bytes) -> None:
    """A message is a str or bytes, empty ones too, and comes back as the frame of the same content."""
    data = message.encode() if isinstance(message, str) else message
    for peer in both_lanes():
        peer.feed(masked(TEXT if isinstance(message, str) else BINARY, data))
        assert peer.events == [message]
        assert [type(message)] == [type(event) for event in peer.events]
        assert peer.output == [build(message)]


def test_lane() -> None:
    """The fast lane is open between messages, and closed in a fragmented one and from the first Close on."""
    for fast in (True, False):
        peer = opened(fast=fast)
        seen = [peer.session.lane]
        for frame in (masked(TEXT, b"a", False), masked(Opcode.PING, b""), masked(CONT, b""), close_frame(1000)):
            peer.feed(frame)
            seen.append(peer.session.lane)
        assert seen == [fast, False, False, fast, False]
        peer = opened(fast=fast)
        peer.session.fail(1008, "")
        assert not peer.session.lane


def test_next_run() -> None:
    """A run has as many messages as were asked for; the rest, and what is not plain, comes later, in order."""
    session = opened().session
    session.receive(masked(TEXT, b"1") * 5 + masked(Opcode.PING, b"") + masked(BINARY, b"2"))
    assert [session.next_run(3), session.next_run(3), session.next_run(3)] == [["1"] * 3, ["1"] * 2, []]
    assert [session.next_event(), session.next_run(3), session.next_run(3)] == [Ping(b""), [b"2"], []]
    assert (session.unread, session.next_event()) == (b"", None)


def test_next_run_from_a_position() -> None:
    """What the caller has decoded by itself is not given again, whatever comes behind it."""
    for second in (masked(TEXT, b"b"), masked(Opcode.PING, b"b")):
        session = opened().session
        first = masked(TEXT, b"a")
        session.receive(first + second[:3], len(first))
        assert (session.next_run(9), session.next_event()) == ([], None)
        session.receive(b"??" + second[3:], 2)
        assert (session.next_run(9) or session.next_event()) in (["b"], Ping(b"b"))
        assert session.unread == b""


def test_a_large_read_is_not_kept_for_its_end() -> None:
    """What waits for more bytes is copied out of the read that it came with."""
    session = opened(max_size=10**6).session
    session.receive(masked(BINARY, bytes(200_000)) + masked(TEXT, b"rest")[:-1])
    assert len(session.next_run(9)) == 1
    assert session.next_event() is None
    assert len(session.unread) == 9


def test_give_back() -> None:
    """What is given back comes again, before anything else and no more than asked for at a time."""
    session = opened().session
    session.receive(masked(TEXT, b"1") + masked(TEXT, b"2") + masked(TEXT, b"3") + masked(Opcode.PING, b""))
    run = session.next_run(9)
    session.give_back(run[1:])
    assert session.behind == ["2", "3"]
    assert [session.next_run(1), session.next_run(1), session.behind] == [["2"], ["3"], []]
    assert [session.next_run(9), session.next_event()] == [[], Ping(b"")]


@pytest.mark.parametrize("act", [Session.close, Session.fail])
def test_nothing_is_given_behind_our_close(act: Callable[[Session, int, str], None]) -> None:
    """A Close in the middle of a run drops the rest of it, given back before or after, and what is not decoded yet."""
    for early in (True, False):
        session = opened().session
        session.receive(masked(TEXT, b"1") * 3 + masked(TEXT, b"\xff"))
        run = session.next_run(3)
        if early:
            session.give_back(run[1:])
            act(session, 4000, "bye")
        else:
            act(session, 4000, "bye")
            session.give_back(run[1:])
        assert (session.behind, session.next_run(9)) == ([], [])
        expected = Handled() if act is Session.close else Closed(4000, "bye", failed=True)
        assert [session.next_event(), session.next_event()] == [expected, None]


def test_fragments() -> None:
    """Fragments make one message; a ping between them is answered at once and an empty one is legal."""
    peer = opened()
    euro = "€".encode()
    peer.feed(masked(TEXT, euro[:1], fin=False), masked(Opcode.PING, b"now"))
    assert (peer.events, peer.output) == ([Ping(b"now")], [b"\x8a\x03now"])
    peer.feed(masked(CONT, b"", fin=False), masked(CONT, euro[1:]))
    peer.feed(masked(BINARY, b"a", fin=False), masked(CONT, b"b"))
    peer.feed(masked(TEXT, b"", fin=False), masked(CONT, b""))
    assert peer.events == [Ping(b"now"), "€", b"ab", ""]


def test_every_frame_is_an_event() -> None:
    """A call handles one frame, so empty fragments, and data after our Close, count like messages."""
    session = opened().session
    session.receive(masked(TEXT, b"", fin=False) + masked(CONT, b"", fin=False) * 98 + masked(CONT, b"a"))
    assert [session.next_event() for _ in range(101)] == [Handled()] * 99 + ["a", None]
    session.close()
    session.receive(masked(TEXT, b"a") * 2)
    assert [session.next_event() for _ in range(3)] == [Handled(), Handled(), None]


@pytest.mark.parametrize("character", ["é", "€", "😀", "\ud7ff", "\ue000", "\U0010ffff", "\u0800", "\U00010000"])
def test_text_cut_in_a_character(character: str) -> None:
    """UTF-8 may be cut by fragments anywhere in a character."""
    data = f"a{character}b".encode()
    for first in range(len(data)):
        for second in range(first, len(data)):
            peer = opened()
            peer.feed(
                masked(TEXT, data[:first], fin=False), masked(CONT, data[first:second], fin=False),
                masked(CONT, data[second:]),
            )  # fmt: skip
            assert peer.events == [f"a{character}b"]


BAD_TEXT = [
    b"\xff",
    b"\xc0\xaf",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\x80",
]


@pytest.mark.parametrize("bad", BAD_TEXT)
def test_bad_text(bad: bytes) -> None:
    """Text that is not UTF-8 fails with 1007, whole or in fragments, and names the byte."""
    peer = opened()
    peer.feed(masked(TEXT, b"ok" + bad))
    expected = Closed(1007, "the text is not UTF-8 at byte 2", failed=True)
    assert peer.events == [expected]
    for cut in range(2 + len(bad)):
        peer = opened()
        peer.feed(masked(TEXT, (b"ok" + bad)[:cut], fin=False), masked(CONT, (b"ok" + bad)[cut:]))
        assert peer.events == [expected]
        assert peer.output == [Frame(Opcode.CLOSE, Close(1007, expected.reason).serialize()).serialize(mask=False), b""]


def test_bad_text_fails_before_the_message_ends() -> None:
    """The first bad byte is enough; nobody waits for the last fragment."""
    peer = opened()
    peer.feed(masked(TEXT, b"ab\xce", fin=False), masked(CONT, b"\xba\xff", fin=False))
    assert peer.events == [Closed(1007, "the text is not UTF-8 at byte 4", failed=True)]


@pytest.mark.parametrize(("size", "fits"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
def test_limit(size: int, fits: bool) -> None:
    """Up to max_size a message passes; above, 1009. Whole, split, and in fragments."""
    data = b"x" * size
    ways = [
        [masked(BINARY, data)],
        [bytes([byte]) for byte in masked(BINARY, data)],
        [masked(BINARY, data[:500], fin=False), masked(CONT, data[500:])],
        [masked(BINARY, data[:-1], fin=False), masked(CONT, data[-1:], fin=False), masked(CONT, b"")],
    ]
    for pieces in ways:
        peer = opened()
        peer.feed(*pieces)
        assert [len(event) if isinstance(event, bytes) else event for event in peer.events] == (
            [size] if fits else [Closed(1009, "the message is larger than websocket.max_size", failed=True)]
        )


@pytest.mark.parametrize("length", [LIMIT + 1, 0xFFFF])
def test_too_big_fails_at_the_header(length: int) -> None:
    """The declared length decides: no payload is waited for. Only two bytes of it are needed, not the masking key."""
    peer = opened()
    peer.feed(b"\x82\xfe" + length.to_bytes(2, "big"))
    assert peer.events == [Closed(1009, "the message is larger than websocket.max_size", failed=True)]


def test_control_frames_do_not_count_against_the_limit() -> None:
    """A ping inside a message that may not grow by a byte is a ping, and a limit below 125 does not touch it."""
    peer = opened(max_size=1)
    peer.feed(masked(BINARY, b"x", fin=False), masked(Opcode.PING, b"p" * 125), masked(CONT, b""))
    assert peer.events == [Ping(b"p" * 125), b"x"]


# --- broken rules ---

BROKEN = {
    "unmasked": (b"\x81\x01", 1002),
    "unmasked close": (b"\x88\x00", 1002),
    "opcode 3": (raw(0x83, b""), 1002),
    "opcode 11": (raw(0x8B, b""), 1002),
    "RSV1": (raw(0xC1, b""), 1002),
    "RSV1 on a ping": (raw(0xC9, b""), 1002),
    "RSV2": (raw(0xA2, b""), 1002),
    "RSV3": (raw(0x91, b""), 1002),
    "ping without FIN": (raw(0x09, b""), 1002),
    "close without FIN": (raw(0x08, b""), 1002),
    "ping of 126": (b"\x89\xfe\x00\x7e", 1002),
    "16-bit length that is not minimal": (b"\x81\xfe\x00\x05", 1002),
    "64-bit length that is not minimal": (b"\x81\xff" + (0xFFFF).to_bytes(8, "big"), 1002),
    "top bit of the length": (b"\x81\xff" + (2**63).to_bytes(8, "big"), 1009),
    "lone continuation": (raw(0x80, b""), 1002),
    "lone fragment": (raw(0x00, b""), 1002),
    "new message inside fragments": (raw(0x01, b"a") + raw(0x81, b"b"), 1002),
    "close inside fragments": (raw(0x01, b"a") + close_frame(1000), 1002),
    "close of one byte": (raw(0x88, b"\x03"), 1002),
    "reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules(name: str) -> None:
    """Each broken rule fails the connection once; the good message in front is answered, the one behind is dropped."""
    data, code = BROKEN[name]
    peer = opened()
    peer.feed(masked(TEXT, b"before") + data + masked(TEXT, b"after"))
    peer.feed(masked(TEXT, b"later"))
    peer.eof()
    [before, closed] = peer.events
    assert before == "before"
    assert isinstance(closed, Closed)
    assert (closed.code, closed.failed, closed.clean) == (code, True, False)
    [echo, close, eof] = peer.output
    assert echo == build("before")
    assert close[0] == 0x88
    assert close[2:4] == code.to_bytes(2, "big")
    assert close[4:].decode() == closed.reason
    assert eof == SEND_EOF
    assert peer.session.state == "closed"


def test_unmasked_fails_at_the_header() -> None:
    """Two bytes without a mask bit are enough; a mask of zeros is legal."""
    peer = opened()
    peer.feed(raw(0x81, b"hi"), b"\x81", b"\x05")
    assert peer.events == ["hi", Closed(1002, "frames from a client must be masked", failed=True)]


# --- closing ---


def test_every_close_code() -> None:
    """Exactly the codes that may travel end in a clean close with the same code; the rest is 1002.

    Every code where the rule changes, and a stride beyond; is_close_code itself is tested for all 65536.
    """
    for code in [*range(990, 1030), *range(2990, 3010), *range(4990, 5010), *range(0, 65536, 17), 65535]:
        session = opened().session
        session.receive(close_frame(code, b"why"))
        closed = session.next_event()
        assert isinstance(closed, Closed)
        if is_close_code(code):
            assert closed == Closed(code, "why", clean=True)
            assert session.take_output() == [b"\x88\x05" + code.to_bytes(2, "big") + b"why", b""]
        else:
            assert (closed.code, closed.failed) == (1002, True)
            assert session.take_output()[0][2:4] == b"\x03\xea"


def test_empty_close() -> None:
    """An empty Close is reported as 1005 and answered by an empty one; what follows is dropped."""
    peer = opened()
    peer.feed(masked(Opcode.CLOSE, b"") + masked(TEXT, b"after"))
    assert (peer.events, peer.output) == ([Closed(1005, "", clean=True)], [b"\x88\x00", b""])
    assert peer.session.state == "closing"
    peer.eof()
    assert (len(peer.events), len(peer.output), peer.session.state) == (1, 2, "closed")


@pytest.mark.parametrize("size", [122, 123])
def test_long_reasons_from_the_client(size: int) -> None:
    """A reason of up to 123 bytes arrives whole."""
    peer = opened()
    peer.feed(close_frame(4000, b"r" * size))
    assert peer.events == [Closed(4000, "r" * size, clean=True)]


def test_reason_of_124_bytes_from_the_client() -> None:
    """One byte more does not fit into a control frame."""
    peer = opened()
    peer.feed(b"\x88\xfe\x00\x7e")
    assert peer.events == [Closed(1002, "control frames carry at most 125 bytes", failed=True)]


@pytest.mark.parametrize("size", [122, 123, 124])
def test_our_reason_is_cut(size: int) -> None:
    """A reason of our own is cut to 123 bytes between characters, for close as for fail."""
    for act in (Session.close, Session.fail):
        session = opened().session
        act(session, 4000, "a" * (size - 3) + "€")
        frame = session.take_output()[0]
        assert frame[4:].decode() == "a" * (size - 3) + ("€" if size <= 123 else "")


def test_close_by_us() -> None:
    """After our Close nothing is sent or delivered, pings are still answered, and the client's Close ends it."""
    peer = opened()
    peer.feed(masked(TEXT, b"open", fin=False))
    peer.session.close(1001, "bye")
    peer.session.close(4000, "twice")
    peer.session.ping(b"too late")
    assert peer.session.take_output() == [b"\x88\x05\x03\xe9bye"]
    peer.feed(masked(CONT, b"\xff"), masked(TEXT, b"\xff"), masked(BINARY, b"x"), masked(Opcode.PING, b"p"))
    assert (peer.events, peer.output) == ([Ping(b"p")], [b"\x8a\x01p"])
    peer.feed(close_frame(1001))
    assert peer.last == Closed(1001, "", clean=True)
    assert peer.output[1:] == [b""]


def test_a_rule_broken_after_our_close() -> None:
    """The verdict is reported and the stream ends, but no second Close is sent."""
    peer = opened()
    peer.session.close()
    peer.session.take_output()
    peer.feed(raw(0x80, b""))
    assert peer.output == [b""]
    assert peer.last == Closed(1002, "unexpected continuation frame", failed=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "without a Close"), (b"\x81", "in the middle of a frame"), (raw(0x01, b"a"), "without a Close")],
)
def test_end_of_stream(data: bytes, reason: str) -> None:
    """A stream that ends without a Close is 1006, neither failed nor clean, before and after our own Close."""
    for closing in (False, True):
        peer = opened()
        if closing:
            peer.session.close()
            peer.session.take_output()
        peer.feed(data)
        peer.eof()
        assert peer.events == [Closed(1006, f"the client ended the stream {reason}")]
        assert (peer.output, peer.session.state) == ([b""], "closed")


def test_end_of_stream_twice() -> None:
    """A second end of the stream changes nothing."""
    peer = opened()
    peer.eof()
    peer.eof()
    assert len(peer.events) == 1


def test_fail() -> None:
    """Failing puts Close and half-close into the output at once and reports the verdict once."""
    peer = opened()
    peer.session.receive(masked(TEXT, b"unread"))
    peer.session.fail(1008, "too fast")
    peer.session.fail(1011, "twice")
    assert peer.session.state == "closing"
    peer.pump()
    peer.session.fail(1011, "late")
    peer.pump()
    assert peer.events == [Closed(1008, "too fast", failed=True)]
    assert peer.output == [b"\x88\x0a\x03\xf0too fast", b""]


def test_close_and_fail_before_the_101() -> None:
    """Before the handshake is answered there is nothing to close."""
    session = Session(LIMIT)
    session.close()
    session.fail(1011, "")
    session.ping(b"")
    assert (session.state, session.take_output()) == ("connecting", [])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_codes_that_are_never_sent(code: int) -> None:
    """A code that may not travel raises in the caller and sends nothing."""
    session = opened().session
    for act in (Session.close, Session.fail):
        with pytest.raises(ValueError, match=f"not {code}"):
            act(session, code, "")
    assert (session.state, session.take_output()) == ("open", [])


# --- sending ---


def test_send() -> None:
    """Sending returns the payload bytes; what was sent leaves in order, pings between."""
    session = opened().session
    assert [session.send("é"), session.send(b"abc"), session.send(memoryview(b""))] == [2, 3, 0]
    session.ping(b"now")
    assert session.take_output() == [b"\x81\x02\xc3\xa9", b"\x82\x03abc", b"\x82\x00", b"\x89\x03now"]
    assert session.take_output() == []


def test_pong() -> None:
    """A pong is an event and is not answered."""
    peer = opened()
    peer.feed(masked(Opcode.PONG, b"now"))
    assert (peer.events, peer.output) == ([Pong(b"now")], [])


def test_a_ping_that_is_too_long() -> None:
    """126 bytes do not fit into a ping; the caller is told."""
    session = opened().session
    with pytest.raises(ValueError, match="125 bytes, not 126"):
        session.ping(b"x" * 126)


def test_misuse_is_a_bug() -> None:
    """Calls in the wrong order are our own fault and say so."""
    session = Session(LIMIT)
    with pytest.raises(AssertionError, match="open connection"):
        session.send("")
    with pytest.raises(AssertionError, match="answers a Handshake"):
        session.accept(None)
    session.reject(408, None, "")
    with pytest.raises(AssertionError, match="instead of accept"):
        session.reject(408, None, "")
    session.receive_eof()
    with pytest.raises(AssertionError, match="after the end"):
        session.receive(b"x")


# --- properties ---

cuts = st.lists(st.integers(0, 10_000), max_size=12)
odd_frames = st.builds(
    lambda first, second, rest: bytes([first, second]) + rest,
    st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x83]),
    st.one_of(st.integers(0x80, 0x88), st.integers(0, 255)),
    st.binary(max_size=20),
)
good_frames = st.builds(
    lambda opcode, data, fin: raw(opcode | (0x80 if fin or opcode > 2 else 0), data),
    st.sampled_from([0, 1, 2, 9, 10]),
    st.one_of(st.binary(max_size=12), st.text(max_size=4).map(str.encode)),
    st.booleans(),
)
streams = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda tail: HEAD + b"".join(tail), st.lists(st.one_of(good_frames, good_frames, odd_frames), max_size=8)
    ),
    st.builds(lambda at, byte: HEAD[:at] + byte + HEAD[at + 1 :], st.integers(0, len(HEAD)), st.binary(max_size=2)),
)


@given(streams, cuts)
def test_any_bytes_in_any_split(data: bytes, cuts: list[int]) -> None:
    """Any bytes, in any split: no exception, the same events, the same output, and never anything after the end."""
    whole = outcome(data, max_size=15)
    assert whole == outcome(data, cuts, max_size=15)
    assert whole == outcome(data, range(len(data)), max_size=15)
    events, output, states = whole
    ends = [isinstance(event, (Closed, Refused)) for event in events]
    # accept may refuse, which is no event: then the handshake was the last one
    assert ends == [False] * (len(ends) - 1) + [not isinstance(events[-1], Handshake)]
    assert output.index(SEND_EOF) == len(output) - 1
    assert states.endswith("closed")


@st.composite
def valid_streams(draw: st.DrawFn) -> bytes:
    """Return what a correct client sends after the handshake: messages in fragments with control frames between."""
    frames = []
    for message in draw(st.lists(st.one_of(st.text(), st.binary()), max_size=4)):
        data = message.encode() if isinstance(message, str) else message
        places = [0, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=4))), len(data)]
        for number, (start, end) in enumerate(pairwise(places)):
            kind = CONT if number else TEXT if isinstance(message, str) else BINARY
            frames.append(Frame(kind, data[start:end], fin=number == len(places) - 2))
            for opcode in draw(st.lists(st.sampled_from([Opcode.PING, Opcode.PONG]), max_size=2)):
                frames.append(Frame(opcode, draw(st.binary(max_size=10))))
    if draw(st.booleans()):
        code, reason = draw(st.integers(0, 65535).filter(is_close_code)), draw(st.text(max_size=30))
        frames.append(Frame(Opcode.CLOSE, Close(code, reason).serialize()))
    return b"".join(frame.serialize(mask=True) for frame in frames)


@given(valid_streams(), cuts)
def test_valid_streams_as_by_server_protocol(data: bytes, cuts: list[int]) -> None:
    """In any split we report and answer what ServerProtocol alone, fed at once, reports and answers."""
    reference = ServerProtocol(state=State.OPEN, max_size=None)
    reference.receive_data(data)
    expected: list[Event] = []
    parts: list[bytes] = []
    kind = None
    for frame in reference.events_received():
        assert isinstance(frame, Frame)
        content = bytes(frame.data)
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            expected.append((Ping if frame.opcode is Opcode.PING else Pong)(content))
        elif frame.opcode is Opcode.CLOSE:
            assert reference.close_rcvd is not None
            expected.append(Closed(reference.close_rcvd.code, reference.close_rcvd.reason, clean=True))
        else:
            kind = frame.opcode if frame.opcode is not CONT else kind
            parts.append(content)
            if frame.fin:
                expected.append(b"".join(parts).decode() if kind is TEXT else b"".join(parts))
                parts = []
    answers = reference.data_to_send()

    peer = opened(max_size=10_000)
    peer.feed(*split(data, cuts))
    assert expected == peer.events
    assert answers == [item for item in peer.output if item == b"" or item[0] & 0x08]
    assert [build(event) for event in expected if isinstance(event, (str, bytes))] == [
        item for item in peer.output if item != b"" and not item[0] & 0x08
    ]


# --- what we rely on in websockets without its documentation ---


def test_contract_current_size() -> None:
    """current_size is None at a message boundary, else the bytes of the open message."""
    protocol = ServerProtocol(state=State.OPEN)
    sizes: list[int | None] = [protocol.current_size]
    for frame in (masked(TEXT, b"ab", False), masked(Opcode.PING, b"x"), masked(CONT, b"c", False), masked(CONT, b"d")):
        protocol.receive_data(frame)
        sizes.append(protocol.current_size)
    assert sizes == [None, 2, 2, 3, None]


def test_contract_parse_calls_fail() -> None:
    """Its own verdicts go through fail(code, reason), which a subclass can see."""
    seen: list[tuple[int, str]] = []

    class Watched(ServerProtocol):
        def fail(self, code: int, reason: str = "") -> None:
            seen.append((int(code), reason))
            super().fail(code, reason)

    protocol = Watched(state=State.OPEN)
    protocol.receive_data(raw(0x80, b""))
    assert seen == [(1002, "unexpected continuation frame")]


def test_contract_frame_by_frame() -> None:
    """One whole frame in gives at most one event out, and fail() at a frame boundary discards what follows."""
    protocol = ServerProtocol(state=State.OPEN)
    for _ in range(3):
        protocol.receive_data(masked(TEXT, b"a"))
        assert len(protocol.events_received()) == 1
    protocol.fail(1002, "x")
    protocol.receive_data(masked(TEXT, b"a"))
    assert (protocol.events_received(), len(protocol.data_to_send())) == ([], 2)
    assert SEND_EOF == b""


def test_contract_head_line_by_line() -> None:
    """A head may be fed by lines; a defect shows in handshake_exc with the line that holds it, and nothing raises."""
    protocol = ServerProtocol()
    for line in HEAD.splitlines(keepends=True):
        assert protocol.events_received() == []
        protocol.receive_data(line)
    assert len(protocol.events_received()) == 1
    protocol = ServerProtocol()
    protocol.receive_data(b"GET / HTTP/1.1\r\n")
    assert protocol.handshake_exc is None
    protocol.receive_data(b"Host : a\r\n")
    assert protocol.handshake_exc is not None


def test_contract_extensions() -> None:
    """Nothing is negotiated and extensions is empty; an error inside one would reach us as a bug, not as silence."""

    class Broken(Extension):
        name = None  # type: ignore[assignment]

        def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
            raise RuntimeError("a bug")

    session = opened().session
    protocol: Any = session._protocol
    assert protocol.extensions == []
    protocol.extensions = [Broken()]
    session.receive(masked(TEXT, b"a"))
    with pytest.raises(InternalError, match="parser failed"):
        session.next_event()
