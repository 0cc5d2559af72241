"""The admin endpoints of a real service: metrics that go on over deaths, and health checks that tell the truth."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.ports import free_port
from tests.system.conftest import MakeDaemon
from tests.system.daemon import WHO, Daemon, eventually

Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]

ORDERS = """
import time

def on_message(connection, data):
    if data == "raise":
        raise ValueError(data)
    if data == "sleep":
        print("asleep", flush=True)
        time.sleep(600)
    connection.send(data)
"""
PATIENT_SECONDS = 20.0


class Unix(http.client.HTTPConnection):
    """HTTP through a unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENT_SECONDS)
        self.sock.connect(self.host)


class Operator:
    """Who asks a service. address: as in admin.listen."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and body."""
        if self.address.startswith("unix:"):
            connection: http.client.HTTPConnection = Unix(self.address.removeprefix("unix:"))
        else:
            connection = http.client.HTTPConnection(self.address, timeout=PATIENT_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def samples(self) -> Samples:
        """Return all metrics."""
        status, text = self.get("/metrics")
        assert 200 == status, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(text)
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels. name: without the prefix."""
        found = [
            value
            for (key, has), value in self.samples().items()
            if key == f"wsworker_{name}" and labels.items() <= dict(has).items()
        ]
        assert found, name
        return sum(found)

    def until(self, path: str, status: int) -> str:
        """Wait for a status and return its body."""

        def body() -> str:
            found, text = self.get(path)
            return text if found == status else ""

        return eventually(body, f"{path} {status}")


Make: TypeAlias = Callable[..., tuple[Daemon, Operator]]


@pytest.fixture
def make(make_daemon: MakeDaemon) -> Make:
    """Return a function that makes a service with admin endpoints on a free port; the test has to start() it."""

    def made(app: str = ORDERS, min_ready: int = 1, **settings: object) -> tuple[Daemon, Operator]:
        address = f"127.0.0.1:{free_port()}"
        daemon = make_daemon(app, admin={"listen": address, "min_ready": min_ready}, **settings)
        return daemon, Operator(address)

    return made


def counters(samples: Samples) -> Samples:
    """Return those that must never go back."""
    return {key: value for key, value in samples.items() if key[0].endswith(("_total", "_bucket", "_count"))}


def test_metrics_agree_with_status(make: Make) -> None:
    """After all kinds of traffic, in both formats; every rejection has a reason, every exception its callback."""
    daemon, operator = make(workers=2)
    daemon.start()
    for text in ("one", "two"):
        with daemon.connect() as client:
            client.send(text)
            assert text == client.recv()
    with daemon.connect() as client:
        client.send("raise")
        with pytest.raises(ConnectionClosedError, match="1011"):
            client.recv()
    with pytest.raises(InvalidStatus, match="403"):
        daemon.connect(origin="https://evil.example")
    # each worker tells what it has counted once a second, word by word: each count is waited for
    counted = {"accepted": 3, "rejected": 1, "messages_in": 3, "messages_out": 2}
    daemon.wait_status(lambda status: counted.items() <= status["totals"].items())
    eventually(lambda: operator.sum("connections_closed_total") == 3, "three closes")
    eventually(lambda: operator.sum("callback_seconds_count", kind="sync") == 3, "three calls")
    assert 3 == operator.sum("messages_received_total")
    assert 2 == operator.sum("messages_sent_total")
    assert 1 == operator.sum("handshakes_rejected_total", reason="origin") == operator.sum("handshakes_rejected_total")
    assert 1 == operator.sum("callback_errors_total", callback="on_message")
    assert 2 == operator.sum("connections_closed_total", code="1000")
    assert 1 == operator.sum("connections_closed_total", code="1011")
    assert 3 == operator.sum("callback_seconds_count", kind="sync") == operator.sum("handshake_seconds_count")
    eventually(lambda: operator.sum("workers", state="ready") == 2, "it is posted on the board")
    assert 2 == operator.sum("workers_configured")
    status, text = operator.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert 200 == status
    assert len(list(parse_open(text))) > 30  # type: ignore[no-untyped-call]
    document = json.loads(operator.get("/status.json")[1])
    assert daemon.status().keys() == document.keys()
    assert daemon.workers == [worker["pid"] for worker in document["workers"]]


def test_counters_never_go_back_when_a_worker_is_killed(make: Make) -> None:
    """Seen from the outside, sample by sample, from before the death until its successor serves; nor does a reload."""
    daemon, operator = make(WHO, workers=2)
    daemon.start()
    victim = daemon.workers[0]
    with daemon.connect_to(victim):
        eventually(lambda: operator.sum("connections_opened_total", slot="1") >= 1, "the beat after the handshake")
        before = counters(operator.samples())
        os.kill(victim, signal.SIGKILL)

        def is_replaced() -> bool:
            nonlocal before
            now = counters(operator.samples())
            lower = {key: (value, now.get(key)) for key, value in before.items() if now.get(key, -1.0) < value}
            assert not lower
            before = now
            return operator.sum("worker_restarts_total", slot="1", reason="signal") == 1

        eventually(is_replaced, "the restart")
        daemon.wait_status(lambda status: status["state"] == "running")
        is_replaced()
    assert 1 <= operator.sum("connections_closed_total", slot="1", code="1006")
    assert 0 == daemon.cli("reload").code
    is_replaced()
    eventually(lambda: operator.sum("reloads_total", result="ok") == 1, "it is posted on the board")


def test_readiness_while_the_service_stops(make: Make) -> None:
    """503 as long as a worker still says goodbye, with the reason; it goes on answering until it has left."""
    daemon, operator = make(workers=2)
    daemon.start()
    assert "ready: 2 of 2 workers\n" == operator.until("/readyz", 200)
    with socket.create_connection(("127.0.0.1", daemon.port)) as deaf:
        deaf.send(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"101" in deaf.recv(1000)
        daemon.signal(signal.SIGTERM)
        assert "not ready: the service is stopping\n" == operator.until("/readyz", 503)
        assert (200, "ok\n") == operator.get("/healthz")
        assert 1 == operator.sum("service_state", state="stopping")
        daemon.signal(signal.SIGTERM)
    assert 0 == daemon.wait_exit()
    with pytest.raises(ConnectionRefusedError):
        operator.get("/healthz")


def test_a_hung_worker_keeps_nobody_waiting(make: Make) -> None:
    """The other answers every request, and says that the service is not what it should be."""
    daemon, operator = make(workers=2, min_ready=2, worker_timeout="60s", graceful_timeout="1s")
    daemon.start()
    with daemon.connect(close_timeout=0.1) as client:
        client.send("sleep")
        # or it may accept us before that, and never answer
        eventually(lambda: "asleep" in daemon.out, "a blocked loop")
        text = operator.until("/readyz", 503)
        assert "not ready: 1 of 2 workers are ready, 2 must be (admin.min_ready)\n" == text
        began_at = time.monotonic()
        for _ in range(20):
            assert (200, "ok\n") == operator.get("/healthz")
        assert time.monotonic() - began_at < PATIENT_SECONDS
        assert 1 == operator.sum("workers", state="hung") == operator.sum("workers_ready")
        assert 1 == operator.sum("service_state", state="degraded")


def test_scaling_and_reloads_change_what_is_shown(make: Make) -> None:
    """A third slot has its own series; a new min_ready holds at once; another address needs a restart."""
    daemon, operator = make(workers=2)
    daemon.start()
    daemon.signal(signal.SIGTTIN)
    eventually(lambda: operator.sum("workers_ready") == 3, "a third worker")
    assert 0 == operator.sum("connections", slot="3")
    moved = f"127.0.0.1:{free_port()}"
    daemon.write_config(admin={"listen": moved, "min_ready": 200})
    outcome = daemon.cli("reload")
    assert 0 == outcome.code
    assert "admin.listen changed (config.yaml:" in outcome.out + outcome.err
    assert "needs a restart" in outcome.out + outcome.err
    assert "ready: 3 of 3 workers\n" == operator.until("/readyz", 200)
    with pytest.raises(ConnectionRefusedError):
        Operator(moved).get("/healthz")


def test_a_port_that_is_taken(make: Make) -> None:
    """A second service says who has it, and where the setting stands; the first goes on, each for itself."""
    daemon, operator = make()
    other, _ = make()
    daemon.start()
    other.write_config(admin={"listen": operator.address})
    outcome = other.cli("start")
    assert 1 == outcome.code
    assert f"cannot listen on {operator.address}: address in use by pid" in outcome.err
    assert "change `admin.listen` (config.yaml:" in outcome.err
    outcome.check_tone()
    address = f"127.0.0.1:{free_port()}"
    other.write_config(admin={"listen": address})
    other.start()
    assert [daemon.name, other.name] == [
        json.loads(each.get("/status.json")[1])["name"] for each in (operator, Operator(address))
    ]


@pytest.mark.parametrize("kind", ["unix", "ipv6"])
def test_other_addresses_and_another_user(make_daemon: MakeDaemon, tmp_path: Path, kind: str) -> None:
    """Opened as root, served by workers that are not; a unix socket is gone at the end."""
    address = f"unix:{tmp_path}/admin.sock" if kind == "unix" else f"[::1]:{free_port('::1')}"
    settings: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    daemon = make_daemon(WHO, admin={"listen": address}, **settings).start()
    operator = Operator(address)
    # the worker that answers reads of it on the board, where the master posts it a moment after it has said so
    eventually(lambda: 200 == operator.get("/readyz")[0], "it is ready")
    assert 200 == operator.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[0]
    assert 1 == operator.sum("workers_ready")
    daemon.signal(signal.SIGTERM)
    assert 0 == daemon.wait_exit()
    assert not (tmp_path / "admin.sock").exists()
