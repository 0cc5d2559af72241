"""NATS as bytes: the protocol between a client and a server. Keeps no socket and no clock.

    the server says    INFO {json}                         who it is and what it takes; first, and when that changes
                       MSG subject sid [reply] size        a message, size bytes and CR LF behind the line
                       -ERR 'text'                         it refuses something; most often it closes then
    the client says    CONNECT {json}                      who it is
                       SUB subject sid | UNSUB sid         sid: a number of the client's choice, by which messages come
                       PUB subject size                    a message, as with MSG
    either says        PING | PONG                         all that was said before has arrived

A line ends with CR LF. Source: docs.nats.io, "Client Protocol".

We decline headers, so the server takes them off whatever carries some, and HMSG is a fault. Acknowledgements of each
line (+OK) are declined too. What a server says is judged all the same: a declared size before its bytes are kept, and a
fault ends the connection. What came before a fault counts, however the bytes were cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, unique
from typing import Any, Final, NamedTuple, TypeAlias

from wsworker.errors import WireError

MOST_BYTES: Final = 64 * 1024 * 1024
"""The largest payload that any NATS server lets pass, whatever its own max_payload is."""

LINE_BYTES: Final = 64 * 1024
"""The longest line: an INFO names each server of a cluster."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
_END: Final = b"\r\n"


class Info(NamedTuple):
    """What a server says of itself.

    max_payload: bytes; offers_tls, wants_tls: whether it can speak TLS, and whether it must.
    """

    max_payload: int
    offers_tls: bool = False
    wants_tls: bool = False


class Message(NamedTuple):
    """A message to the subscription of this number."""

    sid: int
    data: bytes


class Refusal(NamedTuple):
    """What a server does not want; text: as it says it."""

    text: str


@unique
class Word(Enum):
    """What says all by itself."""

    PING = b"PING"
    PONG = b"PONG"
    OK = b"+OK"


Event: TypeAlias = Info | Message | Refusal | Word
_WORDS: Final[Mapping[bytes, Word]] = {word.value: word for word in Word}


class Reader:
    """Makes events of bytes.

    fault: why nothing is read any more, or "". You must look at it after each feed, behind the events that it gave.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self.fault = ""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that data completes."""
        events: list[Event] = []
        if self.fault:
            return events
        self._buffer += data
        if len(self._buffer) < self._needed:
            # a large message comes in many pieces, and is looked at again when all of it is there
            return events
        self._needed = 0
        try:
            end = self._read(bytes(self._buffer), events)
            del self._buffer[:end]
        except WireError as error:
            self.fault = error.reason
            self._buffer.clear()
        return events

    def _read(self, data: bytes, events: list[Event]) -> int:
        """Add what is complete to events; return where the rest begins."""
        begin = 0
        while True:
            end = data.find(_END, begin)
            # the CR of the line's end may be there without its LF
            length = len(data) - begin - 1 if end < 0 else end - begin
            if length > LINE_BYTES:
                raise WireError(f"a line of more than {LINE_BYTES} bytes")
            if end < 0:
                return begin
            line = data[begin:end]
            if not line.startswith(b"MSG "):
                events.append(_event(line))
                begin = end + len(_END)
                continue
            sid, size = _message(line)
            body = end + len(_END)
            after = body + size + len(_END)
            if after > len(data):
                self._needed = after - begin
                return begin
            if data[body + size : after] != _END:
                raise WireError("a message does not end where it should")
            events.append(Message(sid, data[body : body + size]))
            begin = after


def _message(line: bytes) -> tuple[int, int]:
    words = line.split()
    if len(words) not in (4, 5) or not (words[2].isdigit() and words[-1].isdigit()):
        raise WireError("a broken MSG")
    # int() is asked for no more digits than a number may have here
    if len(words[2]) > 18 or len(words[-1]) > 18 or int(words[-1]) > MOST_BYTES:
        raise WireError("a MSG with a number that is too large")
    return int(words[2]), int(words[-1])


def _event(line: bytes) -> Event:
    word, _, rest = line.partition(b" ")
    # protocol words are the same in capitals and small letters
    match word.upper():
        case b"INFO":
            return _info(rest)
        case b"-ERR":
            return Refusal(rest.decode(errors="replace").strip().strip("'"))
        case other if other in _WORDS:
            return _WORDS[other]
    raise WireError(f"it says {word[:20].decode(errors='replace')!r}")


def _info(text: bytes) -> Info:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("an INFO that is no JSON") from None
    if not isinstance(facts, dict):
        raise WireError("an INFO that is no object")
    most = facts.get("max_payload")
    if not isinstance(most, int) or most < 1:
        raise WireError("an INFO without max_payload")
    wants_tls = bool(facts.get("tls_required"))
    return Info(most, wants_tls or bool(facts.get("tls_available")), wants_tls)


def connect(facts: Mapping[str, Any]) -> bytes:
    """Return the CONNECT that says these facts, beside those that hold for every connection of ours."""
    always = {"verbose": False, "pedantic": False, "echo": False, "headers": False, "protocol": 1, "lang": "python"}
    return b"CONNECT %b\r\n" % json.dumps({**always, **facts}).encode()


def subscribe(subject: str, sid: int) -> bytes:
    """Return a SUB. subject: without blanks, as all that come from channels.py."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    """Return an UNSUB."""
    return b"UNSUB %d\r\n" % sid


def publish(subject: str, data: bytes) -> bytes:
    """Return a PUB. subject: as for subscribe."""
    return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(data), data)
