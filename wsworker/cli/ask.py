"""A question to the master: find its control socket, send one Command, read the Replies.

The socket is found from name and control_socket of the config file. The run directory depends on the environment, and
a service run by systemd has another environment than its administrator's shell, so /run/wsworker is searched as well.
Whether a master runs is decided by its lock and by nothing else: a socket without a lock is a dead one's, a lock
without an answer is a master that hangs, is stopped, or is in its first moments. Only where a program names the socket
and no config file is the lock unknown: there a socket that is missing or refuses means that nobody runs.

Every wait here has an end. The first answer is due in 2 s, since the master's loop never blocks. A reload may take
long, but whoever waits for it asks after 10 s of silence whether the master still answers, and the master has a
deadline for every step.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from wsworker import configfile
from wsworker.errors import ControlError, NotRunning, WireError
from wsworker.master.rundir import Paths, elsewhere, lock_is_held, paths
from wsworker.wire import Command, Lines, Reply, decode_reply, encode

ANSWER_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.05
OTHER_CONFIG: Final = "other_config"
"""The error code of a master that runs with another config file than ours."""
MAX_REPLY_BYTES: Final = 1024 * 1024
"""As much as the master lets pile up for a caller: the status of 256 workers is far longer than a command."""


@dataclass(frozen=True)
class Service:
    """A service as a client knows it. name: also words for one whose name is not known.

    places: where its files may be, the likeliest first; empty only if it is known by its socket alone, which is named.
    config: the real path of its config file, or "" if none was read. It goes with every command, as two services may
    have one name by mistake: the master of the other one refuses it then.
    """

    name: str
    places: tuple[Paths, ...]
    named: Path | None = None
    config: str = ""

    @property
    def socket(self) -> str:
        """The path of the control socket to name in a message."""
        return str(self.named or self.places[0].socket)


def locate(config: Path, environ: Mapping[str, str]) -> Service:
    """Return where the service of a config file would be. Raises ConfigError if the file cannot be read."""
    peek = configfile.peek(config, environ)
    own = paths(peek.name, peek.control_socket, environ, os.geteuid())
    others = elsewhere(peek.name)
    if peek.control_socket != "auto":
        others = [replace(other, socket=own.socket) for other in others]
    places = dict.fromkeys([own, *others])
    return Service(peek.name, tuple(places), config=os.path.realpath(config))


def at_socket(path: Path) -> Service:
    """Return the service whose control socket a caller names: nobody judges in whose folder that is."""
    return Service(f"the service at {path}", (), path)


def holder(service: Service) -> Paths | None:
    """Return the place whose lock a master holds, or None if nobody runs.

    Raises ControlError (permission) if that cannot be seen, and no other place shows a master.
    """
    denied: Paths | None = None
    for at in service.places:
        try:
            if _is_trusted(at.folder) and lock_is_held(at):
                return at
        except PermissionError:
            denied = denied or at
        except OSError:
            # a link or a directory in the lock's place: no master of ours made it
            continue
    if denied:
        raise _no_permission(f"{service.name} ({denied.lock})")
    return None


def send(sock: socket.socket, data: bytes) -> None:
    """Send all of it. A program may have given SIGPIPE back its meaning, and is not to end of it here."""
    sock.sendall(data, socket.MSG_NOSIGNAL)


def leftovers(service: Service) -> tuple[str, ...]:
    """Return the socket and the pid file that a dead master left; to be asked only if nobody runs."""
    files = {file: None for at in service.places for file in (at.socket, at.pid) if _is_trusted(at.folder)}
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            file.lstat()
            found.append(str(file))
    return tuple(found)


def status(service: Service) -> dict[str, Any]:
    """Return the master's status document.

    Raises NotRunning, or ControlError: permission, timeout after 2 s without an answer, no_answer for a wrong one.
    """
    give_up_at = time.monotonic() + ANSWER_SECONDS
    with contextlib.closing(Call(service, Command("status"), give_up_at)) as call:
        reply = call.reply(give_up_at)
    if reply is None:
        raise _no_answer_in_time(service)
    return dict(reply.body)


def check_is_ours(service: Service, document: Mapping[str, Any]) -> None:
    """Raise ControlError (other_config) if a status document is that of another service of the same name."""
    if refused := configfile.objection(service.config, document["config"], service.name):
        raise ControlError(OTHER_CONFIG, refused)


def replies(service: Service, command: Command, silence_seconds: float = SILENCE_SECONDS) -> Iterator[Reply]:
    """Send a command and yield what is answered, the final reply last, for as long as the master is alive.

    silence_seconds: time without a reply after which it is asked for its status. Raises as status does.
    """
    with contextlib.closing(Call(service, command, time.monotonic() + ANSWER_SECONDS)) as call:
        while True:
            reply = call.reply(time.monotonic() + silence_seconds)
            if reply is None:
                status(service)
                continue
            yield reply
            if reply.final:
                return


class Call:
    """One connection to the master, with one command; made by connecting, which raises as status does.

    You must close it. A caller that leaves does not cancel what it asked for.
    """

    def __init__(self, service: Service, command: Command, give_up_at: float) -> None:
        self._service = service
        self._lines = Lines(MAX_REPLY_BYTES)
        self._ready: list[Reply] = []
        self._socket = _connect(service, give_up_at)
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            send(self._socket, encode(replace(command, config=self._service.config)))
        except OSError:
            self._socket.close()
            raise self._hung_up() from None

    def reply(self, give_up_at: float) -> Reply | None:
        """Return the next reply, or None if none came until then (CLOCK_MONOTONIC). Raises ControlError."""
        while not self._ready:
            left = give_up_at - time.monotonic()
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            if not data:
                raise self._hung_up()
            self._ready += self._decoded(data)
        return self._ready.pop(0)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _decoded(self, data: bytes) -> list[Reply]:
        try:
            found = [decode_reply(line) for line in self._lines.feed(data)]
        except WireError as error:
            message = f"{self._service.name} answers in a way this wsworker does not understand ({error}); restart it"
            raise ControlError("no_answer", message) from None
        for reply in found:
            if reply.final and reply.body.keys() == {"error"}:
                refusal = reply.body["error"]
                if refusal.get("code") == OTHER_CONFIG:
                    raise ControlError(OTHER_CONFIG, refusal["message"])
                if refusal.get("code") == "busy":
                    raise ControlError("no_answer", f"{self._service.name}: {refusal.get('message')}; try again later")
                # the master could not read the command: it is of another version than this client
                message = f"{self._service.name} does not understand this wsworker; restart it"
                raise ControlError("no_answer", f"{message} ({refusal.get('message')})")
        return found

    def _hung_up(self) -> ControlError:
        message = f"{self._service.name} closed the connection without an answer; see its log, or try again"
        return ControlError("no_answer", message)


def _connect(service: Service, give_up_at: float) -> socket.socket:
    while True:
        connection = _dial_named(service, service.named) if service.named else _dial_places(service)
        if connection:
            return connection
        if time.monotonic() + RETRY_SECONDS > give_up_at:
            raise _no_answer_in_time(service)
        time.sleep(RETRY_SECONDS)


def _dial_places(service: Service) -> socket.socket | None:
    """Return a connection, or None if it runs, but cannot be reached at the moment. Raises as status does."""
    denied: Paths | None = None
    for at in service.places:
        # a socket that the configuration puts elsewhere is where its author wants it
        if at.socket.parent == at.folder and not _is_trusted(at.folder):
            continue
        try:
            return _dial(at.socket)
        except PermissionError:
            denied = denied or at
        except OSError:
            # no such file, or nobody behind it, or a full queue: the lock tells which
            pass
    if denied:
        raise _no_permission(f"{service.name} ({denied.socket})")
    if not holder(service):
        raise NotRunning(service.name, service.socket, leftovers(service))
    return None


def _dial_named(service: Service, path: Path) -> socket.socket | None:
    """Do as _dial_places does for a service that is known by its socket alone."""
    try:
        return _dial(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NotRunning("the service", str(path), (str(path),) if path.is_socket() else ()) from None
    except PermissionError:
        raise _no_permission(service.name) from None
    except BlockingIOError:
        return None
    except OSError as error:
        message = f"{service.name} cannot be asked: {error.strerror or error}; name the control socket of a service"
        raise ControlError("no_answer", message) from None


def _dial(path: Path) -> socket.socket:
    """Connect to a socket. Raises OSError; BlockingIOError if its queue is full."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # with a timeout, a full queue is BlockingIOError at once: connect(2), EAGAIN
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _is_trusted(folder: Path) -> bool:
    """Whether a run directory is what it should be. In /tmp anybody may have made one under our name first.

    Below /run, where only root makes directories, one may belong to the user that a service runs as.
    """
    try:
        owner = folder.stat(follow_symlinks=False).st_uid
    except FileNotFoundError:
        return False
    except OSError:
        # let the one who connects or looks for the lock find out why
        return True
    return owner in (0, os.geteuid()) or folder.is_relative_to("/run/wsworker")


def _no_permission(whom: str) -> ControlError:
    return ControlError("permission", f"no permission to talk to {whom}; run this as the user it runs as, or as root")


def _no_answer_in_time(service: Service) -> ControlError:
    message = f"{service.name} runs, but gave no answer in {ANSWER_SECONDS:.0f} s; see its log"
    return ControlError("timeout", message)
