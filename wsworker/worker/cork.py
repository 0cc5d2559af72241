"""Cork: what goes out to one client, joined into few writes and measured against its limit.

A write to a socket costs far more than the bytes in it. So what is sent while one read is handled stays in the
session's output and leaves in one transport.write at the end; what is sent elsewhere leaves at the end of the loop's
tick. Frames of 16 KiB and more are not worth a copy and are written by themselves. `flush` is the only place that
writes to a client.

A client that does not read must not fill the memory. Two marks, on what has been accepted and is not yet taken by the
kernel (cork and transport together):

    the limit      no further message is accepted, and the client is not read from either (choked); the first time it
                   is reached, an episode begins (filled)
    half of it     the client is read again (eased), drain() returns
    nothing left   the episode is over (emptied); it may have been choked many times

The kernel is asked before anybody is told: reaching the limit first writes what is corked. So whoever sends a burst to
a client that reads is never choked. The way down is heard from the transport, whose own marks are set to the next one
that matters.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from wsworker.protocol.session import Session

UNJOINED_BYTES: Final = 16 * 1024


class Edges(Protocol):
    """What the cork of a connection tells it."""

    def _choked(self) -> None:
        """The limit is reached: stop reading."""

    def _eased(self) -> None:
        """Less than half of the limit is left: read on."""

    def _filled(self) -> None:
        """An episode begins."""

    def _emptied(self) -> None:
        """The episode is over."""


class Cork:
    """The way out of one connection. limit: bytes, at least 1.

    choked: the client is not read from. finished: the half-close is out, so nothing is written any more.
    """

    __slots__ = (
        "_corked",
        "_drainers",
        "_edges",
        "_episode",
        "_left",
        "_limit",
        "_seen",
        "_session",
        "_transport",
        "choked",
        "finished",
    )

    def __init__(self, edges: Edges, session: Session, transport: asyncio.Transport, limit: int) -> None:
        self._edges = edges
        self._session = session
        self._transport = transport
        self._limit = limit
        self._corked = 0  # bytes of messages in the session's output
        self._left = 0  # bytes in the transport when it was last asked; never more than that now
        self._seen = -1  # what stuck() saw last; -1: nothing since the choke
        self._episode = False
        self.finished = False
        self._drainers: list[asyncio.Future[None]] = []
        self.choked = False
        self._wait_for_half()

    @property
    def buffered(self) -> int:
        """Bytes that were accepted and that the kernel has not taken."""
        return self._corked + int(self._transport.get_write_buffer_size())

    def has_room(self) -> bool:
        """Whether another message may be sent: one that fits only partly still goes in, so the limit may be passed."""
        if self._corked + self._left >= self._limit:
            self.flush()
        return self._corked + self._left < self._limit

    def add(self, size: int) -> None:
        """Count a message that went into the session's output; size: its payload bytes, to which the header comes."""
        self._corked += size + (2 if size < 126 else 4 if size < 65536 else 10)
        if self._corked + self._left >= self._limit:
            self.flush()

    def flush(self) -> None:
        """Write what the session has put out, and half-close if it says so."""
        chunks = self._session.take_output()
        self._corked = 0
        if self.finished or self._transport.is_closing():
            return
        small: list[bytes] = []
        for chunk in chunks:
            if 0 < len(chunk) < UNJOINED_BYTES:
                small.append(chunk)
                continue
            if small:
                self._transport.write(b"".join(small))
                small.clear()
            if chunk:
                self._transport.write(chunk)
            else:
                self.finish()
                return
        if small:
            self._transport.write(b"".join(small) if len(small) > 1 else small[0])
        self._left = self._transport.get_write_buffer_size()
        # here and not in add: pongs fill a buffer too
        if self._left >= self._limit and not self.choked:
            self._choke()

    def finish(self) -> None:
        """Half-close behind all that was written; later output is dropped."""
        if not self.finished and not self._transport.is_closing():
            self.finished = True
            try:
                self._transport.write_eof()
            except OSError:
                # the client has reset the connection, and asyncio has not seen it yet; uvloop never raises here
                self._transport.abort()

    def relieve(self) -> None:
        """See how far the transport has come. You must call it from resume_writing."""
        self._left = self._transport.get_write_buffer_size()
        if self._left >= _half(self._limit):
            return
        self._let_go()
        if not self._episode:
            return
        if self._left:
            # pause_writing follows at once, and resume_writing when nothing is left
            self._transport.set_write_buffer_limits(high=0, low=0)
            return
        self._episode = False
        self._wait_for_half()
        self._edges._emptied()

    def stuck(self) -> bool:
        """Whether a choked client has taken nothing since the last time this was asked; False the first time."""
        left = self._transport.get_write_buffer_size()
        stuck = 0 <= self._seen <= left
        self._seen = left
        return stuck

    def drained(self) -> asyncio.Future[None] | None:
        """Return a future that is done below half of the limit or at release(); None if it is so now."""
        self.flush()
        if self.buffered < _half(self._limit):
            return None
        future = asyncio.get_running_loop().create_future()
        self._drainers.append(future)
        self._wait_for_half()
        return future

    def release(self) -> None:
        """Let everybody go who waits in drain(): the connection is over."""
        for future in self._drainers:
            if not future.done():
                future.set_result(None)
        self._drainers.clear()

    def _choke(self) -> None:
        self.choked = True
        self._seen = -1
        self._wait_for_half()
        self._edges._choked()
        if not self._episode:
            self._episode = True
            self._edges._filled()

    def _let_go(self) -> None:
        self.release()
        if self.choked:
            self.choked = False
            self._edges._eased()

    def _wait_for_half(self) -> None:
        mark = _half(self._limit) - 1
        self._transport.set_write_buffer_limits(high=mark, low=mark)


def _half(limit: int) -> int:
    return max(1, limit // 2)
