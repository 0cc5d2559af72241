"""The accept loop of a worker: clients from the listeners it borrows, handed to the event loop one by one.

It is our own, because asyncio.Server calls listen(100) on any socket it is given, which shrinks the queue for every
process that holds the socket, and because a server must go on when descriptors run out: then it stops asking for a
while, as the queue keeps and another worker may have room. See accept(2) for the errors.

A unix listener is one queue for all workers, while each has a TCP listener of its own. Who wakes up first would empty
it, so a worker takes one client at a time there, and none while it is full: another one may have room.

The listeners are the master's. They are never shut down here (that would hit every holder), only closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

ACCEPTS_PER_TURN: Final = 32
LAST_TURNS: Final = 2**16 // ACCEPTS_PER_TURN
"""As many as the longest queue gives work for (`backlog` is at most 65535): a flood must not hold the loop for ever."""

PAUSE_SECONDS: Final = 1.0
FULL_SECONDS: Final = 0.1
"""How soon a full worker looks again whether it has room for who waits at a shared listener."""

LOG_SECONDS: Final = 60.0

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PASSING: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EPERM,
        errno.EPROTO,
    }
)
"""The client has gone before it was accepted, or a firewall forbids it; the next one is not touched by that."""


class Acceptor:
    """Accepts from some listeners. protocol: makes the asyncio protocol of one client, given its address.

    full: whether the worker has room for nobody now; asked before it accepts from a listener that others share.
    The address is what accept(2) gave: once a client has reset the connection, nobody can be asked for it any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listeners: Sequence[socket.socket],
        protocol: Callable[[Any], asyncio.Protocol],
        full: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._loop = loop
        self._listeners = list(listeners)
        self._protocol = protocol
        self._full = full
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._logged_at = -LOG_SECONDS

    def start(self) -> None:
        """Accept whoever comes; the listeners must listen, as accept(2) on others is an error and epoll would spin."""
        self._resume = None
        for listener in self._listeners:
            self._loop.add_reader(listener, self._ready, listener)

    def stop(self) -> None:
        """Stop accepting; whoever waits in the queue stays there for others. May be called twice."""
        if self._resume:
            self._resume.cancel()
            self._resume = None
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    async def empty_and_close(self) -> None:
        """Accept all who wait, once, then close: for a stop, when nobody else will ever accept them."""
        self.stop()
        for listener in self._listeners:
            for _ in range(LAST_TURNS):
                if not self._accept(listener, ACCEPTS_PER_TURN):
                    break
        await self.close()

    async def close(self) -> None:
        """Close our copies of the listeners; the master and a new worker keep theirs.

        Returns when every client that was accepted has its protocol, so that whoever counts connections then finds it.
        """
        self.stop()
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ready(self, listener: socket.socket) -> None:
        """Accept from a listener at which somebody waits."""
        if not _is_shared(listener):
            self._accept(listener, ACCEPTS_PER_TURN)
        elif self._full():
            self._leave_to_others()
        else:
            self._accept(listener, 1)

    def _accept(self, listener: socket.socket, limit: int) -> bool:
        """Accept up to a number of clients; whether that number was reached, so that there may be more."""
        for _ in range(limit):
            try:
                client, address = listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in PASSING:
                    continue
                self._pause(error)
                return False
            client.setblocking(False)
            task = self._loop.create_task(self._connect(client, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _connect(self, client: socket.socket, address: Any) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._protocol(address), client)
        except OSError:
            # it went away between accept and now
            client.close()

    def _leave_to_others(self) -> None:
        """Look away from the shared listeners for a moment: they stay readable, and the loop would spin."""
        for listener in filter(_is_shared, self._listeners):
            self._loop.remove_reader(listener)
        if self._resume is None:
            self._resume = self._loop.call_later(FULL_SECONDS, self.start)

    def _pause(self, error: OSError) -> None:
        """Stop asking for a second: a listener that cannot be served stays readable, and the loop would spin."""
        now = self._loop.time()
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            what, hint = "cannot accept", ""
            if error.errno in SHORTAGES:
                what, hint = "out of file descriptors or memory", ", see LimitNOFILE= or ulimit -n"
            self._log.error("%s (%s); new clients wait%s", what, error.strerror, hint)
        self.stop()
        self._resume = self._loop.call_later(PAUSE_SECONDS, self.start)


def _is_shared(listener: socket.socket) -> bool:
    return listener.family == socket.AF_UNIX
