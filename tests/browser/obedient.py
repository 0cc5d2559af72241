"""The app behind the browser tests: it does what it is told, and tells what it has seen.

Orders are JSON objects, `{"close": 4001, "reason": "x"}` for example; obey() lists them. They come in three ways:
- from the page, as a text message that begins with a brace;
- from the page's URL, as a JSON list in the query, `?orders=[...]`, obeyed in on_connect;
- from the test, over a connection of its own to the path /control, see answer().

Every other message is echoed, unless the query has `quiet`. Other words of the query concern the handshake: `status`
refuses it with that status, `held` keeps it waiting until the test releases its path.

What was seen is kept by path, so each test uses paths of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from typing import Any

from wsworker import Connection, Reject, Request

LONG = 1000

seen: list[dict[str, Any]] = []
connections: dict[str, Connection] = {}
gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)


async def on_handshake(request: Request) -> None:
    """Let the client in, or not, or not yet, as its query says."""
    note(request.path, "handshake", headers=dict(request.headers), cookies=dict(request.cookies))
    if "status" in request.query:
        status = int(request.query["status"])
        raise Reject(status, {"Location": "/redirected", "WWW-Authenticate": "Bearer"}, "nobody will see this")
    if "held" in request.query:
        await gates[request.path].wait()


def on_connect(connection: Connection) -> None:
    """Obey the orders in the URL."""
    note(connection.request.path, "connect", subprotocol=connection.subprotocol)
    connections[connection.request.path] = connection
    for order in json.loads(connection.request.query.get("orders", "[]")):
        obey(connection, order)


def on_message(connection: Connection, data: str | bytes) -> None:
    """Obey, answer or echo."""
    path, query = connection.request.path, connection.request.query
    if path == "/control":
        connection.send(json.dumps(answer(json.loads(data))))
        return
    note(path, "message", **described(data))
    if isinstance(data, str) and data.startswith("{"):
        obey(connection, json.loads(data))
    elif "quiet" not in query:
        connection.send(data)


def on_close(connection: Connection, code: int, reason: str) -> None:
    """Remember how it ended."""
    note(connection.request.path, "close", code=code, reason=reason)


def on_buffer_full(connection: Connection) -> None:
    """Remember that the client does not read."""
    note(connection.request.path, "full")


def on_buffer_drain(connection: Connection) -> None:
    """Remember that it has read."""
    note(connection.request.path, "drain")


def note(path: str, what: str, **details: Any) -> None:
    """Remember a fact, for the test to ask for."""
    if path != "/control":
        seen.append({"path": path, "what": what, **details})


def described(data: str | bytes) -> dict[str, Any]:
    """Return a message as JSON can hold it: itself if it is short, bytes in hex, else its size and digest."""
    raw = data if isinstance(data, bytes) else data.encode()
    kind = "binary" if isinstance(data, bytes) else "text"
    if len(raw) > LONG:
        return {"kind": kind, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return {"kind": kind, "data": raw.hex() if isinstance(data, bytes) else data}


def obey(connection: Connection, order: dict[str, Any]) -> None:
    """Do one thing to a connection."""
    match order:
        case {"send": str(text)}:
            connection.send(text)
        case {"binary": str(digits), **rest}:
            connection.send(bytes.fromhex(digits) * rest.get("times", 1))
        case {"close": int(code), "reason": str(reason)}:
            connection.close(code, reason)
        case {"terminate": True}:
            connection.terminate()
        case {"pause": True}:
            connection.pause()
        case {"resume": True}:
            connection.resume()
        case _:
            raise ValueError(f"no such order: {order}")


def answer(question: dict[str, Any]) -> Any:
    """Do what the test asks for, and return what it is told."""
    match question:
        case {"seen": str(path)}:
            return [fact for fact in seen if fact["path"] == path]
        case {"release": str(path)}:
            gates[path].set()
        case {"path": str(path), "order": order}:
            obey(connections[path], order)
        case _:
            raise ValueError(f"no such question: {question}")
    return None
