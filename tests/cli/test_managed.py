"""Who looks after a master; the process files are laid out as proc(5) describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsworker.cli.managed import Unit, log_place, unit_name, unit_of

SYSTEM_CGROUP = "0::/system.slice/hello.service\n"
USER_CGROUP = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/hello.service\n"


def process(proc: Path, parent: int, session: int, cgroup: str, manager: str = "systemd", fd2: str = "") -> Path:
    """Write the files of process 42 and of its parent; the name in stat has blanks and brackets, as names may."""
    own, other = proc / "42", proc / str(parent)
    (own / "fd").mkdir(parents=True)
    other.mkdir()
    (own / "stat").write_text(f"42 (a b) c)) S {parent} 42 {session} 0 -1 4194560\n")
    (own / "cgroup").write_text(cgroup)
    (other / "comm").write_text(f"{manager}\n")
    if fd2:
        (own / "fd" / "2").symlink_to(fd2)
    return proc


def test_a_unit_of_the_system(tmp_path: Path) -> None:
    """The main process of a service: systemd is its parent and it leads its session."""
    unit = unit_of(42, process(tmp_path, 1, 42, SYSTEM_CGROUP))
    assert Unit("hello.service", by_user=False) == unit
    assert ("systemctl", "journalctl -u hello.service") == (unit.systemctl, unit.journalctl)


def test_a_unit_of_a_user(tmp_path: Path) -> None:
    """The systemd of a user is another process than 1, and its commands need --user."""
    unit = unit_of(42, process(tmp_path, 900, 42, USER_CGROUP))
    assert Unit("hello.service", by_user=True) == unit
    assert ("systemctl --user", "journalctl --user -u hello.service") == (unit.systemctl, unit.journalctl)


@pytest.mark.parametrize(
    ("parent", "session", "cgroup", "manager"),
    [
        pytest.param(1, 41, "0::/system.slice/cron.service\n", "systemd", id="start -d in a job of cron"),
        pytest.param(77, 42, "0::/system.slice/cron.service\n", "sh", id="in the foreground of that job"),
        pytest.param(1, 42, "0::/user.slice/user-1000.slice/session-3.scope\n", "systemd", id="a session"),
        pytest.param(1, 42, "0::/\n", "tini", id="a container"),
        pytest.param(1, 42, "", "systemd", id="no control groups"),
    ],
)
def test_no_unit(tmp_path: Path, parent: int, session: int, cgroup: str, manager: str) -> None:
    """What only descends from a service is not one."""
    assert unit_of(42, process(tmp_path, parent, session, cgroup, manager)) is None


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    """Nobody looks after it."""
    assert unit_of(42, tmp_path) is None


def test_control_groups_of_version_1() -> None:
    """There the hierarchy of systemd has a name; those of the controllers do not count."""
    text = "9:name=systemd:/system.slice/hello.service\n4:memory:/system.slice/other.service\n"
    assert "hello.service" == unit_name(text)
    assert unit_name("4:memory:/system.slice/other.service\n") is None


@pytest.mark.parametrize(
    ("file", "fd2", "expected"),
    [
        ("/var/log/hello.log", "/dev/pts/3", "/var/log/hello.log"),
        ("-", "/dev/pts/3", "terminal of pid 42"),
        ("-", "/tmp/out.txt", "/tmp/out.txt"),
        ("-", "socket:[123]", "journalctl -u hello.service"),
        ("-", "pipe:[123]", "standard error of pid 42"),
        ("-", "/dev/null", "standard error of pid 42"),
        ("-", "", "standard error of pid 42"),
    ],
)
def test_where_the_log_is(tmp_path: Path, file: str, fd2: str, expected: str) -> None:
    """The log is in its file, or wherever standard error goes."""
    assert expected == log_place(file, 42, process(tmp_path, 1, 42, SYSTEM_CGROUP, fd2=fd2))
