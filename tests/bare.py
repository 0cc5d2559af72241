"""An interpreter in which the extras are not installed, as for somebody who has installed wsworker alone."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("redis",)


def bare_path(folder: Path) -> str:
    """Make a folder of links to all packages but those; return the PYTHONPATH of an interpreter without site."""
    folder.mkdir()
    for package in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not package.name.startswith(EXTRAS):
            (folder / package.name).symlink_to(package)
    return f"{ROOT}:{folder}"


def bare_command(*arguments: str) -> list[str]:
    """Return the command line of that interpreter."""
    return [sys.executable, "-S", *arguments]
