"""The pid file that a configuration asks for: replaced as a whole, and removed only if it is ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsworker.master import pidfile

PID = 4711


def test_it_holds_the_pid_alone(tmp_path: Path) -> None:
    """One line, readable for everybody as far as the umask goes; an older one is replaced; nothing lies beside it."""
    file = tmp_path / "pid"
    file.write_text("1234567\n")
    umask = os.umask(0o027)
    try:
        pidfile.write(file, PID)
    finally:
        os.umask(umask)
    assert ("4711\n", 0o640) == (file.read_text(), file.stat().st_mode & 0o777)
    assert ["pid"] == os.listdir(tmp_path)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """What it points to stays as it was."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("data")
    link.symlink_to(victim)
    pidfile.write(link, PID)
    assert ("data", False, "4711\n") == (victim.read_text(), link.is_symlink(), link.read_text())


def test_a_pipe_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    """A named pipe that nobody reads would hold the start for ever."""
    os.mkfifo(tmp_path / "pid")
    pidfile.write(tmp_path / "pid", PID)
    assert (tmp_path / "pid").is_file()
    assert "4711\n" == (tmp_path / "pid").read_text()


def test_what_a_master_of_the_same_pid_left_half_written_is_replaced(tmp_path: Path) -> None:
    """Also a link of the name that is written to first, which is not followed."""
    stale, victim = tmp_path / f".pid.{PID}", tmp_path / "victim"
    stale.touch()
    pidfile.write(tmp_path / "pid", PID)
    victim.write_text("data")
    stale.symlink_to(victim)
    pidfile.write(tmp_path / "pid", PID)
    assert ("data", "4711\n") == (victim.read_text(), (tmp_path / "pid").read_text())
    assert ["pid", "victim"] == sorted(os.listdir(tmp_path))


def test_one_that_cannot_be_put_in_its_place_leaves_nothing(tmp_path: Path) -> None:
    """A directory of that name stays, the caller hears why, and nothing half written lies beside it."""
    (tmp_path / "pid").mkdir()
    with pytest.raises(IsADirectoryError):
        pidfile.write(tmp_path / "pid", PID)
    assert ["pid"] == os.listdir(tmp_path)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    """It is not made; the caller hears of it."""
    with pytest.raises(FileNotFoundError):
        pidfile.write(tmp_path / "missing" / "pid", PID)
    assert [] == os.listdir(tmp_path)


def test_our_own_is_removed(tmp_path: Path) -> None:
    """And one that is gone already is no failure."""
    pidfile.write(tmp_path / "pid", PID)
    pidfile.remove(tmp_path / "pid", PID)
    assert [] == os.listdir(tmp_path)
    pidfile.remove(tmp_path / "pid", PID)


@pytest.mark.parametrize("text", ["4712\n", "", "soon\n"])
def test_what_is_not_ours_stays(tmp_path: Path, text: str) -> None:
    """Another master may have written its own there since."""
    (tmp_path / "pid").write_text(text)
    pidfile.remove(tmp_path / "pid", PID)
    assert text == (tmp_path / "pid").read_text()


def test_what_is_no_regular_file_is_neither_read_nor_removed(tmp_path: Path) -> None:
    """A link, even to our pid, and a pipe, which would hold the end for ever."""
    pidfile.write(tmp_path / "real", PID)
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        pidfile.remove(tmp_path / name, PID)
    assert ["fifo", "link", "real"] == sorted(os.listdir(tmp_path))
