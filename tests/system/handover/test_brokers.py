"""Two services with a broker between them, one of which reloads: nothing that is said in either is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus.nats.server import NatsServer
from tests.bus.redis import servers
from tests.system.rooms import Chat, Party

NUMBERS = 6


@pytest.fixture(params=["redis", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a broker that runs."""
    if request.param == "redis":
        with servers.valkey() as valkey:
            yield str(valkey.url)
    else:
        server = NatsServer(tmp_path)
        server.start()
        try:
            yield server.url
        finally:
            server.kill()


@pytest.mark.timeout(120)
def test_one_of_two_services_reloads(url: str) -> None:
    """Everybody in a room hears each number of everybody in it, once and in order, and no gap is told."""
    with Chat(2, url) as one, Chat(2, url) as other:
        asyncio.run(_reloaded(one.start(), other.start()))
        for service in (one, other):
            assert "may be missing" not in service.log


async def _reloaded(*services: Chat) -> None:
    async with Party(services, guests=250) as party:
        talking = asyncio.create_task(party.talk(NUMBERS))
        outcome = await asyncio.to_thread(services[0].cli, "reload", "--json")
        assert 0 == outcome.code, outcome
        document = outcome.document()
        assert not talking.done(), "it was talked meanwhile"
        await talking
        await party.settle()
        assert 250 * NUMBERS == party.said()
        assert [] == party.lost()
        assert 0 == party.gaps()
        assert set() == party.left()
    assert (125, {}) == (document["moved"], document["drained"])
