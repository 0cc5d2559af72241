"""Road: the way from this process to one broker, which one message takes at a time. The connection is kept.

A message is sent again only if it has certainly reached nobody: the connection had ended before, or its last byte was
not taken. What was sent whole and is not answered is the caller's to judge (PublishError, `no_answer` or `timeout`), as
a second one could be a double.

So it is looked at before each message whether the server has closed the connection meanwhile. That it is gone without a
word, as when a firewall has forgotten it, cannot be seen: one that was idle for a while is made anew.

Each message has a number, and each road one that no other is likely to have, in place of a worker's: see payload.py.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Final

from wsworker import brokers
from wsworker.brokers import BrokerUrl
from wsworker.bus.broker.channels import channel
from wsworker.bus.broker.payload import Writer
from wsworker.bus.redis.slots import slot_of
from wsworker.bus.topics import Envelope, Origin
from wsworker.errors import PublishError, WireError
from wsworker.remote.link import Link
from wsworker.remote.nats import NatsLink
from wsworker.remote.redis import RedisLink
from wsworker.remote.stream import Where, clause

IDLE_SECONDS: Final = 30.0
"""Firewalls forget connections after minutes. A new one costs a few round trips."""
MAX_ATTEMPTS: Final = 5
"""Of one message: a cluster may send it on a few times while it is changed, or a connection end before it is used."""


def road_to(url: str) -> Road:
    """Return the road to a broker, of which each process has one. Raises as brokers.parse."""
    return _roads.get(url) or _roads.setdefault(url, Road(brokers.parse(url)))


class Road:
    """The way to one broker.

    homes: which server takes what, by slots of a cluster; for other brokers there is one slot, 0.
    """

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._payloads = Writer(Origin("", 1 + int.from_bytes(os.urandom(4)) % (2**32 - 1)))
        self._published = 0
        self._lock = threading.Lock()
        self._links: dict[Where, tuple[Link, float]] = {}
        self._homes: dict[int, Where] = {}

    def publish(self, prefix: str, envelope: Envelope, give_up_at: float) -> None:
        """Publish at the broker; returns when it has taken the message. give_up_at: on CLOCK_MONOTONIC.

        Raises PublishError.
        """
        if not self._lock.acquire(timeout=max(0.0, give_up_at - time.monotonic())):
            text = f"other messages of this program wait for {self._url}; this one was not sent"
            raise PublishError("timeout", text)
        try:
            self._published += 1
            self._take(prefix, envelope._replace(number=self._published), give_up_at)
        finally:
            self._lock.release()

    def let_go(self) -> None:
        """Forget the connections, which are those of another process."""
        for link, _ in self._links.values():
            link.stream.let_go()

    def close(self) -> None:
        """Close the connections."""
        while self._links:
            self._links.popitem()[1][0].stream.close()

    def _take(self, prefix: str, envelope: Envelope, give_up_at: float) -> None:
        slot = slot_of(channel(prefix, envelope.key)) if self._url.kind.cluster else 0
        at = self._homes.pop(slot, None)
        for _ in range(MAX_ATTEMPTS):
            at, link = self._link(at, give_up_at)
            try:
                moved_to = self._hand_over(link, prefix, envelope)
            except BaseException as error:
                # whatever it was, nobody knows any more what the next answer would be about
                link.stream.close()
                if isinstance(error, (OSError, WireError)):
                    continue
                raise
            self._links[at] = (link, time.monotonic())
            if moved_to is None:
                self._homes[slot] = at
                return
            at = moved_to
        text = f"{self._url} keeps ending the connection, or naming another server; the message was not sent"
        raise PublishError("no_broker", text)

    def _hand_over(self, link: Link, prefix: str, envelope: Envelope) -> Where | None:
        """Have this server publish it; returns who is to be asked instead, if anybody.

        Raises OSError or WireError if it has reached nobody; PublishError if that is so for good, or unknown.
        """
        try:
            link.send(prefix, envelope.key, self._payloads.envelope(envelope))
        except TimeoutError:
            text = f"{self._url} did not take all of the message in time; it was not sent"
            raise PublishError("timeout", text) from None
        try:
            return link.answer()
        except TimeoutError:
            code, what = "timeout", "gave no answer in time"
        except (OSError, WireError) as error:
            code, what = "no_answer", f"did not answer to the message ({clause(error)})"
        raise PublishError(code, f"{self._url} {what}; it may come through all the same")

    def _link(self, at: Where | None, give_up_at: float) -> tuple[Where, Link]:
        """Return a connection, if possible to this server, and to whom it is. Raises PublishError.

        Each server gets its share of the time, so that one that does not answer keeps nobody from the others.
        """
        places = self._places(at)
        failures: list[str] = []
        for number, where in enumerate(places):
            if (kept := self._kept(where, give_up_at)) is not None:
                return where, kept
            now = time.monotonic()
            try:
                return where, self._new_link(where, now + (give_up_at - now) / (len(places) - number), give_up_at)
            except (OSError, WireError) as error:
                failures.append(clause(error))
        why = "; ".join(dict.fromkeys(failures))
        raise PublishError("no_broker", f"{self._url} cannot be reached ({why}); the message was not sent")

    def _places(self, at: Where | None) -> list[Where]:
        places: list[Where] = [*self._url.servers] or [self._url.path]
        # each program another one
        random.shuffle(places)
        if at is not None:
            places = [at, *(place for place in places if place != at)]
        return places

    def _kept(self, where: Where, give_up_at: float) -> Link | None:
        """Return the connection to a server that was kept, if it can be used still."""
        link, used_at = self._links.pop(where, (None, 0.0))
        if link is None:
            return None
        link.stream.give_up_at = give_up_at
        if time.monotonic() < used_at + IDLE_SECONDS and link.stays():
            return link
        link.stream.close()
        return None

    def _new_link(self, where: Where, greeted_by: float, give_up_at: float) -> Link:
        kind = NatsLink if self._url.kind.adapter == "nats" else RedisLink
        link = kind(self._url, where, greeted_by)
        link.stream.give_up_at = give_up_at
        return link


_roads: dict[str, Road] = {}


def _let_go() -> None:
    """Forget, in a forked child, what is the parent's: its connections, and locks that its threads may have held."""
    for road in _roads.values():
        road.let_go()
    _roads.clear()


os.register_at_fork(after_in_child=_let_go)
