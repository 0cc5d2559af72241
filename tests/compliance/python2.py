"""CPython 2.7, and the Autobahn test suite installed in an environment of it.

The suite is written for Python 2 and no later Python runs it. An interpreter is looked for where they usually are:
$WSWORKER_PYTHON2, python2.7 on PATH, then the versions of pyenv. Each is asked what it is before it is believed: a
python2.7 on PATH may be a shim of pyenv that starts nothing.

Everything lands in one folder: tools/ has the last virtualenv that can make an environment of 2.7, suite/ is that
environment, ready.txt says from what the two were made. It is written last, so whatever was broken off is made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

VARIABLE: Final = "WSWORKER_PYTHON2"

VIRTUALENV: Final = "virtualenv==20.21.1"
SUITE: Final = "autobahntestsuite==25.10.1"

INSTALL_SECONDS: Final = 900
ASK_SECONDS: Final = 30

QUESTION: Final = "import platform; print('%s %s' % (platform.python_implementation(), platform.python_version()))"


class InstallError(Exception):
    """The suite could not be installed."""


def find(environ: Mapping[str, str]) -> Path | None:
    """Return an interpreter that is CPython 2.7, or None.

    Raises InstallError if the variable names something else: whoever sets it wants no other and no silent skip.
    """
    named = environ.get(VARIABLE)
    if named:
        if not is_cpython27(Path(named)):
            raise InstallError(f"{VARIABLE} is {named}, which is not CPython 2.7; name its executable or unset it")
        return Path(named)
    return next((path for path in candidates(environ) if is_cpython27(path)), None)


def candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return the files that may be CPython 2.7, the likeliest first."""
    on_path = shutil.which("python2.7", path=environ.get("PATH", ""))
    root = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = sorted(root.glob("versions/2.7*/bin/python2.7"), reverse=True)
    return [*([Path(on_path)] if on_path else []), *installed]


def is_cpython27(path: Path) -> bool:
    """Start it and ask."""
    try:
        done = subprocess.run([path, "-c", QUESTION], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.startswith("CPython 2.7.")


def install(python: Path, folder: Path) -> Path:
    """Return wstest, the program of the suite. It is installed into the folder, unless it is there already.

    Raises InstallError, which names the log.
    """
    tools, suite, ready = folder / "tools", folder / "suite", folder / "ready.txt"
    made_of = f"{python.resolve()}\n{VIRTUALENV}\n{SUITE}\n"
    if not ready.is_file() or ready.read_text() != made_of:
        print(f"installing {SUITE} for {python} into {folder}, about a minute", flush=True)
        ready.unlink(missing_ok=True)
        for old in (tools, suite):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        # without its updates in the background, and with nothing kept in the home
        options = ["--no-periodic-update", "--app-data", str(tools / "data"), "-p", str(python)]
        with (folder / "install.log").open("w") as log:
            call([sys.executable, "-m", "venv", tools], log.name, log.fileno())
            call([tools / "bin/pip", "install", VIRTUALENV], log.name, log.fileno())
            call([tools / "bin/virtualenv", *options, suite], log.name, log.fileno())
            call([suite / "bin/pip", "install", SUITE], log.name, log.fileno())
        ready.write_text(made_of)
    return suite / "bin/wstest"


def call(command: Sequence[str | Path], name: str, log: int) -> None:
    """Run one step of the installation."""
    try:
        subprocess.run(command, env=clean(os.environ), stdout=log, stderr=log, timeout=INSTALL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(
            f"{Path(command[0]).name} failed; see the end of {name}; parts of the suite are built with a C compiler"
        ) from error


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what is meant for this Python and would mislead the other."""
    return {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
