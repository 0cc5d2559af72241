"""The lanes: whatever a client sends and however it is cut, both come to the same, and others judge it alike.

Four opinions on the same bytes are compared: the session with its fast lane, driven as a worker drives it; the session
without; ServerProtocol of websockets by itself, which is looser in the ways of STRICTER and in no other; and wsproto,
an implementation that shares no line with the others.

A stream is made of frames, good and bad, so that most are understood for a while; what a correct client has meant is
known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from wsproto import events as wsproto_events
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from tests.frames import FIN, RSV1, deflated, split
from tests.frames import frame as raw
from tests.protocol.peer import Peer, close_frame, in_fragments, opened
from wsworker.protocol.events import Closed, Event, Ping, Pong
from wsworker.protocol.frames import TOO_LARGE, build, is_close_code, is_message, read_header
from wsworker.protocol.session import Session

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
LIMIT = 300

STRICTER = {
    "the length must be encoded in the fewest bytes": "it takes lengths that fit in fewer bytes",
    "reserved bits must be 0": "it waits for the payload",
    "control frames must not be fragmented": "it waits for the payload",
    "control frames carry at most 125 bytes": "it waits for the payload",
    "the text is not UTF-8 at byte": "it never looks at text",
    TOO_LARGE: "it has no limit here, because its own counts a ping against the message around it",
}
"""The beginnings of our verdicts in which ServerProtocol is looser, and how."""

# --- what clients send ---

keys = st.sampled_from([bytes(4), b"\x01\x02\xfe\xff", b"\xff\xff\xff\xff"])
controls = st.builds(raw, st.sampled_from([0x89, 0x8A]), st.binary(max_size=5), keys)
short_messages = st.one_of(st.text(max_size=9), st.binary(max_size=9))
messages = st.one_of(short_messages, short_messages, st.integers(120, LIMIT).map(bytes), st.just("é" * 130))
close_bodies = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason,
        st.one_of(st.sampled_from([1000, 1001, 1005, 1012, 1014, 1016, 3000, 4999, 5000]), st.integers(0, 0xFFFF)),
        st.one_of(st.text(max_size=9).map(str.encode), st.binary(max_size=9), st.just(b"r" * 123)),
    ),
    st.binary(max_size=1),
)


@dataclass
class Sent:
    """Frames, and what they mean if the client is correct."""

    frames: list[bytes] = field(default_factory=list)
    meant: list[Event] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """All of it, as it travels."""
        return b"".join(self.frames)


@st.composite
def fragmented(draw: st.DrawFn, message: str | bytes, compressed: bool, sent: Sent) -> None:
    """Send a message in pieces cut anywhere, with control frames between."""
    data = message.encode() if isinstance(message, str) else message
    first = int(TEXT if isinstance(message, str) else BINARY)
    if compressed:
        data, first = deflated(data), RSV1 | first
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=3))
    pieces = in_fragments(first, *split(data, cuts))
    for number, piece in enumerate(pieces):
        sent.frames.append(piece)
        if number < len(pieces) - 1:
            for opcode in draw(st.lists(st.sampled_from([Opcode.PING, Opcode.PONG]), max_size=1)):
                payload = draw(st.binary(max_size=3))
                sent.frames.append(raw(FIN | opcode, payload))
                sent.meant.append(Ping(payload) if opcode is Opcode.PING else Pong(payload))
    sent.meant.append(message)


@st.composite
def good(draw: st.DrawFn, deflate: bool) -> Sent:
    """Return what a correct client sends."""
    sent = Sent()
    for message in draw(st.lists(messages, max_size=5)):
        kind = draw(st.sampled_from(["plain", "plain", "fragmented"] + ["compressed", "both"] * deflate))
        if kind in ("fragmented", "both"):
            draw(fragmented(message, kind == "both", sent))
            continue
        opcode, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        sent.frames.append(
            raw(FIN | RSV1 | opcode, deflated(data)) if kind == "compressed" else raw(FIN | opcode, data, draw(keys))
        )
        sent.meant.append(message)
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1001, 1003, 1007, 1011, 1012, 1013, 3000, 4999]))
        reason = draw(st.text(max_size=9))
        sent.frames.append(close_frame(code, reason.encode()))
        sent.meant.append(Closed(code, reason, clean=True))
    return sent


BAD_TEXT = [b"\xff", b"a\xc0\xaf", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]

whole_bad_frames = st.one_of(
    # any first byte: unknown opcodes, reserved bits, lone fragments and continuations
    st.builds(raw, st.integers(0, 255), st.binary(max_size=5)),
    st.builds(raw, st.sampled_from([0x01, 0x02, 0x00, 0x80, 0x41, 0x42]), st.binary(max_size=5)),
    st.builds(raw, st.sampled_from([0x81, 0x01]), st.sampled_from(BAD_TEXT)),
    st.builds(raw, st.just(FIN | Opcode.CLOSE), close_bodies),
    st.builds(raw, st.sampled_from([0xC1, 0xC2, 0x41, 0x42]), st.binary(max_size=20)),
    st.builds(raw, st.sampled_from([0xC1, 0xC2]), st.binary(max_size=40).map(deflated)),
    # of a correct compressed message the end is missing
    st.builds(lambda data, end: raw(0xC2, deflated(data)[:end]), st.binary(max_size=20), st.integers(0, 20)),
)
masked_bad_frames = st.one_of(
    whole_bad_frames,
    whole_bad_frames,
    st.builds(
        lambda bad, cut: raw(0x01, bad[:cut]) + raw(0x80, bad[cut:]), st.sampled_from(BAD_TEXT), st.integers(0, 3)
    ),
)
bad_frames = st.one_of(
    masked_bad_frames,
    masked_bad_frames,
    # without a mask
    st.builds(lambda first, data: bytes([first, len(data)]) + data, st.integers(0, 255), st.binary(max_size=5)),
    # lengths that are not minimal, too large for us or for anybody, or not allowed in control frames
    st.builds(
        lambda first, length: bytes([first, 0xFE]) + length.to_bytes(2, "big") + bytes(4 + min(length, 40)),
        st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x88, 0x89]),
        st.sampled_from([0, 5, 125, 126, LIMIT, LIMIT + 1, 0xFFFF]),
    ),
    st.builds(
        lambda first, length: bytes([first, 0xFF]) + length.to_bytes(8, "big") + bytes(4 + min(length, 40)),
        st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x88, 0x89]),
        st.sampled_from([0, 5, 126, LIMIT, 0xFFFF, 0x10000, 2**32 + 5, 2**63 - 1, 2**63, 2**64 - 1]),
    ),
    # too large when it is whole, or inflated
    st.sampled_from(
        [raw(0x82, bytes(LIMIT + 1)), raw(0xC2, deflated(bytes(LIMIT + 1))), raw(0xC2, deflated(bytes(9999)))]
    ),
    st.binary(max_size=10),
)


def mixed(parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return streams of good frames with others among them; behind the first that is refused nothing matters."""
    plain = st.builds(raw, st.sampled_from([0x81, 0x82]), st.text(max_size=9).map(str.encode), keys)
    good_messages = st.booleans().flatmap(lambda deflate: good(deflate)).map(lambda sent: sent.data)
    return st.lists(st.one_of(plain, plain, controls, parts, good_messages), max_size=6).map(b"".join)


