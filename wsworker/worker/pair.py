"""Pair: one end of the socket pair by which connections move from one worker to another. Packets, one at a time.

SOCK_SEQPACKET keeps the borders of what is sent and brings descriptors with what they were sent with; when the other
end is closed or its process has died, it ends behind all that was sent before. See unix(7).

A system call for each packet would cost as much as making it. So what is sent at once travels as a bundle, one after
the other:

    u32 length of a packet | u8 1 if a descriptor belongs to it | the packet

The head of the first bundle, in which each side greets, is for ever, as the HELLO in it is: versions are compared only
when it has been read, see packets.py.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Final, NamedTuple

from wsworker.errors import WireError
from wsworker.handover.packets import PACKET_BYTES, Hello

PASSING: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
"""Memory is short, or too many descriptors are on their way: unix(7)."""

PASSING_SECONDS: Final = 0.01

MOST_TOGETHER: Final = 8
"""Packets in a bundle: the other side begins when it has all of it, and connections stand still meanwhile."""

HEAD: Final = struct.Struct("!I?")
"""Of each packet in a bundle."""

_BUNDLE_BYTES: Final = HEAD.size + PACKET_BYTES
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(MOST_TOGETHER * array.array("i").itemsize)
# as plain numbers: an operation on an IntFlag takes as long as a system call
_CLOEXEC: Final = int(socket.MSG_CMSG_CLOEXEC)
_TRUNC: Final = int(socket.MSG_TRUNC)


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
        self._received: deque[Parcel] = deque()
        # kept: to have one of this size anew for each bundle takes longer than all else here
        self._buffer = bytearray(_BUNDLE_BYTES)
        self._view = memoryview(self._buffer)

    async def send(self, packet: bytes, descriptor: int | None = None) -> None:
        """Send a packet behind those that are being sent; descriptor: goes along, and stays yours. PairClosed."""
        await self.send_all([(packet, descriptor)])

    async def send_all(self, packets: Sequence[tuple[bytes, int | None]]) -> None:
        """Send packets, each with its descriptor, as send does, in few calls if they are small; nothing for none."""
        async with self._sending:
            parts: list[bytes] = []
            descriptors: list[int] = []
            size = 0
            for packet, descriptor in packets:
                if parts and (size + HEAD.size + len(packet) > _BUNDLE_BYTES or len(parts) >= 2 * MOST_TOGETHER):
                    await self._send(parts, descriptors)
                    parts, descriptors, size = [], [], 0
                parts += (HEAD.pack(len(packet), descriptor is not None), packet)
                size += HEAD.size + len(packet)
                if descriptor is not None:
                    descriptors.append(descriptor)
            if parts:
                # nothing at all would look like the end of the pair
                await self._send(parts, descriptors)

    async def _send(self, parts: list[bytes], descriptors: list[int]) -> None:
        # as socket.send_fds has it
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        while True:
            try:
                self._socket.sendmsg(parts, rights)
            except BlockingIOError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                if error.errno not in PASSING:
                    raise PairClosed from None
                await asyncio.sleep(PASSING_SECONDS)
            else:
                return

    async def receive(self) -> Parcel:
        """Return the next packet. Raises PairClosed, and WireError for no bundle. Only one may wait at a time."""
        while (parcel := self.receive_now()) is None:
            await self._until(self._loop.add_reader, self._loop.remove_reader)
        return parcel

    def receive_now(self) -> Parcel | None:
        """Return the next packet if it is there. Raises PairClosed, WireError."""
        if self._received:
            return self._received.popleft()
        try:
            self._receive()
        except BlockingIOError:
            return None
        except ConnectionResetError:
            self._mind_reset()
            return self.receive_now()
        except OSError:
            raise PairClosed from None
        return self._received.popleft()

    def close(self) -> None:
        """Close this end; who waits in send or receive gets PairClosed."""
        self._drop_received()
        if self._socket.fileno() >= 0:
            for waiter in self._awaits:
                if not waiter.done():
                    waiter.set_result(None)
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def let_go(self) -> None:
        """Close the descriptors, and nothing else, in a process that user code has forked."""
        self._drop_received()
        with contextlib.suppress(OSError):
            os.close(self._socket.fileno())

    def _drop_received(self) -> None:
        """Close what came with packets that nobody has asked for."""
        while self._received:
            descriptor = self._received.popleft().descriptor
            if descriptor is not None:
                os.close(descriptor)

    def _mind_reset(self) -> None:
        """Know that it has died with something unread; what it had sent before stands behind this error, once."""
        if self._reset:
            raise PairClosed
        self._reset = True

    def _receive(self) -> None:
        """Read what is there, one bundle."""
        size, messages, flags, _ = self._socket.recvmsg_into([self._buffer], _RIGHTS_BYTES, _CLOEXEC)
        rights = array.array("i")
        for level, kind, content in messages:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
        descriptors = deque(rights)
        try:
            if not size:
                raise PairClosed
            if flags & _TRUNC:
                raise WireError(f"a bundle of more than {_BUNDLE_BYTES} bytes")
            self._part(size, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _part(self, size: int, descriptors: deque[int]) -> None:
        """Take the bundle apart; descriptors that belong to a packet are taken out."""
        begin = 0
        while begin < size:
            behind = begin + HEAD.size
            length, has_descriptor = HEAD.unpack_from(self._buffer, begin) if behind <= size else (size, False)
            if length > size - behind:
                raise WireError("a bundle that ends within a packet")
            begin = behind + length
            descriptor = descriptors.popleft() if has_descriptor and descriptors else None
            lost = has_descriptor and descriptor is None
            self._received.append(Parcel(bytes(self._view[behind:begin]), descriptor, lost))

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
