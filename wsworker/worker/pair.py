"""Pair: one end of the socket pair by which connections move from one worker to another. Packets, one at a time.

SOCK_SEQPACKET keeps the borders of packets and brings a descriptor with the packet that it was sent with; when the
other end is closed or its process has died, it ends behind all that was sent before. See unix(7).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from importlib import metadata
from typing import Final, NamedTuple

from wsworker.handover.packets import PACKET_BYTES, Hello

PASSING: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""Memory is short, or too many descriptors are on their way: unix(7)."""

PASSING_SECONDS: Final = 0.01

_INT_BYTES: Final = array.array("i").itemsize


class PairClosed(Exception):
    """The other worker has closed its end, or has died."""


class Parcel(NamedTuple):
    """One packet. descriptor: what came with it, yours to close, or None; lost: one came and there was no room."""

    packet: bytes
    descriptor: int | None
    lost: bool


class Pair:
    """One end. sock: its socket, ours from now on; you must call close."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._sending = asyncio.Lock()
        self._reset = False
        self._awaits: set[asyncio.Future[None]] = set()

    async def send(self, packet: bytes, descriptor: int | None = None) -> None:
        """Send a packet behind those that are being sent; descriptor: goes along, and stays yours. PairClosed."""
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._socket, [packet], [] if descriptor is None else [descriptor])
                except BlockingIOError:
                    await self._until(self._loop.add_writer, self._loop.remove_writer)
                except OSError as error:
                    if error.errno not in PASSING:
                        raise PairClosed from None
                    await asyncio.sleep(PASSING_SECONDS)
                else:
                    return

    async def receive(self) -> Parcel:
        """Return the next packet. Raises PairClosed. Only one may wait at a time."""
        while (parcel := self.receive_now()) is None:
            await self._until(self._loop.add_reader, self._loop.remove_reader)
        return parcel

    def receive_now(self) -> Parcel | None:
        """Return the next packet if it is there. Raises PairClosed."""
        try:
            return self._receive()
        except BlockingIOError:
            return None
        except ConnectionResetError:
            self._mind_reset()
            return self.receive_now()
        except OSError:
            raise PairClosed from None

    def close(self) -> None:
        """Close this end; who waits in send or receive gets PairClosed."""
        if self._socket.fileno() >= 0:
            for waiter in self._awaits:
                if not waiter.done():
                    waiter.set_result(None)
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def let_go(self) -> None:
        """Close the descriptor, and nothing else, in a process that user code has forked."""
        with contextlib.suppress(OSError):
            os.close(self._socket.fileno())

    def _mind_reset(self) -> None:
        """Know that it has died with something unread; what it had sent before stands behind this error, once."""
        if self._reset:
            raise PairClosed
        self._reset = True

    def _receive(self) -> Parcel:
        data, messages, flags, _ = self._socket.recvmsg(
            PACKET_BYTES + 1, socket.CMSG_SPACE(_INT_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        descriptors = array.array("i")
        for level, kind, content in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % _INT_BYTES])
        if not data:
            for descriptor in descriptors:
                os.close(descriptor)
            raise PairClosed
        return Parcel(data, descriptors[0] if descriptors else None, bool(flags & socket.MSG_CTRUNC))

    async def _until(self, watch: Callable[..., object], unwatch: Callable[[socket.socket], object]) -> None:
        """Wait until the socket can be read or written."""
        if self._socket.fileno() < 0:
            raise PairClosed
        waiter = self._loop.create_future()
        self._awaits.add(waiter)
        watch(self._socket, _ready, waiter)
        try:
            await waiter
        finally:
            self._awaits.discard(waiter)
            if self._socket.fileno() >= 0:
                unwatch(self._socket)
        if self._socket.fileno() < 0:
            raise PairClosed


def greeting() -> Hello:
    """Return what each side says first."""
    try:
        return Hello(metadata.version("wsworker"))
    except metadata.PackageNotFoundError:
        # a checkout that is only run has none
        return Hello("of no version")


def _ready(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
