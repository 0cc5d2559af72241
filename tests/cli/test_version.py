"""The versions."""

from __future__ import annotations

import platform
from importlib import metadata

from wsworker.cli.version import banner, version


def test_an_installed_package() -> None:
    """The version is that of the package as it is installed."""
    assert metadata.version("click") == version("click")


def test_a_package_that_is_not_installed() -> None:
    """Then it says so, and nothing fails: a checkout can be run without being installed."""
    assert "not installed" == version("wsworker-has-no-such-friend")


def test_the_banner() -> None:
    """It names what a bug report has to name."""
    names = [part.split()[0] for part in banner().split(" · ")]
    assert ["wsworker", "Python", "websockets", "uvloop"] == names
    assert f"Python {platform.python_version()}" in banner()
