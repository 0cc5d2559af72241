"""A browser for all pages of the examples, and an example for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.browser.conftest import browser as browser
from tests.browser.conftest import context as context
from tests.examples.example import Example

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

MakeExample: TypeAlias = Callable[[str], Example]
OpenPage: TypeAlias = Callable[[str], "Page"]

PATIENCE_MS = 15000


@pytest.fixture
def make_example() -> Iterator[MakeExample]:
    """Return a function that takes an example's name; the test has to start() what it makes."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(Example(name))


@pytest.fixture
def open_page(context: BrowserContext) -> Iterator[OpenPage]:
    """Return a function that opens a URL in a new page. A page that throws, or loads what is not there, is an error."""
    faults: list[str] = []

    def open_url(url: str) -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: faults.append(f"{url}: {error}"))
        page.on("response", lambda seen: faults.append(f"{seen.url}: {seen.status}") if seen.status >= 400 else None)
        page.goto(url)
        return page

    yield open_url
    assert [] == faults
