"""The cork on a transport that takes as much as the test says: joined writes, the marks, who is told what."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.conftest import Run
from tests.worker.service import head
from wsworker.counters import Counters
from wsworker.protocol.events import Handshake
from wsworker.protocol.frames import build, is_message
from wsworker.protocol.session import Session
from wsworker.worker import cork as cork_module
from wsworker.worker.cork import FRAMES_WAITING, TRANSPORT_BYTES, UNJOINED_BYTES, Cork
from wsworker.worker.parting import Parting

LIMIT = 1000
KIB = 1024


class Pipe(asyncio.Transport):
    """A transport whose buffer is emptied by take(); it keeps asyncio's contract of marks and callbacks."""

    half_closes = True

    def __init__(self) -> None:
        super().__init__()
        self.cork: Cork
        self.writes: list[bytes] = []
        self.size = 0
        self.high = 64 * KIB
        self.low = 16 * KIB
        self.paused = False
        self.calls: list[str] = []
        self.reset = False
        self.drinks = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data
        assert self.calls == []
        self.writes.append(bytes(data))
        if not self.drinks:
            self.size += len(data)
        self._pause()

    def take(self, size: int) -> None:
        """Have the kernel take so much of what is here."""
        self.size -= min(size, self.size)
        self._resume()

    def write_eof(self) -> None:
        if self.reset:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        self.calls.append("write_eof")

    def can_write_eof(self) -> bool:
        return self.half_closes

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "abort" in self.calls or "close" in self.calls

    def get_write_buffer_size(self) -> int:
        return self.size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self.high, self.low = high, low
        self._pause()

    def _pause(self) -> None:
        if self.size > self.high and not self.paused:
            self.paused = True
            self.cork.pause()

    def _resume(self) -> None:
        if self.paused and self.size <= self.low:
            self.paused = False
            self.cork.resume()


class TlsPipe(Pipe):
    """As a transport of TLS has it: no half-close, and whoever sets the limits may be told at once that there is room.

    It pauses at its high mark already, but is not seen paused when it is empty.
    """

    half_closes = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        super().set_write_buffer_limits(high, low)
        self._resume()

    def _pause(self) -> None:
        if self.size >= self.high and self.size and not self.paused:
            self.paused = True
            self.cork.pause()


