"""Choice: the adapter that speaks to the broker of a URL. Its library is an extra, and imported only here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from wsworker.brokers import BrokerUrl
from wsworker.bus.bus import Bus
from wsworker.bus.payload import Origin


class Settings(Protocol):
    """The section `bus` of the configuration."""

    @property
    def prefix(self) -> str:
        """What all channels begin with."""

    @property
    def max_message(self) -> int:
        """The largest body, in bytes."""

    @property
    def peer_queue(self) -> int:
        """What may wait for the broker, in bytes."""


def connect(
    loop: asyncio.AbstractEventLoop, url: BrokerUrl, origin: Origin, settings: Settings, draw: Callable[[], float]
) -> Bus:
    """Return the adapter, which has not begun to connect. draw: as for Mesh. Raises ImportError without the extra."""
    if url.kind.adapter == "nats":
        from wsworker.bus.nats import Nats

        return Nats(loop, url, origin, settings, draw)
    from wsworker.bus.redis import Redis

    return Redis(loop, url, origin, settings, draw)
