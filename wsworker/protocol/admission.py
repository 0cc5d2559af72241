"""Admission: the verdict on a complete, well-formed handshake request, from facts that are passed in.

check() runs down the conditions in the order in which a refusal is most useful to the one refused: first what tells
plain HTTP from a handshake, then the defects of a handshake, then our own state, then policy. The defects come before
"full", because a client with a defect need not come back.

Plain HTTP is a health check, a file of the static folder, or a mistake. The health path is looked at before the Host
is compared: who probes names an address, HAProxy in HTTP/1.0 not even that, and all there is to learn is 200 or 503.

What a response says is for a person at the other end of curl or a proxy. A browser page sees none of it: it gets close
code 1006, whatever the status. So a refusal by policy is also worth a line in our log, which names the setting.

Origin is what keeps a foreign page from using a visitor's cookies (cross-site WebSocket hijacking, CWE-1385), because
the same-origin policy of browsers does not cover WebSockets. A client that sends no Origin is no browser and could send
any; it is let in. Where every Origin may connect ("*"), the cookies are kept from the application instead, unless the
page is of the same origin. A list of hosts is what keeps out a page that comes by a name of its own, which it lets
resolve to our address (DNS rebinding): its Origin and its Host are then the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from websockets import http11
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_connection, parse_extension, parse_subprotocol

from wsworker.counters import Rejection
from wsworker.protocol.request import list_items

_LISTS: Final[Mapping[str, Callable[[str], object]]] = {
    "Connection": parse_connection,
    "Sec-WebSocket-Protocol": parse_subprotocol,
    "Sec-WebSocket-Extensions": parse_extension,
}
TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""A Sec-WebSocket-Key: 16 bytes in base64."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@]+)")
_PORT = re.compile(r"(.+):([0-9]{1,5})")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_READING = ("GET", "HEAD")
_MAX_LOGGED_CHARACTERS = 200


Origins: TypeAlias = Literal["same-origin", "*"] | tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """What the configuration says.

    origins: "same-origin", "*" or a tuple of origins, scheme://host[:port] or null; subprotocols: in order of
    preference; hosts: what a Host may be, in lower case, without a port any port of it, empty: all; health: a path, or
    None; has_site: whether files are served.
    """

    origins: Origins
    subprotocols: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    health: str | None = None
    has_site: bool = False


@dataclass(frozen=True)
class Facts:
    """How things stand at this moment.

    crowded: this client's address comes too often; retry_after: seconds, the caller adds the jitter.
    """

    full: bool
    draining: bool
    crowded: bool
    retry_after: int


@dataclass(frozen=True)
class Admitted:
    """The client may come in.

    subprotocol: the one to answer with, None if there is none in common; hides_cookies: the application must not see
    the client's cookies.
    """

    subprotocol: str | None
    hides_cookies: bool = False


@dataclass(frozen=True)
class Plain:
    """The client wants plain HTTP, by GET or HEAD: the state of the worker, or a file."""

    wants: Literal["health", "file"]


@dataclass(frozen=True)
class Refusal:
    """The client may not come in: answer with this and close.

    log: one line for the operator, client text escaped; reason: under which it is counted.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    log: str = ""
    reason: Rejection = "bad_request"


def check(request: http11.Request, policy: Policy, facts: Facts) -> Admitted | Plain | Refusal:
    """Return the verdict on a request; never raises.

    request: as ServerProtocol parsed it. A refusal's headers leave out those that frame the response.
    Source: RFC 6455 sections 4.2.1, 4.4 and 10.2; RFC 9110 sections 7.2, 15.5.6, 15.5.22 and 15.6.6.
    """
    if not is_handshake(request):
        return _health_check(request, policy) or _host_refused(request, policy.hosts) or _plain(request, policy)
    refusal = (
        _host_refused(request, policy.hosts)
        or _method_refused(request)
        or _version_refused(request)
        or _connection_refused(request)
        or _key_refused(request)
        or _lists_refused(request)
        or _capacity_refused(facts)
        or _origin_refused(request, policy.origins)
    )
    if refusal is not None:
        return refusal
    subprotocol = _choose_subprotocol(request, policy.subprotocols)
    return Admitted(subprotocol, _hides_cookies(request, policy.origins))


def is_handshake(request: http11.Request) -> bool:
    """Tell whether a client wants a WebSocket, rightly or with a defect; all else is plain HTTP."""
    return [item.lower() for item in list_items(request.headers.get_all("Upgrade"))] == ["websocket"]