class Edges:
    """Writes down what the cork tells."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def _choked(self) -> None:
        self.told.append("choked")

    def _eased(self) -> None:
        self.told.append("eased")

    def _filled(self) -> None:
        self.told.append("filled")

    def _emptied(self) -> None:
        self.told.append("emptied")


class Way:
    """An open session behind a cork; puts frames in as a connection does."""

    def __init__(self, limit: int = LIMIT, pipe: Pipe | None = None) -> None:
        self.session = Session(limit)
        self.session.receive(head())
        assert isinstance(self.session.next_event(), Handshake)
        assert self.session.accept(None)
        self.session.output.clear()
        self.session.control = 0
        self.pipe = pipe or Pipe()
        self.edges = Edges()
        self.counters = Counters()
        # the constructor sets the marks
        self.pipe.cork = self.cork = Cork(self.edges, self.session, self.pipe, limit, self.counters)

    def send(self, size: int) -> None:
        """Put in the frame of a message with so many bytes of payload, room or not."""
        self.put(build(bytes(size)))

    def fit(self, size: int) -> None:
        """Put in a frame of a message of so many bytes in all, headers included."""
        header = 2 if size <= 127 else 4
        frame = build(bytes(size - header))
        assert size == len(frame)
        self.put(frame)

    def put(self, frame: bytes) -> None:
        self.cork.frames.append(frame)
        self.cork.size += len(frame)
        if self.cork.size >= self.cork.limit:
            self.cork.press()

    def ping(self) -> None:
        """Put in a control frame, counted."""
        self.session.ping(b"1234")
        self.cork.size += 6
        if self.cork.size >= self.cork.limit:
            self.cork.press()

    @property
    def told(self) -> list[str]:
        """What was told since the last time."""
        told, self.edges.told = self.edges.told, []
        return told


# Writing


def test_small_frames_are_joined_and_large_ones_are_not() -> None:
    """Between large frames the small ones leave together, in order."""
    way = Way(limit=1024 * KIB)
    way.pipe.drinks = True
    for size in (1, 2, UNJOINED_BYTES, 3, 4, UNJOINED_BYTES, UNJOINED_BYTES, 5):
        way.send(size)
    way.cork.flush()
    large = 4 + UNJOINED_BYTES
    assert [3 + 4, large, 5 + 6, large, large, 7] == [len(data) for data in way.pipe.writes]


def test_many_small_frames_leave_in_good_writes() -> None:
    """However many there are, a write is hardly larger than the size from which on joining does not pay."""
    way = Way(limit=1024 * KIB)
    way.pipe.drinks = True
    for _ in range(100):
        way.send(1000)
    way.cork.flush()
    assert 6 == len(way.pipe.writes)
    assert all(UNJOINED_BYTES <= len(data) < UNJOINED_BYTES + 1004 for data in way.pipe.writes[:-1])
    assert 100 * 1004 == sum(len(data) for data in way.pipe.writes)


def test_what_was_written_long_ago_does_not_part_a_small_write() -> None:
    """Size is corrected late, but whether frames are joined depends on those that are there."""
    way = Way(limit=1024 * KIB)
    way.pipe.drinks = True
    for _ in range(100):
        for _ in range(3):
            way.send(1000)
        way.cork.flush()
    assert [3 * 1004] * 100 == [len(data) for data in way.pipe.writes]
    assert 300 * 1004 == way.cork.size
    assert 0 == way.cork.buffered


def test_one_large_frame_is_written_as_it_is() -> None:
    """No copy is made of a frame that is alone: it may be the one that all others get as well."""
    way = Way(limit=1024 * KIB)
    frame = build(bytes(100 * KIB))
    written: list[object] = []
    way.pipe.write = written.append  # type: ignore[assignment, method-assign]
    way.put(frame)
    way.cork.flush()
    way.put(frame)
    way.put(frame)
    way.cork.flush()
    assert [True] * 3 == [data is frame for data in written]


def test_nothing_is_written_when_nothing_is_there() -> None:
    """An empty flush writes nothing."""
    way = Way()
    way.cork.flush()
    assert [] == way.pipe.writes


@pytest.mark.parametrize("size", [1, UNJOINED_BYTES])
def test_messages_and_bytes_are_counted_when_they_are_written(size: int) -> None:
    """Control frames are bytes and no messages, in joined writes and in parted ones; and nothing counts before."""
    way = Way(limit=1024 * KIB)
    way.pipe.drinks = True
    way.send(size)
    way.ping()
    way.send(size)
    assert (0, 0, 1) == (way.counters.messages_out, way.counters.bytes_out, way.session.control)
    way.cork.flush()
    written = sum(len(data) for data in way.pipe.writes)
    assert (2, written, 0) == (way.counters.messages_out, way.counters.bytes_out, way.session.control)
    way.send(1)
    way.cork.flush()
    assert (3, written + 3) == (way.counters.messages_out, way.counters.bytes_out)


def test_the_head_is_no_message() -> None:
    """The 101 counts as bytes; what was sent in the same tick counts as a message."""
    session, pipe, counters = Session(LIMIT), Pipe(), Counters()
    session.receive(head())
    session.next_event()
    session.accept(None)
    pipe.cork = cork = Cork(Edges(), session, pipe, LIMIT, counters)
    cork.frames.append(build("a"))
    cork.flush()
    (written,) = pipe.writes
    assert (1, len(written)) == (counters.messages_out, counters.bytes_out)


# The end of writing


def test_the_half_close_comes_behind_what_was_sent_and_ends_all_writing() -> None:
    """A failed session ends in Close and half-close; what is put in later is dropped."""
    way = Way()
    way.send(1)
    way.session.fail(1002, "no")
    way.cork.flush()
    assert [b"\x82\x01\0\x88\x04\x03\xeano"] == way.pipe.writes
    assert ["write_eof"] == way.pipe.calls
    assert way.cork.finished
    way.cork.finish()
    way.send(1)
    way.cork.flush()
    assert [] == way.cork.frames
    assert 1 == len(way.pipe.writes)
    assert ["write_eof"] == way.pipe.calls


@pytest.mark.parametrize("kind", [Pipe, TlsPipe])
def test_the_end_drops_nothing_that_was_accepted(kind: type[Pipe]) -> None:
    """finish() hands all that waits to the transport, however much that has, and the half-close behind it."""
    way = Way(limit=1024 * KIB, pipe=kind())
    for size in (90 * KIB, 10, UNJOINED_BYTES, 300 * KIB, 1):
        way.send(size)
    way.session.close(1000, "")
    way.cork.flush()
    assert 1 == len(way.pipe.writes)
    assert 5 == len(way.cork.frames)
    way.cork.finish()
    assert [] == way.cork.frames
    assert b"".join(way.pipe.writes).endswith(b"\x82\x01\0\x88\x02\x03\xe8")
    assert (5, 0) == (way.counters.messages_out, way.session.control)
    assert sum(len(data) for data in way.pipe.writes) == way.counters.bytes_out == way.cork.buffered
    assert ["write_eof" if way.pipe.half_closes else "close"] == way.pipe.calls


@pytest.mark.parametrize("paused", [False, True])
def test_a_closing_transport_is_not_written_to(paused: bool) -> None:
    """Output for a socket that is being dropped is thrown away, and so is its memory."""
    way = Way()
    if paused:
        way.send(LIMIT)
        assert way.pipe.paused
    way.send(1)
    way.pipe.calls.append("abort")
    writes = len(way.pipe.writes)
    way.cork.flush()
    way.cork.finish()
    assert [] == way.cork.frames
    assert writes == len(way.pipe.writes)
    assert ["abort"] == way.pipe.calls
    assert (1 if paused else 0) == way.counters.messages_out


def test_pongs_after_the_half_close_are_dropped_although_the_transport_has_enough() -> None:
    """They could go nowhere, and a client that goes on pinging is not to fill the memory with them."""
    way = Way()
    way.send(LIMIT)
    assert way.pipe.paused
    way.cork.finish()
    for _ in range(10):
        way.ping()
        way.cork.flush()
        assert [] == way.cork.frames


def test_a_half_close_of_a_reset_socket_is_no_error() -> None:
    """The ENOTCONN of shutdown(2) comes through from asyncio; there is nothing left to be polite to."""
    way = Way()
    way.pipe.reset = True
    way.cork.finish()
    assert ["abort"] == way.pipe.calls
    assert way.cork.finished


def test_what_nobody_can_get_is_forgotten() -> None:
    """forget() leaves nothing to write and nothing to count."""
    way = Way()
    way.ping()
    way.send(1)
    way.cork.forget()
    way.cork.flush()
    assert ([], [], 0, 0) == (way.cork.frames, way.pipe.writes, way.session.control, way.cork.buffered)


# The marks


def test_an_episode_from_full_to_empty() -> None:
    """The limit chokes and fills, below half eases, empty empties; each is told once, in this order."""
    way = Way()
    way.fit(LIMIT - 1 - 3)
    way.cork.flush()
    assert [] == way.told
    assert way.cork.has_room()
    way.fit(4)
    assert (["choked", "filled"], True) == (way.told, way.cork.choked)
    assert not way.cork.has_room()
    way.pipe.take(LIMIT // 2 - 1)
    way.cork.look()
    assert LIMIT // 2 + 1 == way.cork.size
    assert way.cork.has_room()
    assert [] == way.told
    way.pipe.take(1)
    assert LIMIT // 2 == way.cork.buffered
    assert [] == way.told
    way.pipe.take(1)
    assert (["eased"], False) == (way.told, way.cork.choked)
    # the frame that waited leaves when the first is gone
    while way.cork.buffered > 1:
        assert [] == way.told
        way.pipe.take(1)
    assert [] == way.told
    way.pipe.take(1)
    assert ["emptied"] == way.told
    way.fit(LIMIT)
    assert ["choked", "filled"] == way.told


def test_one_byte_below_the_limit_is_room_for_one_message_however_large() -> None:
    """The limit may be passed by one message; at the limit itself there is no room."""
    way = Way()
    way.fit(LIMIT - 1)
    assert way.cork.has_room()
    way.send(100 * LIMIT)
    assert ["choked", "filled"] == way.told
    assert LIMIT - 1 + 10 + 100 * LIMIT == way.cork.buffered
    assert not way.cork.has_room()


def test_choked_twice_in_one_episode() -> None:
    """Before the buffer is empty it is not full a second time, but reading stops again and goes on below half."""
    way = Way()
    way.fit(LIMIT)
    way.pipe.take(LIMIT - 100)
    assert ["choked", "filled", "eased"] == way.told
    way.fit(LIMIT)
    assert ["choked"] == way.told
    way.pipe.take(LIMIT - 100)
    assert [] == way.told
    way.pipe.take(1000)
    assert ["eased", "emptied"] == way.told


def test_an_episode_that_ends_in_one_gulp() -> None:
    """From full to empty at once: eased and emptied, in this order."""
    way = Way()
    way.fit(2 * LIMIT)
    assert ["choked", "filled"] == way.told
    way.pipe.take(2 * LIMIT)
    assert ["eased", "emptied"] == way.told
    assert 0 == way.cork.buffered


def test_a_transport_gets_one_write_at_a_time() -> None:
    """What the kernel does not take at once is all that the transport has; the next write follows when it is gone."""
    way = Way(limit=1024 * KIB)
    way.send(100)
    way.cork.flush()
    assert way.pipe.paused
    for _ in range(3):
        way.send(100)
        way.cork.flush()
    assert (1, 3) == (len(way.pipe.writes), len(way.cork.frames))
    way.pipe.take(101)
    assert (1, 3) == (len(way.pipe.writes), len(way.cork.frames))
    way.pipe.take(1)
    assert [102, 306] == [len(data) for data in way.pipe.writes]
    assert 306 == way.pipe.size == way.cork.buffered


@pytest.mark.parametrize("kind", [Pipe, TlsPipe])
def test_a_limit_above_what_the_transport_gets(kind: type[Pipe]) -> None:
    """The transport gets one write, with TLS 64 KiB; the rest waits here, and leaves as the transport's buffer does."""
    limit = 1024 * KIB
    way = Way(limit, kind())
    way.send(TRANSPORT_BYTES - 10 - 2)  # with its header two bytes below the mark
    way.cork.flush()
    assert way.pipe.half_closes == way.pipe.paused
    for _ in range(2):
        way.send(30 * KIB)
    way.cork.flush()
    writes = 1 if way.pipe.half_closes else 2
    assert (writes, 3 - writes) == (len(way.pipe.writes), len(way.cork.frames))
    assert way.pipe.size < TRANSPORT_BYTES + 30 * KIB + 4
    sent = 3
    while not way.cork.choked:
        way.send(30 * KIB)
        sent += 1
    assert (writes, sent - writes) == (len(way.pipe.writes), len(way.cork.frames))
    assert limit <= way.cork.buffered < limit + 31 * KIB
    assert ["choked", "filled"] == way.told
    most = 0
    while way.cork.buffered >= limit // 2:
        way.pipe.take(20 * KIB)
        most = max(most, way.pipe.size)
    assert most < TRANSPORT_BYTES + 30 * KIB + 4
    assert limit // 2 - 64 * KIB < way.cork.buffered < limit // 2
    while way.cork.buffered:
        way.pipe.take(20 * KIB)
    assert ["eased", "emptied"] == way.told
    assert sent == way.counters.messages_out


