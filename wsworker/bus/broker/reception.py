"""Reception: what comes from a broker, judged and handed on; the same for every adapter.

Most of it is a copy of what this node has published itself, and is dropped after a look at its head. A broker carries
for whoever may write to it: what is malformed is dropped, counted and logged, and never an exception in a read loop.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wsworker.bus.broker.payload import decode, is_from
from wsworker.bus.bus import Sink
from wsworker.bus.topics import Key
from wsworker.errors import WireError
from wsworker.notices import Notices

logger: Final = logging.getLogger("wsworker.bus")


class Reception:
    """What comes to one worker. node: names this run of the service; most: the longest body that is taken, in bytes.

    refused: how much was dropped because it was malformed or too large.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, node: str, most: int, sink: Sink) -> None:
        self._node = node.encode()
        self._most = most
        self._sink = sink
        self._notices = Notices(logger, loop.time)
        self.refused = 0

    def message(self, key: Key | None, data: bytes) -> None:
        """Take what came in the channel of a key; None for a channel that is no key's. Never raises."""
        if is_from(self._node, data):
            return
        try:
            if key is None:
                raise WireError("a channel of this name belongs to nothing")
            payload = decode(data)
            envelope = payload.envelope(key)
        except WireError as error:
            self._refuse(error)
            return
        if len(envelope.body) > self._most:
            # another machine has another bus.max_message; whoever wants the topic is to know
            text = "a message of %d bytes from another machine is over bus.max_message = %d; it is dropped"
            self.refused += 1
            self._notices.tell("size", text, len(envelope.body), self._most)
            self._sink.on_gap(frozenset((key,)), 1)
            return
        self._sink.on_envelope(envelope, payload.origin)

    def gap(self, data: bytes) -> None:
        """Take what came in the channel that all workers of the service hear. Never raises."""
        if is_from(self._node, data):
            # who is on this machine has it from the mesh
            return
        try:
            gap = decode(data).gap()
        except WireError as error:
            self._refuse(error)
            return
        self._sink.on_gap(gap.keys, gap.lost)

    def probe(self, data: bytes) -> int | None:
        """Take what came in this worker's own channel; return the clock in a probe, in nanoseconds, None for another.

        Whoever may write to the broker may name our node too, so the clock need not be one that was ever sent.
        """
        try:
            if not is_from(self._node, data):
                raise WireError("a probe of somebody else")
            return decode(data).clock_ns()
        except WireError as error:
            self._refuse(error)
            return None

    def _refuse(self, error: WireError) -> None:
        self.refused += 1
        self._notices.tell("refused", "what somebody has sent by the broker is dropped: %s", error.reason)
