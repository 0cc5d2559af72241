"""What a run of the Autobahn test suite has found, beside what it must find. Pure: texts in, texts out.

The suite gives each case two verdicts: behavior is about the messages and control frames, close about the end of the
connection. expected.toml pins both for each case that is not OK, with a reason, and the number of cases in each
section, so that a case that was left out is noticed too. The comparison goes both ways: an exception that has become
OK must leave the file.

A run may leave cases out (a commit does not wait for the long ones), so what it must find is the pinned file cut down
to a Selection for each section.

docs/conformance.md is written from the pinned file alone: a run that agrees with it has nothing to add, and a test can
tell without a run whether the two belong together.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

Grade: TypeAlias = Literal["OK", "informational", "non-strict", "failed"]

GRADES: Final[tuple[Grade, ...]] = ("OK", "informational", "non-strict", "failed")

WITH_DEFLATE: Final = frozenset({12, 13})
"""Sections that need permessage-deflate."""

ON_COMMIT: Final[Mapping[int, tuple[str, ...]]] = {
    9: (),
    12: tuple(f"12.{data}.{size}" for data in range(1, 6) for size in range(1, 7)),
    13: tuple(f"13.{parameters}.{size}" for parameters in range(1, 8) for size in range(1, 5)),
}
"""The cases of the long sections that a short run takes, one by one: a pattern 12.*.1 would take 12.1.10 too."""


class Verdict(NamedTuple):
    """What the suite says of a case, in its own words: "OK", "NON-STRICT", "WRONG CODE" and so on."""

    behavior: str
    close: str

    @property
    def grade(self) -> Grade:
        """The worse of the two, in one of four words; a case that could not be run counts as failed."""
        words = {self.behavior, self.close}
        if words <= {"OK"}:
            return "OK"
        if words <= {"OK", "INFORMATIONAL"}:
            return "informational"
        return "non-strict" if words <= {"OK", "INFORMATIONAL", "NON-STRICT"} else "failed"


OK: Final = Verdict("OK", "OK")


class Section(NamedTuple):
    """A section of the suite. cases: how many it has."""

    title: str
    cases: int


class Exceptional(NamedTuple):
    """Cases that are not OK, for one reason."""

    cases: tuple[str, ...]
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Expected:
    """The pinned file."""

    sections: Mapping[int, Section]
    exceptions: tuple[Exceptional, ...]

    def verdict(self, case: str) -> Verdict:
        """Return what a case must get."""
        found = (exception.verdict for exception in self.exceptions if case in exception.cases)
        return next(found, OK)

    def exceptional(self) -> list[str]:
        """Return all cases that are not OK, in the order of the suite."""
        return sorted((case for exception in self.exceptions for case in exception.cases), key=place)


class Selection(NamedTuple):
    """What a run takes of a section. patterns: as wstest reads them; cases: how many these are."""

    patterns: tuple[str, ...]
    cases: int

    def takes(self, case: str) -> bool:
        """Say whether it runs a case of its section."""
        return any(case == pattern or pattern.endswith(".*") for pattern in self.patterns)


def place(case: str) -> tuple[int, ...]:
    """Return the numbers of a case, by which cases are sorted: 6.2 stands before 6.10."""
    return tuple(int(number) for number in case.split("."))


def section_of(case: str) -> int:
    """Return the section of a case: 6 of "6.4.1"."""
    return place(case)[0]


def read_expected(text: str) -> Expected:
    """Read the pinned file."""
    document = tomllib.loads(text)
    exceptions = (
        Exceptional(tuple(one["cases"]), Verdict(one["behavior"], one["close"]), one["reason"])
        for one in document["exceptions"]
    )
    return Expected({int(number): Section(**one) for number, one in document["sections"].items()}, tuple(exceptions))


def read_report(text: str) -> dict[str, Verdict]:
    """Read index.json as wstest writes it, of one agent, and return the verdict of each case."""
    (agent,) = json.loads(text).values()
    return {case: Verdict(one["behavior"], one["behaviorClose"]) for case, one in agent.items()}


def select(expected: Expected, full: bool) -> dict[int, Selection]:
    """Return what a run takes of each section; a section of which it takes nothing is left out."""
    whole = {number: Selection((f"{number}.*",), section.cases) for number, section in expected.sections.items()}
    if full:
        return whole
    cut = {number: Selection(cases, len(cases)) for number, cases in ON_COMMIT.items() if number in whole}
    return {number: selection for number, selection in (whole | cut).items() if selection.cases}


def differences(expected: Expected, selected: Mapping[int, Selection], found: Mapping[str, Verdict]) -> list[str]:
    """Return a sentence for each way in which a run differs from the pinned file."""
    sentences = []
    counts = Counter(section_of(case) for case in found)
    for number, selection in selected.items():
        if counts[number] != selection.cases:
            sentences.append(f"section {number}: {counts[number]} cases were run, expected {selection.cases}")
    sentences += [f"section {number} was run, which is not expected" for number in sorted(counts.keys() - selected)]
    pinned = {case for case in expected.exceptional() if case_selected(case, selected)}
    for case in sorted(pinned | found.keys(), key=place):
        wanted, got = expected.verdict(case), found.get(case)
        if got is None:
            sentences.append(f"{case}: not run, expected {told(wanted)}")
        elif got != wanted:
            sentences.append(f"{case}: {told(got)}, expected {told(wanted)}")
    return sentences


def case_selected(case: str, selected: Mapping[int, Selection]) -> bool:
    """Say whether a run takes a case."""
    selection = selected.get(section_of(case))
    return selection is not None and selection.takes(case)


def told(verdict: Verdict) -> str:
    """Return a verdict in a few words."""
    return verdict.behavior if verdict.behavior == verdict.close else f"{verdict.behavior} (close: {verdict.close})"


def faults(expected: Expected) -> list[str]:
    """Return a sentence for each way in which the pinned file contradicts itself."""
    cases = expected.exceptional()
    found = [f"{case} is pinned twice" for case in sorted({case for case in cases if cases.count(case) > 1})]
    found += [f"{case} is of no section" for case in cases if section_of(case) not in expected.sections]
    found += [f"{case} is OK and need not be pinned" for case in cases if expected.verdict(case) == OK]
    found += [f"{exception.cases[0]} has no reason" for exception in expected.exceptions if not exception.reason]
    return found


def table(expected: Expected, verdicts: Mapping[str, Verdict]) -> str:
    """Return the results by section, for a terminal."""
    rows = [("section", "", "cases", *GRADES)]
    rows += [row(f"{n}", expected.sections[n].title, verdicts, n) for n in sorted({*map(section_of, verdicts)})]
    rows.append(row("all", "", verdicts, None))
    return "\n".join("{:<7} {:<40} {:>5} {:>5} {:>13} {:>10} {:>6}".format(*cells) for cells in rows)


def row(name: str, title: str, verdicts: Mapping[str, Verdict], section: int | None) -> tuple[str, ...]:
    """Return the cells of one section, or of all."""
    grades = [verdict.grade for case, verdict in verdicts.items() if section in (None, section_of(case))]
    return (name, title, str(len(grades)), *(str(grades.count(grade)) for grade in GRADES))


# The document

HEAD: Final = """\
# Conformance