def test_what_the_kernel_takes_at_once_never_counts() -> None:
    """Reaching the limit writes first; a transport that takes all of it has room, and nobody is told."""
    way = Way()
    way.pipe.drinks = True
    for _ in range(1000):
        assert way.cork.has_room()
        way.send(LIMIT // 3)
    assert [] == way.told
    way.cork.flush()
    assert 0 == way.cork.buffered


def test_room_is_asked_of_the_transport_when_the_last_answer_is_old() -> None:
    """What the transport has written since the last flush is room, although nobody was told."""
    way = Way()
    way.fit(LIMIT)
    way.pipe.size = LIMIT - 1
    assert way.cork.has_room()


def test_buffered_counts_the_cork_and_the_transport() -> None:
    """Frames that wait here and bytes that the transport holds: writing them changes nothing."""
    way = Way()
    for size in (0, 1, 125, 126):
        way.send(size)
    assert 2 + 3 + 127 + 130 == way.cork.buffered
    way.cork.flush()
    assert 2 + 3 + 127 + 130 == way.cork.buffered == way.pipe.size
    way.send(1)
    assert 2 + 3 + 127 + 130 + 3 == way.cork.buffered
    way.pipe.take(100)
    assert 2 + 3 + 127 + 130 + 3 - 100 == way.cork.buffered


def test_empty_messages_fill_the_buffer_too() -> None:
    """Their headers are bytes like any other, so no number of them passes the limit unnoticed."""
    way = Way()
    sent = 0
    while way.cork.has_room():
        way.send(0)
        sent += 1
        assert sent <= LIMIT
    assert LIMIT // 2 == sent
    assert ["choked", "filled"] == way.told


def test_pongs_choke_too() -> None:
    """What the session answers by itself is no message, and fills the buffer all the same."""
    way = Way()
    while not way.cork.choked:
        way.ping()
    assert ["choked", "filled"] == way.told
    assert LIMIT <= way.cork.buffered < LIMIT + 6


@pytest.mark.parametrize("kind", [Pipe, TlsPipe])
def test_many_small_frames_choke_before_the_limit(kind: type[Pipe]) -> None:
    """They take far more memory than bytes; nobody is told that the buffer is full, and there still is room."""
    way = Way(limit=1024 * KIB, pipe=kind())
    way.send(100 * KIB)
    way.cork.flush()
    for _ in range(FRAMES_WAITING):
        way.send(0)
        way.cork.flush()
    assert ([], False) == (way.told, way.cork.choked)
    way.send(0)
    way.cork.flush()
    assert (["choked"], True) == (way.told, way.cork.choked)
    assert way.cork.has_room()
    way.send(0)
    way.cork.flush()
    assert [] == way.told
    # until all of the first is gone, or with TLS until less than 64 KiB of it are left
    for _ in range(3 if way.pipe.half_closes else 1):
        way.pipe.take(30 * KIB)
        assert [] == way.told
    way.pipe.take(30 * KIB)
    assert (["eased"], False) == (way.told, way.cork.choked)
    way.pipe.take(1024 * KIB)
    assert ([], 0) == (way.told, way.cork.buffered)
    assert FRAMES_WAITING + 3 == way.counters.messages_out


def test_many_small_frames_and_then_the_limit() -> None:
    """Who is choked for their number is told once the buffer is full, and eased when both are better."""
    way = Way(limit=200 * KIB)
    way.send(100 * KIB)
    way.cork.flush()
    for _ in range(2 * FRAMES_WAITING):
        way.send(0)
    way.cork.flush()
    assert ["choked"] == way.told
    way.send(100 * KIB)
    assert (["filled"], False) == (way.told, way.cork.has_room())
    way.pipe.take(30 * KIB)
    assert [] == way.told
    while way.cork.buffered:
        way.pipe.take(30 * KIB)
    assert ["eased", "emptied"] == way.told


def test_a_control_frame_that_nobody_counts_costs_no_room_for_ever() -> None:
    """Once all is written, the size is what the transport says."""
    way = Way()
    way.fit(LIMIT)
    for _ in range(10):
        way.session.ping(b"123456")
    way.pipe.take(LIMIT + 80)
    assert ["choked", "filled", "eased"] == way.told[:3]
    way.pipe.take(LIMIT + 80)
    assert 0 == way.cork.buffered
    way.fit(LIMIT)
    assert LIMIT == way.cork.buffered


def test_progress_is_what_the_kernel_has_taken() -> None:
    """Neither a write nor a drop is progress; a byte that left is, also if nobody was told of it."""
    way = Way()
    way.fit(LIMIT)
    way.fit(100)
    way.fit(100)
    way.cork.look()
    assert (2, LIMIT, False) == (way.cork.drop_all(), way.cork.buffered, way.cork.progress)
    way.pipe.size -= 1
    way.cork.look()
    assert (LIMIT - 1, True) == (way.cork.size, way.cork.progress)
    way.cork.progress = False
    way.pipe.take(LIMIT)
    assert (0, True) == (way.cork.size, way.cork.progress)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_smallest_limits(limit: int) -> None:
    """Whoever allows nothing to wait gets one message at a time, and an end of each episode."""
    way = Way(limit)
    for _ in range(3):
        assert way.cork.has_room()
        way.send(10)
        assert ["choked", "filled"] == way.told
        assert not way.cork.has_room()
        way.pipe.take(11)
        way.pipe.take(1)
        assert ["eased", "emptied"] == way.told


def test_tls_that_has_room_as_soon_as_it_is_asked() -> None:
    """Setting the marks may resume the writing at once: whoever was choked is eased, and not the other way round."""
    pipe = TlsPipe()
    way = Way(limit=400 * KIB, pipe=pipe)
    way.send(400 * KIB)
    while pipe.high:
        pipe.take(30 * KIB)
    assert ["choked", "filled", "eased"] == way.told
    assert pipe.paused
    for _ in range(3):
        way.send(60 * KIB)
    assert [] == way.told
    # what is there goes out at once while the cork still believes that the transport has enough
    pipe.drinks = True
    pipe.size = 1
    way.send(300 * KIB)
    assert (["choked", "eased"], False) == (way.told, way.cork.choked)
    pipe.take(1)
    assert ["emptied"] == way.told
    assert [] == way.cork.frames


# Making room


def test_the_oldest_messages_give_way() -> None:
    """Whole messages leave the head of what is still here until there is room; control frames stay where they are."""
    way = Way()
    way.fit(600)  # with the transport as soon as the limit is reached
    way.fit(500)
    assert way.pipe.paused
    way.fit(50)
    way.ping()
    way.fit(60)
    way.pipe.size -= 200
    way.cork.look()
    assert 1100 - 200 + 50 + 6 + 60 == way.cork.size
    assert 1 == way.cork.drop_oldest()
    assert way.cork.has_room()
    assert [6, 60] == [len(frame) for frame in way.cork.frames]
    assert 1100 - 200 + 6 + 60 == way.cork.size == way.cork.buffered
    assert 1 == way.session.control


def test_no_room_can_be_made_in_the_transport() -> None:
    """What the transport has is beyond recall, and control frames are kept, in their order."""
    way = Way()
    way.fit(LIMIT)
    way.ping()
    way.fit(100)
    way.ping()
    assert 1 == way.cork.drop_oldest()
    assert not way.cork.has_room()
    assert 0 == way.cork.drop_oldest()
    assert [6, 6] == [len(frame) for frame in way.cork.frames]
    assert LIMIT + 12 == way.cork.buffered


def test_all_messages_give_way() -> None:
    """drop_all leaves the control frames; the bytes of the others are gone."""
    way = Way()
    way.fit(LIMIT)
    for _ in range(3):
        way.fit(100)
        way.ping()
    assert 3 == way.cork.drop_all()
    assert LIMIT + 18 == way.cork.buffered
    way.pipe.take(LIMIT)
    assert 3 * b"\x89\x041234" == way.pipe.writes[-1]
    assert 1 == way.counters.messages_out


def test_a_full_buffer_costs_the_same_however_many_messages_it_holds() -> None:
    """Refusing, replacing and measuring look at none of the frames that wait but those that go."""

    class Counted(list[bytes]):
        looked_at = 0

        def __iter__(self) -> Any:
            raise AssertionError("all frames are looked at")

        def __getitem__(self, index: Any) -> Any:
            self.looked_at += 1
            return super().__getitem__(index)

    way = Way(limit=200 * KIB)
    way.send(200 * KIB)
    way.pipe.size -= 100 * KIB
    while way.cork.has_room():
        way.send(0)
    counted = Counted(way.cork.frames)
    assert len(counted) > 50_000
    way.cork.frames = counted
    for _ in range(10):
        assert not way.cork.has_room()
        assert 1 == way.cork.drop_oldest()
        assert way.cork.has_room()
        way.send(0)
    assert 10 == counted.looked_at


# drain


@pytest.mark.parametrize("how", ["half", "release", "cancelled"])
def test_drained_waits_for_half_or_the_end(how: str) -> None:
    """Below half there is nothing to wait for; otherwise the future is done below half, or when all are let go."""

    async def main() -> None:
        way = Way()
        way.fit(LIMIT // 2 - 1)
        assert way.cork.drained() is None
        way.fit(100)
        waiter: Any = way.cork.drained()
        second: Any = way.cork.drained()
        assert not waiter.done()
        if how == "half":
            way.pipe.take(99)
            assert not waiter.done()
            way.pipe.take(1)
            assert (True, True) == (waiter.done(), second.done())
            assert [] == way.told
        elif how == "release":
            way.cork.release()
            assert (True, True) == (waiter.done(), second.done())
        else:
            waiter.cancel()
            way.cork.release()
            assert (True, True) == (waiter.cancelled(), second.done())

    asyncio.run(main())


def test_drained_in_the_second_half_of_an_episode() -> None:
    """Also when the transport was told to speak up at empty only, half is told as soon as somebody waits for it."""

    async def main() -> None:
        way = Way()
        way.fit(LIMIT)
        way.pipe.take(LIMIT - 100)
        assert ["choked", "filled", "eased"] == way.told
        way.fit(LIMIT // 2)
        waiter: Any = way.cork.drained()
        assert not waiter.done()
        way.pipe.take(100)
        way.pipe.take(1)
        assert waiter.done()
        assert [] == way.told
        way.pipe.take(LIMIT)
        assert ["emptied"] == way.told

    asyncio.run(main())


# The rest of a connection that moves


def leave(way: Way, limit: int = LIMIT) -> Way:
    """Return the way that is to go on where this one stops, before it has landed."""
    tail, frames, control = way.cork.take_rest()
    written = b"".join(way.pipe.writes)
    assert tail == written[len(written) - way.pipe.size :]
    assert ([], 0, 0) == (way.cork.frames, way.cork.size, way.session.control)
    other = Way(limit)
    other.cork.put_rest(tail, frames, control, way.cork.episode)
    assert ([], []) == (other.pipe.writes, other.told)
    assert len(tail) + sum(map(len, frames)) == other.cork.buffered
    return other


def move(way: Way, limit: int = LIMIT) -> Way:
    """Return the way that goes on where this one stops, on a transport that has nothing yet."""
    other = leave(way, limit)
    other.cork.land(other.pipe)
    return other


def test_the_rest_is_the_end_of_the_last_write_and_what_waits() -> None:
    """The tail was counted where it was begun; the frames are, where they are written."""
    way = Way()
    way.put(build(b"abc"))
    way.ping()
    way.cork.flush()
    way.pipe.take(4)
    way.put(build(b"def"))
    way.ping()
    assert (1, 11) == (way.cork.messages_out, way.cork.bytes_out)
    assert (b"c\x89\x041234", [b"\x82\x03def", b"\x89\x041234"], 1) == way.cork.take_rest()
    assert ((1, 11), []) == ((way.counters.messages_out, way.counters.bytes_out), way.cork.frames)
    assert (0, 0, False) == (way.cork.size, way.session.control, way.cork.finished)
    other = Way()
    assert (b"", [], 0) == other.cork.take_rest()
    other.cork.put_rest(b"c\x89\x041234", (b"\x82\x03def", b"\x89\x041234"), 1, False)
    other.put(build(b"ghi"))
    other.cork.flush()
    assert ([], 7 + 11 + 5) == (other.pipe.writes, other.cork.buffered)
    other.cork.land(other.pipe)
    assert ([b"c\x89\x041234"], (0, 0)) == (other.pipe.writes, (other.cork.messages_out, other.cork.bytes_out))
    other.pipe.take(7)
    assert b"\x82\x03def\x89\x041234\x82\x03ghi" == other.pipe.writes[1]
    assert (2, 16, 0) == (other.counters.messages_out, other.counters.bytes_out, other.session.control)


def test_what_the_kernel_has_taken_is_no_rest() -> None:
    """When all was taken, also of a transport that once had enough, only frames are left; and no write is kept."""
    way = Way()
    way.send(10)
    way.cork.flush()
    way.pipe.take(12)
    assert not way.pipe.paused
    way.pipe.drinks = True
    way.send(10)
    way.cork.flush()
    assert b"" == way.cork._begun
    way.send(1)
    assert (b"", [b"\x82\x01\0"], 0) == way.cork.take_rest()


def test_a_tail_is_never_dropped() -> None:
    """In limbo and after it, the oldest message that gives way is one of which nothing was written."""
    way = Way()
    way.cork.put_rest(bytes(600), [build(bytes(298)) for _ in range(2)], 0, True)
    assert (False, 1) == (way.cork.has_room(), way.cork.drop_oldest())
    assert way.cork.has_room()
    assert (1, 600) == (way.cork.drop_all(), way.cork.buffered)
    way.cork.land(way.pipe)
    assert [bytes(600)] == way.pipe.writes
    assert (0, 600) == (way.cork.drop_all(), way.cork.buffered)


@pytest.mark.parametrize(
    ("taken", "before", "at_once", "later"),
    [
        (0, ["choked", "filled"], ["choked"], ["eased", "emptied"]),
        (699, ["choked", "filled"], ["choked"], ["eased", "emptied"]),
        (701, ["choked", "filled", "eased"], [], ["emptied"]),
        (LIMIT, ["choked", "filled", "eased"], [], ["emptied"]),
    ],
)
def test_an_episode_goes_on_in_the_other_cork(
    taken: int, before: list[str], at_once: list[str], later: list[str]
) -> None:
    """Where half or more is left the client is choked there too; whoever sees the end of the episode tells it."""
    way = Way()
    way.fit(LIMIT)
    way.fit(200)
    way.pipe.take(taken)
    assert before == way.told
    other = move(way)
    assert (1200 - taken, at_once) == (other.cork.buffered, other.told)
    while other.cork.buffered:
        other.pipe.take(100)
    assert later == other.told
    other.fit(LIMIT)
    assert ["choked", "filled"] == other.told


def test_an_episode_that_is_over_when_it_lands() -> None:
    """If the kernel takes all at once, the episode's end is told at once, and no choking before."""
    way = Way()
    way.pipe.drinks = True
    way.cork.put_rest(bytes(900), [build(bytes(900))], 0, True)
    way.cork.land(way.pipe)
    assert (["emptied"], 0) == (way.told, way.cork.buffered)


def test_a_limit_that_is_smaller_where_it_lands() -> None:
    """An episode begins in the other process if its limit is reached by what came, and not before it has landed."""
    way = Way()
    way.fit(600)
    way.cork.flush()
    way.fit(100)
    other = move(way, limit=700)
    assert ["choked", "filled"] == other.told
    other.pipe.take(350)
    assert [] == other.told
    other.pipe.take(1)
    assert ["eased"] == other.told


def test_many_small_frames_choke_where_they_land() -> None:
    """Also without an episode whoever has too many frames waiting is not read from."""
    way = Way(limit=1024 * KIB)
    way.send(100)
    way.cork.flush()
    for _ in range(FRAMES_WAITING + 1):
        way.put(build(b""))
    way.cork.flush()
    assert ["choked"] == way.told
    other = move(way, limit=1024 * KIB)
    assert ["choked"] == other.told
    other.pipe.take(102)
    assert ["eased"] == other.told


def test_a_cork_takes_its_rest_back() -> None:
    """Whoever was choked before it left in vain is eased when it is below half, and drain() still waits till then."""

    async def main() -> None:
        way = Way()
        way.fit(LIMIT)
        waiter: Any = way.cork.drained()
        rest = way.cork.take_rest()
        way.cork.lose(Pipe())
        way.cork.put_rest(*rest, True)
        way.pipe = Pipe()
        way.pipe.cork = way.cork
        way.cork.land(way.pipe)
        assert (["choked", "filled"], False) == (way.told, waiter.done())
        way.pipe.take(501)
        assert (["eased"], True) == (way.told, waiter.done())
        way.pipe.take(499)
        assert ["emptied"] == way.told

    asyncio.run(main())


class Line(asyncio.Protocol):
    """One connection on a real transport, as the layers above have it."""

    def __init__(self, cork: Cork) -> None:
        self.cork = cork

    def pause_writing(self) -> None:
        self.cork.pause()

    def resume_writing(self) -> None:
        self.cork.resume()


def test_a_client_that_reads_slowly_while_its_connection_moves_again_and_again(run: Run) -> None:
    """On real transports: it gets every byte once, in order, wherever the cut; and all is counted once."""

    async def main() -> None:
        loop, chance = asyncio.get_running_loop(), random.Random(1)
        client, server = socket.socketpair()
        client.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * KIB)
        way, got, sent, messages, counted, tails = Way(1 << 40), bytearray(), bytearray(), 0, 0, 0
        transport = await landed(way, server, b"", [], 0)
        try:
            for _ in range(100):
                for _ in range(chance.randrange(10)):
                    frame = build(str(messages).encode() * chance.choice([1, 10, 1000, 10_000]))
                    way.put(frame)
                    sent += frame
                    messages += 1
                way.cork.flush()
                got += swallow(client, chance.choice([0, 0, 1000, 50_000]))
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                kept = transport.get_extra_info("socket").dup()
                tail, frames, control = way.cork.take_rest()
                parting = Parting(transport)
                got += swallow(client, chance.choice([0, 1000, 100_000]))
                slipped = 0 if parting.slipped is None else await asyncio.wait_for(parting.slipped, 10.0)
                tails += bool(tail)
                counted += way.counters.messages_out
                kept.setblocking(False)
                way = Way(1 << 40)
                transport = await landed(way, kept, tail[slipped:], frames, control)
            assert tails > 20
            deadline = loop.time() + 30
            while way.cork.buffered or len(got) < len(sent):
                assert loop.time() < deadline
                got += swallow(client, 1 << 20)
                await asyncio.sleep(0)
            assert sent == got
            assert messages == counted + way.counters.messages_out
        finally:
            # uvloop waits for it for ever otherwise, if this fails
            transport.abort()
            client.close()
            await asyncio.sleep(0)

    run(main())


async def landed(way: Way, sock: socket.socket, tail: bytes, frames: list[bytes], control: int) -> asyncio.Transport:
    """Have a way go on with a rest on a real transport, and return that."""
    way.cork.put_rest(tail, frames, control, False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: Line(way.cork), sock)
    way.cork.land(transport)
    return transport


def swallow(client: socket.socket, most: int) -> bytes:
    """Return what a client reads now, at most so much."""
    try:
        return client.recv(most) if most else b""
    except BlockingIOError:
        return b""


def test_what_may_not_be_asked_of_a_rest() -> None:
    """There is none of TLS, none behind a half-close; none is put behind anything, or where all is forgotten."""
    with pytest.raises(AssertionError, match="TLS"):
        Way(pipe=TlsPipe()).cork.take_rest()
    way = Way()
    way.cork.finish()
    with pytest.raises(AssertionError, match="half-close"):
        way.cork.take_rest()
    way = Way()
    way.send(1)
    with pytest.raises(AssertionError, match="first"):
        way.cork.put_rest(b"", [], 0, False)
    way = Way()
    way.pipe.abort()
    with pytest.raises(AssertionError, match="forgotten"):
        way.cork.put_rest(b"", [], 0, False)


# All of it together

Step = tuple[str, int]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("send"), st.sampled_from([0, 1, 40, 300, 999, 1000, 20_000])),
    st.tuples(st.just("flood"), st.sampled_from([0, 30])),
    st.tuples(st.just("ping"), st.just(0)),
    st.tuples(st.just("take"), st.sampled_from([1, 2, 100, 499, 500, 1000, 30_000])),
    st.tuples(st.sampled_from(["flush", "look", "drop_oldest", "drop_all"]), st.just(0)),
    st.tuples(st.just("move"), st.sampled_from([0, 3])),
)


