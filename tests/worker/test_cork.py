"""The cork on a transport that takes as much as the test says: joined writes, the marks, who is told what."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from wsworker.protocol.session import Handshake, Session
from wsworker.worker.cork import UNJOINED_BYTES, Cork

HEAD = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LIMIT = 1000


class Pipe(asyncio.Transport):
    """A transport whose buffer is emptied by take(); it keeps asyncio's contract of marks and callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.cork: Cork
        self.writes: list[bytes] = []
        self.size = 0
        self.high = 64 * 1024
        self.low = 16 * 1024
        self.paused = False
        self.half_closed = False
        self.closing = False
        self.reset = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.half_closed
        assert data
        self.writes.append(bytes(data))
        self.size += len(data)
        self._pause()

    def take(self, size: int) -> None:
        self.size -= min(size, self.size)
        if self.paused and self.size <= self.low:
            self.paused = False
            self.cork.relieve()

    def write_eof(self) -> None:
        if self.reset:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        self.half_closed = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        self.high, self.low = high, low
        self._pause()

    def _pause(self) -> None:
        self.paused = self.paused or self.size > self.high


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
    """An open session behind a cork; `sent` counts the bytes of a frame that is no bigger than a kilobyte."""

    def __init__(self) -> None:
        self.session = Session(LIMIT)
        self.session.receive(HEAD)
        assert isinstance(self.session.next_event(), Handshake)
        assert self.session.accept(None)
        self.session.take_output()
        self.pipe = Pipe()
        self.edges = Edges()
        self.cork = Cork(self.edges, self.session, self.pipe, LIMIT)
        self.pipe.cork = self.cork

    def send(self, size: int) -> None:
        assert self.cork.has_room()
        self.cork.add(self.session.send(bytes(size)))


def test_small_frames_are_joined_and_large_ones_are_not() -> None:
    """Between large frames the small ones leave together, in order."""
    way = Way()
    way.pipe.take(0)
    sizes = (1, 2, UNJOINED_BYTES, 3, 4)
    for size in sizes:
        way.session.send(bytes(size))
    way.cork.flush()
    assert [2 + 1 + 2 + 2, 4 + UNJOINED_BYTES, 2 + 3 + 2 + 4] == [len(data) for data in way.pipe.writes]


def test_nothing_is_written_when_nothing_is_there() -> None:
    """An empty flush writes nothing."""
    way = Way()
    way.cork.flush()
    assert [] == way.pipe.writes


def test_the_half_close_comes_behind_what_was_sent_and_ends_all_writing() -> None:
    """A failed session ends in Close and half-close; what is sent later is dropped."""
    way = Way()
    way.send(1)
    way.session.fail(1002, "no")
    way.cork.flush()
    assert [b"\x82\x01\0\x88\x04\x03\xeano"] == way.pipe.writes
    assert way.pipe.half_closed
    assert way.cork.finished
    way.cork.finish()
    way.cork.flush()
    assert 1 == len(way.pipe.writes)


def test_a_closing_transport_is_not_written_to() -> None:
    """Output for a socket that is being dropped is thrown away."""
    way = Way()
    way.send(1)
    way.pipe.closing = True
    way.cork.flush()
    way.cork.finish()
    assert [] == way.pipe.writes
    assert not way.pipe.half_closed


