"""The control socket: commands of the CLI in, replies out, one JSON object a line (wire.py).

A Unix stream socket, mode 0600; and since a mode is only as good as its directory, the kernel is asked for the peer's
uid too (SO_PEERCRED, unix(7)): root and the master's own uid may command. With `control_socket_mode: "0660"` a group
may as well, and then the kernel alone says who, by the mode of the file. Each connection carries one command. Its token
names it inside the master; a caller that leaves does not cancel what it asked for, its replies go nowhere.

The master's loop never waits for a caller: sockets do not block, a request must be whole within 5 s, replies that are
not read pile up to 1 MiB, and whoever is over a limit is cut off. A long answer goes out in parts, each when the caller
has taken the one before and in a turn of the loop of its own, so it may have any length. Callers that wait for a result
(a reload takes long) do not keep others out: there may be MAX_WAITING of them, and a `stop` is heard in any case. Of
all others there are MAX_OTHERS, and a newcomer takes the place of the oldest that has said nothing, or else has not
read its result.

A master without a descriptor left must still tell how it is. So one is held in reserve and given up for the next
caller; when a caller leaves it is taken back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from wsworker.errors import WireError
from wsworker.master.estate import Caller, Commanding
from wsworker.master.events import Token
from wsworker.wire import Command, Lines, Reply, decode_command, encode

MAX_WAITING: Final = 256
MAX_OTHERS: Final = 16
ACCEPTS_PER_TURN: Final = 8
"""Fewer than MAX_OTHERS, so that each newcomer has been read once before it can lose its place."""
BACKLOG: Final = 128
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0
MAX_UNREAD_BYTES: Final = 1024 * 1024
_UCRED: Final = struct.Struct("3i")


class Client:
    """One caller.

    answered: its result is in output, or behind it in later, which are sent before the socket is closed. deaf: it has
    half-closed, as nc does behind its input; it still gets its answer.
    """

    def __init__(self, connection: socket.socket, token: Token, give_up_at: float) -> None:
        self.connection = connection
        self.token = token
        self.give_up_at: float | None = give_up_at
        self.lines = Lines()
        self.commanded = False
        self.output = b""
        self.later: deque[Reply] = deque()
        self.answered = False
        self.deaf = False

    @property
    def waits(self) -> bool:
        """Whether it has given its command and not got the result."""
        return self.commanded and not self.answered


class Control:
    """The listening socket and its clients.

    selector: the master's; a handler stands in the data of each key and takes no argument. received: called with each
    complete command and the token for its replies. now: a clock. group: whose members may command too, or None.
    """

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        received: Callable[[Command, Token], None],
        now: Callable[[], float],
        group: int | None = None,
    ) -> None:
        self._path = path
        self._group = group
        self._selector = selector
        self._received = received
        self._now = now
        self._clients: dict[Token, Client] = {}
        self._next_token = 1
        self._listener: socket.socket | None = None
        self._bound: tuple[int, int] | None = None
        self._reserve: int | None = None

    def open(self) -> None:
        """Bind and listen. Raises OSError. The mode is right from the first moment on: the umask sees to it.

        The group is set before anybody can connect, which listen(2) allows.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        umask = os.umask(0o177 if self._group is None else 0o117)
        try:
            listener.bind(str(self._path))
            self._bound = self._file()
            if self._group is not None:
                os.chown(self._path, -1, self._group, follow_symlinks=False)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
        self._listener = listener
        self._take_reserve()
        self._listen()

    def bequeath(self) -> Commanding:
        """Return the listener and the callers, for the program that goes on in this process.

        Who is in the middle of an answer in parts is cut.
        """
        assert self._listener is not None, "open comes first"
        assert self._bound is not None, "open has bound it"
        callers = [
            Caller(
                client.connection.fileno(),
                client.token,
                client.commanded,
                client.answered,
                client.lines.rest.decode("latin-1"),
                client.output.decode("latin-1"),
            )
            for client in self._clients.values()
            if not client.later
        ]
        return Commanding(self._listener.fileno(), self._bound, self._next_token, callers)

    def inherit(self, left: Commanding) -> None:
        """Take over what a former program of this process has left, instead of open."""
        self._listener, self._bound, self._next_token = socket.socket(fileno=left.listener), left.bound, left.next_token
        self._listener.set_inheritable(False)
        self._take_reserve()
        self._listen()
        for caller in left.callers:
            connection = socket.socket(fileno=caller.connection)
            connection.set_inheritable(False)
            client = Client(connection, caller.token, self._now() + REQUEST_SECONDS)
            client.commanded, client.answered = caller.commanded, caller.answered
            client.output = caller.output.encode("latin-1")
            client.lines.feed(caller.rest.encode("latin-1"))
            if client.waits:
                client.give_up_at = None
            self._clients[client.token] = client
            self._watch(client)

    def is_there(self) -> bool:
        """Whether the file at the path is the socket that we have bound. Raises OSError."""
        # while we hold the socket its inode is not given to another file, even if that one was removed
        return self._file() == self._bound

    def renew(self) -> bool:
        """Make the socket again if its file is gone; True if it was. Raises OSError as open, and all is as before then.

        What somebody else has put in its place is not removed: that is "address in use". Open connections go on.
        """
        if self.is_there():
            return False
        gone = self._listener
        self.open()
        if gone:
            if gone in self._selector.get_map():
                self._selector.unregister(gone)
            gone.close()
        return True

    def close(self) -> None:
        """Close everything, in the master at its end and in each forked child; the socket file stays."""
        for client in self._clients.values():
            client.connection.close()
        self._clients.clear()
        if self._listener:
            self._listener.close()
        self._give_up_reserve()

    def finish(self) -> None:
        """Send what is left to send, as far as that goes without waiting, remove the socket's file, and close."""
        for client in [*self._clients.values()]:
            left = -1
            while client.output and len(client.later) != left:
                left = len(client.later)
                self._write(client)
        # if ours was removed, another service may have made one at this path, and that is not ours to remove
        with contextlib.suppress(OSError):
            if self._bound and self.is_there():
                self._path.unlink()
        self.close()

    def progress(self, token: Token, body: Mapping[str, Any]) -> None:
        """Send a line on the way to the result; nothing if that caller has gone."""
        if client := self._clients.get(token):
            self._reply(client, Reply(False, body))

    def answer(self, token: Token, body: Mapping[str, Any], parts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Send the result and close that connection; nothing if that caller has gone. parts: go before it, as lines."""
        if client := self._clients.get(token):
            client.answered = True
            client.give_up_at = self._now() + ANSWER_SECONDS
            first, *later = [*(Reply(False, part) for part in parts), Reply(True, body)]
            client.later.extend(later)
            self._reply(client, first)

    def expire(self) -> None:
        """Cut off who has not sent a whole command, or read its result, in time; to be called about once a second."""
        now = self._now()
        self._take_reserve()
        self._listen()
        for client in [*self._clients.values()]:
            if client.give_up_at is not None and client.give_up_at <= now:
                self._drop(client)

    def _listen(self) -> None:
        if self._listener and self._listener not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _file(self) -> tuple[int, int] | None:
        """Return which file stands at the path (device and inode), or None."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _take_reserve(self) -> None:
        if self._listener and self._reserve is None:
            # without one left this is tried again later
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up_reserve(self) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection = self._next_connection(self._listener)
            except BlockingIOError:
                # without descriptors accept(2) says so first, and the reserve was given up for nobody
                self._take_reserve()
                return
            except OSError:
                # descriptors are short; the listener stays readable and would spin the loop: it is watched again later
                self._selector.unregister(self._listener)
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if self._group is None and not _may_command(connection):
            connection.close()
            self._take_reserve()
            return
        others = [client for client in self._clients.values() if not client.waits]
        if len(others) >= MAX_OTHERS:
            # the oldest that has said nothing, rather than one that still reads its result
            self._drop(min(others, key=lambda client: client.answered))
        client = Client(connection, self._next_token, self._now() + REQUEST_SECONDS)
        self._next_token += 1
        self._clients[client.token] = client
        self._watch(client)

    def _next_connection(self, listener: socket.socket) -> socket.socket:
        """Accept, without a descriptor left in the place of the reserve. Raises OSError."""
        try:
            return listener.accept()[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._reserve is None:
                raise
        self._give_up_reserve()
        return listener.accept()[0]

    def _ready(self, client: Client) -> None:
        if client.output:
            self._write(client)
        if client.token in self._clients:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and client.commanded and not _has_left(client.connection):
            client.deaf = True
            self._watch(client)
            return
        if not data:
            self._drop(client)
            return
        if client.commanded:
            # one command a connection: what comes behind it means nothing
            return
        try:
            lines = client.lines.feed(data)
            command = decode_command(lines[0]) if lines else None
        except WireError as error:
            message = {"code": "usage", "message": str(error)}
            self.answer(client.token, {"error": message})
            return
        if command and command.name == "reload" and sum(other.waits for other in self._clients.values()) >= MAX_WAITING:
            message = {"code": "busy", "message": f"{MAX_WAITING} callers wait for a reload already"}
            self.answer(client.token, {"error": message})
        elif command:
            client.commanded, client.give_up_at = True, None
            self._received(command, client.token)

    def _reply(self, client: Client, reply: Reply) -> None:
        client.output += encode(reply)
        if len(client.output) > MAX_UNREAD_BYTES:
            self._drop(client)
        else:
            self._write(client)

    def _write(self, client: Client) -> None:
        try:
            sent = client.connection.send(client.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        client.output = client.output[sent:]
        if not client.output and client.later:
            # in a later turn of the loop: others wait
            client.output = encode(client.later.popleft())
            client.give_up_at = self._now() + ANSWER_SECONDS
        if client.answered and not client.output:
            self._drop(client)
            return
        self._watch(client)

    def _watch(self, client: Client) -> None:
        """Have the selector watch for what this caller can do next; for nothing, if it is deaf and has read all."""
        events = (0 if client.deaf else selectors.EVENT_READ) | (selectors.EVENT_WRITE if client.output else 0)
        key = self._selector.get_map().get(client.connection)
        if key and key.events != events:
            self._selector.unregister(client.connection)
        if events and (key is None or key.events != events):
            self._selector.register(client.connection, events, lambda: self._ready(client))

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.token, None):
            with contextlib.suppress(KeyError):
                self._selector.unregister(client.connection)
            client.connection.close()
            self._take_reserve()
            self._listen()


def _has_left(connection: socket.socket) -> bool:
    """Whether the other side is closed, and not only for what it sends: poll(2), POLLHUP."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


def _may_command(connection: socket.socket) -> bool:
    _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in (0, os.geteuid())
