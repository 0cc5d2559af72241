"""The channel: a worker's end of the socketpair to its master. Orders come in, reports go out, both as lines of JSON.

Descriptors come along with some orders, by SCM_RIGHTS (unix(7)). Bytes on a stream have no borders, descriptors do:
Linux delivers them with the read that takes the first byte of their message, and such a read never goes on into a later
message that has some too. So they arrive in the order of the orders that they belong to, and never after them: a queue
of descriptors, of which each order takes as many as it says, is right.

A process that has no descriptor left gets the message without them (MSG_CTRUNC). Such an order comes without any, and
with a line in the log: the worker goes on with what it has.

A list of connections can be longer than what the kernel keeps for the master. What does not fit waits here, and whoever
sends much waits for it to have gone; the loop never does.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from typing import Final

from wsworker.errors import WireError
from wsworker.forked import let_go
from wsworker.wire import Lines, Order, Report, decode_order, encode

READ_BYTES: Final = 64 * 1024
MOST_DESCRIPTORS: Final = 253
"""As many as one message carries: SCM_MAX_FD, unix(7)."""

LAST_SECONDS: Final = 1.0
"""How long the last word of a worker may take, when no loop runs any more."""

_INT_BYTES: Final = array.array("i").itemsize

logger = logging.getLogger("wsworker.worker")


class Channel:
    """Reads orders and sends reports, without blocking while the loop runs."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsent = b""
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._lines = Lines()
        self._descriptors: list[int] = []  # received, and not taken by an order yet

    def fileno(self) -> int:
        """Return the descriptor of the socket, for add_reader."""
        return self._socket.fileno()

    def stop_blocking(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on nothing blocks: the loop, which you must have call read, says when something can be sent."""
        self._socket.setblocking(False)
        self._loop = loop

    def read(self) -> list[tuple[Order, list[int]]] | None:
        """Return the orders that have come, each with its descriptors, which you must use or close.

        They are close-on-exec. An order that comes with fewer than it says has lost them, and must not be obeyed.
        None: the channel has ended or speaks nonsense, so the master is dead.

        All that is there is read: if the master dies with something unread, uvloop tells of it once, and never again.
        """
        found: list[tuple[Order, list[int]]] = []
        try:
            while data := self._receive():
                orders = [decode_order(line) for line in self._lines.feed(data)]
                # before the next are received: an order that has lost its descriptors would take those
                found += [(order, self._take(order)) for order in orders]
        except BlockingIOError:
            return found
        except (OSError, WireError):
            return None
        return None

    def send(self, report: Report) -> None:
        """Send a report, behind those that wait. If the master is dying it is lost; the channel's end will tell."""
        self._unsent += encode(report)
        if self._loop is not None and self._loop.is_running():
            self._flush(self._loop)
            return
        self._socket.settimeout(LAST_SECONDS)
        with contextlib.suppress(OSError):
            self._socket.sendall(self._unsent)
        self._unsent = b""

    async def drained(self) -> None:
        """Return once nothing waits to be sent."""
        await self._all_sent.wait()

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]
        if self._unsent and self._all_sent.is_set():
            self._all_sent.clear()
            loop.add_writer(self, self._flush, loop)
        elif not self._unsent and not self._all_sent.is_set():
            self._all_sent.set()
            loop.remove_writer(self)

    def let_go(self) -> None:
        """Close all that is open here, in a process that user code has forked."""
        close_all(self._descriptors)
        let_go(self._socket)

    def _receive(self) -> bytes:
        # not socket.recv_fds: it ignores its flags, and a thread of the user could fork and exec before a later fcntl
        space = socket.CMSG_SPACE(MOST_DESCRIPTORS * _INT_BYTES)
        data, messages, _, _ = self._socket.recvmsg(READ_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % _INT_BYTES])
                self._descriptors += numbers
        return data

    def _take(self, order: Order) -> list[int]:
        """Return the descriptors of an order: as many as it says, or none when some of them were lost on the way."""
        taken, self._descriptors = self._descriptors[: order.fds], self._descriptors[order.fds :]
        if len(taken) < order.fds:
            logger.error("the order %s is lost: out of file descriptors, see LimitNOFILE= or ulimit -n", order.name)
            close_all(taken)
            return []
        return taken


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)
