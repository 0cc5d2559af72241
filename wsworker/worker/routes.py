"""Routes: what an admin request is answered with. For operators, on an address of its own.

    /healthz        200 from any worker that lives
    /readyz         200 while the service takes clients, else 503; the body says why, in one line
    /status.json    the document of `wsworker status --json`
    /metrics        for Prometheus; made elsewhere, as that takes a while

There is no password, and nothing here changes anything. No Host is compared, as probes name an address, and Prometheus
whatever name it was given. A page that lets its own name resolve to this address could read these answers in its
visitor's browser; that is another reason to keep the address on a private network. Pages under their own names cannot
read them, as no answer says that they may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from wsworker.protocol import plain
from wsworker.protocol.events import HttpRequest
from wsworker.protocol.plain import Answer

TEXT: Final = "text/plain; charset=utf-8"
PATHS: Final = ("/metrics", "/healthz", "/readyz", "/status.json")

Notice: TypeAlias = Mapping[str, Any]
"""What the master has posted on the board."""


def route(request: HttpRequest, notice: Notice | None, min_ready: int, now: float) -> Answer | Literal["metrics"]:
    """Answer a request. notice: None before the master has posted; min_ready: of admin; now: since the epoch."""
    is_head = request.method == "HEAD"
    path = request.path.partition("?")[0]
    if request.method not in ("GET", "HEAD"):
        return said(405, "Only GET and HEAD are answered here.", is_head, now, Allow="GET, HEAD")
    if path == "/healthz":
        return said(200, "ok", is_head, now)
    if path == "/readyz":
        lacks, text = readiness(notice, min_ready)
        return said(503 if lacks else 200, text, is_head, now)
    if path not in PATHS:
        return said(404, f"Nothing is here; there are {', '.join(PATHS)}.", is_head, now)
    if notice is None:
        return said(503, "The service is just starting.", is_head, now)
    if path == "/metrics":
        return "metrics"
    body = json.dumps(notice["status"], indent=2).encode("ascii") + b"\n"
    return plain.fresh(200, "application/json", body, is_head, now, {})


def readiness(notice: Notice | None, min_ready: int) -> tuple[bool, str]:
    """Say whether the service must not get clients now, and why it may or may not, in one line."""
    if notice is None:
        return True, "not ready: the service is just starting"
    status = notice["status"]
    configured, ready = status["workers_configured"], status["workers_ready"]
    if status["state"] == "stopping":
        return True, "not ready: the service is stopping"
    needed = min(min_ready, configured)
    if ready < needed:
        return True, f"not ready: {ready} of {configured} workers are ready, {needed} must be (admin.min_ready)"
    return False, f"ready: {ready} of {configured} workers"


def said(status: int, text: str, is_head: bool, now: float, **fields: str) -> Answer:
    """Return an answer that is one line of text. fields: further headers."""
    return plain.fresh(status, TEXT, f"{text}\n".encode(), is_head, now, fields)
