"""Which wsworker this is, and what it stands on: asked of the installed packages, and only when somebody wants to know.

importlib.metadata costs as much as a good part of `wsworker status`, so it is imported in the functions.
"""

from __future__ import annotations

from typing import Final

SHOWN_PACKAGES: Final = ("websockets", "uvloop")
NOT_INSTALLED: Final = "not installed"


def version(package: str = "wsworker") -> str:
    """Return the version of an installed package, or "not installed"; a checkout that is only run has none."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def banner() -> str:
    """Return the line that a start in the foreground begins with, and that --version prints."""
    import platform

    packages = [f"{package} {version(package)}" for package in SHOWN_PACKAGES]
    return " · ".join([f"wsworker {version()}", f"Python {platform.python_version()}", *packages])
