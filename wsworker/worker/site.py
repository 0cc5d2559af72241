"""Site: the files of http.static, and their way to a client.

plain.py has found a path that stays in the folder by its words. Here it is made sure that it stays there by its links
as well: the file is first opened as a mere place (O_PATH), which has no effect even on a pipe or a device. What that
place is and where it lies is asked of the descriptor, so it cannot be exchanged between the question and the answer,
and the same place is then opened to be read. To compare resolved names before opening them was rejected for that race;
openat2(2), which could forbid the way out, is not in Python.

A link inside the folder to a place inside the folder is followed. One that leads out of it, or to a hidden file, is no
file to the client, and a line in the log tells the operator why.

A file of any size is sent from a few chunks of memory. A read from the disk holds the loop for as long as it takes,
which is one reason why this is for development and examples.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from typing import BinaryIO, Final

from wsworker.protocol import plain
from wsworker.protocol.events import HttpRequest
from wsworker.protocol.plain import Answer
from wsworker.visible import escape

CHUNK_BYTES: Final = 64 * 1024
CHUNKS_PER_TURN: Final = 4
"""A client that takes everything at once must not hold the loop: others have their turn after so many chunks."""

MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})


class Hidden(Exception):
    """The path leads to something that is not served; the text says why."""


class Site:
    """The files below a folder. folder: a link to the real one is followed now and not again."""

    __slots__ = ("_root",)

    def __init__(self, folder: str) -> None:
        # bytes: a file's name need not be text, and what a client sends is UTF-8 whatever the locale of this process
        self._root = os.fsencode(os.path.realpath(folder))

    def answer(self, request: HttpRequest, now: float) -> Answer:
        """Answer a GET or HEAD. now: seconds since the epoch. You must send the answer, which may hold an open file."""
        is_head = request.method == "HEAD"
        path = plain.path_of(request.path)
        if path is None:
            return plain.not_found(is_head, now)
        try:
            file = self._open(path)
        except IsADirectoryError:
            if request.path.partition("?")[0].endswith("/"):
                return plain.not_found(is_head, now)
            return plain.moved(request.path, is_head, now)
        except Hidden as reason:
            return plain.not_found(is_head, now, f"{escape(path)} is not served: {reason}")
        except OSError as error:
            if error.errno in MISSING:
                return plain.not_found(is_head, now)
            text = f"{escape(path)} is not served: {error.strerror}"
            return plain.not_found(is_head, now, text) if error.errno in FORBIDDEN else plain.broken(is_head, now, text)
        return self._answer(request, path, file, now)

    def _answer(self, request: HttpRequest, path: str, file: BinaryIO, now: float) -> Answer:
        status = os.fstat(file.fileno())
        size = status.st_size
        stamp = plain.stamp(size, status.st_mtime_ns, now)
        if plain.is_unchanged(request.headers, stamp):
            file.close()
            return plain.unchanged(stamp, now)
        head = plain.whole(path, stamp, size, now)
        if request.method == "HEAD":
            file.close()
            return Answer(head)
        return Answer(head, file=file, size=size)

    def _open(self, path: str) -> BinaryIO:
        """Open a file of the folder. Raises OSError, IsADirectoryError for a folder of ours, or Hidden."""
        place = os.open(os.path.join(self._root, path.encode()), os.O_PATH | os.O_CLOEXEC)
        try:
            link = f"/proc/self/fd/{place}"
            self._need_inside(os.readlink(os.fsencode(link)))
            mode = os.fstat(place).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(mode):
                raise Hidden("it is no regular file")
            # O_NONBLOCK: not even a lease that another process has on the file (fcntl(2)) makes us wait
            return open(link, "rb", buffering=0, opener=_without_waiting)
        finally:
            os.close(place)

    def _need_inside(self, real: bytes) -> None:
        """Raise Hidden unless a resolved path lies in the folder, and no part of it below the folder is hidden."""
        root = self._root.rstrip(b"/")
        if real != self._root and not real.startswith(root + b"/"):
            raise Hidden("a link leads out of http.static")
        if any(part.startswith(b".") for part in real[len(root) :].split(b"/")):
            raise Hidden("a link leads to a hidden file")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


class Download:
    """One answer on its way through a transport, a few chunks at a time.

    done: called once, when the kernel has taken all of it; you should then half-close. Until then you must call pump
    when the transport says resume_writing, nobody else may write, and the transport must not be closed by the end of
    the client's stream. You must call close when the connection is lost, or dropped before.

    A file that turns out shorter than announced aborts the transport, so that the client cannot take it for whole.
    """

    __slots__ = ("_answer", "_done", "_left", "_loop", "_seen", "_sent", "_transport", "_turn")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        answer: Answer,
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._answer: Answer | None = answer  # None: closed
        self._done = done
        self._left = answer.size  # bytes of the file
        self._sent = 0  # bytes given to the transport
        self._seen = -1  # bytes that the kernel had taken when stuck() was last asked
        self._turn: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin; done may be called at once."""
        assert self._answer is not None, "start comes before close"
        # so pause_writing comes with any byte that the kernel does not take, and resume_writing when it has
        self._transport.set_write_buffer_limits(high=0)
        self._write(self._answer.head + self._answer.body)
        self.pump()

    def pump(self) -> None:
        """Go on, if the transport has nothing left to write."""
        for _ in range(CHUNKS_PER_TURN):
            if self._answer is None or self._transport.is_closing() or self._transport.get_write_buffer_size():
                return
            if not self._left:
                self.close()
                self._done()
                return
            self._send_chunk(self._answer)
        if self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def stuck(self) -> bool:
        """Whether the kernel has taken nothing since the last time this was asked; False the first time."""
        taken = self._sent - self._transport.get_write_buffer_size()
        stuck = taken == self._seen
        self._seen = taken
        return stuck

    def close(self) -> None:
        """Close the file and send nothing more; may be called twice."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._answer is not None and self._answer.file is not None:
            self._answer.file.close()
        self._answer = None

    def _take_turn(self) -> None:
        self._turn = None
        self.pump()

    def _send_chunk(self, answer: Answer) -> None:
        assert answer.file is not None, "only a file has a size"
        try:
            chunk = answer.file.read(min(CHUNK_BYTES, self._left))
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            self._transport.abort()
            return
        self._left -= len(chunk)
        self._write(chunk)

    def _write(self, data: bytes) -> None:
        self._sent += len(data)
        self._transport.write(data)
