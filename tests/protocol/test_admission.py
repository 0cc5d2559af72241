"""Admission: every condition has its answer, and the conditions have an order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from wsworker.protocol.admission import Admitted, Facts, Origins, Plain, Policy, Refusal, check, is_handshake

GOOD = {
    "Host": "localhost:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
OPEN = Policy("same-origin", ())
FREE = Facts(full=False, draining=False, crowded=False, retry_after=3)
LEAVING = Facts(full=True, draining=True, crowded=True, retry_after=3)


def request_with(
    *more: tuple[str, str],
    path: str = "/",
    method: str = "GET",
    protocol: str = "HTTP/1.1",
    **changed: str | None,
) -> Request:
    """Return a good handshake with some headers changed (None: left out; _ for -) and more added."""
    changes = {name.replace("_", "-"): value for name, value in changed.items()}
    fields = [(name, value) for name, value in (GOOD | changes).items() if value is not None]
    return Request(path, Headers([*fields, *more]), method, protocol)


def refusal(request: Request, policy: Policy = OPEN, facts: Facts = FREE) -> Refusal:
    """Return the refusal of a request that is refused, and check what holds for all of them."""
    verdict = check(request, policy, facts)
    assert isinstance(verdict, Refusal)
    assert verdict.body.endswith(".\n")
    assert verdict.log.startswith("refused ")
    assert "\n" not in verdict.log
    return verdict


@pytest.mark.parametrize(
    ("request_", "policy", "facts", "reason"),
    [
        (request_with(Sec_WebSocket_Key=None), OPEN, FREE, "bad_request"),
        (request_with(("Origin", "http://a"), ("Origin", "http://a")), OPEN, FREE, "bad_request"),
        (request_with(Upgrade=None), OPEN, FREE, "plain_http"),
        (request_with(Upgrade=None, method="POST"), replace(OPEN, has_site=True), FREE, "plain_http"),
        (request_with(), replace(OPEN, hosts=("a.example",)), FREE, "host"),
        (request_with(Host=None), OPEN, FREE, "bad_request"),
        (request_with(Origin="http://evil.example"), OPEN, FREE, "origin"),
        (request_with(Origin="http://evil.example"), replace(OPEN, origins=("http://a",)), FREE, "origin"),
        (request_with(), OPEN, replace(FREE, draining=True), "draining"),
        (request_with(), OPEN, replace(FREE, full=True), "full"),
        (request_with(), OPEN, replace(FREE, crowded=True), "rate"),
    ],
)
def test_every_refusal_has_its_reason(request_: Request, policy: Policy, facts: Facts, reason: str) -> None:
    """One of a few words, under which it is counted."""
    assert reason == refusal(request_, policy, facts).reason


DEFECTS = {
    "no Host": (request_with(Host=None), 400, {}),
    "two Hosts": (request_with(("Host", "a")), 400, {}),
    "plain": (request_with(Upgrade=None), 426, {"Upgrade": "websocket"}),
    "plain post": (request_with(Upgrade=None, method="POST"), 426, {"Upgrade": "websocket"}),
    "plain 1.0": (request_with(Upgrade=None, protocol="HTTP/1.0"), 426, {"Upgrade": "websocket"}),
    "h2c": (request_with(Upgrade="h2c"), 426, {"Upgrade": "websocket"}),
    "two upgrades": (request_with(("Upgrade", "websocket")), 426, {"Upgrade": "websocket"}),
    "post": (request_with(method="POST"), 405, {"Allow": "GET"}),
    "lower-case get": (request_with(method="get"), 405, {"Allow": "GET"}),
    "1.0": (request_with(protocol="HTTP/1.0"), 505, {}),
    "two versions": (request_with(("Sec-WebSocket-Version", "13")), 400, {}),
    "no upgrade token": (request_with(Connection="keep-alive"), 426, {"Upgrade": "websocket"}),
    "no Connection": (request_with(Connection=None), 426, {"Upgrade": "websocket"}),
    "token within a word": (request_with(Connection="x-upgrade"), 426, {"Upgrade": "websocket"}),
    "no key": (request_with(Sec_WebSocket_Key=None), 400, {}),
    "another header's key": (request_with(Sec_WebSocket_Key=None, X_Sec_WebSocket_Key="x"), 400, {}),
    "two keys": (request_with(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")), 400, {}),
    "short key": (request_with(Sec_WebSocket_Key="dGhlIHNhbXBsZQ=="), 400, {}),
    "long key": (request_with(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZSE="), 400, {}),
    "strange key": (request_with(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j!!=="), 400, {}),
    "two Origins": (request_with(("Origin", "http://a"), ("Origin", "http://a")), 400, {}),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(name: str) -> None:
    """A table of handshake defects and their answers."""
    request, status, headers = DEFECTS[name]
    found = refusal(request)
    assert (status, headers) == (found.status, found.headers)


@pytest.mark.parametrize("version", [None, "0", "7", "8", "12", "14", "13, 8", "013", ""])
def test_versions(version: str | None) -> None:
    """Any version but 13 is told the right one; before RFC 6455 there was none."""
    found = refusal(request_with(Sec_WebSocket_Version=version))
    assert found.status == 426
    assert found.headers == {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize(
    "request_",
    [
        request_with(Connection="keep-alive, Upgrade"),
        request_with(("Connection", "UPGRADE"), Connection="keep-alive"),
        request_with(Upgrade="WebSocket"),
        request_with(Origin=None),
        request_with(Host="", Origin=None),
    ],
)
def test_admitted(request_: Request) -> None:
    """Lists, casing and the lack of an Origin are fine, and ServerProtocol agrees."""
    assert Admitted(None) == check(request_, OPEN, FREE)
    assert ServerProtocol().accept(request_).status_code == 101


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "Upgrade, a;a"),
        ("Sec-WebSocket-Protocol", "a b"),
        ("Sec-WebSocket-Protocol", ",,"),
        ("Sec-WebSocket-Extensions", ";;"),
        ("Sec-WebSocket-Extensions", 'permessage-deflate; x="'),
    ],
)
def test_lists_that_are_none(name: str, value: str) -> None:
    """What ServerProtocol would refuse when it makes the 101 is refused before user code is asked."""
    refused = refusal(request_with(**{name.replace("-", "_"): value}))
    assert (400, True) == (refused.status, name in refused.body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Protocol", "a, b"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, x"),
    ],
)
def test_lists(name: str, value: str) -> None:
    """Lists as browsers write them are admitted."""
    assert isinstance(check(request_with(**{name.replace("-", "_"): value}), OPEN, FREE), Admitted)


def test_plain_http_is_told_what_this_is() -> None:
    """A person with curl reads that this is a WebSocket server and how to connect."""
    body = refusal(request_with(Upgrade=None)).body
    assert "This is a WebSocket server" in body
    assert "new WebSocket(" in body


def test_order() -> None:
    """Of several defects the first of the table is answered; each one repaired uncovers the next."""
    broken: dict[str, str | None] = {
        "Host": None,
        "Upgrade": None,
        "method": "POST",
        "protocol": "HTTP/1.0",
        "Sec_WebSocket_Version": "8",
        "Connection": "close",
        "Sec_WebSocket_Key": "x",
    }
    policy, origin = Policy("same-origin", ()), ("Origin", "http://evil.example")
    busy = Facts(full=True, draining=False, crowded=True, retry_after=1)
    seen = []
    while broken:
        seen.append(refusal(request_with(origin, **broken), policy, busy).status)  # type: ignore[arg-type]
        del broken[next(iter(broken))]
    assert seen == [400, 426, 405, 505, 426, 426, 400]
    assert refusal(request_with(origin), policy, busy).status == 503
    assert refusal(request_with(origin), policy, replace(busy, full=False)).status == 429
    assert refusal(request_with(origin), policy, FREE).status == 403


@pytest.mark.parametrize(
    ("full", "draining", "crowded", "status", "word"),
    [
        (True, False, False, 503, "no place"),
        (False, True, False, 503, "shutting down"),
        (True, True, True, 503, "shutting down"),
        (False, False, True, 429, "Too many handshakes"),
    ],
)
def test_capacity(full: bool, draining: bool, crowded: bool, status: int, word: str) -> None:
    """A full or leaving worker, and one that is asked too often, says when to come back."""
    found = refusal(request_with(), facts=Facts(full, draining, crowded, retry_after=4))
    assert (found.status, found.headers) == (status, {"Retry-After": "4"})
    assert word in found.body
    assert crowded == ("websocket.rate_handshakes" in found.log) or draining


# Plain HTTP


def plain(path: str = "/", **changed: str | None) -> Request:
    """Return a request of plain HTTP: a good handshake without its Upgrade."""
    return request_with(path=path, Upgrade=None, **changed)  # type: ignore[arg-type]


HEALTHY = Policy("same-origin", (), hosts=("example.org",), health="/healthz")
SERVING = Policy("same-origin", (), has_site=True)


@pytest.mark.parametrize(
    "request_",
    [
        plain("/healthz"),
        plain("/healthz?from=balancer", method="HEAD"),
        plain("/healthz", Host="10.0.0.7:2346"),
        plain("/healthz", Host=None, protocol="HTTP/1.0"),
        request_with(path="/healthz", Upgrade="h2c"),
    ],
)
def test_health(request_: Request) -> None:
    """A health check is let through at any time, whatever it calls us; in HTTP/1.0 it need not call us at all."""
    assert Plain("health") == check(request_, HEALTHY, FREE)
    assert Plain("health") == check(request_, HEALTHY, LEAVING)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (plain("/healthz/"), 426),
        (plain("/HEALTHZ"), 426),
        (plain("/%68ealthz"), 426),
        (plain("http://example.org/healthz"), 426),
        (plain("/healthz", method="POST"), 405),
        (plain("/healthz", Host=None), 400),
        (request_with(("Host", "b"), path="/healthz", Upgrade=None), 400),
        (request_with(("Host", "b"), path="/healthz", Upgrade=None, protocol="HTTP/1.0"), 400),
        (request_with(path="/healthz", Host="elsewhere.example"), 403),
    ],
)
def test_what_is_no_health_check(request_: Request, status: int) -> None:
    """The path is compared as it was sent, and a handshake on it is a handshake."""
    policy = replace(HEALTHY, hosts=("example.org", "localhost"))
    assert status == refusal(request_, policy).status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_files(method: str) -> None:
    """With a folder of files all plain HTTP is about them, also while there is no place for a WebSocket."""
    assert Plain("file") == check(plain("/x.js", method=method), SERVING, LEAVING)
    assert Plain("file") == check(request_with(path="/x.js", Upgrade="h2c", method=method), SERVING, FREE)
    assert Admitted(None) == check(request_with(path="/x.js"), SERVING, FREE)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_files_are_only_read(method: str) -> None:
    """Any other method is told which ones there are."""
    found = refusal(plain("/x.js", method=method), SERVING)
    assert (405, {"Allow": "GET, HEAD"}) == (found.status, found.headers)


def test_is_handshake() -> None:
    """Whoever asks for a WebSocket is one, also with a defect; any other Upgrade is plain HTTP."""
    assert is_handshake(request_with(Upgrade="WebSocket", Host=None, Sec_WebSocket_Key=None))
    assert not is_handshake(request_with(Upgrade=None))
    assert not is_handshake(request_with(Upgrade="h2c"))
    assert not is_handshake(request_with(("Upgrade", "websocket")))


# The Host


@pytest.mark.parametrize(
    ("host", "allowed", "answered"),
    [
        ("elsewhere.example", (), True),
        ("example.org", ("example.org",), True),
        ("Example.ORG", ("example.org",), True),
        ("example.org:2346", ("example.org",), True),
        ("example.org:2346", ("a.example", "example.org:2346"), True),
        ("example.org:2347", ("example.org:2346",), False),
        ("example.org", ("example.org:2346",), False),
        ("example.org", ("example.org:80",), True),
        ("example.org", ("example.org:443",), True),
        ("example.org:80", ("example.org:80",), True),
        ("example.org:8080", ("example.org:80",), False),
        ("[::1]:2346", ("[::1]",), True),
        ("[::1]", ("[::1]",), True),
        ("127.0.0.1:2346", ("localhost",), False),
        ("evil.example", ("example.org",), False),
        ("example.org.evil.example", ("example.org",), False),
        ("evil.example:example.org", ("example.org",), False),
        ("example.org:evil.example", ("example.org",), False),
        ("example.org@evil.example:80", ("example.org",), False),
        ("example.org, evil.example", ("example.org",), False),
        ("", ("example.org",), False),
    ],
)
def test_hosts(host: str, allowed: tuple[str, ...], answered: bool) -> None:
    """A list of hosts holds for handshakes and plain HTTP; an entry without a port means any port."""
    policy = Policy("*", (), hosts=allowed, has_site=True)
    for request in (request_with(Host=host), plain(Host=host)):
        verdict = check(request, policy, FREE)
        assert answered == (not isinstance(verdict, Refusal))
        if isinstance(verdict, Refusal):
            assert verdict.status == 403
            assert "http.allowed_hosts" in verdict.log


# The Origin


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://LocalHost:8080", "LOCALHOST:8080", True),
        ("http://example.org", "example.org", True),
        ("https://example.org", "example.org", True),
        ("http://example.org", "example.org:80", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:443", "example.org", True),
        ("http://example.org:80", "example.org", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://[::1]", "[::1]", True),
        ("http://example.org", "example.org:443", False),
        ("https://example.org", "example.org:80", False),
        ("http://example.org:8080", "example.org", False),
        ("http://example.org", "example.org:8080", False),
        ("http://localhost:8080", "127.0.0.1:8080", False),
        ("http://example.org.evil.example", "example.org", False),
        ("http://evil.example/example.org", "example.org", False),
        ("http://example.org@evil.example", "example.org", False),
        ("http://evil.example#example.org", "example.org", False),
        ("null", "null", False),
        ("", "", False),
        ("example.org", "example.org", False),
        ("chrome-extension://abcdef", "abcdef", False),
        ("http://example.org:99999999", "example.org:99999999", True),
    ],
)
def test_same_origin(origin: str, host: str, same: bool) -> None:
    """An Origin is the same if host and port are those of Host, default ports filled in by the Origin's scheme."""
    verdict = check(request_with(Host=host, Origin=origin), OPEN, FREE)
    assert same == isinstance(verdict, Admitted)
    if isinstance(verdict, Refusal):
        assert verdict.status == 403
        assert "websocket.origins" in verdict.log


