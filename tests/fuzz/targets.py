"""All targets."""

from __future__ import annotations

from typing import Final

from tests.fuzz import handshakes, hops, lives, pages, proxies, streams
from tests.fuzz.target import Target

TARGETS: Final[tuple[Target, ...]] = (
    handshakes.TARGET,
    streams.TARGET,
    lives.TARGET,
    lives.CALM,
    proxies.TARGET,
    hops.TARGET,
    pages.TARGET,
)
