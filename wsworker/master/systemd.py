"""What the master and systemd tell each other: notifications to it, and descriptors to it and back.

One datagram a message, to the unix socket that $NOTIFY_SOCKET names; see sd_notify(3). There is no answer, and none is
waited for. Without systemd, and with an address that is no unix socket (vsock: in a virtual machine), every method does
nothing. No call ever waits, because a notification is never worth a service. The socket takes only
net.unix.max_dgram_qlen datagrams, ten by default, until systemd reads, and a start with many listeners says more than
that at once. So what finds no room waits here, in order and behind whatever waits already, until flush() finds room. A
status, a sign of life and a plea for patience do not wait: the next one says it anew. If nobody listens, or too many
messages wait, they are lost, which is logged once.

The socket is not connected: systemd makes a new one when it re-executes itself, and a path finds it, a connection not.

The watchdog proves that the master's loop turns. Workers have their own, the heartbeat in the shared table, so a stuck
worker never stops these messages. Half of WATCHDOG_USEC is what sd_watchdog_enabled(3) recommends; a third leaves room
for one lost message.

systemd's descriptor store keeps a copy of what we send it, under a name, and hands it to the next master of the service
(FDSTORE=1 in sd_notify(3)). It comes the same way as the sockets of a .socket unit: sd_listen_fds(3).
"""

from __future__ import annotations

import array
import errno
import logging
import os
import re
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple

# What systemd sets for the service's main process; see sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "FDSTORE",
)
FIRST_DESCRIPTOR: Final = 3
# systemd ignores a datagram of more than 4096 bytes (PIPE_BUF) as a whole, so a long text would cost us the READY.
STATUS_MAX_CHARS: Final = 500
MOST_WAITING: Final = 1024
"""Twice the descriptors that our unit lets systemd keep; each one that waits costs the master a descriptor."""

# The receiver's queue or our own buffer is full, the kernel short of memory, or RLIMIT_NOFILE descriptors are under way
# in messages; see unix(7). All of that passes.
_NO_ROOM: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)

logger = logging.getLogger("wsworker.master")

_COUNT = re.compile(r"[0-9]{1,6}")


class _Message(NamedTuple):
    """One datagram. descriptor: what goes with it."""

    data: bytes
    descriptor: int | None


