"""Door: whether a client comes in. The rules decide first, then the user's on_handshake, and then once more the room.

The room is asked twice, because an async on_handshake takes its time: meanwhile the worker may have filled up or begun
to leave. How often an address comes is counted at the first time, and how many of it are in at the second, together
with taking the place: else many could wait in on_handshake for the last one.

Who wants plain HTTP is served here as well, at any time and without the user. Health checks are neither counted nor
logged, as they come every few seconds for ever.

There is no deadline here; the connection has one over its whole handshake and shuts the door when it passes.

What the user answers: nothing (come in), Reject (as given), any other exception (500 without a word of it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from wsworker.counters import Rejection
from wsworker.errors import Reject
from wsworker.protocol import plain
from wsworker.protocol.admission import Facts, Plain, Refusal, check, is_handshake
from wsworker.protocol.events import Handshake, HttpRequest
from wsworker.protocol.plain import Answer
from wsworker.protocol.request import Request
from wsworker.visible import escape
from wsworker.worker.app import Callback
from wsworker.worker.delivery import OURS
from wsworker.worker.home import Home


class Client(Protocol):
    """Who stands at the door; exactly one of the three is called, unless the door is shut before."""

    def _admit(self, subprotocol: str | None) -> None:
        """Come in. Its address has taken a place among the visitors, which has to be given back at its end: leave()."""

    def _answer(self, answer: Answer) -> None:
        """Take this answer to plain HTTP, and go. It may hold an open file, which has to be closed."""

    def _refuse(self, reason: Rejection, status: int, headers: Mapping[str, str] | None, body: str) -> None:
        """Stay out, with this response; ValueError if one of the headers cannot be sent. reason: to be counted."""


class Door:
    """One handshake, from the complete head to the answer."""

    __slots__ = ("_client", "_home", "_is_shut", "_offers", "_request", "_subprotocol", "_task")

    def __init__(self, home: Home, client: Client, request: Request) -> None:
        self._home = home
        self._client = client
        self._request = request
        self._offers = False  # subprotocols
        self._subprotocol: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_shut = False

    def ask(self, handshake: Handshake) -> None:
        """Let the rules and the user decide; the client hears of it now, or later if on_handshake is async."""
        home, request = self._home, handshake.request
        # only those who want a WebSocket: health checks of a whole cluster may come from one address
        crowded = is_handshake(request) and not home.visitors.knock(self._request.remote.host, home.loop.time())
        verdict = check(request, home.policy, Facts(home.full, home.draining, crowded, retry_after(home)))
        if isinstance(verdict, Plain):
            self._serve(verdict, request)
            return
        if isinstance(verdict, Refusal):
            home.notices.tell(verdict.reason, "%s: %s", self._request.remote, verdict.log)
            self._client._refuse(verdict.reason, verdict.status, verdict.headers, verdict.body)
            return
        if verdict.hides_cookies:
            self._request._hide_cookies()
        self._offers = "Sec-WebSocket-Protocol" in request.headers
        self._subprotocol = verdict.subprotocol
        callback = home.app.on_handshake
        if callback is None:
            self._let_in()
        elif callback.is_async:
            self._task = home.loop.create_task(self._wait_for(callback))
        else:
            self._obey(callback, home.caller.run(callback, self._request))

    def shut(self) -> None:
        """Stop waiting for the user: the client left, or its time is up. What they still answer comes too late."""
        self._is_shut = True
        if self._task is not None:
            self._task.cancel(OURS)

    def _serve(self, verdict: Plain, request: HttpRequest) -> None:
        home, now = self._home, time.time()
        if verdict.wants == "health":
            self._client._answer(plain.health(home.draining, request.method == "HEAD", now))
            return
        assert home.site is not None, "the policy is made of the same configuration"
        answer = home.site.answer(request, now)
        if answer.log:
            home.notices.tell("site", "%s: %s", self._request.remote, answer.log)
        self._client._answer(answer)

    async def _wait_for(self, callback: Callback) -> None:
        exc = await self._home.caller.wait(callback, self._request)
        self._task = None
        if not self._is_shut:
            self._obey(callback, exc)

    def _obey(self, callback: Callback, exc: BaseException | None) -> None:
        if exc is None:
            self._let_in()
            return
        if isinstance(exc, Reject):
            try:
                self._client._refuse("app", exc.status, exc.headers, exc.body)
                return
            except ValueError as wrong_header:
                exc = wrong_header
        self._home.caller.report(callback, exc)
        self._client._refuse("error", 500, None, "Internal server error.\n")

    def _let_in(self) -> None:
        if self._home.full or self._home.draining:
            self._client._refuse(*busy(self._home))
            return
        if not self._home.visitors.enter(self._request.remote.host):
            said = "%s: refused with 429: websocket.max_per_address is reached"
            self._home.notices.tell("address", said, self._request.remote)
            text = "This address has too many connections already.\n"
            self._client._refuse("address", 429, _later(self._home), text)
            return
        if self._subprotocol is None and self._offers:
            # RFC 6455 lets a client go on without; browsers fail the connection, and only this line says why
            offered = escape(", ".join(self._request.subprotocols))
            said = "%s offers %s, not in websocket.subprotocols"
            self._home.notices.tell("subprotocols", said, self._request.remote, offered)
        self._client._admit(self._subprotocol)


def busy(home: Home) -> tuple[Rejection, int, Mapping[str, str], str]:
    """Return the refusal of a worker that takes nobody now."""
    reason: Rejection = "draining" if home.draining else "full"
    return reason, 503, _later(home), "This worker takes no connections now; connect again.\n"


def _later(home: Home) -> Mapping[str, str]:
    return {"Retry-After": str(retry_after(home))}


def retry_after(home: Home) -> int:
    """Return after how many seconds a refused client may come again; at random, so that not all come together."""
    return home.random.randint(1, 5)
