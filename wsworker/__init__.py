"""wsworker: a WebSocket worker daemon for Linux.

What a user's module may want to name stands here: Connection, Worker and Request for annotations, Reject to refuse a
client in on_handshake, CloseCode for close(). Each is loaded at first use, so that `wsworker status`, which needs none
of them, does not pay for the event loop and the protocol.
"""

from __future__ import annotations

import importlib

# not from typing: a Ctrl-C during its import would show a traceback, as wsworker/__main__.py comes after this file
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from wsworker.errors import Reject as Reject
    from wsworker.protocol.frames import CloseCode as CloseCode
    from wsworker.protocol.request import Request as Request
    from wsworker.worker.connection import Connection as Connection
    from wsworker.worker.hub import Worker as Worker

_HOMES = {
    "CloseCode": "wsworker.protocol.frames",
    "Connection": "wsworker.worker.connection",
    "Reject": "wsworker.errors",
    "Request": "wsworker.protocol.request",
    "Worker": "wsworker.worker.hub",
}

__all__ = ["CloseCode", "Connection", "Reject", "Request", "Worker"]


def __getattr__(name: str) -> Any:
    """Load a public name at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wsworker' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