streams = mixed(bad_frames)
streams_of_whole_frames = mixed(masked_bad_frames)
cuts = st.lists(st.integers(0, 3000), max_size=8)

quick = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


# --- opinions ---


def fed(peer: Peer, pieces: list[bytes]) -> Peer:
    """Return the peer when all has arrived."""
    peer.feed(*pieces)
    return peer


def heard(peer: Peer) -> tuple[list[Event], list[bytes], str]:
    """Return all that shows of a session: events, output, frame by frame, and where it stands."""
    return peer.events, peer.output, peer.session.state


@dataclass
class Opinion:
    """What another implementation says. messages: text as str, if it is UTF-8; answers: pongs and Close."""

    messages: list[str | bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    refused: int = 0


def of_server_protocol(data: bytes, deflate: bool) -> Opinion:
    """Ask websockets, which gets all at once."""
    opinion, parts, text = Opinion(), b"", False
    protocol = ServerProtocol(state=State.OPEN, max_size=None)
    if deflate:
        protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    protocol.receive_data(data)
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode not in (TEXT, BINARY, CONT):
            continue
        text = frame.opcode is TEXT or (text and frame.opcode is CONT)
        parts += bytes(frame.data)
        if frame.fin:
            opinion.messages.append(parts.decode(errors="surrogateescape") if text else parts)
            parts = b""
    opinion.answers = protocol.data_to_send()
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        opinion.refused = int(protocol.close_sent.code)
    return opinion


def of_wsproto(pieces: list[bytes], deflate: bool) -> tuple[list[Event], int]:
    """Ask wsproto; return its events, as ours, and the code with which it refuses to go on, or 0."""
    extension = WsprotoDeflate(client_no_context_takeover=True, server_no_context_takeover=True)
    assert extension.accept("permessage-deflate") is not None
    connection = Connection(ConnectionType.SERVER, [extension] if deflate else [])
    seen: list[Event] = []
    parts: list[str] | list[bytes] = []
    for piece in pieces:
        connection.receive_data(piece)
        for event in connection.events():
            if isinstance(event, wsproto_events.Ping):
                seen.append(Ping(bytes(event.payload)))
            elif isinstance(event, wsproto_events.Pong):
                seen.append(Pong(bytes(event.payload)))
            elif isinstance(event, wsproto_events.Message):
                parts.append(event.data)
                if event.message_finished:
                    seen.append(type(event.data)().join(parts))
                    parts = []
            elif isinstance(event, wsproto_events.CloseConnection):
                if connection.state.name == "OPEN":
                    # a broken rule leaves the state as it is
                    return seen, int(event.code)
                seen.append(Closed(int(event.code), event.reason or "", clean=True))
                return seen, 0
    return seen, 0


def interrupted(data: bytes) -> bool:
    """Tell whether a control frame stands inside a compressed message, which wsproto takes for its end."""
    compressed = False
    while header := read_header(data):
        if header.length is None:
            break
        if header.opcode & 0x08 and compressed:
            return True
        if not header.opcode & 0x08:
            compressed = not header.fin and (compressed or header.rsv == 4)
        data = data[header.size + header.length :]
    return False


def verdict(events: list[Event]) -> Closed | None:
    """Return our verdict, if there is one."""
    last = events[-1] if events else None
    return last if isinstance(last, Closed) and last.failed else None


# --- compared ---


@quick
@given(streams, cuts, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_both_lanes_in_every_split(data: bytes, cuts: list[int], most: int, patience: int, deflate: bool) -> None:
    """Any bytes, in any split, at once or a byte at a time, in runs of any length that are given back anywhere.

    The events, the output and the state are the same; and when the stream ends, the same again.
    """
    ways = [[data], split(data, cuts), split(data, range(len(data)))]
    slow = fed(opened(LIMIT, deflate=deflate, fast=False), [data])
    peers = [
        fed(opened(LIMIT, deflate=deflate, fast=fast, most=most if fast else 256, patience=patience), way)
        for fast in (True, False)
        for way in ways
    ]
    assert [heard(slow)] * len(peers) == [heard(peer) for peer in peers]
    for peer in [slow, *peers]:
        peer.eof()
    assert [heard(slow)] * len(peers) == [heard(peer) for peer in peers]
    ends = [isinstance(event, Closed) for event in slow.events]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert (slow.output.index(SEND_EOF), slow.session.state) == (len(slow.output) - 1, "closed")


@quick
@given(st.booleans(), st.data(), cuts)
def test_what_was_meant(deflate: bool, data: st.DataObject, cuts: list[int]) -> None:
    """Of a correct client everything arrives: messages, pings and its Close, and each is answered, in order."""
    sent = data.draw(good(deflate))
    answers: list[bytes] = []
    for event in sent.meant:
        if isinstance(event, (str, bytes)):
            answers.append(build(event))
        elif isinstance(event, Ping):
            answers.append(b"\x8a" + bytes([len(event.payload)]) + event.payload)
        elif isinstance(event, Closed):
            body = event.code.to_bytes(2, "big") + event.reason.encode()
            answers += [b"\x88" + bytes([len(body)]) + body, SEND_EOF]
    for fast in (True, False):
        peer = fed(opened(LIMIT, deflate=deflate, fast=fast), split(sent.data, cuts))
        assert (sent.meant, answers) == (peer.events, peer.output)
    if not interrupted(sent.data):
        assert (sent.meant, 0) == of_wsproto(split(sent.data, cuts), deflate)


@quick
@given(streams, st.booleans())
def test_server_protocol_alone(data: bytes, deflate: bool) -> None:
    """ServerProtocol has the same messages, pongs and Close; if it goes on where we do not, STRICTER says why."""
    peer = fed(opened(LIMIT, deflate=deflate), [data])
    theirs = of_server_protocol(data, deflate)
    messages = [event for event in peer.events if isinstance(event, (str, bytes))]
    answers = [item for item in peer.output if item == SEND_EOF or not is_message(item)]
    ours = verdict(peer.events)
    if ours is None:
        assert (messages, answers, 0) == (theirs.messages, theirs.answers, theirs.refused)
        return
    assert messages == theirs.messages[: len(messages)]
    # our own last words are the Close and the half-close
    assert answers[:-2] == theirs.answers[: len(answers) - 2]
    if not ours.reason.startswith(tuple(STRICTER)):
        assert (ours.code, len(messages)) == (theirs.refused, len(theirs.messages))


@quick
@given(streams_of_whole_frames, st.booleans())
def test_wsproto_judges_alike(data: bytes, deflate: bool) -> None:
    """What we refuse wsproto refuses, after the same messages, and what it refuses we do.

    It takes a Close inside a fragmented message, does not know 1014, and loses a compressed message in which a control
    frame comes.
    """
    peer = fed(opened(2**20, deflate=deflate), [data])
    seen, refused = of_wsproto([data], deflate)
    last = peer.events[-1] if peer.events else None
    ours = verdict(peer.events)
    if isinstance(last, Closed) and (last.code == 1014 or last.reason == "incomplete fragmented message"):
        return
    if deflate and interrupted(data):
        return
    assert bool(ours) == bool(refused), (ours, refused)
    assert [event for event in peer.events if event is not ours] == seen


@quick
@given(st.lists(short_messages, min_size=1, max_size=8), st.integers(0, 7), st.booleans(), cuts, bad_frames)
def test_close_in_the_middle_of_a_run(
    sent: list[str | bytes], place: int, failing: bool, cuts: list[int], behind: bytes
) -> None:
    """A Close in a callback is the last thing that is sent, and no message of the same run comes behind it."""
    place %= len(sent)

    def on_message(session: Session, message: str | bytes) -> None:
        seen.append(message)
        if len(seen) == place + 1:
            (session.fail if failing else session.close)(4000, "bye")

    data = b"".join(
        raw(FIN | (TEXT if isinstance(item, str) else BINARY), item.encode() if isinstance(item, str) else item)
        for item in sent
    )
    outcomes = []
    for fast in (True, False):
        for pieces in ([data + behind], split(data + behind, cuts), split(data + behind, range(len(data + behind)))):
            seen: list[str | bytes] = []
            peer = fed(opened(LIMIT, fast=fast, on_message=on_message), pieces)
            assert sent[: place + 1] == seen
            assert [*map(build, sent[:place]), b"\x88\x05\x0f\xa0bye"] == peer.output[: place + 1]
            assert not any(is_message(item) for item in peer.output[place + 1 :] if item != SEND_EOF)
            outcomes.append(heard(peer))
    assert [outcomes[0]] * len(outcomes) == outcomes


@quick
@given(st.lists(short_messages, max_size=12), st.integers(1, 5), st.integers(1, 5), cuts)
def test_give_back_changes_nothing(sent: list[str | bytes], most: int, patience: int, cuts: list[int]) -> None:
    """Runs that stop after every few messages, and go on later, give all messages once and in order."""
    data = b"".join(
        raw(FIN | (TEXT if isinstance(item, str) else BINARY), item.encode() if isinstance(item, str) else item)
        for item in sent
    )
    peer = fed(opened(LIMIT, most=most, patience=patience), split(data, cuts))
    assert (list(sent), [build(message) for message in sent]) == (peer.events, peer.output)
    assert (peer.session.behind, peer.session.unread) == ([], b"")


@pytest.mark.parametrize("deflate", [False, True])
def test_every_first_byte(deflate: bool) -> None:
    """Each of the 256 first bytes, in and outside of a fragmented message, gets one verdict from everybody."""
    for first in range(256):
        for before in (b"", raw(0x01, b"a"), raw(0x42, b"")):
            data = before + raw(first, b"")
            peers = [
                fed(opened(LIMIT, deflate=deflate, fast=fast), pieces)
                for fast in (True, False)
                for pieces in ([data], split(data, range(len(data))))
            ]
            assert [heard(peers[0])] * 4 == [heard(peer) for peer in peers]
            ours, theirs = verdict(peers[0].events), of_server_protocol(data, deflate)
            assert (ours.code if ours else 0) == theirs.refused, data
            if not (before and first == FIN | Opcode.CLOSE):
                assert bool(ours) == bool(of_wsproto([data], deflate)[1]), data


def test_every_close_code() -> None:
    """Of the codes at which a rule could change, all three let pass the same, but for 1014, which wsproto lacks."""
    for code in [*range(995, 1020), *range(2998, 3002), *range(4998, 5002), 0, 65535]:
        data = close_frame(code, b"why")
        [closed] = fed(opened(), [data]).events
        assert isinstance(closed, Closed)
        assert closed.clean == is_close_code(code) == (of_server_protocol(data, False).refused == 0)
        if code != 1014:
            assert closed.clean == (of_wsproto([data], False)[1] == 0)


def test_every_cut_of_everything() -> None:
    """One stream that holds all kinds of good frames, cut in two at every place, for both lanes."""
    text, small = "κόσμε", deflated("κόσμε".encode() * 9)
    data = b"".join(
        [
            raw(FIN | TEXT, text.encode(), b"\x01\x02\x03\x04"),
            raw(FIN | BINARY, bytes(126)),
            raw(FIN | Opcode.PING, b"1"),
            *in_fragments(TEXT, text.encode()[:3], text.encode()[3:]),
            raw(FIN | RSV1 | TEXT, small),
            raw(RSV1 | TEXT, small[:4]),
            raw(FIN | Opcode.PING, b"2"),
            raw(FIN | CONT, small[4:]),
            raw(FIN | TEXT, b""),
            close_frame(4000, b"bye"),
            b"garbage",
        ]
    )
    outcomes = []
    for fast in (True, False):
        for first, second in pairwise([0, *range(1, len(data)), len(data)]):
            peer = fed(opened(LIMIT, deflate=True, fast=fast), [data[:first], data[first:second], data[second:]])
            outcomes.append(heard(peer))
    meant = [text, bytes(126), Ping(b"1"), text, text * 9, Ping(b"2"), text * 9, "", Closed(4000, "bye", clean=True)]
    assert meant == outcomes[0][0]
    assert [outcomes[0]] * len(outcomes) == outcomes
