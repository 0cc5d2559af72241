"""The results of the Autobahn test suite are read and compared in both directions, and the document is up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compliance import results
from tests.compliance.results import OK, Exceptional, Expected, Grade, Section, Selection, Verdict

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "conformance.md"
PINNED = results.read_expected((HERE / "expected.toml").read_text())

FAILED = Verdict("FAILED", "WRONG CODE")
LATE = Verdict("NON-STRICT", "OK")

SMALL = Expected(
    {1: Section("Framing", 2), 9: Section("Limits", 1)},
    (Exceptional(("1.2",), FAILED, "It is hard."), Exceptional(("9.1",), LATE, "It is slow.")),
)
FOUND = {"1.1": OK, "1.2": FAILED, "9.1": LATE}


def test_the_document_says_what_is_pinned() -> None:
    """docs/conformance.md is what the pinned file makes of it; `--full --write` writes it anew."""
    assert results.document(PINNED) == DOCUMENT.read_text()


def test_the_pinned_file_is_sound() -> None:
    """No case is pinned twice, without need, without a reason, or outside the sections that are run."""
    assert [] == results.faults(PINNED)


def test_unsound_pins_are_noticed() -> None:
    """Each fault of a pinned file gives a sentence."""
    exceptions = (
        Exceptional(("1.1", "1.2"), FAILED, ""),
        Exceptional(("1.2", "3.1"), LATE, "Why not."),
        Exceptional(("1.4",), OK, "It is fine."),
    )
    assert [
        "1.2 is pinned twice",
        "3.1 is of no section",
        "1.4 is OK and need not be pinned",
        "1.1 has no reason",
    ] == results.faults(Expected({1: Section("Framing", 4)}, exceptions))


def test_the_pinned_file_is_read() -> None:
    """A section has a title and its number of cases; cases share a reason, and what is not named is OK."""
    text = """
    [sections]
    7 = { title = "Closing", cases = 37 }
    [[exceptions]]
    cases = ["7.1.5", "7.1.6"]
    behavior = "FAILED"
    close = "WRONG CODE"
    reason = "So it is."
    """
    exceptional = Exceptional(("7.1.5", "7.1.6"), FAILED, "So it is.")
    assert Expected({7: Section("Closing", 37)}, (exceptional,)) == results.read_expected(text)
    assert FAILED == results.read_expected(text).verdict("7.1.6")
    assert OK == results.read_expected(text).verdict("7.1.1")


def test_a_report_is_read() -> None:
    """Of what wstest writes for each case, the two verdicts count."""
    case = {"behavior": "NON-STRICT", "behaviorClose": "OK", "duration": 2006, "reportfile": "wsworker_case_6_4_3.json"}
    assert {"6.4.3": LATE} == results.read_report(json.dumps({"wsworker": {"6.4.3": case}}))


@pytest.mark.parametrize(
    ("behavior", "close", "grade"),
    [
        ("OK", "OK", "OK"),
        ("INFORMATIONAL", "INFORMATIONAL", "informational"),
        ("OK", "INFORMATIONAL", "informational"),
        ("NON-STRICT", "OK", "non-strict"),
        ("NON-STRICT", "INFORMATIONAL", "non-strict"),
        ("NON-STRICT", "WRONG CODE", "failed"),
        ("OK", "UNCLEAN", "failed"),
        ("FAILED", "OK", "failed"),
        ("UNIMPLEMENTED", "OK", "failed"),
    ],
)
def test_the_worse_verdict_counts(behavior: str, close: str, grade: Grade) -> None:
    """A case is as good as the worse of its two verdicts, and a word that is not known is bad."""
    assert grade == Verdict(behavior, close).grade


def test_what_agrees_is_let_pass() -> None:
    """A run that found exactly what is pinned differs in nothing."""
    assert [] == results.differences(SMALL, results.select(SMALL, full=True), FOUND)


def test_every_difference_is_told() -> None:
    """Worse and better are differences, and so are another failure and a case that was not run."""
    full = results.select(SMALL, full=True)
    worse, better, other = FOUND | {"1.1": LATE}, FOUND | {"9.1": OK}, FOUND | {"1.2": Verdict("FAILED", "UNCLEAN")}
    assert ["1.1: NON-STRICT (close: OK), expected OK"] == results.differences(SMALL, full, worse)
    assert ["9.1: OK, expected NON-STRICT (close: OK)"] == results.differences(SMALL, full, better)
    assert ["1.2: FAILED (close: UNCLEAN), expected FAILED (close: WRONG CODE)"] == results.differences(
        SMALL, full, other
    )
    assert [
        "section 1: 0 cases were run, expected 2",
        "section 9: 0 cases were run, expected 1",
        "1.2: not run, expected FAILED (close: WRONG CODE)",
        "9.1: not run, expected NON-STRICT (close: OK)",
    ] == results.differences(SMALL, full, {})
    assert ["section 3 was run, which is not expected"] == results.differences(SMALL, full, FOUND | {"3.1": OK})


def test_a_short_run_is_judged_by_what_it_takes() -> None:
    """Cases that a run leaves out are not missed; one case too few is, even where only OK is expected."""
    short = results.select(SMALL, full=False)
    assert {1: Selection(("1.*",), 2)} == short
    assert [] == results.differences(SMALL, short, {"1.1": OK, "1.2": FAILED})
    assert ["section 1: 1 cases were run, expected 2"] == results.differences(SMALL, short, {"1.2": FAILED})


def test_of_a_long_section_single_cases_are_taken() -> None:
    """The four or six smallest of each kind, and not those whose number begins alike."""
    expected = Expected({12: Section("", 90), 13: Section("", 126)}, (Exceptional(("12.1.1", "12.1.10"), LATE, "x"),))
    short = results.select(expected, full=False)
    assert {12: 30, 13: 28} == {number: selection.cases for number, selection in short.items()}
    assert {12: 30, 13: 28} == {number: len({*selection.patterns}) for number, selection in short.items()}
    found = dict.fromkeys((*short[12].patterns, *short[13].patterns), OK)
    assert ["12.1.1: OK, expected NON-STRICT (close: OK)"] == results.differences(expected, short, found)


def test_cases_are_sorted_by_number() -> None:
    """6.10 stands behind 6.2."""
    exceptional = Exceptional(("10.1", "6.10", "6.2"), LATE, "x")
    assert ["6.2", "6.10", "10.1"] == Expected({}, (exceptional,)).exceptional()


def test_the_table_has_a_line_for_each_section() -> None:
    """The table for the terminal counts what was found."""
    assert [
        "section cases OK informational non-strict failed",
        "1 Framing 2 1 0 0 1",
        "9 Limits 1 0 0 1 0",
        "all 3 1 0 1 1",
    ] == [" ".join(line.split()) for line in results.table(SMALL, FOUND).splitlines()]


def test_the_document_counts_what_is_pinned() -> None:
    """The tables of the document: what is not pinned is OK, and each exception has its reason."""
    text = results.document(SMALL)
    assert (
        "| 1 | Framing | 2 | 1 | 0 | 0 | 1 |\n| 9 | Limits | 1 | 0 | 0 | 1 | 0 |\n| all | | 3 | 1 | 0 | 1 | 1 |" in text
    )
    assert text.endswith("| 1.2 | FAILED, WRONG CODE | It is hard. |\n| 9.1 | NON-STRICT, OK | It is slow. |\n")


def test_a_document_without_exceptions() -> None:
    """If all is OK, there is no second table."""
    text = results.document(Expected({1: Section("Framing", 2)}, ()))
    assert text.endswith("| all | | 2 | 2 | 0 | 0 | 0 |\n")
    assert "not OK" not in text
