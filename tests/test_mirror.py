"""The tests mirror the package: tests/master/test_systemd.py is the test of wsworker/master/systemd.py."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "wsworker"

# Files of the package that need no test file of their own, and why.
UNTESTED = {
    "assignment.py": "a record without behaviour",
    "protocol/events.py": "records without behaviour",
    "worker/arrival.py": "a record without behaviour",
    "bus/choice.py": "two calls; the test of each adapter is about what they return",
    "__main__.py": "one call; every system test runs it",
}

# Tests that are not of one file of the package, and what of.
UNMIRRORED = {
    "master/test_supervisor_properties.py": "master/supervisor.py, over a fake kernel",
    "protocol/test_lanes.py": "protocol/session.py with the fast lane and without, beside the libraries it stands on",
    "protocol/test_sizes.py": "protocol/session.py: every limit on sizes, in both lanes",
    "worker/test_moves_bus.py": "worker/taking.py, lane.py and post.py: what is published while connections move",
    "worker/test_moves_clocks.py": "worker/freezing.py and intake.py: clocks and reasons over a move",
    "worker/test_moves_hooks.py": "worker/hooks.py and taking.py: callbacks that end otherwise than by returning",
    "worker/test_moves_limbo.py": "worker/limbo.py and connection.py: what is asked of a connection on its way",
    "worker/test_twins.py": "worker/freezing.py: a connection that moves, beside one that stays",
    "cli/test_imports.py": "how much each command loads",
    "test_docs.py": "README.md and docs/: links, and what they tell their reader to type",
    "test_hanging.py": "tests/conftest.py",
    "test_json.py": "docs/json.md",
    "test_layers.py": "the import rule",
    "test_logging.py": "docs/logging.md",
    "test_mirror.py": "this rule",
    "test_reference.py": "tests/reference: the generated pages of docs/",
    "test_reliability.py": "docs/reliability.md",
    "test_security.py": "docs/security.md",
    "test_troubleshooting.py": "docs/troubleshooting.md",
    "test_units.py": "systemd/",
}

# Folders of such tests.
UNMIRRORED_FOLDERS = {
    "browser": "the real daemon, driven by a real browser",
    "compliance": "the run of the Autobahn test suite",
    "examples": "each example, started as it is shipped",
    "fuzz": "whatever takes bytes from strangers",
    "system": "the real daemon",
}


def mirrored(path: str) -> str:
    """Return the test file of a file of the package, both relative to their folders."""
    folder, _, name = path.rpartition("/")
    # the face of the package is tested under the package's name
    name = "test_package.py" if name == "__init__.py" else f"test_{name}"
    return f"{folder}/{name}" if folder else name


def mirror_faults(package: Path, tests: Path) -> list[str]:
    """Return a sentence for each file without its counterpart, and for each exception that is none."""
    # the __init__.py of a sub-package holds nothing, as the import rule makes sure
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    files = {file for file in files if not file.endswith("/__init__.py")}
    present = {path.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    present = {test for test in present if test.split("/")[0] not in UNMIRRORED_FOLDERS}
    wanted = {mirrored(file): file for file in files - UNTESTED.keys()}
    faults = [f"wsworker/{file} has no tests/{test}" for test, file in wanted.items() if test not in present]
    faults += [f"tests/{test} tests no file of wsworker" for test in present - wanted.keys() - UNMIRRORED.keys()]
    faults += [f"UNTESTED names {file}, which is not there" for file in UNTESTED.keys() - files]
    faults += [f"UNTESTED names {file}, which has a test" for file in UNTESTED if mirrored(file) in present]
    faults += [f"UNMIRRORED names {test}, which is not there" for test in UNMIRRORED.keys() - present]
    return sorted(faults)


def test_the_tests_mirror_the_package() -> None:
    """Every file has its test file and every test file its file, save the exceptions named above."""
    found = mirror_faults(PACKAGE, TESTS)
    assert not found, "\n".join(found)


def test_names() -> None:
    """A test stands at the same place as what it tests."""
    assert mirrored("log.py") == "test_log.py"
    assert mirrored("master/systemd.py") == "master/test_systemd.py"
    assert mirrored("__init__.py") == "test_package.py"


def make(folder: Path, *files: str) -> Path:
    """Make empty files in a folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_the_check_finds_what_is_missing(tmp_path: Path) -> None:
    """A file without a test, a test without a file, and stale exceptions each give a sentence."""
    package = make(tmp_path / "wsworker", "log.py", "master/__init__.py", "master/systemd.py", *UNTESTED)
    tests = make(tmp_path / "tests", *UNMIRRORED, "test_log.py", "master/test_systemd.py", "system/test_start.py")
    assert mirror_faults(package, tests) == []
    make(package, "stats.py")
    make(tests, "test_systemd.py", "test___main__.py")
    (tests / "test_units.py").unlink()
    assert mirror_faults(package, tests) == [
        "UNMIRRORED names test_units.py, which is not there",
        "UNTESTED names __main__.py, which has a test",
        "tests/test___main__.py tests no file of wsworker",
        "tests/test_systemd.py tests no file of wsworker",
        "wsworker/stats.py has no tests/test_stats.py",
    ]
    (package / "__main__.py").unlink()
    assert "UNTESTED names __main__.py, which is not there" in mirror_faults(package, tests)
