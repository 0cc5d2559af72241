"""A sink: writes lines to one descriptor, and never blocks, never raises.

A log may end in a pipe whose reader is stuck, on a terminal that was stopped with Ctrl-S, in the journal's socket, or
on a disk that is full. None of that may stop a process that serves clients: outlet.py writes what there is room for and
says so when there is none. What cannot be written now waits in a queue of bounded size; what does not fit there, or
meets an error, is dropped and counted, and when writing works again one line says how many were lost.

Processes that share a pipe do not mix their lines: up to PIPE_BUF bytes are written as one, so longer records go out
in pieces that end where a line ends. A record that went out in part is finished before the next one begins; if that
fails for good, the next one begins with a newline, so that it does not stick to the torn one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from wsworker.outlet import open_outlet

ROOM_BYTES: Final = 256 * 1024
"""How much may wait; a record that finds nobody waiting is always taken."""


class _Record(NamedTuple):
    """What waits to be written. tells: how many lost records it reports, 0 if it is an ordinary one."""

    data: bytes
    tells: int


class Sink:
    """Writes to a descriptor, which stays the caller's, from any thread. report: makes the line for n lost records.

    After a fork the child starts afresh: what waits, and what was lost, is the parent's.
    """

    def __init__(self, fd: int, report: Callable[[int], bytes]) -> None:
        self.fd = fd
        self._report = report
        self._outlet = open_outlet(fd)
        self._torn = False  # the last line that we wrote has no end
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        # reentrant: a signal handler or a finalizer of user code may print while this thread is writing
        self._lock = threading.RLock()
        self._writing = False
        self._waiting: deque[_Record] = deque()
        self._waiting_bytes = 0
        self._written = 0  # bytes of the first record that are out
        self._dropped = 0
        self._untold = 0

    @property
    def dropped(self) -> int:
        """How many records were not, or not wholly, written by this process."""
        self._notice_fork()
        return self._dropped

    def write(self, data: bytes) -> None:
        """Write one record, of one or more lines with their newlines; or let it wait; or drop it."""
        self._notice_fork()
        with self._lock:
            self._go_on()
            if self._waiting and self._waiting_bytes + len(data) > ROOM_BYTES:
                self._lose()
                return
            self._tell_losses()
            self._put(_Record(data, 0))
            self._go_on()

    def flush(self) -> None:
        """Try to write what waits, and what is to be said of lost records. To be called now and then."""
        self._notice_fork()
        with self._lock:
            self._go_on()
            if not self._waiting:
                self._tell_losses()
                self._go_on()

    def drop(self) -> None:
        """Count a record that was lost before it came here."""
        self._notice_fork()
        with self._lock:
            self._lose()

    def lead_to(self, fd: int) -> None:
        """Write to another descriptor, or to the same number after another file was put there with dup2(2).

        What waits goes there too, each record as a whole.
        """
        self.flush()
        with self._lock:
            self._outlet.close()
            self.fd = fd
            self._outlet = open_outlet(fd)
            self._written = 0
            self._torn = False

    def _notice_fork(self) -> None:
        # not os.register_at_fork, which would keep every sink for ever
        if self._pid != os.getpid():
            self._start_afresh()

    def _go_on(self) -> None:
        """Write until nothing waits, or there is no room."""
        if self._writing:
            # called from within itself: what was put is written by the outer call
            return
        self._writing = True
        try:
            while self._waiting:
                self._write_piece()
        except BlockingIOError:
            pass
        finally:
            self._writing = False

    def _write_piece(self) -> None:
        """Write a piece of the first record, or give it up. Raises BlockingIOError when there is no room."""
        first = self._waiting[0]
        mend = b"\n" if self._torn else b""
        piece = mend + self._piece(first.data)
        try:
            count = self._outlet.write(piece)
        except BlockingIOError:
            raise
        except OSError:
            count = 0
        if piece and not count:
            # also where write(2) itself says 0: trying again could take for ever
            self._give_up()
            return
        self._torn = False
        self._written += count - len(mend)
        if self._written == len(first.data):
            self._take()

    def _piece(self, data: bytes) -> bytes:
        end = self._written + self._outlet.most
        if end >= len(data):
            return data[self._written :]
        after_line = data.rfind(b"\n", self._written, end) + 1
        return data[self._written : after_line or end]

    def _put(self, record: _Record) -> None:
        self._waiting.append(record)
        self._waiting_bytes += len(record.data)

    def _take(self) -> _Record:
        record = self._waiting.popleft()
        self._waiting_bytes -= len(record.data)
        self._written = 0
        return record

    def _give_up(self) -> None:
        self._torn = self._torn or self._written > 0
        record = self._take()
        if record.tells:
            self._untold += record.tells
        else:
            self._lose()

    def _lose(self) -> None:
        self._dropped += 1
        self._untold += 1

    def _tell_losses(self) -> None:
        if self._untold:
            count, self._untold = self._untold, 0
            self._put(_Record(self._report(count), count))
