"""Target: plain HTTP: which file a target means, and whether the client has it already.

Any target gives a whole answer with a documented status. A file that must not be served, outside of the folder, hidden,
or behind a link that leads to such a one, is never served, whatever the target says.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request

from tests.fuzz.mutation import nearly
from tests.fuzz.reading import read_response
from tests.fuzz.target import Target
from wsworker.protocol import plain
from wsworker.worker.site import Site

SECRET: Final = b"SECRET"
NOW: Final = 1_700_000_000.0
STATUSES: Final = frozenset({200, 301, 304, 404})
CONDITIONS: Final = ("If-None-Match", "If-Modified-Since")


@dataclass(frozen=True)
class Page:
    """One request. target: as in its first line; conditions: names and values of headers."""

    target: str
    conditions: tuple[tuple[str, str], ...] = ()
    is_head: bool = False


@cache
def tempting() -> str:
    """Return the path of a folder with what tempts a client; it goes with the process."""
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    outside, folder = Path(place.name, "outside"), Path(place.name, "folder")
    for path, content in {
        outside / "secret": SECRET,
        folder / ".hidden": SECRET,
        folder / ".git" / "config": SECRET,
        folder / "index.html": b"index",
        folder / "page.html": b"page",
        folder / "large": b"l" * 200_000,
        folder / "sub" / "a b": b"space",
        folder / "sub" / "ü": b"umlaut",
        folder / "%2e": b"percent",
        folder / "back\\slash": SECRET,
        folder / "control\x01": SECRET,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (NOW - 1000, NOW - 1000))
    (folder / "out").symlink_to(outside)
    (folder / "file").symlink_to(outside / "secret")
    (folder / "dot").symlink_to(".hidden")
    (folder / "loop").symlink_to("loop")
    (folder / "in").symlink_to("sub")
    os.mkfifo(folder / "pipe")
    return str(folder)


def check_page(case: Page) -> None:
    """One case of the target."""
    path = plain.path_of(case.target)
    if path is not None:
        parts = path.split("/")
        assert all(part and not part.startswith(".") for part in parts), path
        assert not any(ord(letter) < 32 or letter in "\x7f\\" for letter in path), path
        assert os.path.normpath(path) == path
    headers = Headers(case.conditions)
    answer = Site(tempting()).answer(Request(case.target, headers, "HEAD" if case.is_head else "GET"), NOW)
    body = b"" if answer.file is None else answer.file.read()
    if answer.file is not None:
        answer.file.close()
        assert len(body) == answer.size
    response = read_response(answer.head + answer.body + body, case.is_head)
    assert response.size == len(answer.head + answer.body + body)
    assert response.status in STATUSES
    assert SECRET not in response.body
    assert path is not None or response.status == 404
    assert answer.log.isprintable()
    if response.status == 304:
        _check_unchanged(case)


def _check_unchanged(case: Page) -> None:
    """A 304 needs a header that could mean it."""
    assert any(name in CONDITIONS for name, _ in case.conditions)


_PATHS: Final = (
    b"/",
    b"/page.html",
    b"/sub",
    b"/sub/",
    b"/sub/a%20b",
    b"/sub/%c3%bc",
    b"/%252e",
    b"/..",
    b"/%2e%2e",
    b"/.%2E",
    b"/%2e%2e%2foutside%2fsecret",
    b"/../outside/secret",
    b"/sub%2f..%2f..%2foutside%2fsecret",
    b"/sub%2f..%2f.hidden",
    b"/out/secret",
    b"/file",
    b"/dot",
    b"/.hidden",
    b"/%2ehidden",
    b"/.git/config",
    b"/in/../.hidden",
    b"/loop",
    b"/pipe",
    b"/in/a%20b",
    b"/page.html/",
    b"/page.html%00",
    b"/back%5cslash",
    b"/back\\slash",
    b"/control%01",
    b"//page.html",
    b"/%ff",
    b"/%",
    b"/%e",
    b"?a=/../b",
    b"/?%",
    b"/" + b"a" * 300,
    b"/a" * 3000,
    b"*",
    b"http://h/page.html",
    b"/%ed%a0%80",
)
_targets: Final = nearly(st.sampled_from(_PATHS), most=3).map(
    # as the handshake lets it through: printable ASCII
    lambda data: bytes(byte for byte in data if 0x21 <= byte <= 0x7E).decode("ascii")
)
_TAG: Final = f'"{int(NOW - 1000) * 10**9:x}-4"'.encode()
_VALUES: Final = (
    _TAG,
    b"W/" + _TAG,
    b"*",
    b'"a", ' + _TAG,
    b'"',
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"Sunday, 06-Nov-94 08:49:37 GMT",
    b"Sun Nov  6 08:49:37 1994",
    b"Sun, 06 Nov 9999 23:59:59 -2359",
    b"1 Jan 1 0:0 +9999",
    b"06 Nov",
    b"6 Nov 94 8",
    b"Sun,",
    b"99999999999999999999 Jan 2000 00:00:00 GMT",
    b"1 Jan 2000 00:00:00 +99999999999999999999",
    b"Jan 1 2000",
    b"1 2 3 4 5 6",
    b",,, ,",
    b"",
)
_texts: Final = nearly(st.sampled_from(_VALUES), most=2).map(
    lambda data: data.translate(None, bytes([*range(9), *range(10, 32), 127])).decode("latin-1").strip(" \t")
)
_cases: Final = st.builds(
    Page,
    target=_targets,
    conditions=st.lists(st.tuples(st.sampled_from(CONDITIONS), _texts), max_size=2).map(tuple),
    is_head=st.booleans(),
)

_KNOWN: Final = (
    Page("/page.html"),
    Page("/page.html", (("If-None-Match", _TAG.decode()),)),
    Page("/page.html", (("If-Modified-Since", "Sun, 06 Nov 2094 08:49:37 GMT"),)),
    Page("/file"),
    Page("/" + "%" * 8000),
    Page("/page.html", (("If-None-Match", '"' * 8000),)),
)

TARGET: Final = Target("pages", _cases, check_page, _KNOWN)