class Model:
    """Does the steps on a way and knows what must come out. accepted: frames that were put in and not dropped."""

    def __init__(self, kind: type[Pipe], limit: int) -> None:
        self.way = Way(limit, kind())
        self.limit = limit
        self.accepted: list[bytes] = []
        self.taken = b""  # by the kernel, before it moved
        self.counted = (0, 0)  # messages and bytes, likewise
        self.number = 0

    def step(self, what: str, size: int) -> None:
        way = self.way
        if what == "send":
            self.send(size)
        elif what == "flood":
            for _ in range(50):
                self.send(size)
        elif what == "ping":
            # the marks of the loop stop a client that pings: nobody may fill the buffer once it is full
            if not way.cork.choked:
                way.ping()
                self.accepted.append(b"\x89\x041234")
        elif what == "take":
            way.pipe.take(size)
        elif what == "look":
            assert way.cork.buffered == self.truth
        elif what == "flush":
            way.cork.flush()
        elif what == "move":
            if way.pipe.half_closes:
                self.move(size)
        else:
            self.drop(way.cork.drop_oldest if what == "drop_oldest" else way.cork.drop_all)

    def send(self, size: int) -> None:
        if not self.way.cork.has_room():
            return
        self.number += 1
        frame = build((str(self.number).encode() * (size + 1))[:size])
        self.accepted.append(frame)
        self.way.put(frame)

    def move(self, sent: int) -> None:
        """Move to another cork; sent: messages that are sent before it has landed."""
        old = self.way
        written, left = b"".join(old.pipe.writes), old.pipe.size
        self.taken += written[: len(written) - left]
        self.counted = self.counted[0] + old.counters.messages_out, self.counted[1] + old.counters.bytes_out
        self.way = new = leave(old, self.limit)
        # the client of another process is not choked until it is told there
        new.edges.told = old.edges.told + ["eased"] * old.cork.choked
        for _ in range(sent):
            self.send(40)
        assert [] == new.pipe.writes
        new.cork.land(new.pipe)

    def drop(self, act: Callable[[], int]) -> None:
        done = len(self.accepted) - len(self.way.cork.frames)
        dropped = act()
        left = self.way.cork.frames
        gone = [frame for frame in self.accepted[done:] if is_message(frame)][:dropped]
        kept = list(self.accepted[done:])
        for frame in gone:
            kept.remove(frame)
        assert kept == left
        self.accepted[done:] = left

    @property
    def truth(self) -> int:
        return sum(map(len, self.way.cork.frames)) + self.way.pipe.size

    def check(self) -> None:
        way, cork = self.way, self.way.cork
        written = self.taken + b"".join(way.pipe.writes)
        assert b"".join(self.accepted) == written + b"".join(cork.frames)
        assert self.truth <= cork.size
        out = [*map(is_message, self.accepted)].count(True) - [*map(is_message, cork.frames)].count(True)
        messages, size = self.counted
        assert (out, len(written)) == (messages + way.counters.messages_out, size + way.counters.bytes_out)
        assert [*map(is_message, cork.frames)].count(False) == way.session.control
        # whoever is choked will be told: only a transport that is paused speaks up
        assert way.pipe.paused or not cork.choked
        told = way.edges.told
        assert cork.choked == (told.count("choked") > told.count("eased"))
        assert told.count("choked") - told.count("eased") in (0, 1)
        assert told.count("filled") - told.count("emptied") in (0, 1)
        # nobody is told that the buffer is full who is not choked, and only then that it is empty
        told = [word for word in told if word != "eased"]
        assert all(before in ("choked", "filled") for before, word in pairwise(told) if word == "emptied")
        assert all(before == "choked" for before, word in pairwise(told) if word == "filled")
        assert told[:1] in ([], ["choked"])


@given(
    kind=st.sampled_from([Pipe, TlsPipe]),
    limit=st.sampled_from([1, 100, 1000, 200_000]),
    waiting=st.sampled_from([20, 60, 4096]),
    steps=st.lists(STEPS, max_size=30),
)
def test_whatever_happens_the_order_the_counts_and_the_marks_are_right(
    kind: type[Pipe], limit: int, waiting: int, steps: list[Step]
) -> None:
    """Nothing is lost, doubled or reordered; size is never too small; whoever is choked is eased once it is taken."""
    model = Model(kind, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cork_module, "FRAMES_WAITING", waiting)
        for step in steps:
            model.step(*step)
            model.check()
        model.way.cork.flush()
        while model.way.cork.buffered:
            model.way.pipe.take(50_000)
        model.check()
    told = model.way.told
    assert told.count("choked") == told.count("eased")
    assert told.count("filled") == told.count("emptied")
    assert [] == model.way.cork.frames
