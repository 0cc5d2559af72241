"""`wsworker schema`."""

from __future__ import annotations

from collections.abc import Callable

from tests.cli.conftest import Place, Result
from wsworker import schema


def test_it_prints_the_schema(place: Place, wsworker: Callable[..., Result]) -> None:
    """The output is the shipped file, byte by byte, with --json and without; no config file is needed."""
    place.config.unlink()
    assert Result(0, schema.text(), "") == wsworker("schema")
    assert Result(0, schema.text(), "") == wsworker("schema", "--json")