def _health_check(request: http11.Request, policy: Policy) -> Plain | None:
    hosts = len(request.headers.get_all("Host"))
    names_itself = hosts == 1 or (hosts == 0 and request.protocol == "HTTP/1.0")
    if _path_of(request) == policy.health and request.method in _READING and names_itself:
        return Plain("health")
    return None


def _host_refused(request: http11.Request, allowed: tuple[str, ...]) -> Refusal | None:
    hosts = request.headers.get_all("Host")
    if len(hosts) != 1:
        return _refusal(400, "A request must hold exactly one Host header.")
    if not allowed or not _spellings(hosts[0].lower()).isdisjoint(allowed):
        return None
    log = f"refused Host {_shown(hosts[0])}: not in the list; to answer it, add it to http.allowed_hosts"
    return Refusal(403, {}, "Nothing is served here under this Host.\n", log, "host")


def _spellings(host: str) -> set[str]:
    """Return the entries of a list of hosts that admit this one: itself, with any port, with the port left out."""
    match = _PORT.fullmatch(host)
    if match:
        return {host, match[1]}
    # nobody knows here whether the client has left out 80 or 443, as a proxy in between may have ended TLS
    return {host, *(f"{host}:{port}" for port in _DEFAULT_PORTS.values())}


def _plain(request: http11.Request, policy: Policy) -> Plain | Refusal:
    if request.method not in _READING and (policy.has_site or _path_of(request) == policy.health):
        refusal = _refusal(405, "Only GET and HEAD are answered here.", Allow="GET, HEAD")
    elif policy.has_site:
        return Plain("file")
    else:
        refusal = _refusal(
            426,
            "This is a WebSocket server; it does not answer plain HTTP. Connect with a WebSocket client,"
            ' in a browser: new WebSocket("ws://host:port/").',
            Upgrade="websocket",
        )
    return replace(refusal, reason="plain_http")


def _method_refused(request: http11.Request) -> Refusal | None:
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
    if len(keys) == 1 and KEY.fullmatch(keys[0]):
        return None
    return _refusal(400, "A handshake must hold one Sec-WebSocket-Key, 16 bytes in base64.")


def _lists_refused(request: http11.Request) -> Refusal | None:
    """Refuse lists that ServerProtocol would refuse when it makes the 101: user code must not have been asked by then.

    It is its own parsers that judge. Where a list has the one item that it nearly always has, nothing can be wrong.
    """
    for name, parse in _LISTS.items():
        for value in request.headers.get_all(name):
            if not TOKEN.fullmatch(value):
                try:
                    parse(value)
                except InvalidHeaderFormat:
                    return _refusal(400, f"The {name} header is not a list as it should be.")
    return None


def _capacity_refused(facts: Facts) -> Refusal | None:
    reason: Rejection
    if facts.draining:
        reason = "draining"
        refusal = _refusal(503, "This worker is shutting down; connect again.")
    elif facts.full:
        reason = "full"
        refusal = _refusal(503, "This worker has no place for another connection; try again later.")
    elif facts.crowded:
        reason = "rate"
        refusal = _refusal(429, "Too many handshakes come from this address; try again later.")
        refusal = replace(refusal, log=f"{refusal.log} The limit is websocket.rate_handshakes.")
    else:
        return None
    return replace(refusal, headers={"Retry-After": str(facts.retry_after)}, reason=reason)


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
    return Refusal(403, {}, body, f"{log}; to let its pages in, add it to websocket.origins", "origin")


def _hides_cookies(request: http11.Request, allowed: Origins) -> bool:
    if allowed != "*":
        return False
    origin = request.headers.get("Origin")
    return origin is not None and not _same_origin(origin, request.headers["Host"])


def _choose_subprotocol(request: http11.Request, preferred: tuple[str, ...]) -> str | None:
    if not preferred:
        return None
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


def _path_of(request: http11.Request) -> str:
    return request.path.partition("?")[0]


def _place_of(authority: str, default_port: int) -> tuple[str, int]:
    # "[::1]" ends in a bracket, so its colons are never taken for the one before a port
    match = _PORT.fullmatch(authority.lower())
    return (match[1], int(match[2])) if match else (authority.lower(), default_port)


def _refusal(status: int, reason: str, **headers: str) -> Refusal:
    return Refusal(status, headers, f"{reason}\n", f"refused a request with {status}: {reason}")


def _shown(text: str) -> str:
    cut = text[:_MAX_LOGGED_CHARACTERS]
    return ascii(cut) if cut == text else f"{cut!a}..."
