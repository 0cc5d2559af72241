"""Plain HTTP: which file a target means, when a client has it already, and what an answer looks like."""

from __future__ import annotations

from email.utils import formatdate
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from wsworker.protocol import plain
from wsworker.protocol.plain import Answer, Stamp, is_unchanged, path_of, stamp

NOW = 784111777.5  # Sun, 06 Nov 1994 08:49:37 GMT, the date in the examples of RFC 9110
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
FILE = Stamp('"5f-10"', 784111777)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "index.html"),
        ("/?", "index.html"),
        ("/?a=../..", "index.html"),
        ("/a.html", "a.html"),
        ("/a.html?x=/y/", "a.html"),
        ("/a/b/c.js", "a/b/c.js"),
        ("/a/", "a/index.html"),
        ("/%61%2ejs", "a.js"),
        ("/caf%C3%A9", "café"),
        ("/a%20b+c", "a b+c"),
        ("/a%2520b", "a%20b"),
        ("/%252e%252e/x", "%2e%2e/x"),
        ("/a..b", "a..b"),
        ("/a.", "a."),
        ("/a;b=..", "a;b=.."),
        ("/a#b", "a#b"),
        ("/a%3Fb", "a?b"),
        ("/~", "~"),
        ("/\uff0e\uff0e", "\uff0e\uff0e"),
    ],
)
def test_path(target: str, path: str) -> None:
    """A target is decoded once, and a slash at its end means the index of a folder."""
    assert path == path_of(target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "a",
        "?",
        "http://evil.example/",
        "//",
        "//evil.example",
        "//evil.example/x",
        "/a//b",
        "/a//",
        "/.",
        "/./",
        "/./a",
        "/..",
        "/../",
        "/../a",
        "/a/../b",
        "/a/..",
        "/...",
        "/.git/config",
        "/a/.env",
        "/%2e%2e/a",
        "/%2e%2e%2fa",
        "/.%2e/a",
        "/%2E./a",
        "/%2ehidden",
        "/..%2f..%2fetc/passwd",
        "/a%2fb",
        "/a%2Fb",
        "/%2f",
        "/a%5cb",
        "/a\\b",
        "/..\\..\\a",
        "/..%5c..%5ca",
        "/%00",
        "/a.html%00.js",
        "/a%0d%0ab",
        "/a%7f",
        "/%c0%ae%c0%ae/a",
        "/%ff",
        "/%",
        "/a%2",
        "/a%zz",
        "/%%32%65",
        "/%u002e%u002e/",
        "/../../../../etc/passwd",
        "/a/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_no_path(target: str) -> None:
    """Nothing that could mean a place outside, a hidden file, or two things to two readers is a file."""
    assert path_of(target) is None


pieces = st.sampled_from(["/", "%2f", "..", ".", "%2e", "%2E%2e", "\\", "%5c", "%00", "%", "a", "b", "%25", "?", "é"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_a_path_stays_inside(target: str) -> None:
    """Whatever the spelling, no part of a path is empty or begins with a dot, and it holds no second slash or NUL."""
    path = path_of("/" + target)
    if path is not None:
        parts = path.split("/")
        assert all(part and not part.startswith(".") for part in parts)
        assert "\\" not in path
        assert "\0" not in path
        assert ("/" + target).partition("?")[0].count("/") == len(parts)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\\", min_codepoint=32), min_size=1)))
def test_any_name_can_be_asked_for(names: list[str]) -> None:
    """A file whose name does not begin with a dot, and has no control character, can be spelt in a target."""
    path = path_of("/" + "/".join(quote(name, safe="") for name in names))
    if any(name.startswith(".") or "\x7f" in name for name in names):
        assert path is None
    else:
        assert path == ("/".join(names) or "index.html")


# Conditional requests


@pytest.mark.parametrize(
    ("fields", "unchanged"),
    [
        ([], False),
        ([("If-None-Match", '"5f-10"')], True),
        ([("If-None-Match", 'W/"5f-10"')], True),
        ([("If-None-Match", '"a", W/"b","5f-10" , "c"')], True),
        ([("If-None-Match", '"a"'), ("If-None-Match", '"5f-10"')], True),
        ([("If-None-Match", '"a,b", "5f-10"')], True),
        ([("If-None-Match", "*")], True),
        ([("If-None-Match", " * ")], True),
        ([("If-None-Match", '"5f-11"')], False),
        ([("If-None-Match", "5f-10")], False),
        ([("If-None-Match", '"*"')], False),
        ([("If-None-Match", "*, *")], False),
        ([("If-None-Match", "")], False),
        ([("If-Modified-Since", DATE)], True),
        ([("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], True),
        ([("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], True),
        ([("If-Modified-Since", "Sun, 06 Nov 1994 08:49:38 GMT")], True),
        ([("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], False),
        ([("If-Modified-Since", "yesterday")], False),
        ([("If-Modified-Since", "")], False),
        ([("If-Modified-Since", "Sun, 99 Nov 1994 08:49:37 GMT")], False),
        ([("If-Modified-Since", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT")], False),
        ([("If-Modified-Since", DATE + " " * 60)], False),
        ([("If-Modified-Since", DATE), ("If-Modified-Since", DATE)], False),
        ([("If-None-Match", '"other"'), ("If-Modified-Since", DATE)], False),
        ([("If-None-Match", ""), ("If-Modified-Since", DATE)], False),
        ([("If-None-Match", '"5f-10"'), ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], True),
        ([("If-Match", '"other"')], False),
        ([("Range", "bytes=0-1")], False),
    ],
)
def test_unchanged(fields: list[tuple[str, str]], unchanged: bool) -> None:
    """Tags go before dates and are compared weakly; what is no tag or no date counts as not there."""
    assert unchanged == is_unchanged(Headers(fields), FILE)


def test_hostile_lists() -> None:
    """Header values of the longest line are judged, whatever they are made of."""
    for value in (",", '"', ' "', 'W/"', '"a', "\\", ", "):
        many = value * (8000 // len(value))
        assert not is_unchanged(Headers([("If-None-Match", many)]), FILE)
        assert not is_unchanged(Headers([("If-Modified-Since", many)]), FILE)


dates = st.lists(st.sampled_from(["Sun", ", ", "06", " ", "Nov", "1994", ":", "08", "GMT", "-", "+9999", "99999", "é"]))


@given(st.one_of(st.text(st.characters(codec="latin-1")), dates.map("".join)))
def test_any_date(date: str) -> None:
    """Whatever stands where a date is due, there is a verdict."""
    headers = Headers()
    headers.set_insecure("If-Modified-Since", date)
    is_unchanged(headers, FILE)


def test_stamp() -> None:
    """Another size or time is another tag; the time is never in the future, nor before there were any."""
    made = stamp(16, 784111777_000000001, NOW)
    assert 784111777 == made.modified_at
    tags = {made.etag, stamp(17, 784111777_000000001, NOW).etag, stamp(16, 784111777_000000002, NOW).etag}
    assert 3 == len(tags)
    assert all(tag[0] == tag[-1] == '"' for tag in tags)
    assert 784111777 == stamp(0, 2**62, NOW).modified_at
    assert 0 == stamp(0, -(2**62), NOW).modified_at


# Answers


def lines(answer: Answer | bytes) -> list[str]:
    """Return the status line and the headers, after what holds for every answer is checked."""
    head = (answer.head if isinstance(answer, Answer) else answer).decode("ascii")
    assert head.endswith("\r\n\r\n")
    found = head[:-4].split("\r\n")
    assert all(line.isprintable() for line in found)
    assert found[1:3] == [f"Date: {DATE}", "Connection: close"]
    assert found[-1] == "X-Content-Type-Options: nosniff"
    return [found[0], *found[3:-1]]


def test_what_was_made_just_now() -> None:
    """It has its own type and further headers, nobody keeps it, and HEAD gets its length alone."""
    answer = plain.fresh(200, "application/json", b"{}\n", False, NOW, {"Vary": "Accept"})
    lines = answer.head.decode().split("\r\n")
    assert "HTTP/1.1 200 OK" == lines[0]
    fields = {"Content-Type: application/json", "Content-Length: 3", "Cache-Control: no-store", "Vary: Accept"}
    assert fields <= {*lines}
    assert b"{}\n" == answer.body
    assert Answer(answer.head) == plain.fresh(200, "application/json", b"{}\n", True, NOW, {"Vary": "Accept"})


def test_health() -> None:
    """200 or 503, not to be kept by anybody in between; HEAD gets the same without the body."""
    ready = plain.health(False, False, NOW)
    expected = ["HTTP/1.1 200 OK", "Content-Type: text/plain; charset=utf-8", "Content-Length: 6"]
    assert [*expected, "Cache-Control: no-store"] == lines(ready)
    assert b"ready\n" == ready.body
    assert Answer(ready.head) == plain.health(False, True, NOW)
    leaving = plain.health(True, False, NOW)
    assert "HTTP/1.1 503 Service Unavailable" == lines(leaving)[0]
    assert b"draining\n" == leaving.body


def test_refusals() -> None:
    """What cannot be given is told in one sentence; the reason is for the log alone."""
    missing = plain.not_found(False, NOW, "a secret")
    assert lines(missing)[0] == "HTTP/1.1 404 Not Found"
    assert f"Content-Length: {len(missing.body)}" in lines(missing)
    assert b"secret" not in missing.head + missing.body
    assert "a secret" == missing.log
    assert Answer(missing.head) == plain.not_found(True, NOW)
    assert lines(plain.broken(False, NOW, "a bad disk"))[0] == "HTTP/1.1 500 Internal Server Error"
    assert "a bad disk" == plain.broken(True, NOW, "a bad disk").log


@pytest.mark.parametrize(
    ("target", "location"),
    [("/a", "/a/"), ("/a/b?x=1&y=//z", "/a/b/?x=1&y=//z"), ("/a?", "/a/?"), ("/%C3%A9", "/%C3%A9/")],
)
def test_moved(target: str, location: str) -> None:
    """A folder's target gets its slash; the query stays, and the host is never named."""
    found = lines(plain.moved(target, False, NOW))
    assert found[0] == "HTTP/1.1 301 Moved Permanently"
    assert f"Location: {location}" in found
    assert "Cache-Control: no-cache" in found


@given(st.lists(pieces, max_size=8).map("".join))
def test_a_redirect_stays_here(target: str) -> None:
    """No target that means a file can be turned into a redirect to another host."""
    target = "/" + target.replace("é", "")
    if path_of(target) is not None and not target.partition("?")[0].endswith("/"):
        (location,) = (line for line in lines(plain.moved(target, True, NOW)) if line.startswith("Location: "))
        place = unquote(location.removeprefix("Location: "))
        assert place[0] == "/"
        assert place[1] not in "/\\"


def test_unchanged_answer() -> None:
    """A 304 repeats what the client has to know, and has neither body nor type."""
    answer = plain.unchanged(FILE, NOW)
    fields = ['ETag: "5f-10"', f"Last-Modified: {DATE}", "Cache-Control: no-cache"]
    assert ["HTTP/1.1 304 Not Modified", *fields] == lines(answer)
    assert (b"", None) == (answer.body, answer.file)
    assert is_unchanged(Headers({"If-Modified-Since": formatdate(FILE.modified_at, usegmt=True)}), FILE)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("a/B.HTML", "text/html; charset=utf-8"),
        ("a.min.js", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.png", "image/png"),
        ("a.wasm", "application/wasm"),
        ("README", "application/octet-stream"),
        ("a.tar.gz", "application/octet-stream"),
        ("js/a", "application/octet-stream"),
        ("a.js/b", "application/octet-stream"),
    ],
)
def test_whole(path: str, kind: str) -> None:
    """The type comes from the name's last suffix, and what is unknown is bytes that no browser shows."""
    expected = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", "Content-Length: 16", 'ETag: "5f-10"']
    assert expected == lines(plain.whole(path, FILE, 16, NOW))[:4]
