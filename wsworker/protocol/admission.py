"""Admission: the verdict on a complete, well-formed handshake request, from facts that are passed in.

check() runs down the conditions in the order in which a refusal is most useful to the one refused: first what tells
plain HTTP from a handshake, then the defects of a handshake, then our own state, then policy. The defects come before
"full", because a client with a defect need not come back.

What a response says is for a person at the other end of curl or a proxy. A browser page sees none of it: it gets close
code 1006, whatever the status. So a refusal by policy is also worth a line in our log, which names the setting.

Origin is what keeps a foreign page from using a visitor's cookies (cross-site WebSocket hijacking, CWE-1385), because
the same-origin policy of browsers does not cover WebSockets. A client that sends no Origin is no browser and could send
any; it is let in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from websockets import http11

from wsworker.protocol.request import list_items

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes of base64
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@]+)")
_PORT = re.compile(r"(.+):([0-9]{1,5})")
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_MAX_LOGGED_CHARACTERS = 200


Origins: TypeAlias = Literal["same-origin", "*"] | tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """What the configuration says.

    origins: "same-origin", "*" or a tuple of origins, scheme://host[:port] or null; subprotocols: in order of
    preference.
    """

    origins: Origins
    subprotocols: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """How things stand at this moment; retry_after: seconds, the caller adds the jitter."""

    full: bool
    draining: bool
    retry_after: int


@dataclass(frozen=True)
class Admitted:
    """The client may come in; subprotocol: the one to answer with, None if there is none in common."""

    subprotocol: str | None


@dataclass(frozen=True)
class Refusal:
    """The client may not come in: answer with this and close. log: one line for the operator, client text escaped."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    log: str = ""


def check(request: http11.Request, policy: Policy, facts: Facts) -> Admitted | Refusal:
    """Return the verdict on a request; never raises.

    request: as ServerProtocol parsed it. A refusal's headers leave out those that frame the response.
    Source: RFC 6455 sections 4.2.1, 4.4 and 10.2; RFC 9110 sections 7.2, 15.5.6, 15.5.22 and 15.6.6.
    """
    refusal = (
        _host_refused(request)
        or _not_a_handshake(request)
        or _version_refused(request)
        or _connection_refused(request)
        or _key_refused(request)
        or _capacity_refused(facts)
        or _origin_refused(request, policy.origins)
    )
    return refusal or Admitted(_choose_subprotocol(request, policy.subprotocols))


def _host_refused(request: http11.Request) -> Refusal | None:
    if len(request.headers.get_all("Host")) == 1:
        return None
    return _refusal(400, "A request must hold exactly one Host header.")


def _not_a_handshake(request: http11.Request) -> Refusal | None:
    upgrade = list_items(request.headers.get_all("Upgrade"))
    if [item.lower() for item in upgrade] != ["websocket"]:
        return _refusal(
            426,
            "This is a WebSocket server; it does not answer plain HTTP. Connect with a WebSocket client,"
            ' in a browser: new WebSocket("ws://host:port/").',
            Upgrade="websocket",
        )
    if request.method != "GET":
        return _refusal(405, "A WebSocket handshake is a GET request.", Allow="GET")
    if request.protocol != "HTTP/1.1":
        return _refusal(505, "A WebSocket handshake needs HTTP/1.1; a proxy in between may speak HTTP/1.0 only.")
    return None


def _version_refused(request: http11.Request) -> Refusal | None:
    versions = request.headers.get_all("Sec-WebSocket-Version")
    if len(versions) > 1:
        return _refusal(400, "Sec-WebSocket-Version must not be repeated.")
    if versions == ["13"]:
        return None
    return _refusal(
        426,
        "This server speaks version 13 of the WebSocket protocol (RFC 6455); Sec-WebSocket-Version must say so.",
        **{"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    )


def _connection_refused(request: http11.Request) -> Refusal | None:
    # a list and any case: Firefox sends "keep-alive, Upgrade"
    options = list_items(request.headers.get_all("Connection"))
    if "upgrade" in (option.lower() for option in options):
        return None
    return _refusal(
        426,
        "The Connection header must hold Upgrade; a proxy in between may have removed it.",
        Upgrade="websocket",
    )


def _key_refused(request: http11.Request) -> Refusal | None:
    keys = request.headers.get_all("Sec-WebSocket-Key")
    if len(keys) == 1 and _KEY.fullmatch(keys[0]):
        return None
    return _refusal(400, "A handshake must hold one Sec-WebSocket-Key, 16 bytes in base64.")


def _capacity_refused(facts: Facts) -> Refusal | None:
    if facts.draining:
        reason = "This worker is shutting down; connect again."
    elif facts.full:
        reason = "This worker has no place for another connection; try again later."
    else:
        return None
    return _refusal(503, reason, **{"Retry-After": str(facts.retry_after)})


def _origin_refused(request: http11.Request, allowed: Origins) -> Refusal | None:
    origins = request.headers.get_all("Origin")
    if not origins:
        return None
    if len(origins) > 1:
        return _refusal(400, "The Origin header must not be repeated.")
    origin, host = origins[0], request.headers["Host"]
    if allowed == "*":
        return None
    if allowed == "same-origin":
        if _same_origin(origin, host):
            return None
        log = f"refused Origin {_shown(origin)} for Host {_shown(host)}: not the same origin"
    else:
        if _listed(origin, allowed):
            return None
        log = f"refused Origin {_shown(origin)}: not in the list"
    body = "Pages of this Origin may not connect.\n"
    return Refusal(403, {}, body, f"{log}; to let its pages in, add it to websocket.origins")


def _choose_subprotocol(request: http11.Request, preferred: tuple[str, ...]) -> str | None:
    offered = list_items(request.headers.get_all("Sec-WebSocket-Protocol"))
    return next((subprotocol for subprotocol in preferred if subprotocol in offered), None)


def _same_origin(origin: str, host: str) -> bool:
    """Tell whether a page's origin and the Host header name the same host and port.

    The scheme is not compared: behind a proxy that ends TLS we could not know ours.
    """
    parts = _parts_of(origin)
    if parts is None:
        return False
    scheme, name, port = parts
    return (name, port) == _place_of(host, _DEFAULT_PORTS[scheme])


def _listed(origin: str, allowed: tuple[str, ...]) -> bool:
    if origin in allowed:
        return True
    # once more with default ports filled in: a browser never writes :443, a config file may
    parts = _parts_of(origin)
    return parts is not None and parts in [_parts_of(entry) for entry in allowed]


def _parts_of(origin: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an origin, the port filled in; None for null and for schemes without a port."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or match[1] not in _DEFAULT_PORTS:
        return None
    return match[1], *_place_of(match[2], _DEFAULT_PORTS[match[1]])


def _place_of(authority: str, default_port: int) -> tuple[str, int]:
    # "[::1]" ends in a bracket, so its colons are never taken for the one before a port
    match = _PORT.fullmatch(authority.lower())
    return (match[1], int(match[2])) if match else (authority.lower(), default_port)


def _refusal(status: int, reason: str, **headers: str) -> Refusal:
    return Refusal(status, headers, f"{reason}\n", f"refused a request with {status}: {reason}")


def _shown(text: str) -> str:
    cut = text[:_MAX_LOGGED_CHARACTERS]
    return ascii(cut) if cut == text else f"{cut!a}..."
