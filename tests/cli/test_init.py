"""`wsworker init`: the files it writes, and that it never writes over one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.conftest import Result
from wsworker import configfile, schema
from wsworker.cli.init import FILES, contents, service_name, write
from wsworker.judging import validate
from wsworker.worker import app as app_module

CREATED = """\
created  hello/app.py              on_connect, on_message, on_close
created  hello/config.yaml         4 workers, ws://127.0.0.1:2346
created  hello/config.schema.json  completion in editors
created  hello/public/index.html   test page, served at http://127.0.0.1:2346/
created  hello/test_app.py         2 tests, run with pytest
next:    cd hello && wsworker start
"""

REFUSED = "is there already, and nothing was written; name a new folder, as in `wsworker init DIR`"
OWN_APP = "; for an app of your own, write config.yaml with `app: MODULE`"


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wsworker: Callable[..., Result]) -> Callable[..., Result]:
    """Return the command, in a folder that is empty."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return lambda *arguments: wsworker("init", *arguments)


def written(folder: Path) -> set[str]:
    """Return the files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder(init: Callable[..., Result]) -> None:
    """Every file is told, and what to do next."""
    assert Result(0, CREATED, "") == init("hello")
    assert {*FILES} == written(Path("hello"))


def test_this_folder(init: Callable[..., Result]) -> None:
    """Without a name it is this folder; other files in it are left alone."""
    Path("notes.txt").write_text("mine")
    Path("public").mkdir()
    result = init()
    assert (0, "next:    wsworker start") == (result.code, result.out.splitlines()[-1])
    assert {*FILES, "notes.txt"} == written(Path())
    assert ["created  app.py", "created  config.yaml"] == [line[:20].rstrip() for line in result.out.splitlines()[:2]]


def test_a_name_with_blanks(init: Callable[..., Result]) -> None:
    """What is to be typed next can be typed like this; folders above are made too."""
    result = init("my apps/hello world")
    assert (0, "next:    cd 'my apps/hello world' && wsworker start") == (result.code, result.out.splitlines()[-1])
    assert "name: hello-world\n" in Path("my apps/hello world/config.yaml").read_text()


@pytest.mark.parametrize(
    "name", ["-x", "-", "--help", "a\nb", "caf\udce9'\\", "\x1b[31m\u202eü", "ü ☕", "~", "$HOME`id`", "é" * 99]
)
def test_what_is_next_can_be_typed(init: Callable[..., Result], name: str) -> None:
    """Whatever the name is, the line does no harm on a terminal, and bash reads it."""
    following = init("--", name).out.splitlines()[-1].removeprefix("next:    ")
    assert following.isprintable()
    command = following.replace("wsworker start", "pwd -P; ls")
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert os.fsencode(os.path.realpath(name)) + b"\n" == done.stdout.partition(b"app.py")[0]


def test_a_folder_that_is_gone(init: Callable[..., Result], tmp_path: Path) -> None:
    """Nothing can be made in it, and the sentence says where to go; a whole path is another matter."""
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()
    sentence = "error: this folder is gone; cd to another one\n"
    assert Result(1, "", sentence) == init("hello")
    assert Result(1, "", sentence) == init()
    assert 0 == init(str(tmp_path / "hello")).code


def test_a_name_that_is_not_that_of_the_folder_is_told(init: Callable[..., Result]) -> None:
    """Nobody would look for "service" else."""
    told = init("ü").out.splitlines()[1]
    assert ["created", "ü/config.yaml", "4 workers, ws://127.0.0.1:2346, named service"] == re.split("  +", told)


def test_an_empty_name(init: Callable[..., Result]) -> None:
    """It is a mistake, such as a variable that is not set, and no word for this folder."""
    result = init("")
    assert (2, []) == (result.code, [*Path().iterdir()])
    assert (
        "error: DIR is empty; name a folder, or leave it out for this one (see `wsworker init --help`)\n" == result.err
    )


def test_a_folder_that_is_named_by_dots(init: Callable[..., Result]) -> None:
    """The service gets the name that the folder really has."""
    Path("hello/deep").mkdir(parents=True)
    assert 0 == init("hello/deep/..").code
    assert "name: hello\n" in Path("hello/config.yaml").read_text()


def test_as_json(init: Callable[..., Result]) -> None:
    """One document with everything that was told."""
    document = json.loads(init("hello", "--json").out)
    assert {
        "schema": 1,
        "folder": str(Path("hello").absolute()),
        "created": [f"hello/{file}" for file in FILES],
        "next": "cd hello && wsworker start",
    } == document


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_overwritten(init: Callable[..., Result], file: str) -> None:
    """One file that is there, or a link that leads nowhere, and nothing at all is written."""
    path = Path("hello") / file
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere")
    message = f"hello/{file} {REFUSED}{OWN_APP if file == 'app.py' else ''}"
    assert Result(1, "", f"error: {message}\n") == init("hello")
    assert {path} == {each for each in Path("hello").rglob("*") if not each.is_dir()}
    document = json.loads(init("hello", "--json").out)
    assert {"code": "failed", "message": message} == document["error"]


def test_a_file_in_the_place_of_the_folder(init: Callable[..., Result]) -> None:
    """It is named like any other that is in the way, also further up."""
    Path("hello").write_text("mine")
    assert Result(1, "", f"error: hello {REFUSED}\n") == init("hello")
    assert Result(1, "", f"error: hello {REFUSED}\n") == init("hello/there")
    assert "mine" == Path("hello").read_text()


def test_where_nothing_can_be_written(init: Callable[..., Result]) -> None:
    """One line names the place and the next step."""
    result = init("/proc/hello")
    assert (1, "error: cannot write /proc/hello: No such file or directory; name another folder\n") == (
        result.code,
        result.err,
    )


def test_nothing_is_left_of_a_try(tmp_path: Path) -> None:
    """If the second file cannot be written, the first one and the folders for them are taken away again."""
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "a" / "b", {"c/one": "", "two": "\udcff"})
    assert [] == [*tmp_path.iterdir()]


def test_no_config_is_taken(init: Callable[..., Result]) -> None:
    """-c names a file to read, and there is none to be read here."""
    result = init("hello", "-c", "config.yaml")
    assert (2, False) == (result.code, Path("hello").exists())
    assert result.err.startswith("error: init writes a config.yaml of its own; remove -c")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("hello", "hello"),
        ("Hello World!", "Hello-World"),
        ("günther", "g-nther"),
        ("-x.", "x"),
        ("2024", "2024"),
        ("чат", "service"),
        ("", "service"),
        ("x" * 99, "x" * 64),
    ],
)
def test_names_of_services(folder: str, expected: str) -> None:
    """A folder's name, with a hyphen for what no name may have."""
    assert expected == service_name(folder)


