"""Choice: the adapter that speaks to the broker of a URL. Its library is an extra, and loaded only where it is used."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping
from typing import Final

from wsworker.brokers import Adapter, BrokerUrl
from wsworker.bus.bus import Bus, Settings
from wsworker.bus.topics import Origin

_MODULES: Final[Mapping[Adapter, str]] = {"redis": "wsworker.bus.redis.adapter", "nats": "wsworker.bus.nats.adapter"}


def load(url: BrokerUrl) -> None:
    """Load the library, before user code can put a module of the same name in its place. ImportError without it."""
    importlib.import_module(_MODULES[url.kind.adapter])


def connect(
    loop: asyncio.AbstractEventLoop, url: BrokerUrl, origin: Origin, settings: Settings, draw: Callable[[], float]
) -> Bus:
    """Return the adapter, which has not begun to connect. draw: as for Mesh. Raises ImportError without the extra."""
    if url.kind.adapter == "nats":
        from wsworker.bus.nats.adapter import Nats

        return Nats(loop, url, origin, settings, draw)
    from wsworker.bus.redis.adapter import Redis

    return Redis(loop, url, origin, settings, draw)
