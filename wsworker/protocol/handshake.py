"""The opening handshake: lines of the request head in, a request or a refusal out; and the responses to it.

ServerProtocol of websockets parses the head and computes the 101. It gets one line at a time, so nothing behind the
head can reach it. What it does not do is done here: it has no limit for the head as a whole, lets control characters
into method and target, and on a malformed head it closes without a word, where a person behind a proxy needs to know
which line was wrong.

Every answer other than 101 ends the connection, so no second request is ever parsed on a socket; together with the
refusal of bodies, folded lines and bare LF that leaves request smuggling nothing to work with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from websockets import http11
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.server import ServerProtocol

from wsworker.errors import InternalError

MAX_LINE_BYTES = 8 * 1024  # line end included
MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_TARGET = re.compile(r"[!-~]+")
_OTHER_VERSION = re.compile(rb"[!-~]+ [!-~]+ HTTP/[0-9.]+")
_FRAMING_HEADERS = frozenset({"connection", "content-length", "transfer-encoding"})


# Without context takeover on either side a message compressed once fits everybody, and a connection holds no window.
_DEFLATE: Final = (ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),)


class _Silent:
    """A logger for ServerProtocol. Our events say what it would log; what it calls an error is a bug and must show."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  the name is logging's
        return False

    def info(self, message: str, *args: object) -> None:
        pass

    def error(self, message: str, *args: object, exc_info: bool = False) -> None:
        raise InternalError(f"ServerProtocol: {message}")


SILENT = cast(Any, _Silent())


class Opening:
    """One connection's handshake, up to the answer. Drop it afterwards: its parser keeps the whole request alive.

    deflate: agree on permessage-deflate if the client offers it.
    """

    __slots__ = ("_bytes", "_lines", "_protocol", "request")

    def __init__(self, deflate: bool = False) -> None:
        self.request: http11.Request | None = None
        self._protocol = ServerProtocol(extensions=_DEFLATE if deflate else None, logger=SILENT)
        self._bytes = 0  # of the head taken so far
        self._lines = 0

    @property
    def started(self) -> bool:
        """Whether a line of the head has been taken."""
        return self._lines > 0

    @property
    def extensions(self) -> Sequence[Extension]:
        """What accept has agreed on."""
        return self._protocol.extensions

    @property
    def window_bits(self) -> int:
        """The window that the client has for our messages, 0 if there is no compression."""
        return next((item.local_max_window_bits for item in self.extensions if isinstance(item, PerMessageDeflate)), 0)

    def take(self, inbox: bytearray) -> tuple[int, str] | None:
        """Take the lines of the head off the front of inbox, no byte more.

        Returns status and sentence as soon as the head is malformed or over a limit: you must then answer with reject.
        Otherwise None; when request is set, the head is complete and you must answer. The outcome does not depend on
        how the bytes were split.
        """
        while self.request is None:
            # The line is looked for from its start each time: it has at most 8 KiB, so the reads cost more than that.
            size = inbox.find(b"\n") + 1
            over = self._over_a_limit(size or len(inbox))
            if over is not None:
                return over
            if not size:
                return None
            line = inbox[:size]
            del inbox[:size]
            defect = self._take_line(line)
            if defect is not None:
                return defect
        return None

    def accept(self, subprotocol: str | None, headers: Mapping[str, str]) -> http11.Response:
        """Return the 101, or the refusal of ServerProtocol if it finds a fault.

        subprotocol: one that the client offered, or None. headers: added to a 101; ValueError if one of them belongs to
        the handshake or holds a character that no header may have.
        """
        assert self.request is not None, "accept answers a complete head"
        for name in headers:
            if name.lower() in _FRAMING_HEADERS | {"upgrade"} or name.lower().startswith("sec-websocket-"):
                raise ValueError(f"header {name!r} belongs to the handshake and cannot be set")
        response = self._protocol.accept(self.request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            if subprotocol is not None:
                _set_header(response, "Sec-WebSocket-Protocol", subprotocol)
            for name, value in headers.items():
                _set_header(response, name, value)
        return response

    def reject(self, status: int, headers: Mapping[str, str], body: str) -> http11.Response:
        """Return the response that refuses the client; also before the head is complete.

        body: sent as UTF-8 text/plain. headers may replace Content-Type; ValueError if one of them frames the response
        or holds a character that no header may have.
        """
        # reject of ServerProtocol writes Date, Connection, Content-Length and Content-Type, but takes registered
        # statuses only; ours are any from 300 to 599
        response = self._protocol.reject(HTTPStatus.BAD_REQUEST, body)
        response.status_code = status
        response.reason_phrase = _phrase(status)
        for name, value in headers.items():
            if name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"header {name!r} frames the response and cannot be set")
            if name in response.headers:
                del response.headers[name]
            _set_header(response, name, value)
        if self.request is not None and self.request.method == "HEAD":
            response.body = b""
        return response

    def _over_a_limit(self, size: int) -> tuple[int, str] | None:
        """Return status and sentence if a line of size bytes, or the beginning of one, is over a limit."""
        if self._lines == 0:
            if size > MAX_LINE_BYTES:
                return 414, f"The request line is longer than {MAX_LINE_BYTES} bytes."
        elif size > MAX_LINE_BYTES or self._bytes + size > MAX_HEAD_BYTES:
            return 431, f"A header is longer than {MAX_LINE_BYTES} bytes, or the head longer than {MAX_HEAD_BYTES}."
        elif self._lines > MAX_HEADERS and size > len(b"\r\n"):
            return 431, f"The request has more than {MAX_HEADERS} headers."
        return None

    def _take_line(self, line: bytearray) -> tuple[int, str] | None:
        self._protocol.receive_data(line)
        if self._protocol.handshake_exc is not None:
            return _explain(line, self._lines)
        self._bytes += len(line)
        self._lines += 1
        events = self._protocol.events_received()
        if not events:
            return None
        request = events[0]
        assert isinstance(request, http11.Request)
        if not (_TOKEN.fullmatch(request.method) and _TARGET.fullmatch(request.path)):
            return 400, "The request line holds characters that no method or target may have."
        self.request = request
        return None


def _explain(line: bytearray, number: int) -> tuple[int, str]:
    """Return status and sentence for a line upon which ServerProtocol gave up; number is 0 for the request line.

    ServerProtocol looks for a body only when the empty line comes: a complaint about that one is about a body.
    """
    if not line.endswith(b"\r\n"):
        return 400, "Every line of the request head must end in CR LF."
    content = line[:-2]
    if number == 0:
        if _OTHER_VERSION.fullmatch(content):
            return 505, "This server speaks HTTP/1.1."
        return 400, "The request line must read METHOD target HTTP/1.1, with one space between them."
    if not content:
        return 400, "A handshake has no body: Content-Length and Transfer-Encoding are refused."
    if content.startswith((b" ", b"\t")):
        return 400, "A header must not be folded over several lines."
    if content.partition(b":")[0].endswith((b" ", b"\t")):
        return 400, "There must be no space between the name of a header and its colon."
    return 400, "Every header line must read Name: value, without control characters."


def _set_header(response: http11.Response, name: str, value: str) -> None:
    # a CR or LF in either would end the header and begin whatever its author likes (response splitting)
    if not (_TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
        raise ValueError(f"header {name!r} holds characters that a header must not have")
    response.headers[name] = value


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
