"""Listening sockets: for each address a group of them, one socket per slot, all owned by the master.

With SO_REUSEPORT the kernel spreads new clients over the sockets of a group, and a worker accepts from its slot's
socket only. The master keeps every socket open: a kernel socket closes with its last descriptor, so the clients that
queue there survive the worker that dies, and its successor accepts them. For the same reason nobody may call
shutdown() on a listener: it would hit every holder.

SO_REUSEPORT also lets a second program of the same user join in silence and take half of the clients. So each address
is probed by a plain bind without it, first at start and again just before the first listen. Between the two the
sockets are bound but do not listen: a client of a service whose app is broken is refused instead of left hanging.

A classic BPF program in the group chooses the socket by weight, so that slots without a healthy worker get no new
clients. Its index is the order of listen(), hence slots listen in order. Unix sockets know no groups: all slots share
one socket, whoever is free accepts, and there are no weights.

IPv4 and IPv6 are two addresses, hence two groups: `[::]` never takes IPv4 clients as well.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from wsworker.config import ListenAddress
from wsworker.errors import BindError

Instruction: TypeAlias = tuple[int, int, int, int]
Socket: TypeAlias = socket.socket  # inside Group, `socket` is its method

# linux/filter.h and asm-generic/socket.h; Python's socket module has none of them
BPF_LD_W_ABS = 0x20
BPF_ALU_MOD_K = 0x94
BPF_JMP_JGE_K = 0x35
BPF_RET_K = 0x06
SKF_AD_RANDOM = 0xFFFFF000 + 56
NO_SOCKET = 0xFFFFFFFF
SO_ATTACH_REUSEPORT_CBPF = 51
SO_DETACH_REUSEPORT_BPF = 68

SOCKET_MODE = 0o660
UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def program(weights: Sequence[int]) -> list[Instruction]:
    """Return the BPF program that picks index i of a group with probability weights[i] / sum(weights).

    weights: one per socket, 0 or more. Returns (code, jt, jf, k) each, 2m + 1 instructions for m weights above 0.
    With all weights 0 it names no socket, upon which the kernel spreads by its own hash. Source: linux/filter.h.
    """
    chosen = [(index, weight) for index, weight in enumerate(weights) if weight > 0]
    if not chosen:
        return [(BPF_RET_K, 0, 0, NO_SOCKET)]
    # the kernel does not reduce the result to the size of the group, so the random number is reduced here
    instructions = [(BPF_LD_W_ABS, 0, 0, SKF_AD_RANDOM), (BPF_ALU_MOD_K, 0, 0, sum(weights))]
    below = 0
    for index, weight in chosen[:-1]:
        below += weight
        instructions += [(BPF_JMP_JGE_K, 1, 0, below), (BPF_RET_K, 0, 0, index)]
    return [*instructions, (BPF_RET_K, 0, 0, chosen[-1][0])]


class Group:
    """The listeners of one address for all slots.

    address: an IP address and port, or the path of a unix socket; backlog: clients that may queue at each socket;
    place: where the address was set, such as "config.yaml:3:9", or "", for error texts.
    The master calls probe, then bind for every slot, and listen in slot order once a worker is ready. A forked child
    calls keep first of all. Everything that fails is a BindError.
    """

    def __init__(self, address: ListenAddress, backlog: int, place: str = "") -> None:
        self.address = address
        self.backlog = backlog
        self.place = place
        self._sockets: dict[int, Socket] = {}
        self._listening: list[int] = []
        # device and inode of the unix socket's file, None while there is none of ours to remove
        self._file: tuple[int, int] | None = None

    @property
    def shared(self) -> bool:
        """True if all slots share one socket, so that weights are impossible."""
        return bool(self.address.path)

    def probe(self) -> None:
        """Find out whether the address can be had, and leave no trace; raises BindError.

        For a unix socket nothing is bound: it looks at what lies at the path, and asks whether anybody answers there.
        """
        with self._errors():
            if self.shared:
                self._stale_file()
                return
            with self._tcp_socket(reuse_port=False) as sock:
                sock.bind(self._sockaddr())

    def bind(self, slot: int) -> None:
        """Make the slot's socket, which does not listen yet; raises BindError."""
        assert slot not in self._sockets, "a slot is bound once"
        with self._errors():
            if self.shared and self._sockets:
                self._sockets[slot] = next(iter(self._sockets.values()))
            elif self.shared:
                self._sockets[slot] = self._unix_socket()
            else:
                sock = self._tcp_socket(reuse_port=True)
                with _closed_on_error(sock):
                    sock.bind(self._sockaddr())
                self._sockets[slot] = sock

    def listen(self, slot: int) -> None:
        """Let the slot's socket queue clients; raises BindError if another program listens there by now.

        The first listen of a group probes again: a bound socket that does not listen, such as ours, is no obstacle.
        """
        assert slot not in self._listening, "a slot listens once"
        first = not self._listening
        if first and self.shared:
            self._check_still_ours()
        elif first:
            self.probe()
        if first or not self.shared:
            with self._errors():
                self._sockets[slot].listen(self.backlog)
        self._listening.append(slot)

    def socket(self, slot: int) -> Socket:
        """Return the listener that the worker of a slot borrows; it must neither close it nor shut it down."""
        return self._sockets[slot]

    def weigh(self, weights: Sequence[int]) -> bool:
        """Choose which share of new clients each slot gets; False if that is impossible and the spread stays even.

        weights: one per slot, from slot 1, 0 or more; all 0 means the kernel's own spread. Call it when every slot
        listens, and log a False once.
        """
        if self.shared:
            return False
        assert self._listening == list(range(1, len(weights) + 1)), "the kernel's index is the order of listen()"
        return _attach(self._sockets[1], program(weights))

    def keep(self, slot: int | None) -> None:
        """Close, in a forked child, every socket but the slot's; None closes all."""
        kept = {} if slot is None else {slot: self._sockets[slot]}
        for sock in self._sockets.values():
            if sock not in kept.values():
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
        raise self._error("address in use", self._owner())

    def _check_still_ours(self) -> None:
        if self._file != _identity(self.address.path):
            raise self._error("another program has replaced the socket's file")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the system refuses into a BindError in words."""
        try:
            yield
        except socket.gaierror:
            raise self._error("no such address on this machine") from None
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            raise self._error(self._reason(exc), self._owner() if in_use else "") from None

    def _reason(self, exc: OSError) -> str:
        match exc.errno:
            case errno.EADDRINUSE:
                return "address in use"
            case errno.EADDRNOTAVAIL:
                return "no such address on this machine"
            case errno.EAFNOSUPPORT:
                return "IPv6 is switched off on this machine"
            case errno.EACCES if self.address.port:
                first = UNPRIVILEGED_PORTS.read_text().strip()
                return f"permission denied: ports below {first} need root or CAP_NET_BIND_SERVICE"
            case None:
                return str(exc)  # Python's own refusal, of a path that is too long
            case code:
                return os.strerror(code).lower()

    def _error(self, reason: str, owner: str = "") -> BindError:
        return BindError(str(self.address), reason, owner, self.place)

    def _owner(self) -> str:
        """Return who has the address, such as "pid 812 (nginx)", or "" if that is not ours to see."""
        kind = "unix" if self.shared else "tcp"
        try:
            pids = {one.pid for one in psutil.net_connections(kind) if one.pid and self._holds(one)}
            if os.getpid() in pids:
                return "this service itself"
            if not pids:
                return ""
            owner = psutil.Process(min(pids))
            # psutil names one holder of a socket; a master that shares it with its workers is the one to be told
            with contextlib.suppress(psutil.AccessDenied):  # a parent that is not ours to look at is no master of it
                while (parent := owner.parent()) and any(self._holds(one) for one in parent.net_connections(kind)):
                    owner = parent
            return f"pid {owner.pid} ({owner.name()})"
        except (psutil.Error, OSError):
            return ""

    def _holds(self, connection: Any) -> bool:
        if self.shared:
            return bool(connection.laddr == self.address.path)
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != self.address.port:
            return False
        wildcards = {"0.0.0.0", "::"}  # noqa: S104 compared with, not bound to
        return connection.laddr.ip == self.address.host or bool(wildcards & {connection.laddr.ip, self.address.host})


def _attach(sock: Socket, instructions: list[Instruction]) -> bool:
    code = array.array("B", b"".join(struct.pack("=HBBI", *one) for one in instructions))
    address, _ = code.buffer_info()  # valid as long as `code` lives, which is to the end of this function
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(instructions), address))
    except OSError:
        # a program from before would go on sending clients to slots as they were then
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
        return False
    return True


@contextlib.contextmanager
def _closed_on_error(sock: Socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells one file from another at the same path, None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
