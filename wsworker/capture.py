r"""Capture: what user code prints, made lines of the log.

A worker has such a stream under sys.stdout and one under sys.stderr. Each printed line becomes a record of its own,
with process and connection in front of it like any other, so nothing that is printed can pretend to be a line of ours,
and each line stays valid where lines are JSON. A traceback that traceback.print_exc() prints is some records that stand
below each other.

A line ends where the text says so, and also at a flush: who flushes wants it out now. The end of one that has
MOST_BYTES is not waited for, and a longer one becomes several records. Lines of nothing but blanks are left out, and so
is the \r with which progress bars begin. One inside a line stays: what stands before it would be hidden, and a client
may have sent it.

print("a", 1) is several writes. So the parts of lines are kept apart by thread and connection, or those that print at
the same time would tear each other's lines.

There is no buffer of Python's around it: that one raises BlockingIOError, and also when a signal handler prints.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from wsworker import speaker

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_BYTES: Final = 64 * 1024
MOST_PARTS: Final = 64
"""So many lines may be without an end; of more, the oldest is ended."""

# the thread, by the kernel's number, as Python's own is soon another one's, and the id of the connection
Printer: TypeAlias = tuple[int, str | None]


class Stream(io.RawIOBase):
    """What sys.stdout and sys.stderr write to. say: takes a line, without its end, and the id of its connection.

    fd: 1 or 2, what fileno() says, as programs that user code starts are handed it.
    A process that user code forks begins with nothing: the parts of lines that are here are its parent's.
    """

    def __init__(self, fd: int, say: Callable[[str, str | None], None]) -> None:
        super().__init__()
        self._fd = fd
        self._say = say
        self.name = "<stdout>" if fd == 1 else "<stderr>"
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        # reentrant: a signal handler or a finalizer of user code may print while this thread does
        self._lock = threading.RLock()
        self._parts: dict[Printer, bytearray] = {}

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return False, also on a terminal: the colours that are written to one would be shown as escapes."""
        return False

    def write(self, data: ReadableBuffer, /) -> int:
        """Take everything; neither waits nor raises."""
        taken = bytes(data)
        if self._pid != os.getpid():
            self._start_afresh()
        *whole, rest = taken.split(b"\n")
        printer = (threading.get_native_id(), speaker.connection_id())
        with self._lock:
            for line in whole:
                self._parts.setdefault(printer, bytearray()).extend(line)
                self._end_line(printer)
            if rest:
                part = self._parts.setdefault(printer, bytearray())
                part += rest
                if len(part) >= MOST_BYTES:
                    self._end_line(printer)
                elif len(self._parts) > MOST_PARTS:
                    self._end_line(next(iter(self._parts)))
        return len(taken)

    def flush(self) -> None:
        """End the line of whoever flushes; in the main thread outside of all callbacks, as at the end, all lines."""
        if self._pid != os.getpid():
            self._start_afresh()
        connection = speaker.connection_id()
        with self._lock:
            if connection is None and threading.current_thread() is threading.main_thread():
                for printer in [*self._parts]:
                    self._end_line(printer)
            else:
                self._end_line((threading.get_native_id(), connection))

    def close(self) -> None:
        """Flush, and stay open: what user code wraps around this stream closes it when it is collected."""
        self.flush()

    def _end_line(self, printer: Printer) -> None:
        for piece in _pieces(self._parts.pop(printer, bytearray())):
            line = piece.decode("utf-8", "backslashreplace").strip("\r")
            if line.strip():
                self._say(line, printer[1])


def _pieces(line: bytearray) -> Iterator[bytearray]:
    """Yield a line in pieces of at most MOST_BYTES, cut between characters where it is UTF-8; the line is used up."""
    while len(line) > MOST_BYTES:
        # a byte 10xxxxxx goes on with a character, and no character has more than three of them: RFC 3629 section 3
        end = next((at for at in range(MOST_BYTES, MOST_BYTES - 4, -1) if line[at] & 0xC0 != 0x80), MOST_BYTES)
        yield line[:end]
        del line[:end]
    yield line
