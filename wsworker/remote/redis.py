r"""Redis and Valkey, as far as publishing goes: AUTH, PUBLISH, and SPUBLISH in a cluster; each is answered by one line.

    *3\r\n$7\r\nPUBLISH\r\n$13\r\nws:topic:news\r\n$5\r\nhello\r\n     a list of three strings, each with its length

    :2                                   two connections have got it
    -NOPERM User chat has no ...         an error; the first word is its code
    -MOVED 3999 10.0.0.7:6379            the slot of this channel is there

A part of a command is none, so one that was not sent to its last byte has reached nobody. A database is not selected:
channels belong to none. In a cluster each channel has a slot, see bus/redis/slots.py, and each slot one server. Which
one, every server says in an error: who asks the wrong one has lost a round trip, and no message.

Source: the Redis serialization protocol, version 2, and the Redis cluster specification.
"""

from __future__ import annotations

import re
from typing import Final

from wsworker.brokers import BrokerUrl, Server, server
from wsworker.bus.broker.channels import channel
from wsworker.bus.topics import Key
from wsworker.errors import WireError
from wsworker.remote.link import no_entry, refusal
from wsworker.remote.stream import Stream, Where, context_of
from wsworker.visible import escape

MAX_LINE_BYTES: Final = 64 * 1024
_QUOTE: Final = re.compile("[\"'`]")


class RedisLink:
    """A connection to a server. Making it connects and signs in. Raises OSError, WireError or PublishError."""

    def __init__(self, url: BrokerUrl, where: Where, give_up_at: float) -> None:
        context = context_of(url) if url.kind.tls else None
        self._url = url
        self._where = where
        self._unread = b""
        self.stream = Stream(where, give_up_at)
        try:
            if context is not None:
                assert isinstance(where, Server), "there is no TLS over a unix socket"
                self.stream.secure(context, where.host)
            if url.user or url.password:
                self._sign_in()
        except BaseException:
            self.stream.close()
            raise

    def stays(self) -> bool:
        """See Link. Unasked, Redis says nothing but why it ends the connection."""
        try:
            return not self.stream.arrived()
        except (OSError, WireError):
            return False

    def send(self, prefix: str, key: Key, payload: bytes) -> None:
        """See Link."""
        verb = b"SPUBLISH" if self._url.kind.cluster else b"PUBLISH"
        self.stream.send(command(verb, channel(prefix, key), payload))

    def answer(self) -> Where | None:
        """See Link."""
        line = self._line()
        if line.startswith(b":"):
            return None
        code, _, rest = _error(line).partition(" ")
        if code == "MOVED":
            return self._moved(rest)
        raise refusal(self._url, f"{code} {rest}".strip())

    def _sign_in(self) -> None:
        user = [self._url.user.encode()] if self._url.user else []
        self.stream.send(command(b"AUTH", *user, self._url.password.encode()))
        line = self._line()
        if line != b"+OK":
            # a server that knows no AUTH quotes what stood behind it: the password
            raise no_entry(self._url, _QUOTE.split(_error(line))[0].rstrip())

    def _line(self) -> bytes:
        """Return the next line, without its end. Raises OSError or WireError."""
        while b"\r\n" not in self._unread:
            if len(self._unread) > MAX_LINE_BYTES:
                raise WireError(f"it says more than {MAX_LINE_BYTES} bytes in a line")
            self._unread += self.stream.receive()
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def _moved(self, rest: str) -> Server:
        """Return the server in "3999 10.0.0.7:6379"; a host that is not said is that of the server which says it."""
        host, _, port = rest.partition(" ")[2].rpartition(":")
        if host in ("", "?") and isinstance(self._where, Server):
            host = self._where.host
        try:
            return server(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 0)
        except ValueError:
            raise WireError("it names another server, but not which one") from None


def command(*words: bytes) -> bytes:
    """Return a command as it is sent."""
    strings = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(strings))


def _error(line: bytes) -> str:
    """Return what an error says. Raises WireError if this is none."""
    if not line.startswith(b"-"):
        raise WireError(f"it does not speak as Redis does: {escape(line[:20].decode(errors='replace'))!r}")
    return line[1:].decode(errors="replace")
