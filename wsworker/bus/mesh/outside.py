"""Outside: programs that publish through this worker, and do nothing else. See client.py for their side.

Such a program has asked the master for the secret, sends MESSAGEs for topics, and is answered how many were accepted so
far, once for each turn in which some came. What it publishes is this worker's own from here on: same order, same
promises.

A worker that drains says goodbye to it and shuts its ear: what was sent before that is in the stream, and is published
and answered before the worker ends; who sends later gets an error, and knows that the message has reached nobody. So it
may send it to another worker, and a reload neither loses nor doubles anything.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from wsworker.bus.bus import Sink
from wsworker.bus.mesh.link import Link
from wsworker.bus.records import Record, Type, encode, encode_accepted
from wsworker.errors import WireError

MOST_LINKS: Final = 1024


class Outside:
    """The programs that publish through one worker. sink: publishes for them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._accepted: dict[Link, int] = {}
        self._told: dict[Link, int] = {}

    @property
    def links(self) -> Collection[Link]:
        """Those that are here."""
        return self._accepted.keys()

    def admit(self, link: Link, hello: bytes) -> None:
        """Take one in that has greeted rightly; hello: our answer. Raises WireError if there are too many."""
        if len(self._accepted) >= MOST_LINKS:
            raise WireError(f"{MOST_LINKS} programs publish here already")
        self._accepted[link] = self._told[link] = 0
        link.put(hello)
        link.write()

    def received(self, link: Link, record: Record) -> None:
        """Publish what one sends. Raises WireError for what it may not send."""
        if record.type == Type.GOODBYE:
            return
        if record.type != Type.MESSAGE or record.key.kind != "topic":
            raise WireError("a program outside may publish to topics, and nothing else")
        if not self._sink.on_outside(record.envelope):
            raise WireError("a message that cannot be published")
        self._accepted[link] += 1

    def rested(self, link: Link) -> None:
        """Tell one how many were accepted."""
        if self._accepted[link] > self._told[link]:
            self._told[link] = self._accepted[link]
            link.put(encode_accepted(self._told[link]))
            link.write()

    def ended(self, link: Link) -> bool:
        """Forget one that has left; False if it was not here."""
        self._told.pop(link, None)
        return self._accepted.pop(link, None) is not None

    def part(self) -> None:
        """Send all of them to another worker; what they have sent by now is still taken. Harmless when repeated."""
        for link in [*self._accepted]:
            link.put(encode(Type.GOODBYE))
            link.write()
            link.hear_out()
