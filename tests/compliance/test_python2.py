"""CPython 2.7 is found where it usually is, and only if it is what it seems to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compliance import python2


def make(path: Path, script: str) -> Path:
    """Make a program that the shell runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return an environment in which nothing of this machine is found."""
    return {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(tmp_path / "pyenv"), **more}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    """Without any Python 2 the answer is None."""
    assert python2.find(environment(tmp_path)) is None


def test_the_path_comes_before_pyenv(tmp_path: Path) -> None:
    """The first that says it is CPython 2.7 is taken; of the versions of pyenv any 2.7 will do."""
    in_pyenv = make(tmp_path / "pyenv/versions/2.7.18/bin/python2.7", "echo CPython 2.7.18")
    assert in_pyenv == python2.find(environment(tmp_path))
    on_path = make(tmp_path / "bin/python2.7", "echo CPython 2.7.13")
    assert on_path == python2.find(environment(tmp_path))


@pytest.mark.parametrize("script", ["echo 'pyenv: command not found'; exit 127", "echo PyPy 2.7.18", "echo nothing"])
def test_what_only_looks_like_it_is_passed_over(tmp_path: Path, script: str) -> None:
    """A shim that starts nothing and another Python do not hide the right one."""
    make(tmp_path / "bin/python2.7", script)
    assert python2.find(environment(tmp_path)) is None
    right = make(tmp_path / "pyenv/versions/2.7.18/bin/python2.7", "echo CPython 2.7.18")
    assert right == python2.find(environment(tmp_path))


def test_the_variable_wins(tmp_path: Path) -> None:
    """It names the executable, whatever else there is."""
    make(tmp_path / "bin/python2.7", "echo CPython 2.7.18")
    named = make(tmp_path / "own/python", "echo CPython 2.7.6")
    assert named == python2.find(environment(tmp_path, WSWORKER_PYTHON2=str(named)))


def test_a_wrong_variable_is_an_error(tmp_path: Path) -> None:
    """Whoever sets it wants that interpreter, not another one and not a run that is skipped."""
    make(tmp_path / "bin/python2.7", "echo CPython 2.7.18")
    with pytest.raises(python2.InstallError, match=r"^WSWORKER_PYTHON2 is /nowhere, which is not CPython 2\.7"):
        python2.find(environment(tmp_path, WSWORKER_PYTHON2="/nowhere"))


def test_what_was_installed_is_used_again(tmp_path: Path) -> None:
    """Nothing is run if the folder was made from the same interpreter and the same versions."""
    python = make(tmp_path / "python2.7", "exit 1")
    folder = tmp_path / "suite-of-tests"
    folder.mkdir()
    (folder / "ready.txt").write_text(f"{python}\n{python2.VIRTUALENV}\n{python2.SUITE}\n")
    assert folder / "suite/bin/wstest" == python2.install(python, folder)
    assert [folder / "ready.txt"] == [*folder.iterdir()]


def test_the_other_python_gets_a_clean_environment() -> None:
    """Variables for this Python would mislead that one."""
    assert {"HOME": "/root"} == python2.clean({"HOME": "/root", "PYTHONPATH": "/x", "PYTHONWARNINGS": "error"})
