"""Cork: what goes out to one client, joined into few writes and measured against its limit.

A write to a socket costs far more than the bytes in it. So what is sent while one read is handled stays in `frames`
and leaves in one transport.write at the end; what is sent elsewhere leaves at the end of the loop's tick. Frames of 16
KiB and more are not worth a copy and are written by themselves. Only a page of plain HTTP goes another way.

A client that does not read must not fill the memory. The transport gets one write; as long as the kernel has not taken
all of that, what follows stays here, where a frame that goes to many clients is one object, and where the oldest can
still be dropped. Two marks, on what has been accepted and is not yet taken by the kernel (frames and transport
together):

    the limit      the policy decides about a further message, and the client is not read from (choked); the first
                   time it is reached, an episode begins (filled)
    half of it     the client is read again (eased), drain() returns
    nothing left   the episode is over (emptied); it may have been choked many times

A small frame takes some sixty bytes of memory whatever its size. So a client for which many wait is not read from
either, however few bytes they are: else whoever sends tiny messages or pings and reads no answer gets twenty times the
limit.

The kernel is asked before anybody is told: reaching the limit first writes what is there. So whoever sends a burst to
a client that reads is never choked. The way down is heard from the transport, whose own mark is 0, or as much as it has
at half of the limit if somebody waits for that. (uvloop speaks up only when it has written all, whatever the mark.)

So it is known to the byte what the kernel has not taken, although uvloop's transport cannot be read out: a transport
with the mark 0 tries each write at once and calls pause_writing before it returns if something is left, which is then
the end of that write, `_begun`. At a hand-over take_rest gives it out; in another process put_rest takes it, and land
writes on.

A transport of TLS cannot be handed over and keeps what it has encrypted to itself; it gets 64 KiB, as its own mark.

`size` is never too small but by control frames, which not everybody counts: every message adds to it, and only look()
takes off what the kernel has taken meanwhile. To ask the transport after each write would cost a tenth of an echo.
`_passed` is the part of it that has left `frames`; so nothing here takes longer because many small messages wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from wsworker.counters import Counters
from wsworker.protocol.frames import is_message
from wsworker.protocol.session import Session

UNJOINED_BYTES: Final = 16 * 1024
TRANSPORT_BYTES: Final = 64 * 1024
FRAMES_WAITING: Final = 4096


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

    frames: the session's output, in order; whoever puts something in adds its bytes to size, and calls press if that
    reaches the limit. choked: the client is not read from; episode: one is on. finished: the half-close is out,
    nothing is written any more. progress: the kernel has taken something since whoever asks has last set it to False.
    bytes_out, messages_out: what the worker counts, of this one client.
    """

    __slots__ = (
        "_begun",
        "_counters",
        "_drainers",
        "_edges",
        "_passed",
        "_paused",
        "_plain",
        "_session",
        "_tail",
        "_transport",
        "bytes_out",
        "choked",
        "episode",
        "finished",
        "frames",
        "limit",
        "messages_out",
        "progress",
        "size",
    )

    def __init__(
        self, edges: Edges, session: Session, transport: asyncio.Transport, limit: int, counters: Counters
    ) -> None:
        self._edges = edges
        self._counters = counters
        self._session = session
        self._transport = transport
        self.limit = limit
        self.frames = session.output
        self.size = 0
        self.bytes_out = 0
        self.messages_out = 0
        self._passed = 0  # how much of size is the transport's
        self.choked = False
        self.finished = False
        self.progress = False
        self._plain = transport.can_write_eof()  # not TLS, which has no half-close
        self._paused = False  # the transport has enough
        self._begun = b""  # while it has, and if plain: the write of which the end is there
        self._tail = b""  # between put_rest and land: what is to be written first
        self.episode = False
        self._drainers: list[asyncio.Future[None]] | None = None  # a list when there is the first
        self._set_mark()

    @property
    def buffered(self) -> int:
        """Bytes that were accepted and that the kernel has not taken."""
        if self._transport.is_closing():
            # what is here will not be written any more
            return int(self._transport.get_write_buffer_size())
        self.look()
        return self.size

    def look(self) -> None:
        """Take off size what the kernel has taken.

        Nothing is taken off once the transport is closing: else whoever sends until it is refused would never be.
        """
        if self._transport.is_closing():
            return
        left = self._transport.get_write_buffer_size() + len(self._tail)
        if not self.frames:
            # now it is known, whatever was counted
            self._passed = self.size
        size = self.size - self._passed + left
        if size < self.size:
            self.progress = True
        self.size = size
        self._passed = left

    def press(self) -> None:
        """See to it that the limit is kept, as size has reached it: write, and if that does not help, choke."""
        if self._transport.is_closing():
            self.forget()
            return
        self.look()
        if self.size < self.limit:
            return
        self.flush()
        self.look()
        # here and not where messages are sent: pongs fill a buffer too
        if self.size >= self.limit:
            if not self.choked:
                self._choke()
            if not self.episode:
                self.episode = True
                self._edges._filled()

    def has_room(self) -> bool:
        """Whether another message may be sent: one that fits only partly still goes in, so the limit may be passed."""
        if self.size >= self.limit:
            self.press()
        return self.size < self.limit

    def drop_oldest(self) -> int:
        """Make room by dropping messages that are still here, oldest first; return how many, 0 if none could be."""
        frames = self.frames
        dropped = done = 0
        kept: list[bytes] = []
        while done < len(frames) and self.size >= self.limit:
            frame = frames[done]
            done += 1
            if is_message(frame):
                self.size -= len(frame)
                dropped += 1
            else:
                kept.append(frame)
        frames[:done] = kept
        return dropped

    def drop_all(self) -> int:
        """Drop all messages that are still here; return how many."""
        messages = [frame for frame in self.frames if is_message(frame)]
        self.frames[:] = [frame for frame in self.frames if not is_message(frame)]
        self.size -= sum(map(len, messages))
        return len(messages)

    def flush(self) -> None:
        """Write as much as the transport should have, and half-close behind all if the session says so.

        After the half-close, or when the transport is closing, nothing is written any more.
        """
        frames = self.frames
        if frames:
            if self.finished or self._transport.is_closing():
                self.forget()
            elif self._paused:
                if len(frames) > FRAMES_WAITING and not self.choked:
                    self._choke()
                return
            elif self.size - self._passed < UNJOINED_BYTES or len(frames) == 1:
                data = b"".join(frames)
                counters, session, size = self._counters, self._session, len(data)
                messages = len(frames) - session.control
                counters.messages_out += messages
                counters.bytes_out += size
                self.messages_out += messages
                self.bytes_out += size
                session.control = 0
                frames.clear()
                self._passed = self.size
                self._write(data)
            else:
                self._write_in_parts()
        if self._session.finished and not frames:
            self.finish()

    def finish(self) -> None:
        """Write all that is still here, however much the transport has, and half-close behind it: nothing can move now.

        So what was accepted is not lost to a client that is slow to take it. With TLS, which has no half-close, close.
        """
        if self.finished or self._transport.is_closing():
            return
        self.finished = True
        while self.frames:
            self._paused = False
            self._write_in_parts()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:
            # the client has reset the connection, and asyncio has not seen it yet; uvloop never raises here
            self._transport.abort()

    def forget(self) -> None:
        """Drop what is still here: nobody can get it any more."""
        self._tail = b""
        self.frames.clear()
        self._session.control = 0

    def lose(self, gone: asyncio.Transport) -> None:
        """Know that the transport is closed for good; gone: one to ask from now on."""
        self._transport = gone
        self._begun = b""

    def pause(self) -> None:
        """Write no further. You must call it from pause_writing."""
        self._paused = True

    def resume(self) -> None:
        """Write on, and see which mark was passed. You must call it from resume_writing."""
        self._paused = False
        if self._plain:
            # if only half was passed, pause_writing follows at once, and nothing is written behind an unknown end
            self._transport.set_write_buffer_limits(high=0, low=0)
        if not self._paused:
            self._begun = b""
        self.flush()
        self.progress = True
        self.look()
        if self.size >= _half(self.limit):
            if self._plain:
                self._set_mark()
            return
        self.release()
        if self.choked and len(self.frames) <= FRAMES_WAITING // 2:
            self.choked = False
            self._edges._eased()
        if self.episode and self.size:
            # pause_writing follows at once, and resume_writing when nothing is left
            self._transport.set_write_buffer_limits(high=0, low=0)
        elif self.episode:
            self.episode = False
            self._set_mark()
            self._edges._emptied()

    def take_rest(self) -> tuple[bytes, list[bytes], int]:
        """Take out what the kernel has not taken, as the connection goes to another process; you should flush before.

        Returns the end of what was begun to be written, which is counted as written; the frames behind it, which are
        not; and how many of these are no messages. You must leave the transport at once, see parting.py, and not call
        it with TLS, after finish() or when the transport is closing. Who waits in drain() and whether the client is
        choked stay as they are, for the case that it comes back.
        """
        assert self._plain, "TLS cannot move"
        assert not self.finished, "nothing comes behind a half-close"
        left = self._transport.get_write_buffer_size()
        tail = self._begun[len(self._begun) - left :] if left else b""
        assert left == len(tail), "the transport has more than was begun"
        frames, control = self.frames.copy(), self._session.control
        self.forget()
        self.size = self._passed = 0
        self._begun = b""
        return tail, frames, control

    def put_rest(self, tail: bytes, frames: Sequence[bytes], control: int, full: bool) -> None:
        """Have what take_rest has returned, of this cork or another, before anything else. full: an episode was on.

        Nothing is written and nobody is told anything before land(), which you must call; what is put in meanwhile
        waits. The transport is one that is not closing and has nothing.
        """
        assert not self._transport.is_closing(), "all would be forgotten"
        assert not self.size, "it comes first"
        self._paused, self.episode, self._tail = True, full, tail
        self.frames.extend(frames)
        self._session.control += control
        self._passed = len(tail)
        self.size = self._passed + sum(map(len, frames))

    def land(self, transport: asyncio.Transport) -> None:
        """Go on after put_rest with a transport that is new: write, and tell where the client stands now.

        It may be choked or an episode begin, as the limit may be another one, and an episode may be over.
        """
        self._transport, self._paused = transport, False
        self._set_mark()
        tail, self._tail = self._tail, b""
        if not (self.size or self.frames or self.episode or self.choked or self._drainers or self._session.finished):
            self.progress = True  # nearly all: nothing is to be written or told
            return
        if tail:
            # counted where it was begun
            self._write(tail)
        if self._paused:
            self.flush()
            self.look()
        else:
            self.resume()
        if self.size >= self.limit:
            self.press()
        elif self.episode and not self.choked and self.size >= _half(self.limit):
            # as it may have been: below half it is read again
            self._choke()
        if self._paused:
            self._set_mark()

    def drained(self) -> asyncio.Future[None] | None:
        """Return a future that is done below half of the limit or at release(); None if it is so now."""
        self.flush()
        if self.buffered < _half(self.limit):
            return None
        if self._drainers is None:
            self._drainers = []
        future = asyncio.get_running_loop().create_future()
        self._drainers.append(future)
        self._set_mark()
        return future

    def release(self) -> None:
        """Let everybody go who waits in drain(): the connection is over."""
        for future in self._drainers or ():
            if not future.done():
                future.set_result(None)
        self._drainers = None

    def _write_in_parts(self) -> None:
        """Write frames, small ones joined, until there is none or the transport has enough."""
        frames = self.frames
        done = 0
        while done < len(frames) and not self._paused:
            # one large frame, or as many small ones as make a good write
            first, joined = done, len(frames[done])
            done += 1
            while joined < UNJOINED_BYTES and done < len(frames) and len(frames[done]) < UNJOINED_BYTES:
                joined += len(frames[done])
                done += 1
            messages = sum(map(is_message, frames[first:done]))
            self._counters.messages_out += messages
            self._counters.bytes_out += joined
            self.messages_out += messages
            self.bytes_out += joined
            self._session.control -= done - first - messages
            self._passed += joined
            self._write(b"".join(frames[first:done]))
        del frames[:done]

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._paused:
            # not kept otherwise: ten thousand idle clients would each hold the last that they got
            self._begun = data

    def _choke(self) -> None:
        self.choked = True
        self._edges._choked()
        # with TLS this may come back at once to say that there is room
        self._set_mark()

    def _set_mark(self) -> None:
        mark = 0
        if not self._plain:
            mark = min(TRANSPORT_BYTES, _half(self.limit)) - 1
        elif self._paused and (self.choked or self._drainers is not None):
            # what waits here cannot leave before all of that is taken; resume sets it back before anything is written
            mark = max(0, _half(self.limit) - 1 - (self.size - self._passed))
        self._transport.set_write_buffer_limits(high=mark, low=mark)


def _half(limit: int) -> int:
    return max(1, limit // 2)
