"""Admin: the worker's part of the admin endpoints, from accept(2) to the answer.

All workers accept from one listener, so each request goes to one that is free; one that is hung accepts nobody. What
is answered stands in routes.py and metrics.py, and comes from shared memory.

Who asks may be slow, or no friend: a request has REQUEST_SECONDS, an answer ANSWER_SECONDS, every connection has one
request, and a worker has MOST_VISITS of them at a time; the others wait in the queue of the kernel. A worker that
leaves goes on answering until its last client has gone, so that whoever asks hears 503 and not a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from wsworker.assignment import Desk
from wsworker.config import Config
from wsworker.protocol import plain
from wsworker.protocol.events import HttpRequest
from wsworker.protocol.handshake import Opening
from wsworker.protocol.plain import Answer
from wsworker.worker import routes

REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
LAST_SECONDS: Final = 0.25
"""How long a worker that ends waits for answers that are under way: a quick stop has no more to spare."""

MOST_VISITS: Final = 64
ACCEPTS_PER_TURN: Final = 16
PAUSE_SECONDS: Final = 1.0
"""After an error of accept(2), or when there are too many: the listener stays readable, and the loop would spin."""

logger = logging.getLogger("wsworker.worker")


class Admin:
    """The admin endpoints in one worker. You must call start and, at the end, close; in a copy of it let_go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, desk: Desk, config: Config) -> None:
        self.loop = loop
        self._desk = desk
        self._config = config
        self._visits: set[Visit] = set()
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
        with contextlib.suppress(OSError):
            os.close(self._desk.listener.detach())

    # Visits

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if len(self._visits) + len(self._tasks) >= MOST_VISITS:
                self._look_away()
                return
            try:
                client, _ = self._desk.listener.accept()
            except BlockingIOError:
                # another worker was quicker
                return
            except OSError as error:
                logger.warning("cannot accept an admin request (%s); the next try is in a second", error.strerror)
                self._look_away()
                return
            self.keep(self._bring_in(client))

    def _look_away(self) -> None:
        self._stop()
        self._pause = self.loop.call_later(PAUSE_SECONDS, self.start)

    async def _bring_in(self, client: socket.socket) -> None:
        visit = Visit(self)
        try:
            await self.loop.connect_accepted_socket(lambda: visit, client)
        except OSError:
            client.close()

    def keep(self, work: Any) -> None:
        """Run a coroutine; its task is held until it is done."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def came(self, visit: Visit) -> None:
        """Know one that has begun."""
        self._visits.add(visit)

    def went(self, visit: Visit) -> None:
        """Forget one that is over."""
        self._visits.discard(visit)

    # Answers

    async def answer(self, request: HttpRequest) -> Answer:
        """Answer a request; whatever fails is a bug, and said in the log."""
        now = time.time()
        try:
            notice, age = self._notice()
            answer = routes.route(request, notice, self._config.admin.min_ready, now)
            if answer == "metrics":
                assert notice is not None, "without one there are no metrics"
                return await self._metrics(request, notice, age, now)
        except Exception:
            logger.exception("a bug in wsworker: %s cannot be answered", request.path)
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
    """One request and its answer."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._opening: Opening | None = Opening()  # until the request is there
        self._inbox = bytearray()
        self._answered = False
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are no subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = self._admin.loop.call_later(REQUEST_SECONDS, self.cut)
        self._admin.came(self)

    def data_received(self, data: bytes) -> None:
        """Take the request; what comes behind it is thrown away."""
        if self._opening is None:
            return
        self._inbox += data
        defect = self._opening.take(self._inbox)
        request = self._opening.request
        if defect is None and request is None:
            return
        self._opening = None
        self._wait(ANSWER_SECONDS)
        if request is not None:
            self._admin.keep(self._reply(request))
        elif defect is not None:
            status, text = defect
            self._send(routes.said(status, text, False, time.time()))

    def eof_received(self) -> bool:
        """Keep the way out open for who has half-closed behind its request."""
        self._half_closed = self._opening is None and not self._answered
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish."""
        self._deadline.cancel()
        self._admin.went(self)

    def cut(self) -> None:
        """Drop the connection with what was not taken yet."""
        self._transport.abort()

    async def _reply(self, request: HttpRequest) -> None:
        self._send(await self._admin.answer(request))

    def _send(self, answer: Answer) -> None:
        if self._transport.is_closing():
            return
        self._answered = True
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
