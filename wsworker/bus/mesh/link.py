"""Link: one stream between two workers, or from a program outside, from the first record to the end.

The first record both ways is a HELLO, within a second. What comes is read in turns, so that one peer never has the loop
for itself; what goes out waits in the outbox until the kernel takes it. An end of the stream is in order if a GOODBYE
has come before it, and otherwise a loss.

A socket and its readers, and no asyncio transport: that would queue without bound on its own, and in a process that
user code forks its socket could not be found and closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from time import monotonic
from typing import Final, Protocol

from wsworker.bus.mesh.outbox import Outbox
from wsworker.bus.records import Hello, Reader, Record, Type, decode_hello
from wsworker.errors import WireError
from wsworker.forked import let_go

GREETING_SECONDS: Final = 1.0
READ_BYTES: Final = 64 * 1024
RECORDS_PER_TURN: Final = 256
TURN_SECONDS: Final = 0.005
_UCRED: Final = struct.Struct("3i")

logger = logging.getLogger("wsworker.bus")


class Owner(Protocol):
    """Whom a link tells what happens. What is raised as WireError ends the link."""

    def greeted(self, link: Link, hello: Hello) -> None:
        """Look who this is; close the link if it is nobody."""

    def received(self, link: Link, record: Record) -> None:
        """Handle a record."""

    def rested(self, link: Link) -> None:
        """Know that a turn of records is over."""

    def wrote(self, link: Link) -> None:
        """Know that the kernel has taken something."""

    def ended(self, link: Link, why: str) -> None:
        """Know that the link has ended, not by close(); why: a clause, "" if it has ended in order."""


class Link:
    """One stream. sock: connected and non-blocking, ours from now on; most: the longest record that is taken.

    owner: may be changed; outbox: what is to be written; you must call write() when you have put something in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: Owner, outbox: Outbox, most: int):
        self._loop = loop
        self._socket = sock
        self.owner = owner
        self._reader = Reader(most)
        self._waiting: deque[Record] = deque()
        self._unsent = memoryview(b"")
        self._greeted = False
        self._goodbye = False
        self._at_end = False  # of the stream, what has come of it may wait still
        self._reads = True
        self._writes = False  # the kernel has enough
        self.open = True
        self.outbox = outbox
        self._timer = loop.call_later(GREETING_SECONDS, self._fail, "no greeting came in time")
        loop.add_reader(sock, self._read)

    def peer_uid(self) -> int:
        """Return who has connected to us. unix(7), SO_PEERCRED."""
        _, uid, _ = _UCRED.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(uid)

    def put(self, *records: bytes) -> None:
        """Queue records that must not be dropped."""
        for record in records:
            self.outbox.force(record)

    def write(self) -> None:
        """Write what the kernel takes; the rest goes when it takes more."""
        while self.open and not self._writes:
            if not self._unsent:
                self._unsent = memoryview(self.outbox.take())
                if not self._unsent:
                    return
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                self._writes = True
                self._loop.add_writer(self._socket, self._writable)
                return
            except OSError:
                # what the peer has sent before its end is read first, and the end behind it
                self._unsent = memoryview(b"")
                if self._reads:
                    self._loop.call_soon(self._read)
                return
            self._unsent = self._unsent[sent:]
            self.outbox.sent(sent)
            self.owner.wrote(self)

    def hear_out(self) -> None:
        """Take nothing that is sent from now on; what was sent before is read, and the end behind it.

        On a unix socket, Linux draws that line for both sides at once: who sends later gets EPIPE, send(2).
        """
        if self.open:
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close; the owner is not told."""
        if self.open:
            self.open = False
            self._timer.cancel()
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._waiting.clear()
            self.outbox.clear()

    def let_go(self) -> None:
        """Close the descriptor in a process that user code has forked; the loop's epoll is shared with the worker."""
        let_go(self._socket)

    def _writable(self) -> None:
        self._writes = False
        self._loop.remove_writer(self._socket)
        self.write()

    def _read(self) -> None:
        """Read all that is there, or enough for a turn.

        A peer that dies with something unread leaves an error on the stream, of which uvloop tells once: libuv stops to
        watch then. So nothing may be left unread but by who has the stream watched anew.
        """
        left = READ_BYTES
        while self.open and left and not self._at_end:
            try:
                data = self._socket.recv(left)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            left -= len(data)
            self._at_end = not data
            self._waiting += self._reader.feed(data)
        if not left:
            # until it is handled; then the stream is watched anew
            self._set_reading(False)
        self._handle()

    def _handle(self) -> None:
        """Handle what has come, for as long as a turn lasts."""
        until = monotonic() + TURN_SECONDS
        left = RECORDS_PER_TURN
        try:
            while self.open and self._waiting and left and monotonic() < until:
                left -= 1
                self._take(self._waiting.popleft())
            if self.open:
                self.owner.rested(self)
        except WireError as error:
            self._fail(error.reason)
        except Exception:
            # a mistake of ours; the link would stay, and nothing more would be read of it
            logger.exception("what came over a link of the bus could not be handled")
            self._fail("what came could not be handled")
        if not self.open:
            return
        if self._waiting:
            self._set_reading(False)
            self._loop.call_soon(self._handle)
        elif self._at_end:
            # who leaves before the greeting owes nobody a word
            self._fail("it has ended without a word" if self._greeted and not self._goodbye else "")
        elif self._reader.fault:
            self._fail(self._reader.fault)
        else:
            self._set_reading(True)

    def _take(self, record: Record) -> None:
        if not self._greeted:
            if record.type != Type.HELLO:
                raise WireError("it begins without a greeting")
            self._greeted = True
            self._timer.cancel()
            self.owner.greeted(self, decode_hello(record.body))
        elif record.type == Type.HELLO:
            raise WireError("a second greeting")
        else:
            self._goodbye = self._goodbye or record.type == Type.GOODBYE
            self.owner.received(self, record)

    def _set_reading(self, wanted: bool) -> None:
        if wanted and not self._reads:
            self._loop.add_reader(self._socket, self._read)
        elif self._reads and not wanted:
            self._loop.remove_reader(self._socket)
        self._reads = wanted

    def _fail(self, why: str) -> None:
        self.close()
        self.owner.ended(self, why)
