"""The entrance: the way of a client from accept(2) to its protocol.

    accepted ──▶ PROXY header ──▶ TLS ──▶ its protocol, which reads the head of the request

The two in the middle are there where they are configured. One deadline, websocket.open_timeout from accept, covers the
whole way and what the protocol still has to do. Who has not come through by then, breaks a rule, or may not be here is
closed without a word: before TLS a word would be plain text, and before the header it would go to nobody known.

Of a PROXY header exactly its own bytes may be taken off the socket, as the next one belongs to TLS or HTTP. So they are
looked at first (MSG_PEEK, recv(2)). But a part of a header that stays there keeps the socket readable and the loop
spinning. Hence all that is seen is taken at once while the header is incomplete, because then all of it is header.
SO_RCVLOWAT instead was rejected: it does nothing for unix sockets.

Each client is a task. That is 0.6 of the 14 us of CPU that a plain client costs here with uvloop, measured; the rest is
accept(2) and the transport, so there is no shorter way for plain TCP.

Strangers decide how often something here would be worth a line in the log, so these are notices, see notices.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Literal, TypeAlias, cast

from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.listeners import Group
from wsworker.notices import Notices
from wsworker.protocol.forwarded import Trusted
from wsworker.protocol.proxy import MOST_BYTES, Defect, Proxied, Version, read
from wsworker.protocol.request import Address
from wsworker.worker.arrival import Arrival

LAST_SECONDS: Final = 0.5
"""How long a worker that leaves waits for those in PROXY and TLS. A quick stop has 3 s, and drain.py uses 2.5."""

Complaint: TypeAlias = Literal["untrusted", "header", "tls"]


class _Unwelcome(Exception):
    """The client is closed without a word. text: why, for the log."""

    def __init__(self, kind: Complaint, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class Entrance:
    """The entrance of one worker.

    protocol: makes the protocol of one client. With TLS it is called when the TLS handshake begins, and
    connection_made, as ever, when that has succeeded; if it fails, no other method of that protocol is called.
    tls: None for plain TCP. changed: called when a client has left that never had a transport.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: Callable[[Arrival], asyncio.Protocol],
        *,
        config: Config,
        tls: ssl.SSLContext | None,
        changed: Callable[[], None],
        counters: Counters,
        log: logging.Logger,
    ) -> None:
        self._loop = loop
        self._protocol = protocol
        self._tls = tls
        self._may_stall = tls is not None or config.proxy_protocol != "none"
        self._changed = changed
        self._counters = counters
        self._notices = Notices(log, loop.time)
        self._open_timeout = config.websocket.open_timeout
        self._close_timeout = config.websocket.close_timeout
        # By then a ping is unanswered as well; without pings the kernel's own patience holds, some 15 minutes. A client
        # that does not read, which counts here too, has at least write_timeout.
        settings = config.websocket
        silence = settings.ping_interval and max(settings.ping_interval + settings.ping_timeout, settings.write_timeout)
        self._user_timeout = int(silence * 1000)
        self._proxy_protocol = config.proxy_protocol
        self._trusted = Trusted.of(config.forwarded_allow_ips)
        self._versions: dict[socket.socket, Version] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def secure(self) -> bool:
        """Whether clients speak TLS, so that no plain text may be sent to them."""
        return self._tls is not None

    @property
    def pending(self) -> int:
        """How many clients are on the way to their protocol."""
        return len(self._tasks)

    def know(self, listener: socket.socket) -> None:
        """Find out with which header the clients of a listener begin, and set the options that their sockets inherit.

        You must call it before admit, and forget.
        """
        if listener.family != socket.AF_UNIX:
            # tcp(7). asyncio sets the first itself only on a socket of IPPROTO_TCP, and accept() passes on the 0 that
            # most listeners are made with.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout)
        version = version_of(listener, config_value=self._proxy_protocol)
        if version is not None:
            self._versions[listener] = version

    def forget(self, listener: socket.socket) -> None:
        """Forget a listener that is closed."""
        self._versions.pop(listener, None)

    def admit(self, listener: socket.socket, client: socket.socket, peer: Any) -> None:
        """Take a client that was accepted to its protocol, or close it; it is ours from now on.

        peer: the address that accept(2) gave.
        """
        arrival = Arrival(peer, None, self._tls is not None, self._loop.time(), monotonic(), client)
        self._tasks.add(self._loop.create_task(self._bring_in(arrival, self._versions.get(listener))))

    async def close(self) -> None:
        """Return when every client that was admitted has its protocol; who is in PROXY or TLS for too long is cut."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_SECONDS if self._may_stall else None)
        if self._tasks:
            late = [*self._tasks]
            for task in late:
                task.cancel()
            await asyncio.wait(late)

    async def _bring_in(self, arrival: Arrival, version: Version | None) -> None:
        client, came_in = arrival.sock, False
        try:
            if version:
                source = await self._source(client, arrival.peer, arrival.came_at, version)
                arrival = arrival._replace(source=source)
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: self._protocol(arrival), client)
            else:
                await self._secure(client, arrival, self._tls)
        except _Unwelcome as refusal:
            client.close()
            self._counters.reject("tls" if refusal.kind == "tls" else "proxy")
            self._complain(refusal)
        except OSError:
            # it went away, or its time was up
            client.close()
        except BaseException:
            client.close()
            raise
        else:
            came_in = True
        finally:
            # not by a callback of the task, which would come after changed() has looked
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)
        if not came_in:
            self._changed()

    # TLS

    async def _secure(self, client: socket.socket, arrival: Arrival, tls: ssl.SSLContext) -> None:
        # asyncio takes no timeout of 0
        left = max(arrival.came_at + self._open_timeout - self._loop.time(), 0.001)
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocol(arrival),
                client,
                ssl=tls,
                ssl_handshake_timeout=left,
                # what was sent goes out within it, to a slow client too; each stage has its own deadline beside it
                ssl_shutdown_timeout=self._close_timeout,
            )
        except ssl.SSLError as error:
            # one of OpenSSL's constants, or nothing; never a byte of the client
            reason = str(error.reason or "no reason given").replace("_", " ").lower()
            raise _Unwelcome("tls", f"{_host(arrival.peer)}: the TLS handshake has failed ({reason})") from None

    # The PROXY header

    async def _source(self, client: socket.socket, peer: Any, came_at: float, version: Version) -> Address | None:
        """Take the header off the socket; return the client's address, None if it is the peer itself."""
        host = _host(peer)
        if not self._trusted.holds(host):
            text = f"{host}: it is no trusted proxy, and this address takes none but those"
            raise _Unwelcome("untrusted", f"{text}; see forwarded_allow_ips and proxy_protocol")
        client.setblocking(False)
        async with asyncio.timeout_at(came_at + self._open_timeout):
            verdict = await self._header(client, version)
        if isinstance(verdict, Defect):
            raise _Unwelcome("header", f"{host}: {verdict.reason}")
        return verdict.source

    async def _header(self, client: socket.socket, version: Version) -> Proxied | Defect:
        held = b""
        while True:
            try:
                seen = client.recv(MOST_BYTES[version] - len(held), socket.MSG_PEEK)
            except BlockingIOError:
                await self._until_readable(client)
                continue
            if not seen:
                raise ConnectionAbortedError("it left before its header was complete")
            verdict = read(version, held + seen)
            if verdict is None:
                held += client.recv(len(seen))
                continue
            if isinstance(verdict, Proxied):
                client.recv(verdict.size - len(held))
            return verdict

    async def _until_readable(self, client: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(client, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(client)

    def _complain(self, refusal: _Unwelcome) -> None:
        # what the TLS of strangers lacks is no news; the others may be a proxy that is set up wrongly
        level = logging.INFO if refusal.kind == "tls" else logging.WARNING
        self._notices.tell(refusal.kind, "closed a connection from %s", refusal.text, level=level)


def version_of(listener: socket.socket, config_value: Literal["none", "v1", "v2"] | tuple[Any, ...]) -> Version | None:
    """Return the version of the header with which the clients of a listener begin, None if with none.

    config_value: of `proxy_protocol`.
    """
    if config_value == "none":
        return None
    if not isinstance(config_value, tuple):
        return config_value
    versions = (proxied.version for proxied in config_value if Group(proxied.address, 0).owns(listener))
    return cast(Version | None, next(versions, None))


def _host(peer: Any) -> str:
    """Return the host of an address of accept(2), as Trusted takes it: what is no tuple is of a unix socket."""
    return peer[0] if isinstance(peer, tuple) else "unix"
