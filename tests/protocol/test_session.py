"""Session: the verdicts of RFC 6455, in both lanes; what is sent, and when; and that nothing comes after the end.

That both lanes, and all ways to cut the bytes, come to the same is test_lanes.py.
"""

from __future__ import annotations

import logging
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from tests.frames import FIN, RSV1, deflated, split
from tests.frames import frame as raw
from tests.protocol.peer import (
    HEAD,
    LIMIT,
    Peer,
    both_lanes,
    close_frame,
    in_fragments,
    masked,
    offering,
    opened,
)
from wsworker.errors import InternalError
from wsworker.protocol.events import Closed, Event, Handled, Handshake, Ping, Pong, Refused
from wsworker.protocol.fragments import most_fragments
from wsworker.protocol.frames import TOO_LARGE, build, is_close_code
from wsworker.protocol.session import TRAILING_BYTES, Session, StateName

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
    assert session.accept("chat")
    assert (session.state, session.head_started, session.lane) == ("open", True, True)
    [response] = taken(session)
    assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert response.endswith(b"\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
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
        session.accept("a\r\nb")
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
    expected = Closed(1007, "the text is not UTF-8 at byte 2", failed=True)
    for peer in both_lanes():
        peer.feed(masked(TEXT, b"ok" + bad))
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


@pytest.mark.parametrize("fin", [True, False])
def test_bad_text_fails_before_the_frame_ends(fin: bool) -> None:
    """The first bad byte of a frame is enough, too: Autobahn's cases 6.4.3 and 6.4.4."""
    text = "Κόσμε".encode()
    frame = masked(TEXT, text + b"\xf4\x90\x80\x80" + b"edited", fin)
    end = 6 + len(text)
    for peer in both_lanes():
        peer.feed(frame[:4], frame[4:end], frame[end : end + 1])
        assert peer.events == []
        peer.feed(frame[end + 1 : end + 2])
        assert peer.events == [Closed(1007, f"the text is not UTF-8 at byte {len(text)}", failed=True)]
        assert [item[:4] for item in peer.output] == [
            b"\x88" + bytes([len(peer.output[0]) - 2]) + b"\x03\xef",
            SEND_EOF,
        ]


def test_text_that_is_not_looked_at_ahead() -> None:
    """An unfinished frame is not judged by its text if it is binary, compressed, out of order or behind our Close."""
    for peer in both_lanes(deflate=True):
        peer.feed(masked(BINARY, b"\xff" * 9)[:-1])
        assert peer.events == []
    for peer in both_lanes(deflate=True):
        peer.feed(raw(RSV1 | FIN | TEXT, b"\xff" * 9)[:-1])
        assert peer.events == []
    for peer in both_lanes():
        frame = masked(TEXT, b"\xff" * 9)
        peer.feed(masked(BINARY, b"", fin=False), frame[:-1])
        assert peer.events == []
        peer.feed(frame[-1:])
        assert peer.events == [Closed(1002, "expected a continuation frame", failed=True)]
    for peer in both_lanes():
        frame = masked(TEXT, b"abc\xff\xff")
        peer.feed(frame[:8])
        peer.session.close()
        peer.feed(frame[8:-1], frame[-1:], close_frame(1000))
        assert peer.events == [Closed(1000, "", clean=True)]


def test_text_looked_at_ahead_is_delivered_once() -> None:
    """A good text that comes in many reads is one message, and the next frame is looked at from its own start."""
    for peer in both_lanes():
        for text in ("é" * 100, "€" * 100):
            peer.feed(*split(masked(TEXT, text.encode()), range(0, 300, 7)))
        assert peer.events == ["é" * 100, "€" * 100]


def test_a_frame_behind_a_run_out_of_the_inbox() -> None:
    """What a run has taken out of bytes that had waited is gone when the next frame is looked at."""
    session = opened().session
    data = masked(TEXT, b"1") + masked(TEXT, b"2") + masked(Opcode.PING, b"3") + masked(TEXT, b"4")
    session.receive(data[:3])
    assert (session.next_run(9), session.next_event()) == ([], None)
    session.receive(data[3:])
    assert [session.next_run(9), session.next_event(), session.next_run(9)] == [["1", "2"], Ping(b"3"), ["4"]]


# --- limits; every one of them in every way is test_sizes.py ---


def test_a_message_that_inflates_to_a_byte_too_much() -> None:
    """ServerProtocol leaves it to us, because its own limit has room for a control frame."""
    for peer in both_lanes(deflate=True):
        peer.feed(
            raw(FIN | RSV1 | BINARY, deflated(bytes(LIMIT))), raw(FIN | RSV1 | BINARY, deflated(bytes(LIMIT + 1)))
        )
        assert peer.events == [bytes(LIMIT), LARGE]


def test_a_fragment_too_many() -> None:
    """So many fragments and no more, empty or not."""
    most = most_fragments(LIMIT)
    for peer in both_lanes():
        peer.feed(masked(TEXT, b"", False) + masked(CONT, b"", False) * (most - 1))
        assert peer.events == []
        peer.feed(masked(CONT, b""))
        assert peer.events == [Closed(1008, f"the message has more than {most} fragments", failed=True)]


# --- broken rules ---

BROKEN = {
    "unmasked": (b"\x81\x01", 1002),
    "unmasked close": (b"\x88\x00", 1002),
    "opcode 3": (raw(0x83, b""), 1002),
    "opcode 11": (raw(0x8B, b""), 1002),
    "RSV1": (raw(0xC1, b""), 1002),
    "RSV1 on a fragment": (raw(0x41, b"") + raw(0x80, b""), 1002),
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
    "text inside binary": (raw(0x02, b"a") + raw(0x81, b"b"), 1002),
    "close inside fragments": (raw(0x01, b"a") + close_frame(1000), 1002),
    "close of one byte": (raw(0x88, b"\x03"), 1002),
    "reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules(name: str) -> None:
    """Each broken rule fails the connection once; the good message in front is answered, the one behind is dropped."""
    data, code = BROKEN[name]
    for peer in both_lanes():
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


RSV1_BROKEN = {
    "continuation": raw(0x41, b"") + raw(0xC0, b""),
    "ping": raw(0xC9, b""),
    "close": raw(0xC8, b""),
    "with RSV2": raw(0xE1, b""),
}


@pytest.mark.parametrize("name", RSV1_BROKEN)
def test_rsv1_where_it_may_not_stand(name: str) -> None:
    """Where compression was agreed on, RSV1 belongs to the first frame of a message only."""
    for peer in both_lanes(deflate=True):
        peer.feed(RSV1_BROKEN[name])
        assert peer.events == [Closed(1002, "reserved bits must be 0", failed=True)]


def test_unmasked_fails_at_the_header() -> None:
    """Two bytes without a mask bit are enough; a mask of zeros is legal."""
    peer = opened()
    peer.feed(raw(0x81, b"hi"), b"\x81", b"\x05")
    assert peer.events == ["hi", Closed(1002, "frames from a client must be masked", failed=True)]


# --- defects that WebSocket servers have had ---


def test_no_frame_is_remembered() -> None:
    """Not here: frames decoded once and looked up by their bytes, for whatever connection they came on.

    The same bytes are a message, the wrong kind of frame, too large or compressed, as the connection has it.
    """
    frame = raw(FIN | TEXT, b"abc")
    inside = opened()
    inside.feed(raw(BINARY, b""))
    peers = [opened(), inside, opened(max_size=2), opened(deflate=True)]
    for peer in peers * 2:
        peer.feed(frame)
    wrong = Closed(1002, "expected a continuation frame", failed=True)
    assert [["abc", "abc"], [wrong], [LARGE], ["abc", "abc"]] == [peer.events for peer in peers]


@pytest.mark.parametrize("data", [b"\xff", b"\x06\xff", b"\x07", b"\xed\xfd" * 9, deflated(b"abc" * 99)[3:]])
def test_data_that_does_not_inflate(data: bytes) -> None:
    """Not here: a bad compressed frame that raises, and takes all connections of the worker along."""
    for peer in both_lanes(deflate=True):
        other = opened(deflate=True)
        peer.feed(raw(FIN | RSV1 | BINARY, data), masked(TEXT, b"later"))
        other.feed(raw(FIN | RSV1 | TEXT, deflated(b"fine")))
        assert peer.events == [Closed(1002, "decompression failed", failed=True)]
        assert other.events == ["fine"]


def test_rsv1_without_negotiation() -> None:
    """Not here: compressed frames from a client with whom no compression was agreed on."""
    for peer in both_lanes():
        peer.feed(raw(FIN | RSV1 | TEXT, deflated(b"abc")))
        assert peer.events == [Closed(1002, "reserved bits must be 0", failed=True)]


def test_control_frames_between_fragments() -> None:
    """Not here: a ping between fragments whose payload ends up in the message, plain or compressed."""
    small = deflated("é".encode() * 100)
    for first, parts in [
        (TEXT, ["é".encode() * 99 + b"\xc3", b"", b"\xa9"]),
        (RSV1 | TEXT, [small[:2], b"", small[2:]]),
    ]:
        for peer in both_lanes(deflate=True):
            for frame in in_fragments(first, *parts):
                peer.feed(frame)
                peer.feed(masked(Opcode.PING, b"i") + masked(Opcode.PONG, b"o"))
            message = peer.events.pop(4)
            assert message == "é" * 100
            assert peer.events == [Ping(b"i"), Pong(b"o")] * 3
            assert peer.output == [b"\x8a\x01i", b"\x8a\x01i", build(message), b"\x8a\x01i"]


def test_fragmented_compressed_messages() -> None:
    """Not here: compressed messages inflated fragment by fragment, each as if it were a whole one."""
    small = deflated("Kόσμε".encode() * 20)
    for cut in range(len(small) + 1):
        for peer in both_lanes(deflate=True):
            peer.feed(*in_fragments(RSV1 | TEXT, small[:cut], small[cut:]), masked(BINARY, b"plain"))
            assert peer.events == ["Kόσμε" * 20, b"plain"]


def test_each_message_starts_anew() -> None:
    """No context is kept: a message that refers to the one before it does not inflate."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    first, second = [(compressor.compress(b"abcdefgh" * 9) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in "12"]
    for peer in both_lanes(deflate=True):
        peer.feed(raw(FIN | RSV1 | BINARY, first), raw(FIN | RSV1 | BINARY, second))
        assert peer.events == [b"abcdefgh" * 9, Closed(1002, "decompression failed", failed=True)]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 1013, 1014, 3008, 4999])
def test_the_server_says_that_it_closes(code: int) -> None:
    """Not here: TCP that just ends when the server closes, stops, reloads, is overloaded or has met an error."""
    for act in (Session.close, Session.fail):
        session = opened().session
        act(session, code, "why")
        assert session.output == [b"\x88\x05" + code.to_bytes(2, "big") + b"why"]


@pytest.mark.parametrize("code", [1000, 1001, 1012, 1013, 1014, 3000, 4999])
def test_the_client_is_answered_with_its_own_code(code: int) -> None:
    """Not here: 1000 for everything, and a callback that never learns what the client has said."""
    for peer in both_lanes():
        peer.feed(close_frame(code, b"why"))
        assert peer.events == [Closed(code, "why", clean=True)]
        assert peer.output == [b"\x88\x05" + code.to_bytes(2, "big") + b"why", SEND_EOF]


def test_a_flood_of_pings() -> None:
    """Not here: a call within a call for each ping of a read, and what is left copied again for each."""
    count = 8 * sys.getrecursionlimit()
    for fast in (True, False):
        session = opened(fast=fast).session
        session.receive(masked(Opcode.PING, b"x" * 9) * count)
        assert session.next_event() == Ping(b"x" * 9)
        inbox = session.unread
        for _ in range(count - 2):
            session.next_event()
        assert inbox is session.unread
        assert (len(session.output), session.control) == (count - 1, count - 1)


def test_unmasked_frames_are_answered() -> None:
    """Not here: TCP that ends without a Close upon a frame without a mask."""
    for peer in both_lanes():
        peer.feed(Frame(TEXT, b"hi").serialize(mask=False))
        assert peer.events == [Closed(1002, "frames from a client must be masked", failed=True)]
        assert (peer.output[0][2:4], peer.output[1:]) == (b"\x03\xea", [SEND_EOF])


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not here: what a client has sent, secrets included, dumped into the log when it breaks a rule."""
    caplog.set_level(logging.DEBUG)
    for data, _ in BROKEN.values():
        opened(deflate=True).feed(masked(TEXT, b"secret") + data + b"secret")
    assert caplog.records == []


@pytest.mark.parametrize("frame", [masked(TEXT, b"a"), masked(Opcode.PING, b"b"), masked(CONT, b"c", False)])
def test_glued_to_the_request(frame: bytes) -> None:
    """A frame that comes in one piece with the request is the first one, and its answer comes behind the 101."""
    for step in (1, 7, 1000):
        peer = Peer()
        peer.feed(*split(HEAD + frame, range(0, len(HEAD + frame), step)))
        assert peer.output[0].startswith(b"HTTP/1.1 101 ")
        alone = opened()
        alone.feed(frame)
        assert (peer.events[1:], [item[:2] for item in peer.output[1:]]) == (
            alone.events,
            [item[:2] for item in alone.output],
        )


# --- closing ---


def test_every_close_code() -> None:
    """Exactly the codes that may travel end in a clean close with the same code; the rest is 1002.

    Every code where the rule changes, and a stride beyond; is_close_code itself is tested for all 65536.
    """
    for code in [*range(990, 1030), *range(2990, 3010), *range(4990, 5010), *range(0, 65536, 97), 65535]:
        session = opened().session
        session.receive(close_frame(code, b"why"))
        closed = session.next_event()
        assert isinstance(closed, Closed)
        if is_close_code(code):
            assert closed == Closed(code, "why", clean=True)
            assert (session.output, session.finished) == ([b"\x88\x05" + code.to_bytes(2, "big") + b"why"], True)
        else:
            assert (closed.code, closed.failed) == (1002, True)
            assert session.output[0][2:4] == b"\x03\xea"


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
        frame = session.output[0]
        assert frame[4:].decode() == "a" * (size - 3) + ("€" if size <= 123 else "")


def test_close_by_us() -> None:
    """After our Close nothing is sent or delivered, pings are still answered, and the client's Close ends it."""
    peer = opened()
    peer.feed(masked(TEXT, b"open", fin=False))
    peer.session.close(1001, "bye")
    peer.session.close(4000, "twice")
    peer.session.ping(b"too late")
    peer.take_output()
    assert (peer.output.pop(), peer.output) == (b"\x88\x05\x03\xe9bye", [])
    peer.feed(masked(CONT, b"\xff"), masked(TEXT, b"\xff"), masked(BINARY, b"x"), masked(Opcode.PING, b"p"))
    assert (peer.events, peer.output) == ([Ping(b"p")], [b"\x8a\x01p"])
    peer.feed(close_frame(1001))
    assert peer.last == Closed(1001, "", clean=True)
    assert peer.output[1:] == [b""]


def test_a_rule_broken_after_our_close() -> None:
    """The verdict is reported and the stream ends, but no second Close is sent."""
    peer = opened()
    peer.session.close()
    peer.take_output()
    peer.output.clear()
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
            peer.take_output()
            peer.output.clear()
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
    assert (session.state, session.output) == ("connecting", [])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_codes_that_are_never_sent(code: int) -> None:
    """A code that may not travel raises in the caller and sends nothing."""
    session = opened().session
    for act in (Session.close, Session.fail):
        with pytest.raises(ValueError, match=f"not {code}"):
            act(session, code, "")
    assert (session.state, session.output) == ("open", [])


# --- sending ---


def test_output() -> None:
    """Pings of ours are not masked and leave in order with what the caller puts in; only they are counted."""
    session = opened().session
    session.output.append(build("é"))
    session.ping(b"now")
    session.output.append(build(b"abc"))
    assert session.output == [b"\x81\x02\xc3\xa9", b"\x89\x03now", b"\x82\x03abc"]
    assert (session.control, session.finished) == (1, False)
    session.close()
    assert (session.output[3:], session.control) == ([b"\x88\x02\x03\xe8"], 2)


def test_in_message() -> None:
    """A message is open from its first fragment to its last."""
    peer = opened()
    seen = [peer.session.in_message]
    for frame in (masked(TEXT, b"", False), masked(Opcode.PING, b""), masked(CONT, b"")):
        peer.feed(frame)
        seen.append(peer.session.in_message)
    assert seen == [False, True, True, False]


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
    with pytest.raises(AssertionError, match="answers a Handshake"):
        session.accept(None)
    with pytest.raises(AssertionError, match="one of the answers"):
        session.step_aside()
    session.reject(408, None, "")
    with pytest.raises(AssertionError, match="instead of accept"):
        session.reject(408, None, "")
    session.receive_eof()
    with pytest.raises(AssertionError, match="after the end"):
        session.receive(b"x")


# --- standing still; that nothing changes by it is test_frozen.py ---


def test_hindrance() -> None:
    """It may be frozen while it is open, outside of a fragmented message, and not once the stream has ended."""
    assert "connecting" == Session(LIMIT).hindrance
    for peer in both_lanes():
        session = peer.session
        seen = [session.hindrance]
        peer.feed(raw(FIN | TEXT, b"abc")[:7])
        seen.append(session.hindrance)
        peer.feed(raw(FIN | TEXT, b"abc")[7:] + raw(TEXT, b"a") + raw(FIN | Opcode.PING, b""))
        seen.append(session.hindrance)
        with pytest.raises(AssertionError, match="fragment"):
            session.freeze()
        peer.feed(raw(FIN | CONT, b"b"))
        seen.append(session.hindrance)
        assert [None, None, "fragment", None] == seen
        session.receive_eof()
        assert ("open", "closing") == (session.state, session.hindrance)
        peer.pump()
        assert "closed" == session.hindrance
    session = opened().session
    session.close()
    assert "closing" == session.hindrance


def test_freeze_and_thaw() -> None:
    """What nobody has handled goes along, from where the decoder is; the other one begins with an open lane."""
    for deflate in (False, True):
        session = opened(deflate=deflate).session
        session.receive(b"??" + raw(FIN | TEXT, b"a") + raw(FIN | TEXT, b"b") + raw(FIN | TEXT, b"c")[:4], 2)
        session.give_back(session.next_run(1))
        state = session.freeze()
        assert (raw(FIN | TEXT, b"b") + raw(FIN | TEXT, b"c")[:4], ("a",)) == (state.unread, state.behind)
        assert (type(state.unread), state.windows) == (bytes, (15, 15) if deflate else None)
        other = Session.thaw(state, LIMIT)
        assert ("open", True, [], 0) == (other.state, other.lane, other.output, other.control)
        assert session.window_bits == other.window_bits
        assert not Session.thaw(state, LIMIT, fast=False).lane
        assert ["a"] == other.next_run(9)
        other.receive(raw(FIN | TEXT, b"c")[4:])
        assert ["b", "c"] == other.next_run(9)
        assert (True, False) == (other.rests, session.rests)
        # nothing has happened to the one that was frozen
        assert (["a"], ["b"]) == (session.next_run(9), session.next_run(9))


# --- properties ---

cuts = st.lists(st.integers(0, 10_000), max_size=12)
streams = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda tail: HEAD + tail, st.binary(max_size=60)),
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
    """What was agreed on stands in extensions; an error inside one would reach us as a bug, not as silence."""

    class Broken(Extension):
        name = None  # type: ignore[assignment]

        def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
            raise RuntimeError("a bug")

    session = opened(fast=False).session
    assert session._rules.extensions == []
    session._rules.extensions = [Broken()]
    session.receive(masked(TEXT, b"a"))
    with pytest.raises(InternalError, match="parser failed"):
        session.next_event()


def test_contract_permessage_deflate() -> None:
    """No side keeps its context, and the windows stand where we look for them."""
    session = opened(deflate=True).session
    [extension] = session._rules.extensions
    assert isinstance(extension, PerMessageDeflate)
    assert (extension.remote_no_context_takeover, extension.local_no_context_takeover) == (True, True)
    assert (extension.remote_max_window_bits, extension.local_max_window_bits) == (15, 15)
    assert not hasattr(extension, "decoder")
    assert not hasattr(extension, "encoder")


def test_contract_a_limit_of_0_is_none() -> None:
    """To the decoder a room of 0 bytes means no limit at all, hence the room that we leave above ours."""
    extension = PerMessageDeflate(True, True, 15, 15)
    frame = Frame(BINARY, deflated(bytes(5000)), rsv1=True)
    with pytest.raises(PayloadTooBig):
        extension.decode(frame, max_size=1)
    assert len(extension.decode(frame, max_size=0).data) == 5000


def test_contract_max_size() -> None:
    """A control frame counts against the message that it interrupts, hence the room for one."""
    protocol = ServerProtocol(state=State.OPEN, max_size=10)
    protocol.receive_data(masked(BINARY, b"x" * 9, False) + masked(Opcode.PING, b"xx"))
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1009


@pytest.mark.parametrize("used", [False, True])
def test_a_lost_connection_keeps_nothing(used: bool) -> None:
    """Whether a ServerProtocol was needed or not: what was received is dropped, and it is closed."""
    for peer in both_lanes():
        if used:
            peer.feed(raw(FIN | TEXT, b"a"), raw(CONT, b"b"))
            peer.feed(raw(TEXT, b"a"))
        peer.feed(raw(FIN | BINARY, bytes(100))[:50])
        peer.session.lose()
        session = peer.session
        assert ("closed", b"", [], False) == (session.state, session.unread, session.behind, session.in_message)
        assert session.next_event() is None


def test_what_stands_behind_the_end_of_a_compressed_message_is_refused() -> None:
    """A few bytes may, as RFC 7692 has an example with one; not so many that zlib would keep them for each fragment."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    ended = compressor.compress(b"hello") + compressor.flush(zlib.Z_FINISH)
    for peer in both_lanes(deflate=True):
        peer.feed(raw(RSV1 | BINARY, ended), raw(CONT, bytes(TRAILING_BYTES)))
        assert [] == peer.events
        peer.feed(raw(CONT, b"x"))
        assert [Closed(1002, "data behind the end of the compressed message", failed=True)] == peer.events
