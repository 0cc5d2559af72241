"""Frozen: what a session is at a moment when another process may go on from it. See Session.freeze.

Such moments are those at which the rules of RFC 6455 owe nothing to what came before: the connection is open and no
fragmented message is. Then there is nothing but bytes and messages that nobody has handled, and what the handshake has
agreed on. Compression is not in the way, as no side keeps its context from one message to the next.

Limits are no part of it, since the process that goes on has its own. Nor is anything that was only remembered to save
time, such as how much of a long text is known to be UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate

LEAST_REMOTE_BITS: Final = 8
LEAST_LOCAL_BITS: Final = 9  # zlib has no raw stream with 8
MOST_BITS: Final = 15


class Windows(NamedTuple):
    """What permessage-deflate was agreed on with: base-two logarithms of the windows that client and server keep to.

    remote: of what the client sends, 8 to 15; local: of what it is sent, 9 to 15.
    """

    remote: int
    local: int

    @classmethod
    def agreed(cls, extensions: Sequence[Extension]) -> Windows | None:
        """Return what a handshake has agreed on, None if on nothing."""
        if not extensions:
            return None
        (extension,) = extensions
        assert isinstance(extension, PerMessageDeflate)
        assert extension.remote_no_context_takeover, "a window of the past cannot be moved"
        return cls(extension.remote_max_window_bits, extension.local_max_window_bits)

    @property
    def right(self) -> bool:
        """Whether a handshake can have agreed on this."""
        return LEAST_REMOTE_BITS <= self.remote <= MOST_BITS and LEAST_LOCAL_BITS <= self.local <= MOST_BITS

    def extension(self) -> Extension:
        """Return the extension as the handshake made it."""
        return PerMessageDeflate(True, True, self.remote, self.local)


class SessionState(NamedTuple):
    """A session that stands still.

    unread: what was received and not decoded, from the begin of a frame on, of which the last may not be whole; behind:
    messages that were decoded and not handled, in front of it; windows: None without compression.
    """

    unread: bytes = b""
    behind: tuple[str | bytes, ...] = ()
    windows: Windows | None = None