@pytest.mark.parametrize(
    ("origin", "allowed", "admitted"),
    [
        ("https://example.org", ("https://example.org",), True),
        ("https://example.org", ("http://a.example", "https://example.org:443"), True),
        ("https://example.org", ("http://example.org",), False),
        ("https://example.org:8443", ("https://example.org",), False),
        ("https://www.example.org", ("https://example.org",), False),
        ("http://localhost:8080", ("https://example.org",), False),
        ("null", ("null",), True),
        ("null", ("https://example.org",), False),
        ("chrome-extension://abc", ("chrome-extension://abc",), True),
        ("chrome-extension://abc", ("chrome-extension://abd", "null"), False),
        ("https://example.org", (), False),
        ("https://evil.example", "*", True),
        ("null", "*", True),
    ],
)
def test_listed_origins(origin: str, allowed: Origins, admitted: bool) -> None:
    """A list admits exactly its entries, null only if it is one; * admits all."""
    verdict = check(request_with(Origin=origin), Policy(allowed, ()), FREE)
    assert admitted == isinstance(verdict, Admitted)
    if isinstance(verdict, Refusal):
        assert verdict.status == 403
        assert "websocket.origins" in verdict.log


@pytest.mark.parametrize(
    ("origins", "origin", "hidden"),
    [
        ("*", "https://evil.example", True),
        ("*", "null", True),
        ("*", "http://localhost", True),
        ("*", "", True),
        ("*", "http://localhost:8080", False),
        ("*", None, False),
        ("same-origin", "http://localhost:8080", False),
        ("same-origin", None, False),
        (("https://example.org", "null"), "https://example.org", False),
        (("https://example.org", "null"), "null", False),
    ],
)
def test_cookies(origins: Origins, origin: str | None, hidden: bool) -> None:
    """Where every page may connect, cookies are for pages of the same origin and for what is no browser."""
    assert Admitted(None, hides_cookies=hidden) == check(request_with(Origin=origin), Policy(origins, ()), FREE)


