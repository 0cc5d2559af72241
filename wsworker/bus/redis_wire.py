"""A wire: one connection to one Redis or Valkey, by redis-py, and why there is none, in words for people.

Taken of redis-py is its Connection: it connects, authenticates, and parses, in C if hiredis is there. Its clients and
its PubSub are left aside. They connect again in silence when a connection is lost, and nobody would know that messages
are missing. Here a wire that has ended stays so.

Every error of the library becomes a Lost here, and this is the only place that sees them. What a server says is not
shown as it is: an unknown command is quoted by some with its arguments, and the one that we send first has the
password.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from typing import Any, Final, NamedTuple

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, AuthenticationError, ClusterDownError, MovedError, RedisError, ResponseError

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.ending import forget_at_close
from wsworker.bus.lookup import Lookup

_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
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
            raise _no_protocol(error) from None

    def close(self) -> None:
        """Close it at once, whatever is still to be sent."""
        self._transport.abort()

    async def end(self) -> None:
        """Close it, and have the library know it."""
        await _discard(self._connection)

    def let_go(self) -> None:
        """Close the descriptor in a process that user code has forked.

        Its number stays taken, by nothing: the transport, which nobody can part from its socket, may close it too.
        """
        with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), self._descriptor, inheritable=False)


async def dial(url: BrokerUrl, server: Server, lookup: Lookup, name: str, seconds: float) -> Wire:
    """Connect and authenticate. server: which one of the URL's, or of its cluster; name: for CLIENT LIST.

    seconds: how long looking up its name may take, and as long again connecting. Raises Lost.
    """
    if not url.path:
        await _look_up(server, lookup, seconds)
    connection = await _connection(url, server, seconds)
    try:
        async with asyncio.timeout(seconds):
            await connection.connect()  # type: ignore[no-untyped-call]
            wire = Wire(connection)
            await wire.send(command(b"CLIENT", b"SETNAME", name.encode()))
            # refused by a server that is older, or to a user without the right: it is for people only
            await wire.receive()
    except TimeoutError:
        await _discard(connection)
        raise Lost("no answer came in time", silent=True) from None
    except (RedisError, OSError) as error:
        await _discard(connection)
        raise Lost(clause(error)) from None
    except Exception as error:
        await _discard(connection)
        raise _no_protocol(error) from None
    except asyncio.CancelledError:
        await _discard(connection)
        raise
    return wire


async def _look_up(server: Server, lookup: Lookup, seconds: float) -> None:
    """See whether a name has addresses. The library asks again itself, and then the answer is near."""
    try:
        async with asyncio.timeout(seconds):
            await lookup.addresses(server)
    except TimeoutError:
        raise Lost("no name server answers") from None
    except UnicodeError:
        raise Lost("its name is no host name") from None
    except OSError as error:
        raise Lost(clause(error)) from None


def command(*parts: bytes) -> bytes:
    """Return a command as it is sent. Redis serialization protocol specification (RESP2)."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _transport(connection: Connection | UnixDomainSocketConnection) -> asyncio.WriteTransport | None:
    """Return what is under a connection, None if it is not connected.

    It has no public name, in no version; it has the descriptor, and an end that does not wait for who hangs.
    """
    return None if connection._writer is None else connection._writer.transport


async def _discard(connection: Connection | UnixDomainSocketConnection) -> None:
    transport = _transport(connection)
    if transport is not None:
        transport.abort()
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


async def _connection(url: BrokerUrl, server: Server, seconds: float) -> Connection | UnixDomainSocketConnection:
    facts: dict[str, Any] = {
        "username": url.user or None,
        "password": url.password or None,
        "db": url.db,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        # whoever waits has a timeout of its own
        "socket_timeout": None,
        "socket_connect_timeout": seconds,
    }
    if url.path:
        return UnixDomainSocketConnection(path=url.path, **facts)
    facts |= {"host": server.host, "port": server.port}
    if not url.kind.tls:
        return Connection(**facts)
    connection = SSLConnection(**facts)
    # made here as the library's trusts the machine's authorities besides the one that is named; and in a thread, as to
    # read those takes long; anew each time, as files change
    loop = asyncio.get_running_loop()
    connection.ssl_context.context = await loop.run_in_executor(None, _tls, url)
    return connection


def _tls(url: BrokerUrl) -> ssl.SSLContext:
    """Return a context that verifies the server. Raises Lost."""
    try:
        made = ssl.create_default_context(cafile=url.ca or None)
    except (OSError, ValueError) as error:
        raise Lost(f"{url.ca} cannot be used as ca ({_reason(error)})") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if url.cert:
        try:
            # asked for a pass phrase, OpenSSL would wait at a terminal
            made.load_cert_chain(url.cert, url.key or None, password=lambda: "")
        except (OSError, ValueError) as error:
            raise Lost(f"{url.cert} cannot be used as cert ({_reason(error)})") from None
    return made


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
        return _reason(cause)
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


def _no_protocol(error: Exception) -> Lost:
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


def _reason(error: Exception) -> str:
    """Return what an error of the system, or of OpenSSL, says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {(error.reason or 'no reason is given').replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    # asyncio joins the errors of several addresses to one without a number
    number = error.errno if isinstance(error, OSError) else None
    numbers = [str(number)] if number else _ERRNO.findall(str(error))
    return os.strerror(int(numbers[-1])) if numbers else "the connection is lost"


def _shortened(text: str) -> str:
    """Return what a server has said, for a log."""
    return "".join(each if each.isprintable() else "?" for each in text[:_SHOWN_CHARACTERS])
