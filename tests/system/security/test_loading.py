"""Row 28: whose code is run, by whom."""

from __future__ import annotations

import os
import pwd

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO
from tests.system.security.hostile import steadfast

TRACE = """
import os
from pathlib import Path

with Path("trace", f"{__name__} {os.getpid()} {os.geteuid()}").open("w"):
    pass
"""
"""Leaves a file that says which module was imported by which process, and as whom."""

PLANTED = ("yaml", "psutil", "uvloop", "pydantic", "click", "websockets", "json", "asyncio", "sitecustomize")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_row_28_root_imports_nothing_of_the_app(make_daemon: MakeDaemon) -> None:
    """The folder of the app is no place where the master looks, and its module is for workers, which are not root.

    So modules that bear the names of those that wsworker itself needs are never taken for them by a root process.
    """
    daemon = make_daemon(TRACE + HELLO, user="nobody")
    # as where wsworker is installed: `python -m` puts the current folder first
    daemon.environ["PYTHONSAFEPATH"] = "1"
    traces = daemon.folder / "trace"
    traces.mkdir()
    traces.chmod(0o777)
    for name in PLANTED:
        (daemon.folder / f"{name}.py").write_text(TRACE)
    with steadfast(daemon):
        assert "hello tom" == daemon.echo("tom")
        (worker,) = daemon.workers
        assert 0 == daemon.cli("status").code
        found = [trace.name.split() for trace in traces.iterdir()]
        assert ["app", str(worker)] in [trace[:2] for trace in found]
        assert {str(worker)} == {pid for _, pid, _ in found}
        assert "0" not in {uid for _, _, uid in found}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_row_28_root_does_not_import_it_to_look_at_it(make_daemon: MakeDaemon) -> None:
    """`check` imports the app as the user that workers become, and so does `restart` before it stops anything."""
    daemon = make_daemon(TRACE + HELLO, user="nobody")
    traces = daemon.folder / "trace"
    traces.mkdir()
    traces.chmod(0o777)

    def importers() -> set[str]:
        found = {trace.name.split()[2] for trace in traces.iterdir()}
        for trace in traces.iterdir():
            trace.unlink()
        return found

    nobody = str(pwd.getpwnam("nobody").pw_uid)
    outcome = daemon.cli("check")
    assert 0 == outcome.code, outcome.out
    assert {nobody} == importers()
    with steadfast(daemon):
        importers()
        daemon.write_app(f"{TRACE}1 / 0\n")
        assert "the new code does not start" in daemon.cli("restart").err
        assert {nobody} == importers()


def test_row_28_a_folder_that_is_not_the_app(make_daemon: MakeDaemon) -> None:
    """The app is taken from app_dir and not from where the service was started."""
    daemon = make_daemon(HELLO.replace("hello", "wrong"), app_dir="apps")
    (daemon.folder / "apps").mkdir()
    (daemon.folder / "apps" / "app.py").write_text(HELLO)
    with steadfast(daemon):
        assert "hello tom" == daemon.echo("tom")
