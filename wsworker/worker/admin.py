"""Admin: the worker's part of the admin endpoints, from accept(2) to the answer.

All workers accept from one listener, so each request goes to one that is free; one that is hung accepts nobody. What
is answered stands in routes.py and metrics.py, and comes from shared memory.

Who asks may be slow, or no friend: a request has REQUEST_SECONDS, an answer ANSWER_SECONDS, every connection has one
request, and a worker has MOST_VISITS of them at a time. Whoever comes then takes the place of the oldest that has not
asked yet, or that has its answer and stays, so that the silent never keep a health check out. A worker without
descriptors has one in reserve for who asks: that is when one wants to see its metrics. A worker that leaves goes on
answering until its last client has gone, so that whoever asks hears 503 and not a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from wsworker.assignment import Desk
from wsworker.config import Config
from wsworker.forked import let_go
from wsworker.notices import Notices
from wsworker.protocol import plain
from wsworker.protocol.events import HttpRequest
from wsworker.protocol.handshake import Opening
from wsworker.protocol.plain import Answer
from wsworker.worker import routes
from wsworker.worker.accept import NO_DESCRIPTORS, PASSING
from wsworker.worker.reserve import Reserve

REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
LAST_SECONDS: Final = 0.25
"""How long a worker that ends waits for answers that are under way: a quick stop has no more to spare."""

MOST_VISITS: Final = 16
"""At a time; a Prometheus, a Kubernetes and a curl are three. Each is a descriptor that a client cannot have."""

NOBODY: Final = PASSING | {errno.EAGAIN}
"""Another worker was quicker, or the client has gone."""

PAUSE_SECONDS: Final = 1.0
"""After an error of accept(2), or while all are being answered: the listener stays readable, and the loop would spin.
It ends as soon as somebody has gone."""

logger = logging.getLogger("wsworker.worker")


class Admin:
    """The admin endpoints in one worker. You must call start and, at the end, close; in a copy of it let_go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, desk: Desk, config: Config) -> None:
        self.loop = loop
        self._desk = desk
        self._config = config
        self._visits: dict[Visit, None] = {}  # since accept(2), the oldest first
        self._notices = Notices(logger, loop.time)
        self._reserve = Reserve()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._watching = False

    def start(self) -> None:
        """Accept from now on."""
        self._watching = True
        self.loop.add_reader(self._desk.listener, self._accept)

    def _stop(self) -> None:
        if self._watching:
            self._watching = False
            self.loop.remove_reader(self._desk.listener)
        if self._pause:
            self._pause.cancel()
            self._pause = None

    async def close(self) -> None:
        """Accept nobody any more, and return when all are gone that were answered; whoever is slow is cut."""
        self._stop()
        self._desk.listener.close()
        give_up_at = self.loop.time() + LAST_SECONDS
        while self._visits and self.loop.time() < give_up_at:
            await asyncio.sleep(LAST_SECONDS / 10)
        for visit in [*self._visits]:
            visit.cut()
        for task in [*self._tasks]:
            task.cancel()

    def let_go(self) -> None:
        """Close the listener in a process that user code has forked; the loop's epoll is shared with the worker."""
        let_go(self._desk.listener)

    # Visits

    def _accept(self) -> None:
        """Accept one a turn of the loop, so that in a flood each has MOST_VISITS turns to ask before it gives way."""
        is_full = len(self._visits) >= MOST_VISITS
        in_the_way = self._in_the_way() if is_full else None
        if is_full and in_the_way is None:
            self._look_away()
            return
        client = self._take()
        if client is None:
            return
        if in_the_way is not None:
            in_the_way.cut()
            self.went(in_the_way)
        visit = Visit(self)
        self._visits[visit] = None
        self.keep(self._bring_in(visit, client))

    def _take(self) -> socket.socket | None:
        """Return the next client, with the reserve if need be; None if there is none, or no descriptor for it."""
        try:
            client, _ = self._desk.listener.accept()
        except OSError as error:
            if error.errno in NOBODY:
                return None
            if error.errno not in NO_DESCRIPTORS or not self._reserve.give_up():
                self._fail(error)
                return None
        else:
            return client
        client_after_all = self._take()
        if client_after_all is None:
            self._reserve.take_back()
        return client_after_all

    def _in_the_way(self) -> Visit | None:
        """Return who gives its place to the next: the oldest that has not asked, else the oldest that is answered."""
        for stage in ("asking", "answered"):
            for visit in self._visits:
                if visit.stage == stage:
                    return visit
        return None

    def _fail(self, error: OSError) -> None:
        if error.errno in NO_DESCRIPTORS and (in_the_way := self._in_the_way()):
            # it has the reserve, or one as good
            in_the_way.cut()
        text = "cannot accept an admin request (%s); the next try is in a second"
        self._notices.tell("accept", text, error.strerror, level=logging.WARNING)
        self._look_away()

    def _look_away(self) -> None:
        self._stop()
        self._pause = self.loop.call_later(PAUSE_SECONDS, self.look_again)

    def look_again(self) -> None:
        """See whether somebody waits: there may be room now."""
        self._reserve.take_back()
        if self._pause:
            self._pause.cancel()
            self._pause = None
            self.start()

    async def _bring_in(self, visit: Visit, client: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: visit, client)
        except BaseException as error:
            client.close()
            self.went(visit)
            if not isinstance(error, OSError):
                raise

    def keep(self, work: Any) -> None:
        """Run a coroutine; its task is held until it is done."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def went(self, visit: Visit) -> None:
        """Forget one that is over."""
        self._visits.pop(visit, None)
        # not at once, as its socket is closed behind connection_lost
        self.loop.call_soon(self.look_again)

    # Answers

    async def answer(self, request: HttpRequest) -> Answer:
        """Answer a request; whatever fails is a bug, and said in the log: once a minute, as who asks could fill it."""
        now = time.time()
        try:
            notice, age = self._notice()
            answer = routes.route(request, notice, self._config.admin.min_ready, now)
            if answer == "metrics":
                assert notice is not None, "without one there are no metrics"
                return await self._metrics(request, notice, age, now)
        except Exception:
            text = "a bug in wsworker: %s cannot be answered"
            self._notices.tell("bug", text, request.path, level=logging.ERROR, exc_info=True)
            return routes.said(500, "A bug in wsworker; its log says more.", request.method == "HEAD", now)
        return answer

    def _notice(self) -> tuple[Mapping[str, Any] | None, float]:
        """Return what the master has posted, and how many seconds ago."""
        post = self._desk.board.read()
        if post is None:
            return None, 0.0
        return json.loads(post.text), max(0.0, (time.monotonic_ns() - post.posted_ns) / 1e9)

    async def _metrics(self, request: HttpRequest, notice: Mapping[str, Any], age: float, now: float) -> Answer:
        # here, as it takes 70 ms to load; with admin.listen set the master has done that before it forks
        from wsworker.worker import metrics

        found = metrics.families(self._desk.table, notice, self._config.worker_connections, age)
        kind, pieces = metrics.render(found, ", ".join(request.headers.get_all("Accept")))
        parts = []
        for piece in pieces:
            parts.append(piece)
            await asyncio.sleep(0)
        body = b"".join(parts)
        packed = metrics.compress(body, ", ".join(request.headers.get_all("Accept-Encoding")))
        fields = {"Vary": "Accept, Accept-Encoding"} | ({"Content-Encoding": "gzip"} if packed else {})
        return plain.fresh(200, kind, packed or body, request.method == "HEAD", now, fields)


class Visit(asyncio.Protocol):
    """One request and its answer. stage: how far it is; "coming" until there is a transport."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self.stage: Literal["coming", "asking", "waiting", "answered"] = "coming"
        self._opening = Opening()
        self._inbox = bytearray()
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = self._admin.loop.call_later(REQUEST_SECONDS, self.cut)
        self.stage = "asking"

    def data_received(self, data: bytes) -> None:
        """Take the request; what comes behind it is thrown away."""
        if self.stage != "asking":
            return
        self._inbox += data
        defect = self._opening.take(self._inbox)
        request = self._opening.request
        if defect is None and request is None:
            return
        self.stage = "waiting"
        self._wait(ANSWER_SECONDS)
        if request is not None:
            self._admin.keep(self._reply(request))
        elif defect is not None:
            status, text = defect
            self._send(routes.said(status, text, False, time.time()))

    def eof_received(self) -> bool:
        """Keep the way out open for who has half-closed behind its request."""
        self._half_closed = self.stage == "waiting"
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish."""
        self._deadline.cancel()
        self._admin.went(self)

    def cut(self) -> None:
        """Drop the connection with what was not taken yet; one that is only coming ends with its task."""
        if self.stage != "coming":
            self._transport.abort()

    async def _reply(self, request: HttpRequest) -> None:
        self._send(await self._admin.answer(request))

    def _send(self, answer: Answer) -> None:
        if self._transport.is_closing():
            return
        self.stage = "answered"
        self._admin.loop.call_soon(self._admin.look_again)
        self._transport.write(answer.head + answer.body)
        if self._half_closed:
            self._transport.close()
            return
        # not close(): bytes that were not read would make the kernel reset the connection, and cost the answer
        with contextlib.suppress(OSError):
            self._transport.write_eof()

    def _wait(self, seconds: float) -> None:
        self._deadline.cancel()
        self._deadline = self._admin.loop.call_later(seconds, self.cut)
