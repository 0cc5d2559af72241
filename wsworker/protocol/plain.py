"""Plain HTTP: the rules of a small file server. Which file a target means, whether the client has it, what is answered.

It is there for a page beside the WebSocket: the examples, a first try, a test. So it does GET and HEAD, whole files and
conditional requests, and nothing else: no ranges, no compression, no listing, no upload. Every answer ends the
connection, as all do that are not a 101.

A target is taken apart before it is decoded, and decoded once. So no spelling of a slash, of ".." or of a name that
begins with a dot can come out of a segment that was judged already; a segment that holds any of it is no file. What is
left cannot leave the folder by its words. That it does not leave it by a link either is for who opens the file.

An answer is told to be asked for again each time (no-cache), which costs a 304 of some 200 bytes and never shows an old
page to somebody who is changing it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from websockets.datastructures import Headers

INDEX = "index.html"

_MAX_DATE_CHARACTERS = 64  # the longest format of RFC 9110 section 5.6.7 has 33
_STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f/\\]")
_OPAQUE_TAG = re.compile(r'"[!#-~\x80-\xff]*"')

_TEXT = "text/plain; charset=utf-8"
# mimetypes of the standard library would read files of the system, and know different types on each
_TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "css": "text/css; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "gif": "image/gif",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/vnd.microsoft.icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",  # RFC 9239
    "json": "application/json",
    "map": "application/json",
    "md": "text/markdown; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ogg": "audio/ogg",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "ttf": "font/ttf",
    "txt": _TEXT,
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml",
    "zip": "application/zip",
}
_UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """A whole response; the connection ends behind it.

    head: with the empty line at its end; body: what follows at once; file: what follows that, size bytes from where it
    stands, or None; you must close it, also if nobody is left to take it. log: for the operator, or "".
    """

    head: bytes
    body: bytes = b""
    file: BinaryIO | None = None
    size: int = 0
    log: str = ""


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another: a strong entity tag, and when it was changed, in whole seconds."""

    etag: str
    modified_at: int


def path_of(target: str) -> str | None:
    """Return the file that a request's target means, relative to the folder; None if it can mean none.

    target: as it stands in the request line. No part of the result is empty, "." or "..", or begins with a dot, and
    none holds a slash, a backslash or a control character. A target that ends in a slash means the index of a folder.
    """
    first, *raw = target.partition("?")[0].split("/")
    # something before the first slash: a URL, or the * of OPTIONS
    if first or not raw:
        return None
    parts = [_decoded(part) for part in raw]
    if parts[-1] == "":
        parts[-1] = INDEX
    names = [part for part in parts if part and not part.startswith(".")]
    return "/".join(names) if len(names) == len(parts) else None


def _decoded(part: str) -> str | None:
    if _STRAY_PERCENT.search(part):
        return None
    try:
        name = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return None
    return None if _NOT_IN_A_NAME.search(name) else name


def stamp(size: int, modified_ns: int, now: float) -> Stamp:
    """Return the stamp of a file. size: bytes; modified_ns: as stat(2) has it; now: seconds since the epoch.

    The time is never later than now, nor before the epoch. Source: RFC 9110 section 8.8.2.1.
    """
    return Stamp(f'"{modified_ns:x}-{size:x}"', max(0, min(modified_ns // 10**9, int(now))))


def is_unchanged(headers: Headers, file: Stamp) -> bool:
    """Tell whether a GET or HEAD is to be answered with 304, because the client has this state of the file.

    Tags are compared weakly; a date counts only where no tag is given. Source: RFC 9110 sections 13.1.2 and 13.1.3.
    """
    tags = headers.get_all("If-None-Match")
    if tags:
        return [tag.strip(" \t") for tag in tags] == ["*"] or file.etag in _OPAQUE_TAG.findall(", ".join(tags))
    dates = headers.get_all("If-Modified-Since")
    since = _seconds(dates[0]) if len(dates) == 1 else None
    return since is not None and file.modified_at <= since


def _seconds(date: str) -> float | None:
    """Return seconds since the epoch for a date in any of the three formats of HTTP, None for what is none."""
    if len(date) > _MAX_DATE_CHARACTERS:
        return None
    try:
        found = parsedate_to_datetime(date)
        # the oldest format names no zone; HTTP has but one
        return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def health(draining: bool, is_head: bool, now: float) -> Answer:
    """Answer a health check: 200 while clients are welcome, 503 once the worker leaves."""
    status, word = (503, "draining") if draining else (200, "ready")
    return _said(status, f"{word}\n", is_head, now, {"Cache-Control": "no-store"})


def fresh(status: int, kind: str, body: bytes, is_head: bool, now: float, fields: Mapping[str, str]) -> Answer:
    """Answer with something that was made just now and that nobody should keep. kind: its Content-Type."""
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store", **fields}
    return Answer(_head(status, now, fields), b"" if is_head else body)


def not_found(is_head: bool, now: float, log: str = "") -> Answer:
    """Answer that there is no such file, or none that anybody may see."""
    text = "There is no such file. To talk to the service, connect with a WebSocket client.\n"
    return _said(404, text, is_head, now, {}, log)


def broken(is_head: bool, now: float, log: str) -> Answer:
    """Answer that the file is there, but cannot be read."""
    return _said(500, "The file cannot be read.\n", is_head, now, {}, log)


def moved(target: str, is_head: bool, now: float) -> Answer:
    """Send the client to the same target with a slash behind its path, since it means a folder.

    target: one whose path_of is not None, and whose path does not end in a slash. So it begins with one slash, which no
    host can follow, and as it comes from a request line it has no character that could end the header.
    """
    path, mark, query = target.partition("?")
    fields = {"Location": f"{path}/{mark}{query}", "Cache-Control": "no-cache"}
    return _said(301, "The folder's name ends in a slash.\n", is_head, now, fields)


def unchanged(file: Stamp, now: float) -> Answer:
    """Answer that the client has the file. Source: RFC 9110 section 15.4.5."""
    return Answer(_head(304, now, _fields_of(file)))


def whole(path: str, file: Stamp, size: int, now: float) -> bytes:
    """Return the head of the answer that holds a file. path: as path_of gives it; size: bytes, for HEAD as well."""
    suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
    kind = _TYPES.get(suffix, _UNKNOWN_TYPE)
    return _head(200, now, {"Content-Type": kind, "Content-Length": str(size), **_fields_of(file)})


def _fields_of(file: Stamp) -> Mapping[str, str]:
    return {
        "ETag": file.etag,
        "Last-Modified": formatdate(file.modified_at, usegmt=True),
        "Cache-Control": "no-cache",
    }


def _said(status: int, text: str, is_head: bool, now: float, fields: Mapping[str, str], log: str = "") -> Answer:
    body = text.encode()
    head = _head(status, now, {"Content-Type": _TEXT, "Content-Length": str(len(body)), **fields})
    return Answer(head, b"" if is_head else body, log=log)


def _head(status: int, now: float, fields: Mapping[str, str]) -> bytes:
    fields = {
        "Date": formatdate(now, usegmt=True),
        "Connection": "close",
        **fields,
        "X-Content-Type-Options": "nosniff",
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
