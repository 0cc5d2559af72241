"""docs/troubleshooting.md: its headings are messages of the program, and every kind of error has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wsworker
from wsworker import errors

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"

# what stands below these is no message of ours
SYMPTOMS = "## Clients"

_PLACEHOLDER = re.compile(r"\b[A-Z]{1,}[A-Z_]*\b(?!=)")
# the seam between two literals of one text, and what a format string fills in
_SEAM = re.compile(r'"\s*\n?\s*[rf]{0,2}"')


def headings() -> list[str]:
    """Return the messages of the page."""
    return re.findall(r"^### (.*)$", PAGE.read_text().partition(SYMPTOMS)[0], re.MULTILINE)


def literals(heading: str) -> list[str]:
    """Return what a message says itself, between the placeholders."""
    parts = _PLACEHOLDER.split(heading)
    return [part.strip(" ():,;?.") for part in parts if len(part.strip(" ():,;?.")) >= 6]


def source() -> str:
    """Return all of the package as one text, in which long messages are not cut by the ends of lines."""
    files = sorted(Path(wsworker.__file__).parent.rglob("*.py"))
    return _SEAM.sub("", "\n".join(file.read_text() for file in files))


ERRORS = [
    errors.AlreadyRunning("hello", 4242),
    errors.AlreadyRunning("hello", 4242, "/srv/other/config.yaml"),
    errors.RunDirError("/run/wsworker", "it is a symbolic link", "remove it"),
    errors.BindError("127.0.0.1:2346", "address in use", "pid 812 (nginx)", "config.yaml:3:9"),
    errors.BindError("10.0.0.1:2346", "address not available", "", "config.yaml:3:9"),
    errors.ActivationError("[::]:80", "which `listen` does not name", "add it"),
    errors.PrivilegeError("setuid", "EPERM"),
    errors.NotRunning("hello", "/run/wsworker/hello.sock"),
    errors.NotRunning("hello", "/run/wsworker/hello.sock", ("/run/wsworker/hello.sock",)),
]
"""One of each kind that has a sentence of its own; what a person sees is put together from several parts."""


@pytest.mark.parametrize("heading", headings())
def test_headings_are_messages(heading: str) -> None:
    """A heading is the sentence of an error, or what it says between its placeholders stands in the program."""
    if any(matches(heading, str(error)) for error in ERRORS):
        return
    fragments, text = literals(heading), source()
    assert fragments
    for fragment in fragments:
        assert fragment in text, f"no message of wsworker says {fragment!r}"


def matches(heading: str, sentence: str) -> bool:
    """Say whether a sentence is a heading with its placeholders filled in."""
    pattern = "".join(
        ".+" if _PLACEHOLDER.fullmatch(part) else re.escape(part)
        for part in re.split(rf"({_PLACEHOLDER.pattern})", heading)
    )
    return re.match(pattern, sentence) is not None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_have_a_heading(error: errors.WsworkerError) -> None:
    """Each sentence that errors.py makes is found on the page."""
    assert any(matches(heading, str(error)) for heading in headings()), str(error)


def test_every_section_has_cause_and_cure() -> None:
    """Below each heading there is text."""
    for section in PAGE.read_text().split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        assert text.strip(), heading
