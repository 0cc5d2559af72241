"""What a user cannot get at."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsworker.cli.reach import is_closed, obstacles
from wsworker.cli.rights import Rights, Worker

ANN = Worker("ann", 1000, frozenset({100}))
STRANGER = Worker("wsworker", -1, frozenset())
ROOT = Worker("root", 0, frozenset({0}))


@pytest.mark.parametrize(
    ("kind", "mode", "uid", "gid", "expected"),
    [
        (stat.S_IFDIR, 0o755, 0, 0, False),
        (stat.S_IFDIR, 0o700, 0, 0, True),
        (stat.S_IFDIR, 0o751, 0, 0, False),
        (stat.S_IFDIR, 0o754, 0, 0, True),
        (stat.S_IFDIR, 0o750, 0, 100, False),
        (stat.S_IFDIR, 0o705, 0, 100, True),
        (stat.S_IFDIR, 0o700, 1000, 0, False),
        (stat.S_IFDIR, 0o077, 1000, 100, True),
        (stat.S_IFREG, 0o644, 0, 0, False),
        (stat.S_IFREG, 0o711, 0, 0, True),
        (stat.S_IFREG, 0o640, 0, 100, False),
        (stat.S_IFREG, 0o400, 1000, 0, False),
    ],
)
def test_who_may_pass(kind: int, mode: int, uid: int, gid: int, expected: bool) -> None:
    """A folder needs x and a file r, of the first of owner, group and others that fits; root needs neither."""
    rights = Rights("/srv", kind | mode, uid, gid)
    assert expected == is_closed(rights, ANN)
    assert not is_closed(rights, ROOT)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that everybody can get at; that of pytest is closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_first_thing_in_the_way(folder: Path) -> None:
    """It is told once for all that lies behind it; a link leads through two ways, and what is not there is in none."""
    (folder / "home/env").mkdir(parents=True)
    (folder / "link").symlink_to("home/env")
    paths = [str(folder / name) for name in ("home/env", "home/nothing", "link", "nothing")]
    assert [] == obstacles(paths, STRANGER)
    (folder / "home").chmod(0o750)
    assert [str(folder / "home")] == [one.path for one in obstacles(paths, STRANGER)]
    assert [] == obstacles(paths, ROOT)
