"""What a real service shows of its broker: status, metrics and health checks, with nobody there and with a real one."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bus.redis.servers import valkey
from tests.ports import free_port
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.test_admin import Operator
from tests.test_json import TABLES, faults

APP = """
def on_message(connection, data):
    connection.subscribe("news")
    connection.worker.publish("news", data)
"""


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port that nobody listens at, nor will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_broker_that_is_not_there(make_daemon: MakeDaemon, closed_port: int) -> None:
    """The service serves, and is ready; everything that shows it says so, and nothing says the password."""
    operator = Operator(f"127.0.0.1:{free_port()}")
    bus = {"url": f"redis://tom:sesame@127.0.0.1:{closed_port}"}
    daemon = make_daemon(APP, workers=2, bus=bus, admin={"listen": operator.address})
    shown = f"redis://127.0.0.1:{closed_port}"
    daemon.start()
    status = daemon.wait_status(lambda status: [row["bus_connected"] for row in status["workers"]] == [False, False])
    assert {"url": shown, "connected": 0, "lag": None} == status["bus"]
    assert [] == [*faults(status, TABLES["status"])]
    assert "ready: 2 of 2 workers\n" == operator.until("/readyz", 200)
    with daemon.connect() as client:
        client.send("tom")
        assert "tom" == client.recv(10)
    daemon.wait_status(lambda status: status["totals"]["bus_dropped"] == 1)
    said = daemon.cli("status", "--wide")
    lines = said.out.splitlines()
    assert f"bus {shown}  reached by 0 of 2 workers  1 dropped" == lines[2]
    assert ["down", "down"] == [line.split()[-3] for line in lines[-2:]]
    samples = operator.samples()
    connected = {labels: value for (name, labels), value in samples.items() if name == "wsworker_bus_connected"}
    assert [0.0, 0.0] == [*connected.values()]
    assert 1 == operator.sum("bus_dropped_total", adapter="broker", cause="down")
    page = json.loads(operator.get("/status.json")[1])
    assert status["bus"] == page["bus"]
    for text in (said.out, daemon.cli("status", "--json").out, json.dumps(page), operator.get("/metrics")[1]):
        assert "sesame" not in text
        assert "tom" not in text.replace(daemon.name, "")
    assert "sesame" not in daemon.log


def reached(daemon: Daemon, count: int) -> dict[str, Any]:
    """Wait until so many workers reach the broker, all that know of it agree, and return the document."""
    status = daemon.wait_status(lambda status: status["bus"]["connected"] == count)
    assert [] == [*faults(status, TABLES["status"])]
    return status


def test_a_broker_that_goes_and_comes_again(make_daemon: MakeDaemon) -> None:
    """The service is ready all the time; who reaches the broker, what was lost, and what came back is shown."""
    operator = Operator(f"127.0.0.1:{free_port()}")
    with valkey(password="sesame") as server:
        daemon = make_daemon(APP, workers=2, bus={"url": f"redis://:sesame@127.0.0.1:{server.port}"})
        daemon.write_config(admin={"listen": operator.address})
        daemon.start()
        status = reached(daemon, 2)
        assert [True, True] == [row["bus_connected"] for row in status["workers"]]
        daemon.wait_status(lambda status: status["bus"]["lag"])
        line = daemon.cli("status").out.splitlines()[2]
        assert re.fullmatch(rf"bus redis://127.0.0.1:{server.port}  reached by 2 of 2 workers  lag [0-9.]+ ms", line)
        with daemon.connect() as client:
            client.send("one")
            assert "one" == client.recv(10)
            daemon.wait_status(lambda status: status["totals"]["bus_sent"] == 1)
            assert [1, 0] == [operator.sum("bus_sent_total", adapter=adapter) for adapter in ("broker", "mesh")]
            assert 2 == operator.sum("bus_connected")
            server.kill()
            status = reached(daemon, 0)
            assert ("running", None) == (status["state"], status["bus"]["lag"])
            assert 0 == operator.sum("bus_connected")
            assert "ready: 2 of 2 workers\n" == operator.until("/readyz", 200)
            client.send("two")
            assert "two" == client.recv(10)
            daemon.wait_status(lambda status: status["totals"]["bus_dropped"] == 1)
            server.start()
            reached(daemon, 2)
            # the worker with the client has a subscription, and so a gap
            totals = daemon.wait_status(lambda status: status["totals"]["bus_gaps"] >= 1)["totals"]
            assert (2, 1) == (totals["bus_reconnects"], totals["bus_dropped"])
        assert 2 == operator.sum("bus_reconnects_total", adapter="broker")
        daemon.wait_status(lambda status: status["bus"]["lag"])
        assert " lag " in daemon.cli("status").out.splitlines()[2]
        assert daemon.cli("status").out.splitlines()[2].endswith("  1 dropped")
