"""Run as `python -m tests.pure`: each pure file's own test covers every branch of it, or this fails and says which not.

Pure are the files marked so in tests/test_layers.py. It is apart from the tests, as measuring slows them down.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.test_layers import ORDER
from tests.test_mirror import UNTESTED, mirrored

RULES = (
    "boot", "deaths", "handover", "health", "lending", "rebalance", "reload", "scaling", "service", "stopping",
    "supervisor",
)  # fmt: skip
"""Files of master/ whose rules work together: the stories of all of them test each of them."""

PROFILE = "--hypothesis-profile=cover"
"""With few examples: that a property holds is what `make test` shows, and here an example takes three times as long."""

ROOT = Path(__file__).parent.parent


def groups() -> list[list[str]]:
    """Return the pure files, those together that are tested together."""
    files = [place.file for place in ORDER if place.star == "★" and place.file not in UNTESTED]
    rules = [file for file in files if file in (f"master/{rule}.py" for rule in RULES)]
    return [*([file] for file in files if file not in rules), rules]


def uncovered(files: list[str], folder: str) -> dict[str, str]:
    """Return what the tests of pure files leave uncovered of each, as coverage reports it, or "" if nothing."""
    data = f"--data-file={folder}/coverage"
    included = ",".join(f"wsworker/{file}" for file in files)
    run = [sys.executable, "-m", "coverage", "run", data, "--branch", f"--include={included}", "-m", "pytest", "-q"]
    tests = [f"tests/{mirrored(file)}" for file in files]
    test = subprocess.run([*run, PROFILE, *tests], cwd=ROOT, capture_output=True, text=True)
    if test.returncode:
        return dict.fromkeys(files, test.stdout)
    missing = {}
    for file in files:
        report = [sys.executable, "-m", "coverage", "report", data, "--fail-under=100", f"--include=wsworker/{file}"]
        result = subprocess.run(report, cwd=ROOT, capture_output=True, text=True)
        missing[file] = result.stdout if result.returncode else ""
    return missing


def main() -> int:
    """Measure each pure file; return the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for files in groups():
            for file, missing in uncovered(files, folder).items():
                print(f"{'fails' if missing else '100 %'}  {file}")
                print(missing, end="")
                failed += bool(missing)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
