"""Entry: the handshake of one connection: what the door says, and the answers. A layer of the connection.

The door decides who comes in (door.py). Here its word is carried out: 101, a refusal, or a page of plain HTTP. Every
answer other than 101 ends the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from wsworker.counters import Rejection
from wsworker.protocol.events import Handshake
from wsworker.protocol.forwarded import client_address
from wsworker.protocol.plain import Answer
from wsworker.protocol.request import Request
from wsworker.worker.arrival import Arrival
from wsworker.worker.door import Door, busy
from wsworker.worker.home import Home
from wsworker.worker.intake import ANSWER_OWED
from wsworker.worker.link import DISCARD_SECONDS, HANDSHAKE, Link
from wsworker.worker.site import Download
from wsworker.worker.wheel import ticks


class Entry(Link):
    """The way of one client into its worker. request: what it asked for; subprotocol: the one agreed on, or None."""

    __slots__ = ("_door", "_opened_at", "request", "subprotocol")

    request: Request

    def __init__(self, home: Home, arrival: Arrival) -> None:
        super().__init__(home, arrival)
        self.subprotocol: str | None = None
        self._door: Door | None = None  # while the handshake is to be answered
        self._opened_at = 0.0  # on the clock of the loop

    # What the layers above add

    def _opened(self) -> None:
        """Know that the 101 is in the output; on_connect is next."""
        raise NotImplementedError

    # What the layers beneath say

    def _cut(self, reason: str) -> None:
        # an async on_handshake may be done in the tick that is left until connection_lost
        self._shut_door()
        super()._cut(reason)

    # What the session says

    def _knock(self, event: Handshake) -> None:
        """Ask the door, now that the request is complete."""
        self._enter("answer")
        self._hold(ANSWER_OWED)
        home = self._home
        if named := event.request.headers.get_all(home.config.forwarded_header):
            self.remote = client_address(named, self.remote, home.config.forwarded_header, home.trusted)
        self.request = Request(event.head, self.remote)
        self._door = Door(home, self, self.request)
        self._door.ask(event)

    # What the door says

    def _admit(self, subprotocol: str | None) -> None:
        home = self._home
        if not self._session.accept(subprotocol):
            home.log.warning("a bug in wsworker: %s was admitted with a request that has no 101", self.remote)
            home.visitors.leave(self.remote.host)
            self._refused("error", 500)
            return
        assert self._arrival is not None, "its handshake is not answered yet"
        home.counters.handshakes.add(monotonic() - self._arrival.accepted_at)
        self._enter("open")
        self._door = None
        self.subprotocol = subprotocol
        self.id = home.next_id()
        home.counters.accepted += 1
        self._active_at = home.tick
        self._opened_at = home.loop.time()
        home.opened(self)
        if home.access is not None:
            home.access.opened(self)
        self._opened()
        self._let_go(ANSWER_OWED)
        self._delivery.call(home.app.on_connect)

    def _refuse(self, reason: Rejection, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        self._session.reject(status, headers, body)
        self._refused(reason, status)

    def _answer(self, answer: Answer) -> None:
        self._enter("page")
        self._shut_door()
        self._session.step_aside()
        self._home.schedule(self, ticks(self._home.config.websocket.write_timeout))
        self._download = Download(self._home.loop, self._transport, answer, self._answered)
        self._let_all_go()
        self._download.start()

    def _answered(self) -> None:
        self._download = None
        # TLS has a buffer of its own beneath, which nobody is told of
        has_more = not self._transport.can_write_eof()
        self._linger(self._home.config.websocket.close_timeout if has_more else DISCARD_SECONDS)

    # What the hub says

    def _turn_away(self) -> None:
        """Answer a handshake that is still open with 503, because the worker leaves."""
        if self._stage in HANDSHAKE:
            self._refuse(*busy(self._home))

    def _refused(self, reason: Rejection, status: int) -> None:
        home = self._home
        home.counters.reject(reason)
        if home.access is not None:
            # there is no request where its head was malformed, or never complete
            path = self.request.path if hasattr(self, "request") else None
            home.access.refused(self.remote, path, status, reason)
        self._shut_door()
        self._linger(DISCARD_SECONDS)

    def _shut_door(self) -> None:
        if self._door is not None:
            self._door.shut()
            self._door = None
