"""Home: what a connection needs of its worker. The hub is one; it stands above the connections and knows them all.

A connection is passed as Any, because connection.py imports this file and nothing imports upwards.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from random import Random
from typing import Any, Protocol

from wsworker.config import Config
from wsworker.counters import Counters
from wsworker.notices import Notices
from wsworker.protocol.admission import Policy
from wsworker.protocol.forwarded import Trusted
from wsworker.worker.access import Access
from wsworker.worker.app import App
from wsworker.worker.delivery import Caller
from wsworker.worker.site import Site
from wsworker.worker.users import Users
from wsworker.worker.visitors import Visitors
from wsworker.worker.watch import Spans


class Home(Protocol):
    """What a connection needs of its worker.

    worker: the user's handle; random: for jitter; draining: no handshake succeeds any more; tick: the time of the
    wheel, which a connection's deadline is counted from; visitors: how many come from each address; site: the files
    of http.static, None if there are none; users: the connections of each; trusted: proxies that may name the
    client; checks_data: whether connection.data is checked when it is set; spans: how long an open connection may
    take for what; notices: for what strangers do; access: None if it is off; context: of what is scheduled here: it
    speaks for nobody, and callbacks run in copies of it, so that none sees what another has set.
    """

    config: Config
    app: App
    policy: Policy
    counters: Counters
    worker: Any
    caller: Caller
    log: logging.Logger
    notices: Notices
    access: Access | None
    loop: asyncio.AbstractEventLoop
    context: Context
    random: Random
    draining: bool
    tick: int
    visitors: Visitors
    users: Users[Any]
    trusted: Trusted
    checks_data: bool
    spans: Spans
    site: Site | None

    @property
    def full(self) -> bool:
        """Whether as many connections are open as this worker takes."""

    def next_id(self) -> str:
        """Return an id that no other connection has, in this worker or any other."""

    def arrived(self, connection: Any) -> None:
        """Know a socket that was accepted."""

    def answered(self, connection: Any) -> None:
        """Know that its handshake is over, one way or the other."""

    def opened(self, connection: Any) -> None:
        """Know that its handshake succeeded; on_connect is next."""

    def ended(self, connection: Any) -> None:
        """Know that it is over; on_close is next."""

    def closed(self, connection: Any) -> None:
        """Forget it: its socket is closed and its callbacks are done. May come twice."""

    def moved(self, connection: Any) -> None:
        """Forget it: another worker has it, and on_close does not come."""

    def subscribe(self, topic: str, connection: Any) -> None:
        """Know that it wants a topic, and did not before."""

    def unsubscribe(self, topic: str, connection: Any) -> None:
        """Know that it wants a topic no more."""

    def schedule(self, connection: Any, ticks: int) -> None:
        """Call the connection's _expire in so many ticks; this replaces an earlier deadline."""

    def cancel(self, connection: Any) -> None:
        """Forget the connection's deadline."""

    def flush_later(self, connection: Any) -> None:
        """Call the connection's _flush in the next tick of the loop, and set its _active_at.

        It is for messages: what does not count as activity, such as a ping, you must flush yourself.
        """
