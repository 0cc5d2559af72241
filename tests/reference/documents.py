"""Which references there are, and which of them are not what would be written now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.reference import commands, configuration, module

DOCS: Final = Path(__file__).parents[2] / "docs"
DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": configuration.document,
    "commands.md": commands.document,
    "module.md": module.document,
}


def stale() -> list[str]:
    """Return the names of those that are missing or differ from what would be written."""
    return [name for name, document in DOCUMENTS.items() if _read(DOCS / name) != document()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
