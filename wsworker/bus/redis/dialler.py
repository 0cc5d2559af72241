"""The dialler: makes wires to the servers of one Redis or Valkey, or of a cluster, by redis-py.

The library is handed addresses and not names. It would have the loop look a name up, in the pool of threads that user
code shares: with that full, a broker that is well could not be reached. The name stays what TLS asks for and verifies.
Nor is the library's context of TLS used: it would trust the machine's authorities besides the one that is named.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio.connection import Connection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.lookup import Lookup, in_turn
from wsworker.bus.broker.reasons import NO_ANSWER, NO_NAME_SERVER, reason
from wsworker.bus.redis.wire import Lost, Wire, clause, command, discard, no_protocol


class Dialler:
    """Dials for one worker. seconds: for the addresses, for the files of TLS, and for connecting and logging in."""

    def __init__(self, url: BrokerUrl, lookup: Lookup, certificates: Certificates, seconds: float) -> None:
        self._url = url
        self._lookup = lookup
        self._certificates = certificates
        self._seconds = seconds

    async def dial(self, server: Server, name: str) -> Wire:
        """Connect and log in. server: which one of the URL's, or of its cluster; name: for CLIENT LIST. Raises Lost."""
        connection = await self._connection(server)
        try:
            async with asyncio.timeout(self._seconds):
                await connection.connect()  # type: ignore[no-untyped-call]
                wire = Wire(connection)
                await wire.send(command(b"CLIENT", b"SETNAME", name.encode()))
                # refused by a server that is older, or to a user without the right: it is for people only
                await wire.receive()
        except TimeoutError:
            await discard(connection)
            raise Lost(NO_ANSWER, silent=True) from None
        except (RedisError, OSError) as error:
            await discard(connection)
            raise Lost(clause(error)) from None
        except Exception as error:
            await discard(connection)
            raise no_protocol(error) from None
        except asyncio.CancelledError:
            await discard(connection)
            raise
        return wire

    async def _connection(self, server: Server) -> Connection | UnixDomainSocketConnection:
        url = self._url
        facts: dict[str, Any] = {
            "username": url.user or None,
            "password": url.password or None,
            "db": url.db,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            # whoever waits has a timeout of its own
            "socket_timeout": None,
            "socket_connect_timeout": self._seconds,
        }
        if url.path:
            return UnixDomainSocketConnection(path=url.path, **facts)
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._lookup.addresses(server)
            context = await self._certificates.context(self._seconds) if url.kind.tls else None
        except TimeoutError:
            raise Lost(NO_NAME_SERVER) from None
        except (OSError, UnicodeError) as error:
            raise Lost(reason(error)) from None
        return _Tcp(server, addresses, context, facts)


class _Tcp(Connection):
    """A connection of the library to a server of which the addresses are known. context: of TLS, None for no TLS."""

    def __init__(
        self, server: Server, addresses: Sequence[str], context: ssl.SSLContext | None, facts: Mapping[str, Any]
    ) -> None:
        super().__init__(host=server.host, port=server.port, **facts)
        self._seconds: float = facts["socket_connect_timeout"]
        self._addresses = addresses
        self._address = addresses[0]
        self._context = context

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"host": self._address, "port": self.port}
        if self._context is not None:
            arguments |= {"ssl": self._context, "server_hostname": self.host}
        return arguments

    async def _connect(self) -> None:
        """Connect to the first address at which somebody takes us."""
        clock = asyncio.get_running_loop().time
        for address, share, is_last in in_turn(self._addresses, self._seconds, clock):
            self._address = address
            # whoever dials has a timeout of its own, which is the last one's share
            self.socket_connect_timeout = None if is_last else share
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
                return
            except ssl.SSLError:
                # somebody is there, and why that will not do is what people should read
                raise
            except OSError:
                if is_last:
                    raise
