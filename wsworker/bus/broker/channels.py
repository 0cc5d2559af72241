"""Channels: what a key is called at a broker, and back.

    Redis, Valkey    <prefix><kind>:<name>      wsworker:topic:news      a channel
    NATS             <prefix>.<kind>.<name>     wsworker.topic.news      a subject; the prefix without its last colon

A channel may have any bytes. A subject is tokens with dots between them, in which blanks, * and > mean something; so
every byte of a name but A-Z a-z 0-9 _ - is written as %XX there. A broadcast has no name, and for NATS no token for it.

Beside the keys there is the service's own kind: one channel without a name, for gaps, that every worker hears, and one
for each worker, for its probes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from wsworker.bus.topics import EVERYBODY, Key, Kind, check_name

SERVICE: Final = "service"
_KINDS: Final[Mapping[bytes, Kind]] = {b"topic": "topic", b"user": "user"}
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED: Final = re.compile(rb"%([0-9A-F]{2})")


def channel(prefix: str, key: Key) -> bytes:
    """Return the channel of a key."""
    return f"{prefix}{key.kind}:{key.name}".encode()


def service_channel(prefix: str, name: str = "") -> bytes:
    """Return the channel of the service that all hear, or the one of this name."""
    return f"{prefix}{SERVICE}:{name}".encode()


def key_of_channel(prefix: str, name: bytes) -> Key | None:
    """Return the key that a channel belongs to, None if to none."""
    start = prefix.encode()
    kind, colon, rest = name.removeprefix(start).partition(b":")
    return _key(kind, rest) if name.startswith(start) and colon else None


def subject(prefix: str, key: Key) -> str:
    """Return the subject of a key."""
    start = f"{prefix.removesuffix(':')}.{key.kind}"
    return f"{start}.{_escape(key.name)}" if key.name else start


def service_subject(prefix: str, name: str = "") -> str:
    """Return the subject of the service that all hear, or the one of this name."""
    start = f"{prefix.removesuffix(':')}.{SERVICE}"
    return f"{start}.{_escape(name)}" if name else start


def key_of_subject(prefix: str, name: str) -> Key | None:
    """Return the key that a subject belongs to, None if to none."""
    start = f"{prefix.removesuffix(':')}."
    kind, _, rest = name.removeprefix(start).partition(".")
    plain = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), rest.encode(errors="replace"))
    found = _key(kind.encode(errors="replace"), plain) if name.startswith(start) else None
    # each key has one subject, and no other is its
    return found if found is not None and subject(prefix, found) == name else None


def _escape(name: str) -> str:
    return _UNSAFE.sub(lambda match: b"%%%02X" % ord(match[0]), name.encode()).decode()


def _key(kind: bytes, name: bytes) -> Key | None:
    if kind == b"broadcast":
        return None if name else EVERYBODY
    if kind not in _KINDS:
        return None
    try:
        text = name.decode()
        check_name(text)
    except ValueError:
        return None
    return Key(_KINDS[kind], text)
