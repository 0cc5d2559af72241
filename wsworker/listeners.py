"""Listening sockets: for each address a group of them, one socket per slot, all owned by the master.

With SO_REUSEPORT the kernel spreads new clients over the sockets of a group, and a worker accepts from its slot's
socket only. The master keeps every socket open: a kernel socket closes with its last descriptor, so the clients that
queue there survive the worker that dies, and its successor accepts them. For the same reason nobody may call
shutdown() on a listener: it would hit every holder.

SO_REUSEPORT also lets a second program of the same user join in silence and take half of the clients. So each address
is probed by a plain bind without it, first at start and again just before the first listen. Between the two the
sockets are bound but do not listen: a client of a service whose app is broken is refused instead of left hanging.

The socket is chosen by weight (steering.py), so that slots without a healthy worker get no new clients. The index of a
socket is the order of listen(), hence slots listen in order, a new one is the last, and only the last one is closed.
Unix sockets know no groups: all slots share one socket, whoever is free accepts, and there are no weights.

Sockets can also be taken over, if systemd has kept them for us over a restart, or has opened the address itself.

IPv4 and IPv6 are two addresses, hence two groups: `[::]` never takes IPv4 clients as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from wsworker import steering
from wsworker.config import ListenAddress
from wsworker.errors import OUT_OF_DESCRIPTORS, BindError
from wsworker.master.estate import Listening
from wsworker.occupant import occupant

Socket: TypeAlias = socket.socket  # inside Group, `socket` is its method

SOCKET_MODE: Final = 0o660
UNPRIVILEGED_PORTS: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

MASTER: Final = re.compile(r"pid (\d+) \(wsworker: maste.*\)")
"""An occupant that is the master of another service by its title, of which a long command line may leave 15 bytes."""

# struct tcp_info of linux/tcp.h: tcpi_unacked comes after eight bytes and four words
TCP_INFO_BYTES: Final = 104
UNACKED_OFFSET: Final = 24


class Group:
    """The listeners of one address for all slots.

    address: an IP address and port, or the path of a unix socket; backlog: clients that may queue at each socket;
    place: where the address was set, such as "config.yaml:3:9", or "", and key: in which setting, for error texts.
    The master takes over what systemd has, calls probe, then bind for every slot, and listen in slot order once a
    worker is ready. Later it may add a slot, or close the last one. A forked child calls keep first of all. Everything
    that fails is a BindError. activated: True if systemd has opened the address itself.
    """

    def __init__(self, address: ListenAddress, backlog: int, place: str = "", key: str = "listen") -> None:
        self.address = address
        self.backlog = backlog
        self.place = place
        self.key = key
        self.activated = False
        self._sockets: dict[int, Socket] = {}
        self._listening: list[int] = []
        self._adopted: set[int] = set()
        self._common: Socket | None = None  # the one socket of a shared group
        self._order_known = True
        # device and inode of the unix socket's file, None while there is none of ours to remove
        self._file: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """True if all slots share one socket, so that weights are impossible and no slot has a listener of its own."""
        return bool(self.address.path) or self.activated

    # Taking over

    def owns(self, sock: Socket) -> bool:
        """Return whether a socket is bound to this address, exactly: 0.0.0.0 and [::] do not include others."""
        try:
            return bool(sock.getsockname() == (self.address.path or self._sockaddr()))
        except OSError:
            return False  # an address with an interface that does not exist; probe tells of it

    def adopt(self, slot: int, sock: Socket) -> bool:
        """Take over the slot's socket of a former master, which listens already; the group is not shared.

        You must adopt before bind, and then go on as for any slot: bind and listen know it, and its clients wait on.
        False if the slot has one: then this one is closed, which resets its clients, as nobody would accept them.
        """
        assert not self.shared, "a shared group has no socket for each slot"
        if slot in self._adopted:
            sock.close()
            self._order_known = False
            return False
        sock.setblocking(False)
        self._sockets[slot] = sock
        self._adopted.add(slot)
        return True

    def adopt_shared(self, sock: Socket) -> None:
        """Share a socket that systemd has opened: it listens, with a backlog of its own, and its file is not ours."""
        assert not self._sockets, "an address is opened by systemd or by us, not by both"
        sock.setblocking(False)
        self._common = sock
        self.activated = True

    def bequeath(self) -> Listening:
        """Return all of it, for the program that goes on in this process."""
        own = {} if self.shared else {slot: sock.fileno() for slot, sock in self._sockets.items()}
        common = self._common.fileno() if self._common else None
        return Listening(
            activated=self.activated,
            slots=[*self._sockets],
            sockets=own,
            common=common,
            listening=self._listening,
            adopted=sorted(self._adopted),
            order_known=self._order_known,
            file=self._file,
        )

    def inherit(self, left: Listening) -> None:
        """Take over what a former program of this process has left; instead of probe and bind."""
        self.activated, self._listening, self._adopted = left.activated, left.listening, {*left.adopted}
        self._order_known, self._file = left.order_known, left.file
        if left.common is not None:
            self._common = socket.socket(fileno=left.common)
            self._sockets = dict.fromkeys(left.slots, self._common)
        else:
            self._sockets = {slot: socket.socket(fileno=left.sockets[slot]) for slot in left.slots}
        for sock in (self._common, *self._sockets.values()):
            if sock is not None:
                sock.set_inheritable(False)

    # The slots

    def probe(self) -> None:
        """Find out whether the address can be had, and leave no trace; raises BindError.

        For a unix socket nothing is bound: it looks at what lies at the path, and asks whether anybody answers there.
        An address of which anything was taken over is ours already.
        """
        if self.activated or self._adopted:
            return
        with self._errors():
            if self.shared:
                self._stale_file()
                return
            with self._tcp_socket(reuse_port=False) as sock:
                sock.bind(self._sockaddr())

    def bind(self, slot: int) -> None:
        """Make the slot's socket, which does not listen yet; raises BindError. Does nothing for one taken over.

        Also while others listen: the slot after the last one is how a group grows.
        """
        if slot in self._adopted:
            return
        assert slot not in self._sockets, "a slot is bound once"
        with self._errors():
            if self.shared:
                self._common = self._common or self._unix_socket()
                self._sockets[slot] = self._common
                return
            sock = self._tcp_socket(reuse_port=True)
            with _closed_on_error(sock):
                sock.bind(self._sockaddr())
            if any(slot < other for other in self._adopted):
                # the former master had this slot too, and where the kernel has put the others since, nobody can tell
                self._order_known = False
            self._sockets[slot] = sock

    def listen(self, slot: int) -> None:
        """Let the slot's socket queue clients; raises BindError if another program listens there by now.

        The first listen of a group probes again: a bound socket that does not listen, such as ours, is no obstacle.
        """
        assert slot not in self._listening, "a slot listens once"
        first = not self._listening
        if not self.activated and (first or not self.shared):
            if first:
                self._check_nobody_came()
            with self._errors():
                # one that was taken over listens already: this sets its backlog and leaves its place as it is
                self._sockets[slot].listen(self.backlog)
        self._listening.append(slot)

    def close_slot(self, slot: int) -> None:
        """Close the last slot's socket for good, so that its address shrinks by one; nothing if it has none.

        You must have weighed it 0 and let a worker accept all who waited: whoever still queues is reset. No worker may
        hold it any more, else it stays in the kernel's group. A socket that the slots share stays open.
        """
        assert slot >= max(self._sockets, default=slot), "closing another one would move the kernel's indices"
        sock = self._sockets.pop(slot, None)
        self._adopted.discard(slot)
        if slot in self._listening:
            self._listening.remove(slot)
        if sock is not None and not self.shared:
            sock.close()

    def socket(self, slot: int) -> Socket:
        """Return the listener that the worker of a slot borrows; it must neither close it nor shut it down."""
        return self._sockets[slot]

    def queue(self, slot: int) -> int | None:
        """Return how many clients wait to be accepted at the slot's listener; None if it has none of its own.

        For a listener, tcpi_unacked of TCP_INFO is the length of its queue. Source: net/ipv4/tcp.c, tcp_get_info.
        """
        if self.shared or slot not in self._sockets:
            return None
        info = self._sockets[slot].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        (waiting,) = struct.unpack_from("=I", info, UNACKED_OFFSET)
        return int(waiting)

    def weigh(self, weights: Sequence[int]) -> bool:
        """Choose which share of new clients each slot gets; False if that is impossible and the spread stays even.

        weights: one per slot that listens, from slot 1, 0 or more; a slot beyond them gets nobody; all 0 means the
        kernel's own spread. Log a False once.
        """
        if self.shared:
            return False
        slots = list(range(1, len(weights) + 1))
        assert self._listening[: len(slots)] == slots, "the kernel's index is the order of listen()"
        if not self._order_known:
            # the former master's weights may still be in force
            steering.detach(self._sockets[1])
            return False
        return steering.attach(self._sockets[1], weights)

    # The end

    def keep(self, slot: int | None) -> None:
        """Close, in a forked child, every socket but the slot's; None closes all."""
        kept = {} if slot is None else {slot: self._sockets[slot]}
        for sock in (*self._sockets.values(), self._common):
            if sock is not None and sock not in kept.values():
                sock.close()
        self._sockets = kept
        self._file = None  # it is the master's to remove

    def close(self) -> None:
        """Close all sockets, and remove the unix socket's file if it is still ours; harmless when repeated.

        Clients that queue at a socket are reset when nobody else holds it.
        """
        if self._file is not None and self._file == _identity(self.address.path):
            # a file that stays behind is replaced at the next start, and no reason to fail a stop
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)
        self.keep(None)

    def _tcp_socket(self, reuse_port: bool) -> Socket:
        family = socket.AF_INET6 if ":" in self.address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # without it a restart would wait for the TIME_WAIT of the last service's connections
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    def _sockaddr(self) -> Any:
        # getaddrinfo, as it turns the name of an interface in fe80::1%eth0 into its number; it asks no name server
        flags = socket.AI_NUMERICHOST | socket.AI_PASSIVE
        return socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=flags)[0][4]

    def _unix_socket(self) -> Socket:
        path = self.address.path
        if self._stale_file():
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with _closed_on_error(sock):
            sock.bind(path)
            self._file = _identity(path)
            # connect() needs the right to write (unix(7)). A umask like 022 is about files and would lock out the
            # group, where the proxy is; one that hides files from the group altogether is meant for this one too.
            readable = os.stat(path).st_mode & stat.S_IRGRP
            os.chmod(path, SOCKET_MODE if readable else SOCKET_MODE & ~stat.S_IRWXG)
        return sock

    def _stale_file(self) -> bool:
        """Return whether a socket that nobody serves lies at the path; raises BindError for all else that lies there.

        A socket that is bound and does not listen yet looks stale as well: listen() finds out if it was replaced.
        """
        path = self.address.path
        if not os.path.isdir(os.path.dirname(path) or "."):
            raise self._error(f"the folder {os.path.dirname(path)} does not exist")
        if _identity(path) is None:
            return False
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise self._error("a file that is no socket has this path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            answer = sock.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            return True
        if answer in (errno.EACCES, errno.EPERM):
            raise self._error("permission denied")
        # 0, or a full queue (EAGAIN), or another type of socket (EPROTOTYPE): somebody is there
        raise self._error("address in use", occupant(self.address))

    def _check_nobody_came(self) -> None:
        if not self.address.path:
            self.probe()
        elif self._file != _identity(self.address.path):
            raise self._error("another program has replaced the socket's file")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the system refuses into a BindError in words."""
        try:
            yield
        except socket.gaierror:
            raise self._error("no such address on this machine") from None
        except OSError as exc:
            if exc.errno in OUT_OF_DESCRIPTORS:
                reason, cure = OUT_OF_DESCRIPTORS[exc.errno]
                raise BindError(str(self.address), reason, place=self.place, cure=cure) from None
            in_use = exc.errno == errno.EADDRINUSE
            raise self._error(self._reason(exc), occupant(self.address) if in_use else "") from None

    def _reason(self, exc: OSError) -> str:
        match exc.errno:
            case errno.EADDRINUSE:
                return "address in use"
            case errno.EADDRNOTAVAIL:
                return "no such address on this machine"
            case errno.EAFNOSUPPORT:
                return "IPv6 is switched off on this machine"
            case errno.EACCES if self.address.port:
                return f"permission denied: ports below {_first_free_port()} need root or CAP_NET_BIND_SERVICE"
            case None:
                return str(exc)  # Python's own refusal, of a path that is too long
            case code:
                return os.strerror(code).lower()

    def _error(self, reason: str, owner: str = "") -> BindError:
        error = BindError(str(self.address), reason, owner, self.place, key=self.key)
        if master := MASTER.fullmatch(owner):
            # under another name it has another lock and another control socket, so only the address tells of it
            place = f" ({self.place})" if self.place else ""
            error.owner = f"{owner}, another wsworker service"
            error.cure = (
                f"if `name` was changed, stop it with `kill -TERM {master[1]}`, else change `{self.key}`{place}"
            )
        return error


@contextlib.contextmanager
def _closed_on_error(sock: Socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise


def _first_free_port() -> str:
    """Return the first port that everybody may bind; where the machine does not tell, it is the usual one. ip(7)."""
    try:
        return UNPRIVILEGED_PORTS.read_text().strip()
    except (OSError, ValueError):
        return "1024"


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells one file from another at the same path, None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
