"""Events: what a session tells of one connection, in the order in which it came.

A message is a str or bytes by itself, without an object around it: there are many of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from websockets import http11

HttpRequest: TypeAlias = http11.Request
"""A parsed head; websockets is known in protocol/ alone."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The head is complete. You must answer with accept, reject or step_aside; until then no further byte is read.

    head: the bytes that the request was parsed from.
    """

    request: http11.Request
    head: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The head was malformed or over a limit. The answer and the half-close are in the output; nothing follows.

    reason: the sentence in the body of that answer.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping came; the pong is in the output."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong came, asked for or not."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end; comes at most once, and nothing follows.

    clean: the client sent a Close; code and reason are its own, 1005 if it was empty. failed: the connection was failed
    on our side; code and reason are our verdict; Close and half-close are in the output. Neither: the stream ended
    without a Close; code is 1006 and reason says how.
    """

    code: int
    reason: str
    failed: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Handled:
    """A frame was handled and there is nothing to do about it: a message goes on, or data came after our Close.

    It is an event so that who counts events counts frames: no flood of empty fragments passes for one event.
    """


Event: TypeAlias = str | bytes | Handshake | Refused | Ping | Pong | Closed | Handled
