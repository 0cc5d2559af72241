"""A session that stands still: wherever it may be frozen, the one that goes on does all that this one would have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Opcode

from tests.frames import FIN, RSV1, deflated, split
from tests.frames import frame as raw
from tests.protocol.peer import HEAD, close_frame, in_fragments, offering, opened
from tests.protocol.test_lanes import LIMIT, cuts, good, quick, streams
from wsworker.protocol.events import Closed, Event, Handled, Handshake, Ping
from wsworker.protocol.frames import TOO_LARGE
from wsworker.protocol.frozen import SessionState, Windows
from wsworker.protocol.session import Session

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT


def moved(session: Session, max_size: int = LIMIT, fast: bool = True) -> Session:
    """Return the session that goes on; what it is frozen to in turn is the same."""
    state = session.freeze()
    other = Session.thaw(state, max_size, fast=fast)
    assert state == other.freeze() == session.freeze()
    return other


def seen(session: Session) -> tuple[object, ...]:
    """Return all that shows of a session."""
    facts = session.state, session.lane, session.in_message, session.hindrance, session.window_bits
    return *facts, session.finished, session.eof, session.output, session.control, session.head_started


class Twins:
    """Two sessions that get the same, one of which moves at each moment at which it may and moves says so.

    patience: so many messages of a run are handled, and the rest is given back. happened: what both have given.
    """

    def __init__(self, moves: Sequence[bool], *, deflate: bool, fast: bool, patience: int = 1000) -> None:
        self.stays = opened(LIMIT, deflate=deflate, fast=fast).session
        self.moves = opened(LIMIT, deflate=deflate, fast=fast).session
        self.happened: list[Event] = []
        self.count = 0
        self._fast = fast
        self._turns = cycle(moves)
        self._patience = patience
        self._compare()

    @property
    def over(self) -> bool:
        """Whether the connection has ended."""
        return self.stays.state == "closed"

    def receive(self, data: bytes) -> None:
        """Let bytes arrive, and nobody look at them."""
        for session in (self.stays, self.moves):
            session.receive(data)
        self._compare()

    def step(self) -> bool:
        """Handle one run, or one event; False if there was none."""
        of_both = [self._taken(session) for session in (self.stays, self.moves)]
        assert of_both[0] == of_both[1]
        self.happened += of_both[0]
        self._compare()
        return bool(of_both[0])

    def act(self, what: str) -> None:
        """Do of our own accord what users and the worker do."""
        for session in (self.stays, self.moves):
            if what == "ping":
                session.ping(b"1")
            elif what == "close":
                session.close(4000, "bye")
            else:
                session.fail(1008, "enough")
        self._compare()

    def end(self) -> None:
        """Handle all, then let the stream end and handle all again."""
        while self.step():
            pass
        for session in (self.stays, self.moves):
            session.receive_eof()
        self._compare()
        while self.step():
            pass

    def _taken(self, session: Session) -> list[Event]:
        run = session.next_run(4)
        if run:
            if len(run) > self._patience:
                session.give_back(run[self._patience :])
            return list(run[: self._patience])
        event = session.next_event()
        return [] if event is None else [event]

    def _compare(self) -> None:
        assert seen(self.stays) == seen(self.moves)
        for session in (self.stays, self.moves):
            session.output.clear()
            session.control = 0
        if next(self._turns) and self.moves.hindrance is None:
            self.moves = moved(self.moves, fast=self._fast)
            self.count += 1
            assert seen(self.stays) == seen(self.moves)


# steps behind each piece, and the patience
handling = st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 3))
moves = st.lists(st.booleans(), min_size=1, max_size=8).filter(any)
acts = st.lists(st.sampled_from(["", "", "", "", "ping", "ping", "close", "fail"]), min_size=1, max_size=8)


@quick
@given(streams, cuts, handling, moves, acts, st.tuples(st.booleans(), st.booleans()))
def test_it_goes_on_as_if_nothing_had_been(
    data: bytes,
    cuts: list[int],
    handling: tuple[list[int], int],
    moves: list[bool],
    acts: list[str],
    kind: tuple[bool, bool],
) -> None:
    """Any bytes, cut anywhere, handled sooner or later, and moved any number of times before, between and after that.

    The same events, the same output and the same state, up to the end of the connection.
    """
    (steps, patience), (deflate, fast) = handling, kind
    twins = Twins(moves, deflate=deflate, fast=fast, patience=patience)
    for piece, most, what in zip(split(data, cuts), cycle(steps), cycle(acts), strict=False):
        twins.receive(piece)
        for _ in range(most):
            twins.step()
        if what:
            twins.act(what)
    twins.end()
    assert twins.over


@quick
@given(st.booleans(), st.data(), st.booleans())
def test_moved_behind_every_byte_all_arrives(deflate: bool, data: st.DataObject, fast: bool) -> None:
    """Of a correct client: messages, pings and its Close, each once and in order."""
    sent = data.draw(good(deflate))
    twins = Twins([True], deflate=deflate, fast=fast)
    for place in range(len(sent.data)):
        twins.receive(sent.data[place : place + 1])
        while twins.step():
            pass
    assert sent.meant == [event for event in twins.happened if not isinstance(event, Handled)]
    # nothing but a fragmented message, or the end, may keep it
    assert twins.count > 0


def test_every_cut_of_everything() -> None:
    """One stream that holds all kinds of good frames: moved at each place, with all before it handled, or nothing."""
    small = deflated(b"hello" * 9)
    parts = [
        raw(FIN | TEXT, "κόσμε".encode(), b"\x01\x02\x03\x04"),
        raw(FIN | BINARY, bytes(126)),
        raw(FIN | Opcode.PING, b"1"),
        *in_fragments(TEXT, "κόσμε".encode()[:3], "κόσμε".encode()[3:]),
        raw(FIN | RSV1 | TEXT, small),
        raw(RSV1 | BINARY, small[:4]),
        raw(FIN | Opcode.PING, b"2"),
        raw(FIN | CONT, small[4:]),
        raw(FIN | TEXT, b""),
        close_frame(4000, b"bye"),
    ]
    data = b"".join(parts)
    meant = ["κόσμε", bytes(126), Ping(b"1"), "κόσμε", "hello" * 9, Ping(b"2"), b"hello" * 9, ""]
    kept = 0
    for place in range(len(data)):
        for handled in (True, False):
            peer = opened(LIMIT, deflate=True)
            if handled:
                peer.feed(data[:place])
            else:
                peer.session.receive(data[:place])
            if peer.session.hindrance is not None:
                kept += 1
                assert peer.session.hindrance == "fragment"
            else:
                peer.session = moved(peer.session)
                peer.pump()
            peer.feed(data[place:])
            assert [*meant, Closed(4000, "bye", clean=True)] == peer.events
    # a place counts as inside of a fragmented message from the end of its first frame on
    assert len(parts[4]) + len(parts[7]) + len(parts[8]) == kept


# --- limits are those of the process that goes on ---


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("place", [2, 4, 8, 60, 108])
def test_a_frame_that_is_not_whole_is_judged_anew(place: int, fast: bool) -> None:
    """If its header says that it is too large now, it fails as any other, at once or when its length is known."""
    data = raw(FIN | TEXT, b"x" * 130)
    peer = opened(130, fast=fast)
    peer.feed(data[:place])
    peer.session = moved(peer.session, 129, fast)
    peer.pump()
    peer.feed(data[place:])
    assert [Closed(1009, TOO_LARGE, failed=True)] == peer.events
    peer = opened(129, fast=fast)
    peer.feed(data[:2])
    peer.session = moved(peer.session, 130, fast)
    peer.feed(data[2:])
    assert ["x" * 130] == peer.events


def test_what_was_decoded_is_given() -> None:
    """Whatever the limit is now: it was within the one under which it came."""
    peer = opened()
    peer.session.receive(raw(FIN | BINARY, bytes(100)) * 3 + raw(FIN | BINARY, bytes(101)))
    run = peer.session.next_run(3)
    peer.session.give_back(run[1:])
    state = peer.session.freeze()
    assert SessionState(raw(FIN | BINARY, bytes(101)), (bytes(100), bytes(100)), None) == state
    peer.session = Session.thaw(state, 10)
    peer.pump()
    assert [bytes(100), bytes(100), Closed(1009, TOO_LARGE, failed=True)] == peer.events


@pytest.mark.parametrize("fast", [False, True])
def test_text_that_is_looked_at_again(fast: bool) -> None:
    """A character cut by the move is one; a byte that is wrong is found as early, and named by the same place."""
    text, header = ("a" * 70 + "é" * 20).encode(), 6
    for place in range(header, header + len(text)):
        data = raw(FIN | TEXT, text)
        peer = opened(fast=fast)
        peer.feed(data[:place])
        peer.session = moved(peer.session, fast=fast)
        peer.feed(data[place:])
        assert [text.decode()] == peer.events
        peer = opened(fast=fast)
        peer.feed(data[:place])
        peer.session = moved(peer.session, fast=fast)
        peer.feed(b"\xff")
        # in the middle of an é it is its first byte that is named
        done = place - header
        wrong = done - (done > 70 and done % 2)
        assert [Closed(1007, f"the text is not UTF-8 at byte {wrong}", failed=True)] == peer.events


# --- what was agreed on ---


def agreed(extension: str) -> Sequence[Extension]:
    """Return what a handshake agrees on with a client that offers this."""
    session = Session(LIMIT, deflate=True)
    session.receive(offering(extension) if extension else HEAD)
    assert isinstance(session.next_event(), Handshake)
    assert session.accept(None)
    return session.extensions


@pytest.mark.parametrize(
    ("extension", "windows"),
    [
        ("", None),
        ("permessage-deflate", Windows(15, 15)),
        ("permessage-deflate; client_max_window_bits", Windows(15, 15)),
        ("permessage-deflate; server_max_window_bits=10", Windows(15, 10)),
        ("permessage-deflate; server_max_window_bits=9; client_max_window_bits=8", Windows(8, 9)),
        ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", Windows(15, 15)),
    ],
)
def test_the_extension_is_as_it_was_agreed_on(extension: str, windows: Windows | None) -> None:
    """In all that it says of itself."""
    before = agreed(extension)
    assert windows == Windows.agreed(before)
    if windows is not None:
        assert windows.right
        assert [repr(windows.extension())] == [repr(item) for item in before]
        assert [vars(windows.extension())] == [vars(item) for item in before]


def test_windows_that_nobody_agrees_on() -> None:
    """Of what comes from another process a part may be wrong; each of the two has its own bounds."""
    right = {(remote, local) for remote in range(17) for local in range(17) if Windows(remote, local).right}
    assert {(remote, local) for remote in range(8, 16) for local in range(9, 16)} == right
    for windows in right:
        assert Windows(*windows) == Windows.agreed([Windows(*windows).extension()])


def test_a_small_window_is_kept() -> None:
    """The one that goes on sends what the client can read, and reads no more than it must."""
    session = Session(LIMIT, deflate=True)
    session.receive(offering("permessage-deflate; server_max_window_bits=10"))
    session.next_event()
    assert session.accept(None)
    session.output.clear()
    session.control = 0
    assert 10 == moved(session).window_bits