class Notifier:
    """Tells systemd about the service.

    environ: the environment as systemd set it; pid: our own, as a watchdog meant for another process is not ours.
    watchdog_seconds: call watchdog() this often; None: systemd does not ask for it.
    You must call flush() about once a second, finish() at the end, and close() in a forked child.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self.watchdog_seconds = _watchdog_seconds(environ, pid)
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._waiting: deque[_Message] = deque()  # their descriptors are copies of our own
        self._told_of_loss = False
        if self._address:
            # Python makes every socket CLOEXEC
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """Say that the service runs, at the start and after each reload, also a refused one."""
        self._send("READY=1", _status(status))

    def reloading(self, monotonic_usec: int, status: str) -> None:
        """Say that a reload begins; ready() must follow.

        monotonic_usec: CLOCK_MONOTONIC in microseconds, by which systemd tells this reload from an older one.
        """
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}", _status(status))

    def stopping(self, status: str) -> None:
        """Say that the service stops."""
        self._send("STOPPING=1", _status(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows; it is made one line and cut after 500 characters."""
        self._send(_status(text), lasting=False)

    def extend(self, seconds: float) -> None:
        """Ask for patience with a start, reload or stop that takes longer than the unit's timeout for it.

        You must call it again, or be done, before that time is over. See EXTEND_TIMEOUT_USEC in sd_notify(3).
        """
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", lasting=False)

    def store(self, name: str, descriptor: int) -> None:
        """Let systemd keep a copy of a descriptor for the next master. name: of ASCII, without a colon.

        What it has already it does not take again, also not under another name. It keeps a socket that polls as hung up
        as well (FDPOLL=0): it must never drop one listener out of many. You may close the descriptor at once.
        """
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptor=descriptor)

    def unstore(self, name: str) -> None:
        """Let systemd close every descriptor that it keeps under a name."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def watchdog(self) -> None:
        """Say that the loop turns; does nothing where systemd does not ask for it."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1", lasting=False)

    @property
    def waits(self) -> bool:
        """Whether anything has found no room yet."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._waiting and self._sent(self._waiting[0]):
            self._forget_first()

    def finish(self) -> None:
        """Send what waits, as far as there is room, and close."""
        self.flush()
        if self._waiting:
            self._lose("it is not read")
        self.close()

    def close(self) -> None:
        """Close the socket; what waits, and what is said afterwards, is lost. May be called twice."""
        while self._waiting:
            self._forget_first()
        if self._socket:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str, descriptor: int | None = None, lasting: bool = True) -> None:
        """Send a message, or let it wait. lasting: False for what is worth nothing later."""
        if not self._socket:
            return
        message = _Message("\n".join(assignments).encode(errors="replace"), descriptor)
        self.flush()
        if not self._waiting and self._sent(message):
            return
        if lasting:
            self._keep(message)

    def _sent(self, message: _Message) -> bool:
        """Send a message; return False if there is no room now. What can never be sent counts as sent."""
        assert self._socket, "nothing is sent after close()"
        rights = []
        if message.descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.descriptor]))]
        try:
            self._socket.sendmsg([message.data], rights, 0, self._address)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            self._lose(error.strerror or str(error))
        except ValueError as error:
            # UnicodeEncodeError: the environment may hold a path that no encoding knows
            self._lose(str(error))
        return True

    def _keep(self, message: _Message) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._lose("it is not read")
            return
        try:
            # a copy: the number may be closed, or stand for something else, before there is room
            copy = None if message.descriptor is None else os.dup(message.descriptor)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        self._waiting.append(message._replace(descriptor=copy))

    def _forget_first(self) -> None:
        message = self._waiting.popleft()
        if message.descriptor is not None:
            os.close(message.descriptor)

    def _lose(self, reason: str) -> None:
        if not self._told_of_loss:
            self._told_of_loss = True
            shown = self._address.replace("\0", "@")
            logger.warning(
                "systemd misses messages, NOTIFY_SOCKET=%s: %s; restart the service when that is mended", shown, reason
            )


def take_descriptors(environ: Mapping[str, str], pid: int) -> list[tuple[str, int]]:
    """Return what systemd has handed over, as (name, descriptor); from now on no program that is executed inherits it.

    environ: the environment as systemd set it; pid: our own. Nothing is taken that was meant for another process, nor
    if anything about it is malformed. You own the descriptors. Source: sd_listen_fds_with_names(3).
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not _COUNT.fullmatch(count):
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else ["unknown"] * len(descriptors)
    if len(names) != len(descriptors):
        return []
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    except OSError:
        return []
    return list(zip(names, descriptors, strict=True))


def kept_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what systemd has told the master alone and what holds as long as the process lives; descriptors do not."""
    return {name: environ[name] for name in VARIABLES if name in environ and not name.startswith("LISTEN_")}


def take_environment(environ: MutableMapping[str, str]) -> None:
    """Delete what systemd meant for the master alone, so that no worker or program of the user acts on it.

    You must build the Notifier and take the descriptors first. Only the names of systemd go: an app may well have a
    LISTEN_ADDRESS of its own.
    """
    for name in VARIABLES:
        environ.pop(name, None)


def _address(value: str) -> str:
    """Return what sendto takes, or "" for anything that is no unix socket; @ is how systemd writes the abstract NUL."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else ""


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    # without WATCHDOG_PID the watchdog is meant for whoever reads it, as in sd_watchdog_enabled(3)
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    value = environ.get("WATCHDOG_USEC", "")
    if not (value.isascii() and value.isdigit()) or int(value) == 0:
        return None
    return int(value) / 3_000_000


def _status(text: str) -> str:
    # splitlines knows more line ends than systemd does; a line end in the text would be a second assignment
    return f"STATUS={' '.join(text.splitlines())[:STATUS_MAX_CHARS]}"
