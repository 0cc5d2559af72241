"""A text that settings come from: the config file, a variable or a flag, and how a problem in it is shown.

A problem of the file has a line, a column and the line itself, with a caret below; one of a variable or a flag has its
name only. The file is read once, in one go, and never from anything that could keep a master waiting.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from wsworker import yamlfile
from wsworker.brokers import hide_secrets, hide_value, inside_secrets
from wsworker.errors import ConfigError, Problem
from wsworker.yamlfile import Spot

MAX_FILE_BYTES: Final = 256 * 1024
"""A master that reloads reads it in one go."""
MAX_EXCERPT_CHARS: Final = 200


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file, a variable or a flag; line and column count from 1, or are 0."""

    place: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}:{self.column}" if self.line else self.place


@dataclass(frozen=True)
class Source:
    """One text that settings come from; a variable or a flag has no lines to point at."""

    place: str
    text: str
    has_lines: bool = False

    def problem(self, spot: Spot, message: str, is_secret: bool = False) -> Problem:
        """Return a problem at a spot of this text, with its line if it has lines.

        is_secret: whether a value stands there in which a secret may be, as in bus.url.
        """
        if not self.has_lines:
            return Problem(self.place, 0, 0, message)
        line = self._lines[spot.line - 1]
        width = max(1, min(spot.width, len(line) - spot.column + 1))
        # a line that could steer the terminal or fill the screen is not worth it, and a secret in it is for nobody
        shown = hide_secrets(line, self._inside[spot.line - 1]) if len(line) <= MAX_EXCERPT_CHARS else ""
        if is_secret and shown:
            # its key may stand elsewhere, or be written so that the line does not tell what it is
            shown = hide_value(shown, spot.column - 1)
        excerpt = "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in shown)
        return Problem(self.place, spot.line, spot.column, message, excerpt, width)

    @cached_property
    def _lines(self) -> list[str]:
        return yamlfile.lines(self.text)

    @cached_property
    def _inside(self) -> list[bool]:
        return inside_secrets(self._lines)

    def origin(self, spot: Spot) -> Origin:
        """Return where a spot of this text is."""
        return Origin(self.place, spot.line, spot.column) if self.has_lines else Origin(self.place)


def read_file(path: Path) -> Source:
    """Return the text of the file; raises ConfigError with the one reason why there is none."""
    place = str(path)
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                message = "this is no regular file, so a reload could not read it again; name another with -c FILE"
                raise ConfigError(place, (Problem(place, 0, 0, message),))
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(place, (Problem(place, 0, 0, _reason(error)),)) from None
    if len(data) > MAX_FILE_BYTES:
        message = "larger than 256 KiB, so it is no config file; name another with -c FILE"
        raise ConfigError(place, (Problem(place, 0, 0, message),))
    try:
        # utf-8-sig: some editors put a byte order mark first, and columns are to count without it
        return Source(place, data.decode("utf-8-sig"), has_lines=True)
    except UnicodeDecodeError as error:
        # error.object, and not data, is what error.start counts in: it has no byte order mark
        before = yamlfile.lines(error.object[: error.start].decode())
        spot = Spot(len(before), len(before[-1]) + 1)
        message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(place, (Problem(place, spot.line, spot.column, message),)) from None


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe must not keep the master waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; create it, or name another with -c FILE"
        case IsADirectoryError():
            return "this is a directory; name the file in it with -c FILE"
        case PermissionError():
            return "no permission to read it; change its rights, or run as a user who may"
        case _:
            return f"cannot be read ({error.strerror}); name another file with -c FILE"
