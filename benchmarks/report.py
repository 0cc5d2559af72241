"""The report of a benchmark with several loads: a table for each, whose rows are servers.

A row is the round with the median figure, whole: figures of different rounds stand in no row together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from benchmarks import rounds
from benchmarks.table import table


class Figured(Protocol):
    """What one measurement gave."""

    @property
    def per_cpu_second(self) -> float:
        """The figure that servers are compared by."""


R = TypeVar("R", bound=Figured)


@dataclass(frozen=True)
class Report(Generic[R]):
    """What stands in the tables.

    loads: their titles; columns: the server, its figure, how far the rounds were apart, then those of costs and of
    comparison; costs: returns the cells of a row in between; comparison: is called with the title of the load, the
    server, its result and ours, which may be lacking, and returns the last two cells; ours: the server to compare with.
    """

    loads: Sequence[str]
    columns: Sequence[str]
    costs: Callable[[R], tuple[str, ...]]
    comparison: Callable[[str, str, R, R | None], tuple[str, str]]
    ours: str

    def text(self, outcome: rounds.Outcome[Mapping[str, R]], markdown: bool) -> str:
        """Return the tables. outcome: of each turn a result by title; markdown: for a document."""
        return "\n".join(table(title, self.columns, self._rows(title, outcome), markdown) for title in self.loads)

    def _rows(self, title: str, outcome: rounds.Outcome[Mapping[str, R]]) -> list[Sequence[str]]:
        results = {server: [turn[title] for turn in turns] for server, turns in outcome.results.items()}
        middle = {server: rounds.median(every, _per_cpu_second) for server, every in results.items()}
        return [
            (
                server,
                f"{one.per_cpu_second:,.0f}",
                rounds.spread(results[server], _per_cpu_second),
                *self.costs(one),
                *self.comparison(title, server, one, middle.get(self.ours)),
            )
            for server, one in middle.items()
        ]


def _per_cpu_second(result: Figured) -> float:
    return result.per_cpu_second
