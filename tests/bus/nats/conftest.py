"""Servers that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bus.nats.server import NatsServer, Servers


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Return what starts servers; they end with the test."""
    started: list[NatsServer] = []

    def start(**settings: Any) -> NatsServer:
        server = NatsServer(tmp_path, **settings)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()
