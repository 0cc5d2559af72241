r"""Access: one line when a connection opens, one when it closes, one for each that was refused, if `log.access` is on.

    open remote=192.0.2.7:55232 path=/chat origin=https://example.org subprotocol=chat agent="Mozilla/5.0 (X11)"
    close code=1000 by=client reason=bye age=62.013 messages_in=9 messages_out=9 bytes_in=273 bytes_out=159 ...
    refuse remote=192.0.2.7:55240 path=/chat status=403 reason=origin

The same names are keys of the object where lines are JSON. What is not there, as a client without Origin, is left out
of a line and null in an object. Of the target the path alone is told, as the query may hold a token.

A text with a blank, a quote or an equals sign stands in quotes, a quote in it as \x22, so a client cannot make up a
field. Texts are cut after MOST characters.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from wsworker.protocol.request import Address
from wsworker.visible import escape

MOST: Final = 200

_BREAKS: Final = re.compile(r'[\s"=]')

Side: TypeAlias = Literal["client", "server", "nobody"]


class Farewell(NamedTuple):
    """What a connection ended by: the first Close, whoever sent it, or 1006 if there was none.

    by: who ended it; nobody, if the network did, or a client that went without a word. reason: of the Close, or what
    has happened.
    """

    by: Side
    code: int
    reason: str


class Access:
    """The access log of one worker. clock: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._log = logging.getLogger("wsworker.access")
        # asked for by itself, so not by `log.level`
        self._log.setLevel(logging.INFO)

    # A connection is passed as Any, as in home.py

    def opened(self, connection: Any) -> None:
        """Tell of a connection whose handshake has succeeded."""
        request = connection.request
        fields = {
            "remote": str(connection.remote),
            "path": request.path,
            "origin": request.headers.get("origin"),
            "subprotocol": connection.subprotocol,
            "agent": request.headers.get("user-agent"),
        }
        self._write("open", fields, connection.id)

    def closed(self, connection: Any, farewell: Farewell) -> None:
        """Tell of a connection that has ended."""
        cork = connection._cork
        fields = {
            "code": farewell.code,
            "by": farewell.by,
            "reason": farewell.reason or None,
            "age": round(self._clock() - connection._opened_at, 3),
            "messages_in": connection._messages_in,
            "messages_out": cork.messages_out,
            "bytes_in": connection._bytes_in,
            "bytes_out": cork.bytes_out,
            "remote": str(connection.remote),
            "path": connection.request.path,
            "user": connection.user,
        }
        self._write("close", fields, connection.id)

    def refused(self, remote: Address, path: str | None, status: int, reason: str) -> None:
        """Tell of a handshake that was answered with another status than 101. reason: a word of ours."""
        self._write("refuse", {"remote": str(remote), "path": path, "status": status, "reason": reason}, None)

    def _write(self, event: str, fields: Mapping[str, object], connection: str | None) -> None:
        cut = {name: _cut(value) for name, value in fields.items()}
        words = [f"{name}={_word(value)}" for name, value in cut.items() if value is not None]
        self._log.info("%s", " ".join([event, *words]), extra={"connection": connection, "event": event, **cut})


def _cut(value: object) -> object:
    return f"{value[:MOST]}..." if isinstance(value, str) and len(value) > MOST else value


def _word(value: object) -> str:
    text = str(value)
    shown = escape(text, len(text))
    if not shown or _BREAKS.search(shown):
        return '"' + shown.replace('"', "\\x22") + '"'
    return shown
