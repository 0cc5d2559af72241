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

ROOT = Path(__file__).parent.parent


def uncovered(file: str, folder: str) -> str:
    """Return what the test of a pure file leaves uncovered, as coverage reports it, or "" if nothing."""
    data = f"--data-file={folder}/coverage"
    run = [sys.executable, "-m", "coverage", "run", data, "--branch", f"--include=wsworker/{file}"]
    tests = [f"tests/{mirrored(file)}"]
    if file in (f"master/{rule}.py" for rule in RULES):
        tests = [f"tests/master/test_{rule}.py" for rule in RULES]
    test = subprocess.run([*run, "-m", "pytest", "-q", *tests], cwd=ROOT, capture_output=True, text=True)
    if test.returncode:
        return test.stdout
    report = [sys.executable, "-m", "coverage", "report", data, "--fail-under=100", f"--include=wsworker/{file}"]
    result = subprocess.run(report, cwd=ROOT, capture_output=True, text=True)
    return result.stdout if result.returncode else ""


def main() -> int:
    """Measure each pure file; return the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for file in (place.file for place in ORDER if place.star == "★" and place.file not in UNTESTED):
            missing = uncovered(file, folder)
            print(f"{'fails' if missing else '100 %'}  {file}")
            print(missing, end="")
            failed += bool(missing)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
