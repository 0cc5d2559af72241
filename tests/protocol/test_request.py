"""Request and Address: what callbacks read of a handshake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import http11
from websockets.datastructures import Headers
from websockets.streams import StreamReader

from wsworker.protocol.request import Address, Request, list_items

CLIENT = Address("192.0.2.7", 4321)


def request_of(target: str = "/", *headers: tuple[str, str]) -> Request:
    """Return the Request of a handshake with this target and these headers."""
    return Request(http11.Request(target, Headers(headers)).serialize(), CLIENT)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("192.0.2.7", 80), "192.0.2.7:80"),
        (Address("2001:db8::1", 80), "[2001:db8::1]:80"),
        (Address("unix", 0), "unix"),
    ],
)
def test_address_prints(address: Address, text: str) -> None:
    """An address prints as host:port, IPv6 in brackets, a unix peer as unix."""
    assert text == str(address)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", {}),
        ("/chat?", "/chat", {}),
        ("/a%20b?x=1&x=2&y=a%20b+c&z=&w", "/a%20b", {"x": "2", "y": "a b c", "z": "", "w": ""}),
        ("/?q=a?b=c", "/", {"q": "a?b=c"}),
        ("/?%ff=1", "/", {"\ufffd": "1"}),
        ("//evil.example/?a=1", "//evil.example/", {"a": "1"}),
    ],
)
def test_target(target: str, path: str, query: dict[str, str]) -> None:
    """The path stays as sent, the query is unquoted and the last of a repeated name counts."""
    request = request_of(target)
    assert path == request.path
    assert query == dict(request.query)


def test_headers() -> None:
    """Header names match in any case and repeated ones are joined; iteration gives each name once, in lower case."""
    headers = request_of("/", ("Host", "a:1"), ("X-Tag", "1"), ("x-tag", "2"), ("X-Colon", "a: b")).headers
    assert (headers["HOST"], headers["x-Tag"], headers["x-colon"]) == ("a:1", "1, 2", "a: b")
    assert list(headers) == ["host", "x-tag", "x-colon"]
    assert len(headers) == 3
    assert "X-TAG" in headers
    assert headers.get("x-none") is None
    assert repr(headers) == "{'host': 'a:1', 'x-tag': '1, 2', 'x-colon': 'a: b'}"


@pytest.mark.parametrize(
    ("values", "cookies"),
    [
        ([], {}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1", "b=2;c=3"], {"a": "1", "b": "2", "c": "3"}),
        (["a=1; a=2"], {"a": "1"}),
        (['a="x y"; b="; c='], {"a": "x y", "b": '"', "c": ""}),
        (["token=a=b=="], {"token": "a=b=="}),
        (["flag; =x; ;"], {}),
    ],
)
def test_cookies(values: list[str], cookies: dict[str, str]) -> None:
    """Cookies by name: the first of a repeated name, outer quotes removed, nonsense left out."""
    assert cookies == dict(request_of("/", *(("Cookie", value) for value in values)).cookies)


def test_subprotocols() -> None:
    """The offer is read over repeated headers, in the client's order, with its casing."""
    request = request_of("/", ("Sec-WebSocket-Protocol", "b, A"), ("Sec-WebSocket-Protocol", "a"))
    assert request.subprotocols == ("b", "A", "a")
    assert request_of().subprotocols == ()


def test_mappings_are_read_only() -> None:
    """What the client asked for cannot be changed, and is parsed once."""
    request = request_of("/?a=1", ("Cookie", "a=1"))
    for mapping in (request.query, request.headers, request.cookies):
        with pytest.raises(TypeError):
            mapping["a"] = "2"  # type: ignore[index]
    assert request.headers is request.headers


def test_prints() -> None:
    """A request in a log line says what was asked for and by whom."""
    assert repr(request_of("/chat?secret=1")) == "<Request /chat from 192.0.2.7:4321>"
    assert request_of().remote == CLIENT


def test_list_items() -> None:
    """Empty items and surrounding blanks fall away; 16 KiB of commas are no work."""
    assert list_items([" a ,, b c", "", ",d\t"]) == ("a", "b c", "d")
    assert list_items([", " * 8192]) == ()


@given(st.lists(st.tuples(st.from_regex(r"\A[a-zA-Z-]{1,8}\Z"), st.text(st.characters(codec="latin-1")))), st.text())
def test_reading_never_fails(fields: list[tuple[str, str]], target: str) -> None:
    """Whatever head websockets lets through, every part of it can be read."""
    reader = StreamReader()
    lines = [f"GET /{target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    head = "\r\n".join(lines).encode().partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    reader.feed_data(head)
    reader.feed_eof()
    try:
        next(parser := http11.Request.parse(reader.read_line))
        parser.close()
        raise AssertionError("the whole head is there")
    except StopIteration:
        request = Request(head, CLIENT)
    except Exception:  # refused by websockets: no Request is ever made of it
        return
    assert request.path.startswith("/")
    assert all(isinstance(value, str) for value in [*request.query, *request.headers.values(), *request.cookies])
    assert isinstance(request.subprotocols, tuple)


def test_cookies_can_be_hidden() -> None:
    """After that there is no trace of them, and all the rest is as it was."""
    fields = (("Host", "a"), ("Cookie", "a=1"), ("X-Cookie", "b=2"), ("cOOKIE", "c=3"), ("Cookie2", "d=4"))
    request = request_of("/cookie:x?Cookie:y", *fields)
    request._hide_cookies()
    assert {} == request.cookies
    assert {"host": "a", "x-cookie": "b=2", "cookie2": "d=4"} == dict(request.headers)
    assert ("/cookie:x", {"Cookie:y": ""}) == (request.path, dict(request.query))
    assert not any("=1" in str(value) or "=3" in str(value) for value in vars(request).values())
