"""Run as `python -m tests.compliance`: the Autobahn test suite against a running daemon, compared with expected.toml.

Without an argument it runs the part that takes seconds; --full runs all, --full --write also writes
docs/conformance.md. Sections as arguments run only these: `python -m tests.compliance 6 7`. It exits with 0 if all is
as expected, and with 0 after a loud line where there is no CPython 2.7.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.compliance import python2, results, wstest
from tests.compliance.results import WITH_DEFLATE, Expected, Selection, Verdict

ROOT: Final = Path(__file__).parent.parent.parent
PINNED: Final = Path(__file__).parent / "expected.toml"
DOCUMENT: Final = ROOT / "docs" / "conformance.md"
FOLDER: Final = ROOT / ".abts"

SECONDS: Final = 600.0
FULL_SECONDS: Final = 3600.0

SKIPPED: Final = f"""
################################################################################
#                                                                              #
#   S K I P P E D:  THE AUTOBAHN TEST SUITE WAS NOT RUN                        #
#                                                                              #
################################################################################
It needs CPython 2.7, which was not found: neither python2.7 on PATH nor in pyenv (pyenv install 2.7.18).
If it is elsewhere, name its executable in {python2.VARIABLE}.
"""


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; return the exit code."""
    expected = results.read_expected(PINNED.read_text())
    options = parse(arguments, expected)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        python = python2.find(os.environ)
        if python is None:
            print(SKIPPED)
            return 0
        program = python2.install(python, FOLDER)
        selected = results.select(expected, options.full)
        chosen = {number: one for number, one in selected.items() if number in (options.sections or selected)}
        began_at = time.monotonic()
        found = run(program, chosen, FULL_SECONDS if options.full else SECONDS)
    except (python2.InstallError, wstest.RunError) as error:
        print(error, file=sys.stderr)
        return 1
    print(results.table(expected, found))
    print(f"{len(found)} cases in {time.monotonic() - began_at:.0f} s; each in full below {FOLDER / 'reports'}")
    wrong = results.differences(expected, chosen, found)
    if wrong:
        print(f"\nnot as {PINNED.relative_to(ROOT)} says:", *wrong, sep="\n  ")
        return 1
    if options.write:
        DOCUMENT.write_text(results.document(expected))
    return 0


def parse(arguments: list[str], expected: Expected) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.compliance", description="run the Autobahn test suite")
    parser.add_argument("--full", action="store_true", help="run all cases, not only those that take seconds")
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md; with --full only")
    parser.add_argument("sections", nargs="*", type=int, metavar="SECTION", help="run only these sections")
    options = parser.parse_args(arguments)
    if options.write and (not options.full or options.sections):
        parser.error("--write goes with --full and with no section: the document is about all of them")
    unknown = {*options.sections} - results.select(expected, options.full).keys()
    if unknown:
        parser.error(f"section {min(unknown)} is not in this run; some need --full")
    return options


def run(program: Path, selected: Mapping[int, Selection], seconds: float) -> dict[str, Verdict]:
    """Run the sections against the daemon that each needs, and return all verdicts."""
    found: dict[str, Verdict] = {}
    for compression in ("none", "deflate"):
        its = {number: one for number, one in selected.items() if (number in WITH_DEFLATE) == (compression != "none")}
        if its:
            print(f"sections {', '.join(map(str, its))}, compression: {compression}", flush=True)
            found |= wstest.run(program, compression, its, FOLDER / "reports" / compression, seconds)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