@given(st.text())
def test_every_name_loads(folder: str) -> None:
    """Whatever the folder is called, the config takes the name."""
    name = service_name(folder)
    made = validate({"name": name, "app": "app"}, "/")
    assert not isinstance(made, list)
    assert name == made.name


@pytest.mark.parametrize("name", ["hello", "2024", "null", "True", "_x", "1.5", "0x1f", "no"])
def test_the_config_is_good(tmp_path: Path, name: str) -> None:
    """It loads, and says what is told of it; a name that YAML would take for something else is quoted."""
    write(tmp_path, contents(name))
    config = configfile.load(tmp_path / "config.yaml", {}, {}).config
    assert (name, "app", 4) == (config.name, config.app, config.workers)
    assert ["ws://127.0.0.1:2346"] == [address.url for address in config.listen]
    assert str(tmp_path / "public") == config.http.static
    first, *_ = (tmp_path / "config.yaml").read_text().splitlines()
    assert "# yaml-language-server: $schema=./config.schema.json" == first
    assert schema.document() == json.loads((tmp_path / "config.schema.json").read_text())


def test_the_app_is_good(tmp_path: Path) -> None:
    """It has the callbacks that are told, and the line that the documentation shows."""
    write(tmp_path, contents("hello"))
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert FILES["app.py"] == told
    lines = (tmp_path / "app.py").read_text().splitlines()
    found = [number for number, line in enumerate(lines) if "on_message" in line]
    assert 1 == len(found)
    shown = lines[found[0] : found[0] + 2]
    assert ["def on_message(connection, data):", '    connection.send(f"hello {data}")'] == shown


LOAD = f"""
import sys, time
from pathlib import Path
from {app_module.__name__} import load
print(*load("app", Path(sys.argv[1]), time.monotonic).names, sep=", ")
"""


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """It works without a network: no address in it but that of the service itself."""
    page = contents("hello")["public/index.html"]
    assert "http://" not in page
    assert "https://" not in page
    assert not any(word in page for word in ("src=", "@import", "url("))


def test_the_tests_are_two() -> None:
    """As many as are told."""
    assert 2 == contents("hello")["test_app.py"].count("\ndef test_")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(init: Callable[..., Result]) -> None:
    """What the system says is told in one line."""
    Path("theirs").mkdir(mode=0o500)
    result = init("theirs/hello")
    assert (1, "error: cannot write theirs/hello: Permission denied; name another folder\n") == (
        result.code,
        result.err,
    )
