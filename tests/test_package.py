"""The face of the package, and what its metadata promise."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wsworker

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", wsworker.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each loads from its home and shows in dir()."""
    assert name == getattr(wsworker, name).__name__
    assert name in dir(wsworker)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The sentence lists what there is."""
    with pytest.raises(AttributeError, match="'Conection'; it has CloseCode, Connection, Reject"):
        _ = wsworker.Conection


def test_importing_the_package_loads_nothing() -> None:
    """Clients of the control socket pay for no event loop, no protocol and no models."""
    code = (
        "import sys, wsworker; print([m for m in ('asyncio', 'websockets', 'pydantic', 'uvloop') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry of CHANGELOG.md is the version of the package."""
    versions = re.findall(r"^## \[?([0-9][^\] ]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["version"] == versions[0]


def test_the_package_is_typed() -> None:
    """PEP 561: type checkers read our annotations only where py.typed says so."""
    assert (ROOT / "wsworker" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]
