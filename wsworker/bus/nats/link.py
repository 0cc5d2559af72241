"""The link with one NATS server, from the dialling to the end. It is never mended: who loses it opens another.

Opening it is: connect, hear INFO, turn to TLS if the URL or the server wants that, say CONNECT, and hear the PONG that
answers our first PING; a server that refuses the login says so in its place. With TLS in the URL nothing is told to a
server that offers none, so nobody between us can talk us out of it. What has come in the clear is forgotten then.

A server may be set to begin with TLS and to say INFO only behind it. It then waits for us as we wait for it; where no
INFO has come, the next attempt should begin with TLS.

What comes is handled in turns, so that a full stream does not take the loop for itself; meanwhile nothing is read, the
kernel's buffers fill, and the server keeps what is for us, as much as its max_pending allows.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol, TypeVar, cast

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.ending import forget_at_close
from wsworker.bus.broker.lookup import in_turn
from wsworker.bus.broker.reasons import reason
from wsworker.bus.nats.wire import PING, PONG, Event, Info, Message, Reader, Refusal, Word, connect
from wsworker.forked import let_go

TURN_SECONDS: Final = 0.005
EVENTS_PER_TURN: Final = 256
SECOND_LOOK_SECONDS: Final = 0.25
"""So long who has not answered in time is waited for once more: if it was us who stood still, the answer is there."""
_HARMLESS: Final = ("permissions violation", "maximum subscriptions exceeded")
"""What a server refuses without closing the connection."""

Fact = TypeVar("Fact")

logger = logging.getLogger("wsworker.bus")


class Owner(Protocol):
    """Whom a link tells what happens; none of this raises."""

    def received(self, sid: int, data: bytes) -> None:
        """Handle a message to a subscription."""

    def refused(self, text: str) -> None:
        """Know that the server did not take something, and goes on."""


class Link(asyncio.Protocol):
    """One connection. certificates: of the URL. You must end it by abort or close.

    info: what the server has last said of itself; over: done at the end of the link, its result says why.
    """

    info: Info

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, certificates: Certificates) -> None:
        self._loop = loop
        self._certificates = certificates
        self._context: ssl.SSLContext | None = None
        self._owner = owner
        self._reader = Reader()
        self._waiting: deque[Event] = deque()
        self._informed: asyncio.Future[None] = loop.create_future()
        self._pings: deque[tuple[float, Callable[[float], None]]] = deque()
        self._descriptor = -1
        self._transport: asyncio.Transport | None = None
        self._turn: asyncio.Handle | None = None
        self._paused = False
        self._connected = False  # now, or it was
        self._greets = False  # has said who it is, and waits for the answer
        self._known = False  # to the server
        self._why = ""
        self.over: asyncio.Future[str] = loop.create_future()

    @property
    def mute(self) -> bool:
        """Whether there was a connection, over which the server has never said who it is."""
        return self._connected and not self._informed.done()

    @property
    def waits_seconds(self) -> float:
        """For how long the oldest PING waits for its answer, 0.0 if none does."""
        return monotonic() - self._pings[0][0] if self._pings else 0.0

    async def open(
        self,
        server: Server,
        addresses: Sequence[str],
        url: BrokerUrl,
        facts: Mapping[str, Any],
        seconds: float,
        tls_first: bool,
    ) -> None:
        """Connect and log in.

        addresses: of the server, one at least, tried in turn; facts: of CONNECT; seconds: for all of it, and before
        that for the files of TLS; tls_first: whether INFO comes behind TLS.

        Raises OSError with a clause, or what reason makes one of. You must abort it then too.
        """
        if url.kind.tls:
            # before anybody is asked: files that are not right are no fault of the server
            self._context = await self._certificates.context(seconds)
        async with asyncio.timeout(seconds):
            await self._connect(addresses, server.port, seconds)
            if tls_first:
                await self._turn_to_tls(server, seconds)
            await self._until(self._informed)
            wants_tls = url.kind.tls or self.info.wants_tls
            if wants_tls and not tls_first:
                if not self.info.offers_tls:
                    raise ConnectionError(f"the server offers no TLS, which {url.scheme}:// asks for")
                await self._turn_to_tls(server, seconds)
            self.write(connect({**facts, **_login(url), "tls_required": wants_tls}))
            self._greets = True
            await self.round_trip(seconds)
            self._greets, self._known = False, True

    async def round_trip(self, seconds: float) -> float:
        """Wait until the server has all that was written before; return how long that took, in seconds.

        Raises TimeoutError if it takes too long, and ConnectionError with a clause at the end of the link.
        """
        pong: asyncio.Future[float] = self._loop.create_future()
        self.ping(pong.set_result)
        return await self._until(pong, seconds)

    def ping(self, then: Callable[[float], None]) -> None:
        """Have this called when the server has all that was written before, with how long that took, in seconds."""
        self._pings.append((monotonic(), then))
        self.write(PING)

    def write(self, data: bytes) -> None:
        """Write, or keep what the kernel does not take yet; nothing if the link is over."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """End now; what is not written is lost."""
        if self._transport is not None:
            self._transport.abort()
        if self._turn is not None:
            self._turn.cancel()
        self._waiting.clear()

    async def close(self, seconds: float) -> None:
        """End in good order, in so many seconds at most."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait((self.over,), timeout=seconds)
        self.abort()

    def let_go(self) -> None:
        """Close the descriptor in a process that was forked from the worker."""
        if self._descriptor >= 0:
            let_go(self._descriptor)

    # What asyncio says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # it is one in all but name with uvloop
        self._transport = cast(asyncio.Transport, transport)
        self._connected = True
        self._descriptor = transport.get_extra_info("socket").fileno()
        forget_at_close(transport)

    def data_received(self, data: bytes) -> None:
        """Handle what has come."""
        self._waiting += self._reader.feed(data)
        if self._turn is None:
            self._handle()

    def connection_lost(self, error: Exception | None) -> None:
        """Be over."""
        self._transport = None
        self._descriptor = -1
        if not self.over.done():
            what_happened = "the server has closed the connection" if error is None else reason(error)
            if self._greets:
                # what a server says to a wrong login may be overtaken by its end
                what_happened = f"the server has ended the login, perhaps for its user or password ({what_happened})"
            # what the server has said last says more than what the kernel does
            self.over.set_result(self._why or what_happened)

    # What happens in it

    async def _connect(self, addresses: Sequence[str], port: int, seconds: float) -> None:
        """Connect to the first address that takes us. Raises OSError, as the last one has it."""
        for address, share, is_last in in_turn(addresses, seconds, self._loop.time):
            try:
                sock = await self._dial(address, port, share)
            except OSError:
                if is_last:
                    raise
            else:
                await self._loop.create_connection(lambda: self, sock=sock)
                return

    async def _dial(self, address: str, port: int, seconds: float) -> socket.socket:
        # not by create_connection: what becomes of an attempt that was given up would be told to us, of the next one
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await self._loop.sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _turn_to_tls(self, server: Server, seconds: float) -> None:
        # a server may want it without the URL
        context = self._context or await self._certificates.context(seconds)
        if self._transport is None:
            raise ConnectionError(self.over.result())
        # what was said in the clear may be anybody's
        self._reader = Reader()
        self._waiting.clear()
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=server.host)
        if transport is None:
            raise ConnectionError("the server has closed the connection")
        self.connection_made(transport)

    async def _until(self, fact: asyncio.Future[Fact], seconds: float | None = None) -> Fact:
        # some loops look at their timers before they read
        for patience in (seconds, SECOND_LOOK_SECONDS):
            await asyncio.wait((fact, self.over), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if fact.done():
                return fact.result()
            if self.over.done():
                raise ConnectionError(self.over.result())
        raise TimeoutError

    def _handle(self) -> None:
        """Handle what has come, for as long as a turn lasts."""
        self._turn = None
        until = monotonic() + TURN_SECONDS
        left = EVENTS_PER_TURN
        try:
            while self._waiting and left and monotonic() < until:
                left -= 1
                self._take(self._waiting.popleft())
        except Exception:
            # a mistake of ours; the link would stay, and nothing more would be read of it
            logger.exception("what came from the broker could not be handled")
            self._fail("what came could not be handled")
        if self._transport is None:
            return
        if self._waiting:
            self._turn = self._loop.call_soon(self._handle)
            if not self._paused:
                self._paused = True
                self._transport.pause_reading()
        elif self._reader.fault:
            self._fail(f"it does not speak NATS as it should: {self._reader.fault}")
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _take(self, event: Event) -> None:
        match event:
            case Message() if not self._known:
                self._fail("it does not speak NATS as it should: a message before the login")
            case Message(sid, data):
                self._owner.received(sid, data)
            case Word.PING:
                self.write(PONG)
            case Word.PONG:
                # what it has refused was not what it ends for
                self._why = ""
                if self._pings:
                    asked_at, then = self._pings.popleft()
                    then(monotonic() - asked_at)
            case Info():
                self.info = event
                if not self._informed.done():
                    self._informed.set_result(None)
            case Refusal(text) if text.lower().startswith(_HARMLESS):
                self._owner.refused(text)
            case Refusal(text):
                # it closes now, most often
                self._why = f"the server answers {text!r}"

    def _fail(self, why: str) -> None:
        self._why = why
        self.abort()


def _login(url: BrokerUrl) -> dict[str, str]:
    if url.password:
        return {"user": url.user, "pass": url.password}
    return {"auth_token": url.user} if url.user else {}
