"""The answers to admin requests: paths, methods, readiness in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request

from wsworker.worker.routes import PATHS, readiness, route

NOW = 1_700_000_000.0


def notice(state: str = "running", ready: int = 4, configured: int = 4) -> dict[str, Any]:
    """Return as much of the master's notice as the routes look at."""
    return {"status": {"state": state, "workers_ready": ready, "workers_configured": configured, "name": "hello"}}


def ask(path: str, facts: dict[str, Any] | None, method: str = "GET", min_ready: int = 1) -> tuple[int, str, str]:
    """Return status, head and body of an answer."""
    answer = route(Request(path, Headers(), method=method), facts, min_ready, NOW)
    assert answer != "metrics"
    assert answer.file is None
    head = answer.head.decode()
    return int(head.split()[1]), head, answer.body.decode()


def test_health_is_life() -> None:
    """Whoever answers lives, whatever the service does, and also before the master has said anything."""
    for facts in (None, notice("stopping", 0), notice()):
        assert (200, "ok\n") == ask("/healthz", facts)[::2]


@pytest.mark.parametrize(
    ("facts", "min_ready", "lacks", "words"),
    [
        (None, 1, True, "not ready: the service is just starting"),
        (notice(), 1, False, "ready: 4 of 4 workers"),
        (notice("degraded", 3), 1, False, "ready: 3 of 4 workers"),
        (notice("degraded", 3), 3, False, "ready: 3 of 4 workers"),
        (notice("degraded", 2), 3, True, "not ready: 2 of 4 workers are ready, 3 must be (admin.min_ready)"),
        (notice("starting", 0), 1, True, "not ready: 0 of 4 workers are ready, 1 must be (admin.min_ready)"),
        (notice("reloading", 4), 4, False, "ready: 4 of 4 workers"),
        (notice(ready=4), 256, False, "ready: 4 of 4 workers"),
        (notice("stopping", 4), 1, True, "not ready: the service is stopping"),
    ],
)
def test_readiness(facts: dict[str, Any] | None, min_ready: int, lacks: bool, words: str) -> None:
    """Stopping, or too few workers; more than there are to be is asked of nobody. One line says which."""
    assert (lacks, words) == readiness(facts, min_ready)
    status, head, body = ask("/readyz", facts, min_ready=min_ready)
    assert (503 if lacks else 200, f"{words}\n") == (status, body)
    assert "Cache-Control: no-store\r\n" in head


def test_the_document_of_status() -> None:
    """It is the one that the master has posted, as JSON."""
    status, head, body = ask("/status.json", notice())
    assert (200, notice()["status"]) == (status, json.loads(body))
    assert "Content-Type: application/json\r\n" in head


def test_metrics_are_made_elsewhere() -> None:
    """Here it is only said that they are wanted; a query changes nothing."""
    for path in ("/metrics", "/metrics?name[]=x"):
        assert "metrics" == route(Request(path, Headers(), method="GET"), notice(), 1, NOW)


@pytest.mark.parametrize("path", ["/metrics", "/status.json"])
def test_before_the_first_notice(path: str) -> None:
    """There is nothing to show yet, and the client may come again."""
    assert (503, "The service is just starting.\n") == ask(path, None)[::2]


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "//metrics", "/HEALTHZ", "/../metrics"])
def test_other_paths(path: str) -> None:
    """The answer names the four that there are."""
    status, _, body = ask(path, notice())
    assert 404 == status
    assert all(path in body for path in PATHS)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_nothing_can_be_changed(method: str) -> None:
    """Only reading methods are answered, and the answer says so."""
    status, head, _ = ask("/healthz", notice(), method)
    assert 405 == status
    assert "Allow: GET, HEAD\r\n" in head


@given(st.sampled_from([*PATHS[1:], "/", "/x"]))
def test_head_is_get_without_a_body(path: str) -> None:
    """Status and length are the same."""
    full, head, body = ask(path, notice())
    bare, bare_head, nothing = ask(path, notice(), "HEAD")
    assert (full, head, "") == (bare, bare_head, nothing)
    assert f"Content-Length: {len(body.encode())}\r\n" in head


@given(st.sampled_from(PATHS[1:]))
def test_no_answer_is_for_pages(path: str) -> None:
    """A page of another origin may not read it, nobody may keep it, and the connection ends behind it."""
    _, head, _ = ask(path, notice())
    assert "access-control" not in head.lower()
    assert "Connection: close\r\n" in head
    assert "X-Content-Type-Options: nosniff\r\n" in head
