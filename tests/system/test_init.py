"""The first minute: what `wsworker init` writes starts, answers, is served and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.system.conftest import MakeDaemon
from wsworker.cli.init import FILES


def run(folder: Path, environ: dict[str, str], *command: str) -> str:
    """Run a Python module to its end, which must be good; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_minute(make_daemon: MakeDaemon) -> None:
    """init, check, start, a message, the page, the tests: none of it needs a change, but here for another port."""
    daemon = make_daemon()
    (daemon.folder / "app.py").unlink()
    daemon.config.unlink()
    assert "next:    wsworker start" == run(daemon.folder, daemon.environ, "wsworker", "init").splitlines()[-1]
    daemon.environ["WSWORKER_LISTEN"] = f"127.0.0.1:{daemon.port}"
    checked = daemon.cli("check")
    assert (0, False) == (checked.code, "warning: config.yaml" in checked.out), checked
    daemon.start()
    assert 4 == len(daemon.workers)
    assert "hello tom" == daemon.echo("tom")
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.port}/", timeout=10) as page:
        assert (daemon.folder / "public" / "index.html").read_bytes() == page.read()
    daemon.wait_log("has left with code 1000")
    # with this plugin alone, whether the package is installed here or not
    environ = {**os.environ, **daemon.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert "2 passed" in run(daemon.folder, environ, "pytest", "-p", "wsworker.testing", "-W", "error", "-q")
    assert all((daemon.folder / file).is_file() for file in FILES)
