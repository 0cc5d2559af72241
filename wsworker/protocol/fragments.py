"""Fragments: the pieces of one message that comes in several frames, joined and checked as they come.

They are kept in one buffer and not in a list: a flood of tiny ones must not cost an object each. Text is checked piece
by piece, so that a bad byte fails the connection before the rest has been sent; the text of a frame that takes several
reads is looked at in the same way, and only looked at: the frame is decoded when it is whole, like any other. Empty
fragments are legal and carry nothing, so their number has a limit of its own. RFC 6455 sections 5.4 and 8.1.
"""

from __future__ import annotations

import codecs
from typing import Final

from wsworker.protocol.frames import unmask

LEAST_FRAGMENTS: Final = 1024
BYTES_PER_FRAGMENT: Final = 256


def most_fragments(max_size: int) -> int:
    """Return how many fragments a message of at most max_size bytes may have; a browser's hold 131,000 bytes each."""
    return max(LEAST_FRAGMENTS, max_size // BYTES_PER_FRAGMENT)


class Fragments:
    """The message that is open. is_text: as its first frame says; count: its frames so far, size: its bytes."""

    __slots__ = ("_buffer", "_checked", "_is_text", "count")

    def __init__(self, is_text: bool) -> None:
        self._is_text = is_text
        self._buffer = bytearray()
        self._checked = 0  # bytes that are known to be UTF-8
        self.count = 0

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._buffer)

    def add(self, payload: bytes, fin: bool) -> None:
        """Add a piece; fin: it is the last. UnicodeDecodeError, with the place in the message, if it is not UTF-8."""
        self._buffer += payload
        self.count += 1
        if self._is_text:
            try:
                self._checked += codecs.utf_8_decode(self._buffer[self._checked :], "strict", fin)[1]
            except UnicodeDecodeError as error:
                error.start += self._checked
                raise

    def message(self) -> str | bytes:
        """Return the message; only after its last piece."""
        return self._buffer.decode() if self._is_text else bytes(self._buffer)


class Ahead:
    """The text of a frame that is not whole, checked as it comes; each byte is looked at once.

    begin: where its payload begins in the inbox; key: its masking key.
    """

    __slots__ = ("_at", "_begin", "_key", "_rest")

    def __init__(self, begin: int, key: bytes | bytearray) -> None:
        self._begin = begin
        self._key = key
        self._at = 0  # bytes of the payload that were looked at
        self._rest = b""  # the last of them, if they only begin a character

    def check(self, inbox: bytearray) -> None:
        """Check what has come since; UnicodeDecodeError, with the place in the payload, if it is not UTF-8.

        inbox: starts with the frame and ends within it.
        """
        text = self._rest + unmask(inbox[self._begin + self._at :], self._key, self._at)
        try:
            checked = codecs.utf_8_decode(text, "strict", False)[1]
        except UnicodeDecodeError as error:
            error.start += self._at - len(self._rest)
            raise
        self._at += len(text) - len(self._rest)
        self._rest = text[checked:]
