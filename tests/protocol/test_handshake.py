"""Opening: every defect of a head has its status and its sentence, wherever the bytes were cut."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets import http11
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.protocol import State
from websockets.server import ServerProtocol

from wsworker.errors import InternalError
from wsworker.protocol.handshake import MAX_HEAD_BYTES, MAX_HEADERS, MAX_LINE_BYTES, SILENT, Opening

DEFLATE = [ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)]

FIELDS = (
    b"Host: localhost\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
LINE = b"GET /chat?a=1 HTTP/1.1\r\n"
HEAD = LINE + FIELDS + b"\r\n"


def verdict(data: bytes, step: int = 2**20) -> tuple[int, str] | None:
    """Return what take says of data that comes in pieces of step bytes."""
    opening, inbox = Opening(), bytearray()
    for start in range(0, len(data), step):
        inbox += data[start : start + step]
        found = opening.take(inbox)
        if found is not None:
            return found
    return None


def complete(data: bytes = HEAD) -> Opening:
    """Return an Opening that has taken a whole head."""
    opening = Opening()
    assert opening.take(bytearray(data)) is None
    assert opening.request is not None
    return opening


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_take(step: int) -> None:
    """A good head is taken whole, and not one byte behind it."""
    opening, inbox, data = Opening(), bytearray(), HEAD + b"\x81\x80abcd"
    for start in range(0, len(data), step):
        inbox += data[start : start + step]
        assert opening.take(inbox) is None
    assert opening.request is not None
    assert opening.request.path == "/chat?a=1"
    assert inbox == b"\x81\x80abcd"


def test_started() -> None:
    """A head has started with its first whole line; what waits before that is the session's."""
    opening = Opening()
    opening.take(bytearray(b"GET / HT"))
    assert not opening.started
    opening.take(bytearray(LINE))
    assert opening.started


def padded(name: str, size: int) -> bytes:
    """Return a header line of size bytes, its end included."""
    return f"{name}: ".encode().ljust(size - 2, b"x") + b"\r\n"


REST = MAX_HEAD_BYTES - len(HEAD) - MAX_LINE_BYTES

