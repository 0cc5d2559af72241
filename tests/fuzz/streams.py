"""Target: frames behind a handshake, through the session.

Any bytes end in messages, a clean end, the end of the stream, or a Close with one of the codes that are documented.
What comes out is the same for every split and however many messages of a run are handled at once, and what the session
holds meanwhile stays within the size of a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from tests.frames import deflated, frame
from tests.fuzz import grammar
from tests.fuzz.mutation import cuts, split
from tests.fuzz.reading import CLOSE_CODES, read_frames
from tests.fuzz.target import Target
from tests.fuzz.weight import weight
from wsworker.protocol import frames
from wsworker.protocol.events import Closed, Event, Handled, Handshake
from wsworker.protocol.session import Session

VERDICTS: Final = frozenset({1002, 1007, 1008, 1009})
WORDS: Final = ("close", "pause", "raise")
"""Messages that the application does not echo."""

SESSION_BYTES: Final = 4 * 1024
"""What a session weighs without anything of the client in it, with room to spare."""


@dataclass(frozen=True)
class Stream:
    """One client. data: all that it sends behind the 101; cuts: how that is split.

    most: messages of a run at once; taken: of so many the rest is given back, 0: of none; glued: the first piece comes
    with the head; patient: nothing is handled before all is there. deflate, fast, max_size: as the session's.
    """

    data: bytes
    cuts: tuple[int, ...] = ()
    most: int = 256
    taken: int = 0
    glued: bool = False
    patient: bool = False
    deflate: bool = False
    fast: bool = True
    max_size: int = 1000


@dataclass(frozen=True)
class Outcome:
    """How it ended: what the application heard, what the client got, and how the session stood before the end."""

    events: tuple[Event, ...]
    output: bytes
    left: str


class Application:
    """Echoes what it gets; some words have a meaning."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.events: list[Event] = []

    def hear(self, event: Event) -> None:
        """Handle one event."""
        if isinstance(event, Handled):
            # whoever closes in the middle of a run never learns of the frames behind it one by one
            return
        self.events.append(event)
        if not isinstance(event, (str, bytes)):
            return
        if event == "close":
            self._session.close(4000, "as you wish")
        elif event == "pause":
            self._session.ping(b"still there?")
        elif event == "raise":
            self._session.fail(1008, "not this word")
        elif self._session.state == "open":
            self._session.output.append(frames.build(event))


def outcome(case: Stream, pieces: list[bytes]) -> Outcome:
    """Let the pieces arrive, then the end of the stream."""
    session = Session(case.max_size, deflate=case.deflate, fast=case.fast)
    application = Application(session)
    head = grammar.HEAD % grammar.OFFER
    glue = pieces.pop(0) if case.glued and pieces else b""
    session.receive(head + glue)
    assert isinstance(session.next_event(), Handshake)
    assert session.accept(None)
    assert session.output.pop().startswith(b"HTTP/1.1 101 ")
    output: list[bytes] = []
    _pump(session, application, case, output)
    for piece in pieces:
        # a read at a place of a buffer that others have used
        session.receive(b"before" + piece, 6)
        if not case.patient:
            _pump(session, application, case, output)
            held = weight(session)
            # the unfinished frame and the unfinished message, each in a buffer that grows by an eighth at a time
            assert held < SESSION_BYTES + 3 * case.max_size, f"{held} bytes are held"
    _pump(session, application, case, output)
    left = f"{session.state}, {session.finished}, {session.in_message}"
    if session.state != "closed":
        session.receive_eof()
    _pump(session, application, case, output)
    return Outcome(tuple(application.events), b"".join(output), f"{left}, {session.state}")


def _pump(session: Session, application: Application, case: Stream, output: list[bytes]) -> None:
    while True:
        run = session.next_run(case.most)
        if run:
            assert len(run) <= case.most
            handled = 0
            for message in run[: case.taken or len(run)]:
                application.hear(message)
                handled += 1
                if session.state != "open":
                    break
            if handled < len(run):
                session.give_back(run[handled:])
            continue
        event = session.next_event()
        output += session.output
        session.output.clear()
        if event is None:
            return
        application.hear(event)


def check_stream(case: Stream) -> None:
    """One case of the target."""
    plain = Stream(case.data, deflate=case.deflate, fast=case.fast, max_size=case.max_size)
    whole = outcome(plain, [case.data])
    assert whole == outcome(case, split(case.data, case.cuts))
    if len(case.data) < 400:
        assert whole == outcome(plain, [case.data[at : at + 1] for at in range(len(case.data))])
    ends = [event for event in whole.events if isinstance(event, Closed)]
    assert len(ends) == 1
    _check_end(ends[0])
    assert whole.events[-1] == ends[0]
    sent = read_frames(whole.output)
    messages = [event for event in whole.events if isinstance(event, (str, bytes))]
    assert all(len(_payload(message)) <= case.max_size for message in messages)
    echoed = [_payload(message) for message in messages if message not in WORDS]
    assert echoed == [payload for opcode, payload in sent if opcode < 3]


def _payload(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _check_end(end: Closed) -> None:
    if end.failed:
        assert end.code in VERDICTS, end
    elif end.clean:
        assert end.code in CLOSE_CODES or end == Closed(1005, "", clean=True), end
    else:
        assert end.code == 1006, end


_cases: Final = st.builds(
    Stream,
    data=grammar.frames,
    cuts=cuts,
    most=st.sampled_from((256, 256, 1, 2, 5)),
    taken=st.sampled_from((0, 0, 1, 3)),
    glued=st.booleans(),
    patient=st.booleans(),
    deflate=st.booleans(),
    fast=st.sampled_from((True, True, False)),
    max_size=st.sampled_from(grammar.LIMITS),
)

_EMPTY_FRAGMENTS: Final = frame(0x01, b"") + frame(0x00, b"") * 1024
_BEHIND_THE_END: Final = frame(0x41, deflated(b"", last=True)) + frame(0x00, b"x" * 290) * 40
_KNOWN: Final = (
    Stream(b""),
    Stream(_EMPTY_FRAGMENTS, (100, 2000)),
    Stream(frame(0x81, b"a") * 600, (7, 77, 777), most=5, taken=3),
    Stream(frame(0x81, b"x" * 70_000), (10, 65_540), max_size=70_000),
    # zlib keeps what stands behind the last block of a compressed message
    Stream(_BEHIND_THE_END, tuple(range(0, len(_BEHIND_THE_END), 1000)), deflate=True, max_size=300),
    Stream(b"\x81\xff" + b"\xff" * 8, (1, 2, 3, 9)),
    Stream(b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4), (1, 2, 3, 9)),
)

TARGET: Final = Target("streams", _cases, check_stream, _KNOWN)
