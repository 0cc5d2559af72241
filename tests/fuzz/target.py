"""Target: one thing to fuzz: what it is given, what must be true of it, and what was once wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_QUIET: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@dataclass(frozen=True)
class Target:
    """A target. cases: what to try; check: raises over a case that ends badly; known: tried each time, in this order.

    A case is a frozen dataclass whose repr is Python, so that what a failure prints can be added to `known`.
    """

    name: str
    cases: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    known: tuple[Any, ...]

    def run(self, examples: int, seed: int) -> int:
        """Try the known cases and so many new ones; return how many were tried. A failure raises and says which."""
        tried = 0

        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            self.check(case)

        for case in self.known:
            try:
                check(case)
            except Exception as exc:
                exc.add_note(f"known case: {case!r}")
                raise
        wrapped = given(case=self.cases)(check)
        wrapped = settings(
            max_examples=examples, database=None, deadline=None, print_blob=True, suppress_health_check=_QUIET
        )(wrapped)
        hypothesis.seed(seed)(wrapped)()
        return tried