def test_an_episode_from_full_to_empty() -> None:
    """The limit chokes and fills, below half eases, empty empties; each is told once, in this order."""
    way = Way()
    way.send(LIMIT - 5)
    assert [] == way.edges.told
    way.send(1)
    assert ["choked", "filled"] == way.edges.told
    assert way.cork.choked
    assert not way.cork.has_room()
    way.pipe.take(way.pipe.size - LIMIT // 2)
    assert ["choked", "filled"] == way.edges.told
    assert way.cork.has_room()
    way.pipe.take(1)
    assert ["choked", "filled", "eased"] == way.edges.told
    way.pipe.take(LIMIT)
    assert ["choked", "filled", "eased", "emptied"] == way.edges.told
    way.send(LIMIT)
    assert ["choked", "filled"] == way.edges.told[4:]


def test_choked_twice_in_one_episode() -> None:
    """Before the buffer is empty it is not full a second time, but reading stops again and goes on below half."""
    way = Way()
    way.send(LIMIT)
    way.pipe.take(LIMIT - 100)
    assert ["choked", "filled", "eased"] == way.edges.told
    way.send(LIMIT)
    assert ["choked"] == way.edges.told[3:]
    way.pipe.take(LIMIT - 100)
    assert ["choked", "eased"] == way.edges.told[3:]
    way.pipe.take(LIMIT)
    assert ["choked", "eased", "emptied"] == way.edges.told[3:]


def test_relief_above_half_changes_nothing() -> None:
    """A transport may call early; nothing is told before half is free."""
    way = Way()
    way.send(LIMIT)
    way.cork.relieve()
    assert ["choked", "filled"] == way.edges.told


def test_what_the_kernel_takes_at_once_never_counts() -> None:
    """Reaching the limit writes first; a transport that takes all of it has room, and nobody is told."""
    way = Way()
    for _ in range(10):
        way.send(LIMIT)
        way.pipe.take(0)
        way.edges.told.clear()
        way.pipe.take(LIMIT * 2)
    assert way.cork.has_room()
    assert 0 == way.cork.buffered


def test_room_is_asked_of_the_transport_when_the_last_answer_is_old() -> None:
    """What the transport has written since the last flush is room, although nobody was told."""
    way = Way()
    way.send(LIMIT)
    way.pipe.size = LIMIT - 1
    assert way.cork.has_room()


def test_buffered_counts_the_cork_and_the_transport() -> None:
    """Frames that are corked and bytes that the transport holds: writing them changes nothing."""
    way = Way()
    for size in (0, 1, 125, 126):
        way.send(size)
    assert 2 + 3 + 127 + 130 == way.cork.buffered
    way.cork.flush()
    assert 2 + 3 + 127 + 130 == way.cork.buffered == way.pipe.size


def test_large_headers_are_counted() -> None:
    """From 64 KiB on a header has ten bytes."""
    way = Way()
    way.cork.add(way.session.send(bytes(65536)))
    assert 10 + 65536 == way.cork.buffered == way.pipe.size


def test_empty_messages_fill_the_buffer_too() -> None:
    """Their headers are bytes like any other, so no number of them passes the limit unnoticed."""
    way = Way()
    sent = 0
    while way.cork.has_room():
        way.send(0)
        sent += 1
        assert sent < LIMIT
    assert LIMIT // 2 == sent
    assert ["choked", "filled"] == way.edges.told


def test_pongs_choke_too() -> None:
    """What the session answers by itself is no message, and fills the buffer all the same."""
    way = Way()
    for _ in range(LIMIT // 10 + 1):
        way.session.ping(b"12345678")
    way.cork.flush()
    assert ["choked", "filled"] == way.edges.told


def test_a_half_close_of_a_reset_socket_is_no_error() -> None:
    """The ENOTCONN of shutdown(2) comes through from asyncio; there is nothing left to be polite to."""
    way = Way()
    way.pipe.reset = True
    way.cork.finish()
    assert way.pipe.closing
    assert way.cork.finished


def test_a_stuck_client_has_taken_nothing_between_two_questions() -> None:
    """The first answer after each choke is no; then progress, or its absence, decides."""
    way = Way()
    way.send(LIMIT)
    assert not way.cork.stuck()
    way.pipe.take(1)
    assert not way.cork.stuck()
    assert way.cork.stuck()
    way.pipe.take(LIMIT * 2)
    way.send(LIMIT)
    assert not way.cork.stuck()


@pytest.mark.parametrize("how", ["half", "release", "cancelled"])
def test_drained_waits_for_half_or_the_end(how: str) -> None:
    """Below half there is nothing to wait for; otherwise the future is done below half, or when all are let go."""

    async def main() -> None:
        way = Way()
        way.send(LIMIT // 2 - 10)
        assert way.cork.drained() is None
        way.send(100)
        waiter: Any = way.cork.drained()
        assert not waiter.done()
        if how == "half":
            way.pipe.take(200)
            assert waiter.done()
            assert [] == way.edges.told
        elif how == "release":
            way.cork.release()
            assert waiter.done()
        else:
            waiter.cancel()
            way.cork.release()
            assert waiter.cancelled()

    asyncio.run(main())