@pytest.mark.parametrize("name", ["Origin", "Host"])
def test_log_escapes_the_client_text(name: str) -> None:
    """Neither header can forge a log line, paint the terminal or fill the disk."""
    changed: dict[str, str | None] = {"Origin": "http://a", name: "x\x9b31m\xe9" + "y" * 8000}
    hosts = ("example.org",) if name == "Host" else ()
    log = refusal(request_with(**changed), Policy("same-origin", (), hosts)).log  # type: ignore[arg-type]
    assert log.isascii()
    assert log.isprintable()
    assert len(log) < 600
    assert "'..." in log


@pytest.mark.parametrize(
    ("preferred", "offered", "chosen"),
    [
        (("soap", "xmpp"), ["xmpp, soap"], "soap"),
        (("soap", "xmpp"), ["xmpp"], "xmpp"),
        (("soap",), ["a", "b,soap"], "soap"),
        (("soap",), ["SOAP"], None),
        (("soap",), ["soapy"], None),
        (("soap",), [], None),
        ((), ["soap"], None),
    ],
)
def test_subprotocol(preferred: tuple[str, ...], offered: list[str], chosen: str | None) -> None:
    """Our first one that the client offered, in exact case, else none."""
    more = [("Sec-WebSocket-Protocol", value) for value in offered]
    assert Admitted(chosen) == check(request_with(*more), Policy("*", preferred), FREE)


names = st.sampled_from([*GOOD, "Origin", "Sec-WebSocket-Protocol"])
values = st.one_of(st.sampled_from([*GOOD.values(), "", "a,b"]), st.text(st.characters(codec="latin-1"), max_size=40))


@given(
    st.lists(st.tuples(names, values)),
    st.sampled_from(["same-origin", "*", ("http://a",)]),
    st.sampled_from([(), ("localhost:8080",)]),
)
def test_never_raises(fields: list[tuple[str, str]], origins: Origins, hosts: tuple[str, ...]) -> None:
    """Whatever the headers hold, there is a verdict; a refusal has a status of the table."""
    headers = Headers()
    for name, value in fields:
        headers.set_insecure(name, value)
    verdict = check(Request("/", headers), Policy(origins, ("a",), hosts), FREE)
    if isinstance(verdict, Refusal):
        assert verdict.status in (400, 403, 426)
