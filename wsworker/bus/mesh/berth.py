"""Berth: a worker's place among the others, as the master gives it: where they meet, and how they know each other."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from wsworker.bus.mesh.members import Member
from wsworker.bus.records import VERSION, Hello
from wsworker.errors import WireError
from wsworker.forked import let_go


@dataclass(frozen=True, slots=True)
class Berth:
    """What a worker needs to take part in the mesh.

    me: its id and slot; node: names this run of the service; secret: 16 bytes; listener: the slot's, borrowed, and not
    blocking; folder: a descriptor of the folder with the sockets; uids: who may connect, None for whoever can; members:
    returns the workers that live, this one among them.
    """

    me: Member
    node: str
    secret: bytes = field(repr=False)
    listener: socket.socket
    folder: int
    uids: Collection[int] | None
    members: Callable[[], list[Member]]

    def hello(self, most: int) -> Hello:
        """Return the greeting of this worker. most: the longest record that it takes."""
        return Hello(self.secret, self.me.worker, self.me.slot, most, self.node)

    def check(self, hello: Hello) -> None:
        """Raise WireError unless who greets is of this service, of this run of it, and of this version."""
        if hello.version != VERSION:
            raise WireError(f"it speaks version {hello.version} of the bus and not {VERSION}")
        if not hmac.compare_digest(hello.secret, self.secret):
            raise WireError("it does not know the secret")
        if hello.node != self.node:
            raise WireError("it belongs to another run of the service")

    def address(self, slot: int) -> str:
        """Return the address of a slot's socket.

        It goes through the descriptor of the folder: a worker that has become another user cannot walk there, and the
        path of a socket has at most 107 bytes, unix(7).
        """
        return f"/proc/self/fd/{self.folder}/{socket_name(slot)}"

    def let_go(self) -> None:
        """Close all of it in a process that user code has forked."""
        let_go(self.folder)
        let_go(self.listener)


def socket_name(slot: int) -> str:
    """Return the name of a slot's socket in the folder."""
    return f"{slot}.sock"