For those who want to know how closely `wsworker` keeps to RFC 6455, the WebSocket protocol. The
[Autobahn test suite](https://github.com/crossbario/autobahn-testsuite) plays a client that breaks every rule it can,
against a running daemon with two workers and a service that echoes each message. `make compliance ARGS=--full` runs
all cases of the table below, `make compliance` leaves out the long ones. Both need CPython 2.7, in which the suite is
written, and both fail if one case differs from what is written here, for the better or for the worse.

The suite sends no wrong handshakes, no unmasked frames and no lengths in more bytes than they need, and knows no
limits. These are tested in `tests/protocol` and `tests/worker`.
"""

EXCEPTIONS_HEAD: Final = """\
## What is not OK

*Informational* is what the RFC leaves open: the suite only notes what the server does. *Non-strict* is right, but later
than it could be. The first word is about the messages, the second about the close.
"""


def document(expected: Expected) -> str:
    """Return docs/conformance.md."""
    parts = [HEAD, "## By section\n", sections_table(expected)]
    if expected.exceptions:
        parts += [EXCEPTIONS_HEAD, exceptions_table(expected.exceptions)]
    return "\n".join(parts)


def sections_table(expected: Expected) -> str:
    """Return the table by section, with a line for all."""
    lines = [f"| section | | cases | {' | '.join(GRADES)} |", "|---|---|---|---|---|---|---|"]
    sums: Counter[Grade] = Counter()
    for number, section in expected.sections.items():
        grades = Counter(expected.verdict(case).grade for case in expected.exceptional() if section_of(case) == number)
        grades["OK"] = section.cases - grades.total()
        sums += grades
        lines.append(markdown_row(f"{number}", section.title, grades))
    return "\n".join([*lines, markdown_row("all", "", sums), ""])


def markdown_row(name: str, title: str, grades: Counter[Grade]) -> str:
    """Return one line of the table by section."""
    cells = [name, title, f"{grades.total()}", *(f"{grades[grade]}" for grade in GRADES)]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def exceptions_table(exceptions: Iterable[Exceptional]) -> str:
    """Return the table of what is not OK, with the reasons."""
    lines = ["| case | verdicts | reason |", "|---|---|---|"]
    for cases, verdict, reason in exceptions:
        lines.append(f"| {', '.join(cases)} | {verdict.behavior}, {verdict.close} | {reason} |")
    return "\n".join([*lines, ""])
