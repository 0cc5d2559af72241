"""Who can change the code that workers run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsworker.cli.rights import Rights, Worker, look, objection, of_app

WWW = Worker("www", 33, frozenset({33, 44}))
ROOT = Worker("root", 0, frozenset({0}))


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "worker", "words"),
    [
        (0o100644, 1000, 1000, None, None),
        (0o100664, 1000, 1000, None, None),
        (0o100666, 1000, 1000, None, "everybody can change /srv/app.py, which workers run; use `chmod o-w"),
        (0o100646, 0, 0, ROOT, "everybody can change "),
        (0o041777, 0, 0, None, "everybody can change "),
        (0o100644, 0, 0, ROOT, None),
        (0o100664, 0, 0, ROOT, None),
        (0o100664, 0, 50, ROOT, "not only root can change /srv/app.py, which workers run as root; "),
        (0o100644, 1000, 0, ROOT, "not only root can change "),
        (0o100644, 0, 0, WWW, None),
        (0o100644, 1000, 1000, WWW, None),
        (0o100664, 0, 50, WWW, None),
        (0o100644, 0, 44, WWW, None),
        (0o100664, 0, 44, WWW, "workers run as www, whose group can change /srv/app.py; use `chmod g-w"),
        (0o100444, 33, 0, WWW, "workers run as www, who owns /srv/app.py and so can change what they run; "),
    ],
)
def test_objection(mode: int, uid: int, gid: int, worker: Worker | None, words: str | None) -> None:
    """Who may write is weighed against whom workers run as; an owner can give himself the right."""
    sentence = objection(Rights("/srv/app.py", mode, uid, gid), worker)
    assert sentence == words if words is None else str(sentence).startswith(words)


def test_look(tmp_path: Path) -> None:
    """What is there is looked at, through links; what is not is passed over."""
    file, link = tmp_path / "app.py", tmp_path / "link.py"
    file.touch()
    file.chmod(0o640)
    link.symlink_to(file)
    (found,) = look([str(link), str(tmp_path / "gone")])
    assert Rights(str(link), 0o100640, os.geteuid(), file.stat().st_gid) == found


@pytest.mark.parametrize(
    ("app", "file", "expected"),
    [
        ("app", "/srv/app.py", ["/srv", "/srv/app.py"]),
        ("app:chat", "/srv/app.py", ["/srv", "/srv/app.py"]),
        ("chat", "/srv/chat/__init__.py", ["/srv", "/srv/chat", "/srv/chat/__init__.py"]),
        ("chat.rooms", "/srv/chat/rooms.py", ["/srv", "/srv/chat", "/srv/chat/rooms.py"]),
        ("app", "", ["/srv"]),
        ("sys", "built in", ["/srv"]),
    ],
)
def test_of_app(app: str, file: str, expected: list[str]) -> None:
    """An app is its folder, the folder of its package, and its file."""
    assert expected == of_app(app, "/srv", file)
