"""The opening handshake: lines of the request head in, a request or a refusal out; and the responses to it.

websockets parses the head and computes the 101. A head that came whole and small is parsed at once, as nearly all are.
Any other, a wrong one among them, is given to ServerProtocol one line at a time, so that nothing behind the head can
reach it and the line that was wrong is known; the outcome is the same for every split. What websockets does not do is
done here: it has no limit for the head as a whole, lets control characters into method and target, and on a malformed
head it closes without a word, where a person behind a proxy needs to know what was wrong.

Every answer other than 101 ends the connection, so no second request is ever parsed on a socket; together with the
refusal of bodies, folded lines and bare LF that leaves request smuggling nothing to work with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from websockets import http11
from websockets.datastructures import Headers, MultipleValuesError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.utils import accept_key

from wsworker.errors import InternalError
from wsworker.protocol.admission import KEY, TOKEN

MAX_LINE_BYTES = 8 * 1024  # line end included
MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
TOO_LARGE: Final = (
    f"A header has more than {MAX_LINE_BYTES} bytes, all of them more than {MAX_HEAD_BYTES},"
    f" or there are more than {MAX_HEADERS}."
)
"""One sentence for three limits: which of them is met first depends on how the bytes were split."""

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


# The 101 depends on the request alone, so a worker needs no ServerProtocol for each: to make one costs more than to ask
# it, and what it remembers of a request is read before the next one.
_ANSWERING: Final = ServerProtocol(logger=SILENT)
_DEFLATING: Final = ServerProtocol(extensions=_DEFLATE, logger=SILENT)


class Opening:
    """One connection's handshake, up to the answer; drop it afterwards.

    deflate: agree on permessage-deflate if the client offers it. request: the parsed head, when it is complete; head:
    its bytes; extensions: what accept has agreed on.
    """

    __slots__ = ("_head", "_lines", "_parser", "_server", "extensions", "request")

    def __init__(self, deflate: bool = False) -> None:
        self.request: http11.Request | None = None
        self.extensions: Sequence[Extension] = ()
        self._server = _DEFLATING if deflate else _ANSWERING
        self._parser: ServerProtocol | None = None  # if the head does not come at once
        self._head = b""  # as far as it was taken
        self._lines = 0

    @property
    def started(self) -> bool:
        """Whether a line of the head has been taken."""
        return self._lines > 0

    @property
    def head(self) -> bytes:
        """The bytes that request was parsed from."""
        return self._head

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
        if not self._lines and self._take_whole(inbox):
            return None
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

    def accept(self, subprotocol: str | None) -> http11.Response:
        """Return the 101, or the refusal of ServerProtocol if it finds a fault.

        subprotocol: one that the client offered, or None; ValueError if it holds a character that no header may have.
        """
        assert self.request is not None, "accept answers a complete head"
        response = _simple_answer(self.request, self._server is _DEFLATING)
        if response is None:
            response = self._server.accept(self.request)
            if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
                self.extensions = tuple(self._server.extensions)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and subprotocol is not None:
            _set_header(response, "Sec-WebSocket-Protocol", subprotocol)
        return response

    def reject(self, status: int, headers: Mapping[str, str], body: str) -> http11.Response:
        """Return the response that refuses the client; also before the head is complete.

        body: sent as UTF-8 text/plain. headers may replace Content-Type; ValueError if one of them frames the response
        or holds a character that no header may have.
        """
        # reject of ServerProtocol writes Date, Connection, Content-Length and Content-Type, but takes registered
        # statuses only; ours are any from 300 to 599
        response = self._server.reject(HTTPStatus.BAD_REQUEST, body)
        response.status_code = status
        response.reason_phrase = _phrase(status)
        for name, value in headers.items():
            if name.lower() in _FRAMING_HEADERS:
                raise ValueError(f"header {name!r} frames the response and cannot be set")
            if name in response.headers:
                del response.headers[name]
            _set_header(response, name, value)
        if status == HTTPStatus.NOT_MODIFIED or self._head.startswith(b"HEAD "):
            # RFC 9110 sections 9.3.2 and 15.4.5
            response.body = b""
        return response

    def _take_whole(self, inbox: bytearray) -> bool:
        """Take the head if all of it is there, right, and so small that it can be over no limit."""
        size = inbox.find(b"\r\n\r\n") + 4
        if not 4 <= size <= MAX_LINE_BYTES or inbox.count(b"\n", 0, size) > MAX_HEADERS:
            return False
        head = bytes(inbox[:size])
        request = _parse(head)
        if request is None:
            return False
        del inbox[:size]
        self._head = head
        self.request = request
        return True

    def _over_a_limit(self, size: int) -> tuple[int, str] | None:
        """Return status and sentence if a line of size bytes, or the beginning of one, is over a limit."""
        if self._lines == 0:
            if size > MAX_LINE_BYTES:
                return 414, f"The request line is longer than {MAX_LINE_BYTES} bytes."
            return None
        many = self._lines > MAX_HEADERS and size > len(b"\r\n")
        if many or size > MAX_LINE_BYTES or len(self._head) + size > MAX_HEAD_BYTES:
            return 431, TOO_LARGE
        return None

    def _take_line(self, line: bytearray) -> tuple[int, str] | None:
        if self._parser is None:
            self._parser = ServerProtocol(logger=SILENT)
        # first of all: how it is refused depends on its method
        self._head += line
        self._parser.receive_data(line)
        if self._parser.handshake_exc is not None:
            return _explain(line, self._lines)
        self._lines += 1
        events = self._parser.events_received()
        if not events:
            return None
        request = events[0]
        assert isinstance(request, http11.Request)
        if not _is_printable(request):
            return 400, "The request line holds characters that no method or target may have."
        self.request = request
        return None


def _parse(head: bytes) -> http11.Request | None:
    """Return the request of a whole head, or None if anything is wrong with it."""
    reader = StreamReader()
    reader.feed_data(head)
    parser = http11.Request.parse(reader.read_line)
    try:
        next(parser)
    except StopIteration as done:
        request: http11.Request = done.value
        return request if _is_printable(request) else None
    except Exception:
        # ServerProtocol catches as much; line by line it will be found again, and explained
        return None
    raise AssertionError("a whole head leaves the parser nothing to wait for")


def _is_printable(request: http11.Request) -> bool:
    return TOKEN.fullmatch(request.method) is not None and _TARGET.fullmatch(request.path) is not None


def _simple_answer(request: http11.Request, deflate: bool) -> http11.Response | None:
    """Return the 101 for a request of the simplest kind, the one of nearly every client; None for any other.

    It is what ServerProtocol.accept returns, at a fifth of its price, but for the Date, which a 101 does not need (RFC
    9110 section 6.6.1). Nothing is judged here: what is not of this kind is ServerProtocol's to accept or to refuse.
    """
    headers = request.headers
    if request.method != "GET" or request.protocol != "HTTP/1.1" or "Sec-WebSocket-Protocol" in headers:
        return None
    if deflate and "Sec-WebSocket-Extensions" in headers:
        return None
    try:
        key = headers.get("Sec-WebSocket-Key", "")
        wanted = headers.get("Upgrade", ""), headers.get("Connection", ""), headers.get("Sec-WebSocket-Version")
        headers.get("Origin")
    except MultipleValuesError:
        return None
    upgrade, connection, version = wanted
    if upgrade.lower() != "websocket" or connection.lower() != "upgrade" or version != "13" or not KEY.fullmatch(key):
        return None
    answer = Headers()
    answer["Upgrade"] = "websocket"
    answer["Connection"] = "Upgrade"
    answer["Sec-WebSocket-Accept"] = accept_key(key)
    return http11.Response(101, "Switching Protocols", answer)


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
    if not (TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
        raise ValueError(f"header {name!r} holds characters that a header must not have")
    response.headers[name] = value


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"
