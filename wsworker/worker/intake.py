"""Intake: what comes in from one client, and the reasons for which it is stopped.

Reading and delivery stop for several reasons that come and go independently, so the reasons are bits of one number:
while any is set, no event is handled and the socket is not read. Stopping the socket alone would not do: the session
may hold a thousand messages that came with one read.

Reading goes on only when the session has nothing left to give. Were the socket read as soon as the last reason is gone,
a client that is handled slower than it sends would fill the session with every turn.

No client has the loop for itself: after EVENTS_PER_TURN events the others have their turn.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from wsworker.protocol.session import Event, Session

# why nothing is read or delivered
ANSWER_OWED: Final = 1  # the handshake is not answered yet
PAUSED: Final = 2  # by the user
QUEUE_FULL: Final = 4  # too many messages wait for async callbacks
CHOKED: Final = 8  # the client does not take what we send
BROKEN: Final = 16  # a callback raised, and on_error has not had its turn
CUT: Final = 32  # the socket is aborted; never taken back

EVENTS_PER_TURN: Final = 256


class Client(Protocol):
    """What the intake of a connection tells it."""

    def _handle(self, event: Event) -> None:
        """Handle one event; the reasons may change meanwhile."""

    def _flush(self) -> None:
        """Write: the events of one read, or one turn, are handled."""

    def _reads_again(self) -> None:
        """The socket is read again after a while in which it was not."""


class Intake:
    """The way in of one connection. handling: inside deliver; reading: the socket is read; holds: the reasons."""

    __slots__ = ("_client", "_loop", "_session", "_transport", "handling", "holds", "reading")

    def __init__(
        self, client: Client, session: Session, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._client = client
        self._session = session
        self._transport = transport
        self._loop = loop
        self.handling = False
        self.reading = True
        self.holds = 0

    def deliver(self) -> None:
        """Have events handled one by one, until there is none or a reason against it; then have their answers written.

        What is left comes in a later tick: after let_go, or of itself if only the turn was over.
        """
        if self.handling:
            return
        self.handling = True
        left = EVENTS_PER_TURN
        event: Event | None = None
        try:
            while left and not self.holds:
                event = self._session.next_event()
                if event is None:
                    break
                left -= 1
                self._client._handle(event)
        finally:
            self.handling = False
        self._client._flush()
        if not left and not self.holds:
            self._loop.call_soon(self.deliver)
        self._read(not self.holds and event is None)

    def hold(self, reason: int) -> None:
        """Stop reading and delivering for a reason."""
        self.holds |= reason
        if not self.handling:
            self._read(False)

    def let_go(self, reasons: int) -> None:
        """Take reasons back; when none is left, delivery goes on in the next tick, and reading after it."""
        if self.holds & reasons:
            self.holds &= ~reasons
            if not self.holds and not self.handling:
                self._loop.call_soon(self.deliver)

    def let_all_go(self) -> None:
        """Take all reasons back but the one that is final, and read on at once: what comes is thrown away."""
        self.holds &= CUT
        self._read(not self.holds)

    def _read(self, wanted: bool) -> None:
        if wanted == self.reading or self._transport.is_closing():
            return
        self.reading = wanted
        if wanted:
            self._transport.resume_reading()
            self._client._reads_again()
        else:
            self._transport.pause_reading()
