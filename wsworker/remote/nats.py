"""NATS, as far as publishing goes; bus/nats/wire.py has the protocol.

A message is not answered. Behind it goes a PING: a server that answers that has read what stands before. It is a write
of its own: if the message was not sent to its last byte nobody has it, and a part of both would leave that open.

As for workers, a server that wants TLS gets it, and one that offers none where the URL asks for TLS is told nothing.
One that says INFO only behind TLS waits for us as we wait for it: it is dialled a second time, and that is remembered.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from wsworker.brokers import BrokerUrl, Server
from wsworker.bus.broker.channels import subject
from wsworker.bus.nats.wire import PING, PONG, Event, Info, Reader, Refusal, Word, connect, publish
from wsworker.bus.topics import Key
from wsworker.errors import PublishError, WireError
from wsworker.remote.link import no_entry, refusal
from wsworker.remote.stream import Stream, Where, context_of
from wsworker.visible import escape

REFUSALS: Final = ("permissions violation", "maximum payload violation")
"""How errors begin that are about what was just published; others are about the connection."""

NO_ENTRY: Final = "authorization violation"
INFO_SECONDS: Final = 1.0
"""So long the INFO of a server that speaks first is waited for, if the URL says TLS; or half the time there is."""

_tls_first: set[Server] = set()
"""Who has said INFO behind TLS."""


class NatsLink:
    """A connection to a server. Making it connects and signs in. Raises OSError, WireError or PublishError."""

    def __init__(self, url: BrokerUrl, where: Where, give_up_at: float) -> None:
        assert isinstance(where, Server), "NATS has no unix sockets"
        self._url = url
        self._reader = Reader()
        self._events: deque[Event] = deque()
        self._error = ""  # what the server has said since it was last asked
        self.stream = Stream(where, give_up_at)
        try:
            info = self._meet(where, give_up_at)
            self._max_payload = info.max_payload
            self._sign_in(info)
        except BaseException:
            self.stream.close()
            raise

    def stays(self) -> bool:
        """See Link. The server asks now and then whether anybody is here."""
        try:
            self._feed(self.stream.arrived())
            while self._events:
                if isinstance(self._take(), Refusal):
                    return False
        except (OSError, WireError):
            return False
        return True

    def send(self, prefix: str, key: Key, payload: bytes) -> None:
        """See Link."""
        if len(payload) > self._max_payload:
            over = f"a message of {len(payload)} bytes with its head is over max_payload = {self._max_payload}"
            raise PublishError("too_large", f"{over} of {self._url}; raise it or send less")
        self.stream.send(publish(subject(prefix, key), payload))

    def answer(self) -> Where | None:
        """See Link."""
        self.stream.send(PING)
        error = self._await_pong()
        if error.lower().startswith(REFUSALS):
            raise refusal(self._url, error)
        return None

    def _meet(self, where: Server, give_up_at: float) -> Info:
        """Hear who is there, and turn to TLS if that is wanted. Raises OSError or WireError."""
        if not self._url.kind.tls:
            info = self._await_info()
            if info.wants_tls:
                self._turn_to_tls(where)
            return info
        if where in _tls_first:
            return self._meet_behind_tls(where)
        now = time.monotonic()
        self.stream.give_up_at = now + min(INFO_SECONDS, (give_up_at - now) / 2)
        try:
            info = self._await_info()
        except (OSError, WireError):
            self.stream.close()
            self.stream = Stream(where, give_up_at)
            return self._meet_behind_tls(where)
        if not info.offers_tls:
            raise WireError(f"it offers no TLS, which {self._url.scheme}:// asks for")
        self.stream.give_up_at = give_up_at
        self._turn_to_tls(where)
        return info

    def _meet_behind_tls(self, where: Server) -> Info:
        # until it is seen to do so
        _tls_first.discard(where)
        self._turn_to_tls(where)
        info = self._await_info()
        _tls_first.add(where)
        return info

    def _turn_to_tls(self, where: Server) -> None:
        # what was said in the clear may be anybody's
        self._reader = Reader()
        self._events.clear()
        self.stream.secure(context_of(self._url), where.host)

    def _sign_in(self, info: Info) -> None:
        facts: dict[str, Any] = {"name": "wsworker publish", "tls_required": self._url.kind.tls or info.wants_tls}
        if self._url.password:
            facts |= {"user": self._url.user, "pass": self._url.password}
        elif self._url.user:
            facts["auth_token"] = self._url.user
        self.stream.send(connect(facts) + PING)
        if error := self._await_pong():
            raise no_entry(self._url, error)

    def _await_info(self) -> Info:
        while True:
            event = self._next()
            if isinstance(event, Info):
                return event

    def _await_pong(self) -> str:
        """Wait for the answer to a PING; return the error that came before, or "". Raises OSError or WireError.

        The server may end the connection behind an error: that is an answer only if it says what it has refused.
        """
        try:
            while self._next() is not Word.PONG:
                pass
        except (OSError, WireError):
            if not self._error.lower().startswith((*REFUSALS, NO_ENTRY)):
                raise
        error, self._error = self._error, ""
        return error

    def _next(self) -> Event:
        """Return what the server says next. Raises OSError or WireError, with its reason to end if it has said one."""
        try:
            while not self._events:
                self._feed(self.stream.receive())
        except (ConnectionError, WireError):
            if self._error:
                raise WireError(f"it says '{escape(self._error)}'") from None
            raise
        return self._take()

    def _feed(self, data: bytes) -> None:
        self._events += self._reader.feed(data)
        if self._reader.fault and not self._events:
            raise WireError(f"it does not speak as NATS does: {self._reader.fault}")

    def _take(self) -> Event:
        event = self._events.popleft()
        if event is Word.PING:
            self.stream.send(PONG)
        elif isinstance(event, Refusal):
            self._error = event.text
        return event
