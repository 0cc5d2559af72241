"""Publishing from outside by a broker: every worker of every service has it once, and nothing need run where one is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.bus.nats.server import NatsServer
from tests.bus.redis import servers
from tests.remote.peer import nothing_kept as nothing_kept
from tests.system.daemon import Daemon, eventually
from tests.system.puppets import APP, heard_until, knows, one_in_each, say
from wsworker import brokers, client


@pytest.fixture(params=["valkey", "nats"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Run a broker of each kind; return where."""
    if request.param == "nats":
        nats = NatsServer(tmp_path)
        nats.start()
        yield nats.url
        nats.kill()
    else:
        with servers.valkey(password="geheim") as valkey:
            yield f"redis://:geheim@127.0.0.1:{valkey.port}"


def test_every_worker_of_every_service_has_it_once(url: str, nothing_kept: None) -> None:
    """From Python and by the command, with the URL and by the settings; as text and as bytes, in order."""
    bus = {"url": url, "prefix": "chat:"}
    with ExitStack() as stack:
        daemons = [stack.enter_context(Daemon(APP, workers=2, bus=bus)).start() for _ in range(2)]
        clients = [one for daemon in daemons for one in one_in_each(daemon, stack, 2).values()]
        for one in clients:
            assert "ok news" == say(one, "sub news")
        eventually(lambda: _reaches(url, clients), "subscribed at the broker")
        # behind all that was sent to find that out
        client.publish("news", "begin", url=url, prefix="chat:")
        for one in clients:
            heard_until(one, "begin")
        expected: list[str | bytes] = []
        for number in range(50):
            client.publish("news", f"{number}", url=url, prefix="chat:")
            expected.append(f"{number}")
        asyncio.run(client.apublish("news", b"\xff", url=url, prefix="chat:"))
        name = "chat.topic.news" if url.startswith("nats") else "chat:topic:news"
        said = f"published 3 bytes as {name} at {brokers.parse(url)}\n"
        assert (0, said, "") == daemons[0].cli("publish", "--by-bus", "news", "cli")
        expected += [b"\xff", "cli", "last"]
        client.publish("news", "last", url=url, prefix="chat:")
        for one in clients:
            assert expected == [one.recv(10) for _ in expected]


def _reaches(url: str, clients: list[ClientConnection]) -> bool:
    client.publish("news", "probe", url=url, prefix="chat:")
    found = [knows(one) for one in clients]
    return all(found)