DEFECTS = {
    "empty line": (b"\r\n", 400),
    "words": (b"hello\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\n", 400),
    "no version": (b"GET /\r\n", 400),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
    "bare LF in the first line": (b"GET / HTTP/1.1\n", 400),
    "bare LF in a header": (LINE + b"Host: a\n", 400),
    "bare LF at the end": (LINE + FIELDS + b"\n", 400),
    "bare CR in a header": (LINE + b"Host: a\rb\r\n", 400),
    "NUL in a header": (LINE + b"Host: a\x00\r\n", 400),
    "folded": (LINE + b"Host: a\r\n b\r\n", 400),
    "folded by a tab": (LINE + b"Host: a\r\n\tb\r\n", 400),
    "space before colon": (LINE + b"Host : a\r\n", 400),
    "tab before colon": (LINE + b"Host\t: a\r\n", 400),
    "no colon": (LINE + b"Host\r\n", 400),
    "no name": (LINE + b": a\r\n", 400),
    "non-ASCII name": (LINE + b"H\xf6st: a\r\n", 400),
    "non-ASCII target": (b"GET /\xff HTTP/1.1\r\n", 400),
    "control character in the target": (b"GET /\x1b[2J HTTP/1.1\r\n" + FIELDS + b"\r\n", 400),
    "CR in the target": (b"GET /\rX HTTP/1.1\r\n" + FIELDS + b"\r\n", 400),
    "empty target": (b"GET  HTTP/1.1\r\n" + FIELDS + b"\r\n", 400),
    "no method": (b" / HTTP/1.1\r\n" + FIELDS + b"\r\n", 400),
    "strange method": (b"G@T / HTTP/1.1\r\n" + FIELDS + b"\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n", 505),
    "chunked": (LINE + FIELDS + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "identity": (LINE + FIELDS + b"transfer-encoding:\r\n\r\n", 400),
    "body": (LINE + FIELDS + b"Content-Length: 1\r\n\r\n", 400),
    "two lengths": (LINE + FIELDS + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n", 400),
    "signed length": (LINE + FIELDS + b"Content-Length: +0\r\n\r\n", 400),
    "long request line": (b"GET /".ljust(MAX_LINE_BYTES - 10, b"x") + b" HTTP/1.1\r\n", 414),
    "endless request line": (b"x" * (MAX_LINE_BYTES + 1), 414),
    "long header": (LINE + padded("X", MAX_LINE_BYTES + 1), 431),
    "endless header": (LINE + b"x" * (MAX_LINE_BYTES + 1), 431),
    "long head": (LINE + FIELDS + padded("X", MAX_LINE_BYTES) + padded("Y", REST + 1) + b"\r\n", 431),
    "many headers": (LINE + b"a:b\r\n" * (MAX_HEADERS + 1) + b"\r\n", 431),
}

NO_DEFECTS = {
    "no header": LINE + b"\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "length 0": LINE + FIELDS + b"Content-Length: 0\r\n\r\n",
    "Latin-1 in a value": LINE + b"X: \xe9\r\n\r\n",
    "longest request line": b"GET /".ljust(MAX_LINE_BYTES - 11, b"x") + b" HTTP/1.1\r\n\r\n",
    "longest header": LINE + padded("X", MAX_LINE_BYTES) + b"\r\n",
    "longest head": LINE + FIELDS + padded("X", MAX_LINE_BYTES) + padded("Y", REST) + b"\r\n",
    "most headers": LINE + b"a:b\r\n" * MAX_HEADERS + b"\r\n",
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects(name: str) -> None:
    """Each defect gets its status and one sentence, the same however the bytes were split."""
    data, status = DEFECTS[name]
    found = verdict(data)
    assert found is not None
    assert status == found[0]
    assert re.fullmatch(r"[A-Z].*\.", found[1])
    assert [found] * 3 == [verdict(data, step) for step in (1, 3, 1000)]


@pytest.mark.parametrize("name", NO_DEFECTS)
def test_no_defects(name: str) -> None:
    """What stands at a limit, or is merely unusual, passes."""
    data = NO_DEFECTS[name]
    assert verdict(data) is None
    complete(data)
    assert verdict(data, 1000) is None


def test_sentences() -> None:
    """The sentence names the defect that it is about."""
    sentences = {
        "bare LF in a header": "CR LF",
        "folded": "folded",
        "space before colon": "space",
        "no colon": "Name: value",
        "body": "body",
        "chunked": "Transfer-Encoding",
        "HTTP/2": "HTTP/1.1",
        "words": "METHOD target",
        "control character in the target": "characters",
        "many headers": "more than 100",
    }
    for name, part in sentences.items():
        found = verdict(DEFECTS[name][0])
        assert found is not None
        assert part in found[1], name


def test_accept() -> None:
    """The 101 holds the accept value of RFC 6455 section 1.3, and the subprotocol."""
    response = complete().accept("chat")
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert response.headers["Sec-WebSocket-Protocol"] == "chat"


def test_accept_without_subprotocol() -> None:
    """Without a subprotocol the header is left out: a browser fails on one it did not offer."""
    assert "Sec-WebSocket-Protocol" not in complete().accept(None).headers


def test_accept_refused_by_server_protocol() -> None:
    """What admission would have refused is refused by ServerProtocol too."""
    response = complete(LINE + b"\r\n").accept("chat")
    assert response.status_code == 426


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nSet-Cookie: b"), ("X", "a\n"), ("X", "a\0"), ("X", "\xe9"), ("X\r\nY", "a"), ("X Y", "a"), ("", "a")],
)
def test_no_response_splitting(name: str, value: str) -> None:
    """Neither answer lets a header through that would begin another one; the same holds for the subprotocol."""
    with pytest.raises(ValueError, match="characters"):
        complete().reject(403, {name: value}, "")
    if name == "X":
        with pytest.raises(ValueError, match="characters"):
            complete().accept(value)


def test_reject() -> None:
    """A refusal frames its body and closes; the caller's Content-Type replaces ours."""
    response = complete().reject(403, {"X-Why": "policy", "content-type": "application/json"}, "{}é")
    assert (response.status_code, response.reason_phrase, response.body) == (403, "Forbidden", "{}é".encode())
    assert response.headers["Content-Length"] == "4"
    assert response.headers["Connection"] == "close"
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Why"] == "policy"


def test_reject_before_the_head_is_complete() -> None:
    """A client that is too slow can be told so; plain text is the default."""
    response = Opening().reject(408, {}, "too slow")
    assert response.reason_phrase == "Request Timeout"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_reject_with_a_status_that_nobody_registered() -> None:
    """Any status has a reason phrase."""
    assert complete().reject(599, {}, "").serialize().startswith(b"HTTP/1.1 599 Refused\r\n")


def test_reject_guards_its_framing() -> None:
    """Headers that would change where the response ends cannot be set."""
    for name in ("Connection", "content-length", "Transfer-Encoding"):
        with pytest.raises(ValueError, match="frames the response"):
            complete().reject(403, {name: "x"}, "")


def test_reject_answers_head_without_body() -> None:
    """The answer to HEAD has the length of the body, but not the body (RFC 9110 section 9.3.2)."""
    response = complete(HEAD.replace(b"GET", b"HEAD")).reject(426, {}, "text")
    assert (response.headers["Content-Length"], response.body) == ("4", b"")


@pytest.mark.parametrize("data", [b"HEAD / HTTP/2\r\n", b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"])
def test_a_malformed_head_request_gets_no_body_either(data: bytes) -> None:
    """RFC 9110 section 9.3.2 knows no exception."""
    opening = Opening()
    found = opening.take(bytearray(data))
    assert found is not None
    assert b"" == opening.reject(found[0], {}, found[1]).body


def test_reject_not_modified_has_no_body() -> None:
    """RFC 9110 section 15.4.5: a 304 ends with its head."""
    response = complete().reject(304, {}, "text")
    assert (304, "Not Modified", b"") == (response.status_code, response.reason_phrase, response.body)


CASES = st.sampled_from([str.lower, str.upper, str.title, str])
EXTRAS = st.lists(
    st.sampled_from(
        [
            "Origin: https://example.org",
            "Cookie: a=1",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, x-foo",
            "Sec-WebSocket-Extensions: ;;",
            "Sec-WebSocket-Protocol: chat, soap",
            "Sec-WebSocket-Protocol: a b",
            "Connection: keep-alive",
            "Upgrade: h2c",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Key: short",
        ]
    ),
    max_size=3,
)


@given(upgrade=CASES, connection=CASES, extras=EXTRAS, deflate=st.booleans())
def test_the_simple_answer_is_that_of_server_protocol(
    upgrade: type[str], connection: type[str], extras: list[str], deflate: bool
) -> None:
    """Whichever way a 101 is made, it has what ServerProtocol.accept would say, but for the Date."""
    fields = [
        f"Upgrade: {upgrade('websocket')}",
        f"Connection: {connection('upgrade')}",
        "Host: localhost",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    head = LINE + "".join(f"{field}\r\n" for field in fields + extras).encode() + b"\r\n"
    opening = Opening(deflate)
    assert opening.take(bytearray(head)) is None
    assert opening.request is not None
    reference = ServerProtocol(extensions=DEFLATE if deflate else None, logger=SILENT)
    expected, answer = reference.accept(opening.request), opening.accept(None)
    # ServerProtocol would choose no subprotocol by itself, as it has none configured
    assert expected.status_code == answer.status_code
    assert without_date(expected) == without_date(answer)
    agreed = reference.extensions if answer.status_code == 101 else []
    assert [item.name for item in agreed] == [item.name for item in opening.extensions]


def without_date(response: http11.Response) -> list[tuple[str, str]]:
    """Return the headers of a response, sorted, without the one that the clock makes."""
    return sorted(item for item in response.headers.raw_items() if item[0] != "Date")


@given(st.data())
def test_a_whole_head_is_judged_as_one_in_pieces(data: st.DataObject) -> None:
    """A head that comes at once gives the same request, or the same refusal, as one that comes byte by byte."""
    odd = [b"A: b\r\n", b"\r\n", b"\n", b" ", b"\x00", b"Content-Length: 1\r\n", b"\xff: x"]
    pieces = st.sampled_from([LINE, FIELDS, *odd])
    head = b"".join(data.draw(st.lists(pieces, max_size=8))) + b"\r\n\r\n"
    outcomes = []
    for step in (len(head), 1):
        opening, inbox, found = Opening(), bytearray(), None
        for start in range(0, len(head), step):
            inbox += head[start : start + step]
            found = opening.take(inbox)
            if found is not None or opening.request is not None:
                break
        request = opening.request
        fields = request and [request.path, *request.headers.raw_items()]
        outcomes.append((found, opening.head if request else b"", fields))
    assert outcomes[0] == outcomes[1]


NO_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# what a client offers, what it is answered, and the window that it has for our messages
OFFERS = {
    "permessage-deflate": (NO_TAKEOVER, 15),
    "permessage-deflate; client_max_window_bits": (NO_TAKEOVER, 15),
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover": (NO_TAKEOVER, 15),
    "permessage-deflate; server_max_window_bits=9": (f"{NO_TAKEOVER}; server_max_window_bits=9", 9),
    "permessage-deflate; server_max_window_bits=10; client_max_window_bits=8": (
        f"{NO_TAKEOVER}; server_max_window_bits=10; client_max_window_bits=8",
        10,
    ),
    # zlib has no window of 256 bytes; the next offer is taken instead, if there is one
    "permessage-deflate; server_max_window_bits=8": (None, 0),
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": (NO_TAKEOVER, 15),
    "permessage-deflate, permessage-deflate": (NO_TAKEOVER, 15),
    "permessage-deflate; server_max_window_bits=16": (None, 0),
    "permessage-deflate; server_max_window_bits": (None, 0),
    "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9": (None, 0),
    "permessage-deflate; unknown": (None, 0),
    "x-webkit-deflate-frame": (None, 0),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_compression(offer: str) -> None:
    """No side keeps its context, whatever was offered; an offer that is not understood means no compression."""
    expected, window_bits = OFFERS[offer]
    opening = Opening(deflate=True)
    assert opening.take(bytearray(LINE + FIELDS + f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode())) is None
    response = opening.accept(None)
    assert (101, expected) == (response.status_code, response.headers.get("Sec-WebSocket-Extensions"))
    assert (window_bits, 1 if window_bits else 0) == (opening.window_bits, len(opening.extensions))


def test_compression_is_off() -> None:
    """Where it is not configured, no offer is taken."""
    opening = complete(LINE + FIELDS + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    assert "Sec-WebSocket-Extensions" not in opening.accept(None).headers
    assert (0, 0) == (opening.window_bits, len(opening.extensions))


def test_compression_is_not_offered() -> None:
    """Where it is configured, nobody gets it who does not offer it, not even behind one who does."""
    for offer, window_bits in [
        (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", 15),
        (b"", 0),
        (b"X: y\r\n" * 50, 0),
    ]:
        opening = Opening(deflate=True)
        assert opening.take(bytearray(LINE + FIELDS + offer + b"\r\n")) is None
        assert opening.accept("chat").status_code == 101
        assert (window_bits, 1 if window_bits else 0) == (opening.window_bits, len(opening.extensions))


def test_compression_is_not_shared() -> None:
    """Each connection has a decoder of its own: one for all would join the messages of different clients."""
    extensions: list[Extension] = []
    for _ in range(2):
        opening = Opening(deflate=True)
        opening.take(bytearray(LINE + FIELDS + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"))
        opening.accept(None)
        extensions += opening.extensions
    assert 2 == len({id(extension) for extension in extensions})


def test_compression_offered_in_a_broken_header() -> None:
    """A header that is no list of offers is a malformed request."""
    opening = Opening(deflate=True)
    opening.take(bytearray(LINE + FIELDS + b"Sec-WebSocket-Extensions: ;;\r\n\r\n"))
    assert opening.accept(None).status_code == 400


def test_silent() -> None:
    """The logger is off for every level, says nothing, and turns what websockets calls an error into our bug."""
    assert not SILENT.isEnabledFor(10)
    assert SILENT.info("connection %s", State.OPEN) is None
    with pytest.raises(InternalError, match="parser failed"):
        SILENT.error("parser failed", exc_info=True)
