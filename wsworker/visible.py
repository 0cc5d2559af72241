r"""Visible: text of strangers that can do no harm in a line of the log or on a terminal.

What a client sends may hold a line end, which would begin a line that looks like ours; an escape sequence, which acts
on a terminal; or marks that reorder what stands there. All of them become visible text such as \x1b or \u202e.
Backslashes stay as they are: who sends the four characters \x1b has them shown the same way, which harms nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# C0, DEL and C1; what Unicode also calls a line end; the marks that reorder text on a screen; surrogates, which have no
# UTF-8
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_BUT_TAB: Final = re.compile(_UNSAFE.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0a-\x1f"))


def escape(text: str, limit: int = 200) -> str:
    r"""Return a client's text fit for a log line: control characters as \x1b or \u202e, cut after limit characters.

    A cut is marked by how many characters are missing.
    """
    shown = _UNSAFE.sub(_visible, text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text) - limit} more)"


def escape_line(line: str) -> str:
    """Return one line of a record, as escape() does but whole: the tab is the one control character that may stay."""
    return _UNSAFE_BUT_TAB.sub(_visible, line)


def escape_json(document: str) -> str:
    r"""Return a JSON text in which every such character is an escape of JSON's, so a reader gets what was said.

    document: as json.dumps gives it with ensure_ascii=False. A lone surrogate, which strict readers refuse in
    either form, becomes the visible text \udc80.
    """
    return _UNSAFE.sub(_visible_in_json, document)


def is_colorless(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for no colour: NO_COLOR (no-color.org), or a terminal that calls itself dumb."""
    return bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _visible_in_json(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\\\u{code:04x}" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
