"""`control_socket_mode: "0660"`: the members of a group command a service that is not theirs, and nobody else does."""

from __future__ import annotations

import contextlib
import grp
import io
import os
from typing import Any

import pytest

from tests.master.forks import NOBODY, in_child, needs_root
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon

# all that the commands import: another user may not be able to read the interpreter's files
from wsworker import config  # noqa: F401
from wsworker.cli import connections, main, reload, status, stop  # noqa: F401

GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name


def as_nobody(daemon: Daemon, command: str, group: int = NOBODY.pw_gid) -> list[Any]:
    """Run a command as the user nobody, who is in one group alone; return its exit code and what it has printed."""

    def run_it() -> list[Any]:
        os.environ.clear()
        os.environ.update(daemon.environ)
        os.chdir(daemon.folder)
        os.setgroups([])
        os.setgid(group)
        os.setuid(NOBODY.pw_uid)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main.run([command, "-c", daemon.config.name, "--json"])
        return [code, printed.getvalue()]

    found: list[Any] = in_child(run_it)
    return found


@needs_root
@pytest.mark.parametrize("named", ["group", "user"])
def test_a_group_commands(make_daemon: MakeDaemon, named: str) -> None:
    """`status`, `connections`, `reload` and `stop`, for members of `group`, or else of the group of `user`."""
    who = {"group": GROUP} if named == "group" else {"user": NOBODY.pw_name}
    daemon = make_daemon(HELLO, control_socket_mode="0660", **who)
    (daemon.folder / "run").chmod(0o711)
    daemon.start()
    for command in ("status", "connections", "reload"):
        code, printed = as_nobody(daemon, command)
        assert 0 == code, printed
    code, printed = as_nobody(daemon, "status", NOBODY.pw_gid + 1)
    assert 4 == code
    assert "no permission to talk to" in printed
    code, printed = as_nobody(daemon, "stop")
    assert 0 == code, printed
    assert 0 == daemon.wait_exit()


@needs_root
def test_without_it_nobody_else_commands(make_daemon: MakeDaemon) -> None:
    """Members of the group of the workers neither: what runs there is the users' code."""
    daemon = make_daemon(HELLO, group=GROUP)
    (daemon.folder / "run").chmod(0o711)
    daemon.start()
    code, printed = as_nobody(daemon, "status")
    assert 4 == code
    assert "no permission to talk to" in printed
