r"""The standard streams as a command finds them: closed, or unable to write what we say, or with nobody who reads.

A stream that is closed becomes /dev/null: the next file opened would get its number, and what is printed would go into
that.

Which characters a stream can write is a matter of its encoding, which is that of the locale: UTF-8 nearly everywhere,
but not with `LC_ALL=en_US.ISO-8859-1`. What it cannot write appears as Python would write it in a string, such as
\u0431: the name of one client must not end the list of all. The few characters that we draw with have one of ASCII to
stand for them, as wide as they are, so that columns stay columns.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Final

IN_ASCII: Final = dict(zip("▁▂▃▄▅▆▇█…·", ".:-=+*#@~-", strict=True))
"""What we draw with: sparklines, the mark of a shortened text, the banner. For a bar rich has ASCII itself."""
_ERRORS: Final = "wsworker"


def prepare() -> None:
    """Make standard output and error fit for every command; to be called before any file is opened."""
    _open_closed()
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        # who runs a command inside a program of his own may have put something else there
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def discard_output() -> None:
    """Let standard output go nowhere, as it cannot be written to: Python tries once more at its end, and would tell."""
    _discard(1)


def settle_errors() -> None:
    """Do the same with standard error if it cannot be written to, or else the exit code would be Python's 120."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(2)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _open_closed() -> None:
    """Put /dev/null where standard input, output or error is closed.

    `wsworker start 2>&-` is enough for that, and the log would then go into whatever was opened first.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Python leaves a stream None that it found closed; standard input stays so, which tells `publish` of it
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Return what is written instead of characters that a stream cannot write: codecs.register_error."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lost), error.end
