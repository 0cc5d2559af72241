"""Privileges: who the workers are when the service is started as root."""

from __future__ import annotations

import grp
import os
import pwd
import signal
from pathlib import Path

import pytest

from tests.system.clients import UPGRADE, raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")

WRITES = (
    HELLO
    + """
from pathlib import Path

def on_worker_start(worker):
    Path("open/made-by-worker").touch()
"""
)

BLOCKS = (
    HELLO
    + """
import time

def on_connect(connection):
    print("blocked", flush=True)
    time.sleep(600)
"""
)


def facts(pid: int) -> dict[str, str]:
    """Return the lines of /proc/PID/status, by name."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
def test_workers_run_as_the_configured_user(make_daemon: MakeDaemon, loop: str) -> None:
    """uid, gid, groups and umask of every worker are those of the config; the master stays root.

    It must not matter whether that user can read the interpreter: what wsworker needs is loaded before the change.
    """
    nobody, nogroup = pwd.getpwnam("nobody"), grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    daemon = make_daemon(WRITES, workers=2, user=nobody.pw_name, group=nogroup.gr_name, umask="0077", loop=loop)
    (daemon.folder / "open").mkdir()
    (daemon.folder / "open").chmod(0o777)
    daemon.start()
    for pid in daemon.workers:
        worker = facts(pid)
        assert [str(nobody.pw_uid)] * 4 == worker["Uid"].split()
        assert [str(nogroup.gr_gid)] * 4 == worker["Gid"].split()
        assert [str(nogroup.gr_gid)] == worker["Groups"].split()
        assert "0077" == worker["Umask"]
        # no way back: neither saved ids nor capabilities
        assert 0 == int(worker["CapPrm"], 16) == int(worker["CapEff"], 16)
        assert "1" == worker["NoNewPrivs"]
    made = (daemon.folder / "open" / "made-by-worker").stat()
    assert (nobody.pw_uid, nogroup.gr_gid, 0o100600) == (made.st_uid, made.st_gid, made.st_mode)
    assert ["0"] * 4 == facts(daemon.master)["Uid"].split()
    assert "hello tom" == daemon.echo("tom")
    assert "workers run as root" not in daemon.log

    # a worker of a later generation is no other user than the first
    assert 0 == daemon.cli("reload").code
    assert {str(nobody.pw_uid)} == {uid for pid in daemon.workers for uid in facts(pid)["Uid"].split()}


def test_workers_of_another_user_die_with_the_master(make_daemon: MakeDaemon) -> None:
    """A change of user makes the kernel forget who the parent was; even a blocked worker goes with a killed master."""
    daemon = make_daemon(BLOCKS, user="nobody", loop="asyncio").start()
    with raw(daemon) as sock:
        sock.sendall(UPGRADE)
        eventually(lambda: "blocked" in daemon.out, "a blocked loop")
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        daemon.wait_gone()


def test_an_app_that_the_user_cannot_read(make_daemon: MakeDaemon) -> None:
    """The import happens as the configured user, so a file of root alone is exit 78 and no silent privilege."""
    daemon = make_daemon(HELLO, user="nobody", loop="asyncio")
    (daemon.folder / "app.py").chmod(0o600)
    outcome = daemon.cli("start")
    outcome.check_tone()
    assert 78 == outcome.code
    assert "PermissionError" in outcome.err


def test_root_without_a_user_is_warned(make_daemon: MakeDaemon) -> None:
    """Workers that run as root are worth a warning that names the setting."""
    daemon = make_daemon().start()
    assert "workers run as root; set `user` in config.yaml" in daemon.log
