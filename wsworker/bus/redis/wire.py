"""A wire: one connection to one Redis or Valkey, by redis-py, and why there is none, in words for people.

Taken of redis-py is its Connection: it connects, authenticates, and parses, in C if hiredis is there. Its clients and
its PubSub are left aside. They connect again in silence when a connection is lost, and nobody would know that messages
are missing. Here a wire that has ended stays so.

Every error of the library becomes a Lost, here and in dialler.py, and nobody else sees them. What a server says is not
shown as it is: an unknown command is quoted by some with its arguments, and the one that we send first has the
password.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final, NamedTuple

from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.exceptions import AskError, AuthenticationError, ClusterDownError, MovedError, RedisError, ResponseError

from wsworker.bus.broker.ending import forget_at_close
from wsworker.bus.broker.reasons import reason

_SHOWN_CHARACTERS: Final = 100
_MOVED: Final = (AskError, MovedError, ClusterDownError)
_MOVED_WORDS: Final = ("ASK ", "MOVED ", "CLUSTERDOWN ")


class Lost(Exception):
    """There is no connection, or no more. why: a clause; silent: the server has not answered at all."""

    def __init__(self, why: str, silent: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.silent = silent


class Refusal(NamedTuple):
    """An error as the reply to a command. moved: the cluster has the slot elsewhere now, or nowhere."""

    text: str
    moved: bool


class Wire:
    """A connection that stands. Sending and receiving are for one task each."""

    def __init__(self, connection: Connection | UnixDomainSocketConnection) -> None:
        self._connection = connection
        transport = _transport(connection)
        assert transport is not None, "it is connected"
        self._transport = transport
        self._descriptor = int(self._transport.get_extra_info("socket").fileno())
        forget_at_close(transport)

    async def send(self, data: bytes) -> None:
        """Send commands; wait until most of it is with the kernel. Raises Lost."""
        if not self._connection.is_connected:
            # the library would connect anew
            raise Lost("it has closed the connection")
        try:
            await self._connection.send_packed_command(data, check_health=False)
        except (RedisError, OSError) as error:
            raise Lost(clause(error)) from None

    async def receive(self) -> object:
        """Return the next thing that the server says: bytes, an int, a list of these, a Refusal. Raises Lost.

        It does not let other tasks run if something has come already: you must, now and then.
        """
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            # what has a class of its own differs between versions; what has one loses its first word
            text = str(error)
            moved = isinstance(error, _MOVED) or text.startswith(_MOVED_WORDS)
            return Refusal(_shortened(text), moved)
        except (RedisError, OSError) as error:
            raise Lost(clause(error)) from None
        except Exception as error:
            raise no_protocol(error) from None

    def close(self) -> None:
        """Close it at once, whatever is still to be sent."""
        self._transport.abort()

    async def end(self) -> None:
        """Close it, and have the library know it."""
        await discard(self._connection)

    def let_go(self) -> None:
        """Close the descriptor in a process that user code has forked.

        Its number stays taken, by nothing: the transport, which nobody can part from its socket, may close it too.
        """
        with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), self._descriptor, inheritable=False)


def command(*parts: bytes) -> bytes:
    """Return a command as it is sent. Redis serialization protocol specification (RESP2)."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _transport(connection: Connection | UnixDomainSocketConnection) -> asyncio.WriteTransport | None:
    """Return what is under a connection, None if it is not connected.

    It has no public name, in no version; it has the descriptor, and an end that does not wait for who hangs.
    """
    return None if connection._writer is None else connection._writer.transport


async def discard(connection: Connection | UnixDomainSocketConnection) -> None:
    """Close what is under a connection, at once, and have the library know it."""
    transport = _transport(connection)
    if transport is not None:
        transport.abort()
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def clause(error: Exception) -> str:
    """Return what an error of the library, or under it, means; without any secret."""
    text = str(error)
    if isinstance(error, AuthenticationError) or text.startswith("WRONGPASS"):
        if "without any password" in text or "no password is set" in text:
            return "it has no password, and the URL gives one"
        if "required" in text:
            return "it wants a password, and the URL gives none"
        return "it refuses the user or the password"
    cause = _cause(error)
    if cause is not None:
        return reason(cause)
    if "closed by server" in text:
        return "it has closed the connection"
    if text.startswith("DENIED"):
        return "it takes connections from its own machine only (protected-mode)"
    if "DB index" in text:
        return "it has no database of this number"
    if "loading" in text:
        return "it is loading its data"
    if "number of clients" in text:
        return "it has as many clients as it takes (maxclients)"
    return f"it cannot be spoken with ({type(error).__name__})"


def no_protocol(error: Exception) -> Lost:
    """Return what it means that a parser of the library has failed; they raise anything at what is no protocol."""
    return Lost(f"it speaks another protocol ({type(error).__name__})")


def _cause(error: BaseException) -> OSError | None:
    """Return the error of the system that is behind another one."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError):
            return behind
        behind = behind.__cause__ or behind.__context__
    return None


def _shortened(text: str) -> str:
    """Return what a server has said, for a log."""
    return "".join(each if each.isprintable() else "?" for each in text[:_SHOWN_CHARACTERS])
