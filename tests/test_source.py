"""A text that settings come from: how it is read, and how a problem in it is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsworker.errors import ConfigError, Problem
from wsworker.source import Origin, Source, read_file
from wsworker.yamlfile import Spot


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_read_once(folder: Path) -> None:
    """The place is the path as it was given; the lines are those of the file."""
    Path("config.yaml").write_text("app: hello\nworkers: 4\n", encoding="utf-8")
    source = read_file(Path("config.yaml"))
    assert Source("config.yaml", "app: hello\nworkers: 4\n", has_lines=True) == source
    assert Problem("config.yaml", 2, 10, "no", "workers: 4", 1) == source.problem(Spot(2, 10, 9), "no")
    assert "config.yaml:2:10" == str(source.origin(Spot(2, 10)))


def test_a_variable_has_no_lines() -> None:
    """A problem of a variable or a flag has its name and no more."""
    source = Source("environment WSWORKER_WORKERS", "x")
    assert Problem("environment WSWORKER_WORKERS", 0, 0, "no") == source.problem(Spot(1, 1), "no")
    assert Origin("environment WSWORKER_WORKERS") == source.origin(Spot(1, 1))
    assert "environment WSWORKER_WORKERS" == str(source.origin(Spot(1, 1)))


def test_a_line_that_is_not_shown() -> None:
    """A line that would fill the screen is left out, and one that would steer the terminal is made harmless."""
    assert "" == Source("x", "a" * 201, has_lines=True).problem(Spot(1, 1), "no").excerpt
    assert (
        "a\N{REPLACEMENT CHARACTER}b\tc" == Source("x", "a\x1bb\tc", has_lines=True).problem(Spot(1, 1), "no").excerpt
    )


def test_unreadable_files(folder: Path) -> None:
    """A file that cannot be read is one sentence."""
    Path("large.yaml").write_bytes(b"#" * (256 * 1024 + 1))
    Path("latin1.yaml").write_bytes("app: hello\nname: caf\u00e9\n".encode("latin-1"))
    Path("marked.yaml").write_bytes(b"\xef\xbb\xbfapp: hello\xff\n")
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    os.mkfifo("pipe.yaml")
    expected = {
        "none.yaml": "none.yaml: error: no such file; create it, or name another with -c FILE",
        "folder.yaml": "folder.yaml: error: this is a directory; name the file in it with -c FILE",
        "large.yaml": "large.yaml: error: larger than 256 KiB, so it is no config file; name another with -c FILE",
        "latin1.yaml": "latin1.yaml:2:10: error: the byte 0xe9 is not UTF-8; save the file as UTF-8",
        "marked.yaml": "marked.yaml:1:11: error: the byte 0xff is not UTF-8; save the file as UTF-8",
        "pipe.yaml": "pipe.yaml: error: this is no regular file, so a reload could not read it again; "
        "name another with -c FILE",
        "loop.yaml": "loop.yaml: error: cannot be read (Too many levels of symbolic links); "
        "name another file with -c FILE",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            read_file(Path(name))
        assert [message] == [str(problem) for problem in caught.value.problems]
        assert name == caught.value.file


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_no_permission(folder: Path) -> None:
    """A file of somebody else is one sentence."""
    Path("config.yaml").touch(mode=0)
    with pytest.raises(ConfigError, match="no permission to read it"):
        read_file(Path("config.yaml"))


def test_byte_order_mark(folder: Path) -> None:
    """A byte order mark is skipped and counts for no column."""
    Path("config.yaml").write_text("\ufeffapp: hello\n", encoding="utf-8")
    assert "app: hello\n" == read_file(Path("config.yaml")).text


def test_a_secret_is_not_shown() -> None:
    """Stars stand in its place, as many as it has characters, so that carets are where they belong."""
    source = Source("config.yaml", 'bus: {url: "redis://:secret@h", prefix: x y}', has_lines=True)
    problem = source.problem(Spot(1, 41, 3), "wrong")
    assert 'bus: {url: "redis://************************' == problem.excerpt
    assert (41, 3) == (problem.column, problem.width)
    source = Source("config.yaml", "bus:\n  url:\n    secret\n", has_lines=True)
    assert "    ******" == source.problem(Spot(3, 5, 6), "wrong").excerpt
