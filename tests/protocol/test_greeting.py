"""Greeting: a session up to the answer; what follows a 101 is the session's own test."""

from __future__ import annotations

import pytest

from wsworker.protocol.events import Closed, Handshake, Refused
from wsworker.protocol.session import Session

FIELDS = b"Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
HEAD = b"GET /chat HTTP/1.1\r\n" + FIELDS + KEY + b"\r\n"
BEHIND = b"\x81\x80abcd"


def asked(data: bytes = HEAD, deflate: bool = False) -> Session:
    """Return a session that owes the answer to this head."""
    session = Session(1000, deflate=deflate)
    session.receive(data)
    assert isinstance(session.next_event(), Handshake)
    return session


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_stands_behind_the_head_waits(step: int) -> None:
    """Nothing is read behind the head before it is answered, however the bytes come."""
    session, data, events = Session(1000), HEAD + BEHIND, []
    for start in range(0, len(data), step):
        session.receive(data[start : start + step])
        while (event := session.next_event()) is not None:
            events.append(event)
    [event] = events
    assert isinstance(event, Handshake)
    assert ("/chat", HEAD) == (event.request.path, event.head)
    assert (True, BEHIND, []) == (session.head_started, bytes(session.unread)[-len(BEHIND) :], session.output)
    assert session.accept(None)
    assert [""] == session.next_run(5)


def test_a_head_has_started_with_its_first_byte() -> None:
    """Whoever has sent none when its time is up gets no answer."""
    session = Session(1000)
    started = [session.head_started]
    session.receive(b"x" + b"G", 1)
    started.append(session.head_started)
    assert session.next_event() is None
    session.receive(b"ET / HTTP/1.1\r\n")
    assert session.next_event() is None
    started.append(session.head_started)
    assert [False, True, True] == started


def test_a_malformed_head_is_refused_at_once() -> None:
    """The answer is in the output, and what follows is thrown away."""
    session = Session(1000)
    session.receive(b"GET /\r\nHost")
    event = session.next_event()
    assert isinstance(event, Refused)
    assert 400 == event.status
    assert (1, 1, True, b"", "closed") == (
        len(session.output),
        session.control,
        session.finished,
        session.unread,
        session.state,
    )
    session.receive(HEAD)
    assert (None, b"") == (session.next_event(), session.unread)


def test_who_leaves_in_the_middle_gets_no_answer() -> None:
    """There is nobody to read one."""
    session = Session(1000)
    session.receive(HEAD[:20])
    session.receive_eof()
    assert Closed(1006, "the client left before its handshake was complete") == session.next_event()
    assert ([], True) == (session.output, session.finished)


def test_what_was_agreed_on_is_kept() -> None:
    """Extensions and window outlive the handshake."""
    head = HEAD[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n\r\n"
    session = asked(head, deflate=True)
    assert session.accept(None)
    assert (10, ["permessage-deflate"]) == (session.window_bits, [one.name for one in session.extensions])
    plain = asked(head)
    assert plain.accept(None)
    assert (0, []) == (plain.window_bits, list(plain.extensions))


def test_server_protocol_may_refuse() -> None:
    """What admission has overlooked ends here, with its answer."""
    session = asked(HEAD.replace(KEY, b""))
    assert not session.accept(None)
    assert (b"HTTP/1.1 400 ", True, "closed") == (session.output[0][:13], session.finished, session.state)


def test_the_caller_may_refuse_or_answer_itself() -> None:
    """A refusal is written and finishes; to step aside writes nothing and leaves the end to the caller."""
    session = asked()
    session.reject(403, {"X-Why": "policy"}, "no")
    assert (True, True) == (b"X-Why: policy" in session.output[0], session.finished)
    session = asked()
    session.step_aside()
    assert ([], False, "closed") == (session.output, session.finished, session.state)


def test_a_late_client_is_told_before_its_head_is_complete() -> None:
    """408 needs no request."""
    session = Session(1000)
    session.receive(HEAD[:20])
    session.reject(408, None, "too slow")
    assert session.output[0].startswith(b"HTTP/1.1 408 ")


def test_bytes_that_come_in_pieces_are_put_together() -> None:
    """Behind a run that has left the beginning of a frame, what comes next continues that frame."""
    session = asked()
    assert session.accept(None)
    session.receive(BEHIND[:3])
    assert session.next_event() is None
    session.receive(BEHIND[3:] + BEHIND[:2])
    assert [""] == session.next_run(5)
    session.receive(BEHIND[2:])
    assert [""] == session.next_run(5)
    assert b"" == session.unread
