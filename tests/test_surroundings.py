"""What only the system can say: accounts, folders, and files that must not be served."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bare import bare_command, bare_path
from wsworker.surroundings import file_of, objections


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder with a config file, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").touch()
    return tmp_path


def told(**raw: object) -> list[tuple[str, str]]:
    """Return the objections to these values, sections with two underscores, of config.yaml where we stand."""
    return [*objections({key.replace("__", "."): value for key, value in raw.items()}, Path("config.yaml").absolute())]


def test_nothing_to_say(folder: Path) -> None:
    """What is not given, is null or is there meets no objection."""
    Path("code").mkdir()
    assert [] == told()
    assert [] == told(user=None, group=None, app_dir="code", http__static=None)
    assert [] == told(user="root", group="root", app_dir="/")


def test_accounts(folder: Path) -> None:
    """A user or a group that does not exist is told by its name."""
    assert [
        ("user", "unknown user 'nobody-of-that-name'; create it, or remove `user`"),
        ("group", "unknown group 'nobody-of-that-name'; create it, or remove `group`"),
    ] == told(user="nobody-of-that-name", group="nobody-of-that-name")


def test_no_folder(folder: Path) -> None:
    """A folder that is not there, or is a file, is told."""
    Path("file").touch()
    for name in ("public", "file"):
        assert [("app_dir", f"no directory {folder}/{name}; create it or correct app_dir")] == told(app_dir=name)
        sentence = f"no directory {folder}/{name}; create it or correct http.static"
        assert [("http.static", sentence)] == told(http__static=name)


def test_a_folder_of_files(folder: Path) -> None:
    """A folder of its own is taken, relative to the file; it may lie beside the app or in a hidden place."""
    Path("public").mkdir()
    Path("app.py").touch()
    assert [] == told(app="app", http__static="public")
    Path(".cache/site").mkdir(parents=True)
    assert [] == told(app="app", http__static=".cache/site")


@pytest.mark.parametrize("static", [".", "..", "/", "link", "public/.."])
def test_files_beside_the_config_file(folder: Path, static: str) -> None:
    """The folder of the config file, or one above it, would give the file away, by whatever name it goes."""
    Path("public").mkdir()
    Path("link").symlink_to(".")
    ((key, sentence),) = told(app="hello", http__static=static)
    assert "http.static" == key
    assert "holds this config file, " in sentence
    assert sentence.endswith("config.yaml, which must not be served; give the files a folder of their own")


def test_file_of(tmp_path: Path) -> None:
    """A package is taken before a module of its name, as Python does; what is not there would be a module."""
    folder = str(tmp_path)
    assert f"{folder}/chat.py" == file_of("chat:app", folder)
    assert f"{folder}/chat/rooms.py" == file_of("chat.rooms", folder)
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "__init__.py").touch()
    assert f"{folder}/chat/__init__.py" == file_of("chat", folder)


def test_files_beside_the_app(folder: Path) -> None:
    """Neither app_dir nor the module itself may lie among the files, also where app_dir is above them."""
    Path("code/public").mkdir(parents=True)
    Path("code/app.py").touch()
    ((_, sentence),) = told(app="app", app_dir="code", http__static="code")
    assert f"{folder}/code holds app_dir, {folder}/code, which" in sentence
    assert [] == told(app="app", app_dir="code", http__static="code/public")
    Path("chat/rooms").mkdir(parents=True)
    Path("chat/__init__.py").touch()
    Path("chat/rooms/__init__.py").touch()
    Path("chat/app.py").touch()
    for app in ("chat", "chat.app", "chat.app:rooms", "chat.rooms:app"):
        ((_, sentence),) = told(app=app, http__static="chat")
        assert f"{folder}/chat holds the app, {folder}/chat/" in sentence
    assert [] == told(app="chat.app", http__static="chat/rooms")
    # a module and a folder of files may share a name
    Path("hello.py").touch()
    Path("hello").mkdir()
    assert [] == told(app="hello", http__static="hello")


def test_files_of_tls(folder: Path) -> None:
    """One that is not there is told; what it holds, and who may read it, is for the one who opens it."""
    Path("here.pem").touch(0)
    assert [] == told(tls__certfile="here.pem", tls__keyfile=str(folder / "here.pem"), tls__ca_certs=None)
    assert [] == told(tls__certfile="x" * 5000)
    for key in ("certfile", "keyfile", "ca_certs"):
        for name in ("gone.pem", "here.pem/gone"):
            sentence = f"tls.{key}: there is no file {folder}/{name}; create it, or correct the path"
            assert [(f"tls.{key}", sentence)] == told(**{f"tls__{key}": name})


def test_files_beside_a_key(folder: Path) -> None:
    """The key of TLS and the log are no files for everybody either; a link to them is seen through."""
    Path("public").mkdir()
    Path("real.pem").touch()
    Path("public/key.pem").touch()
    Path("key.pem").symlink_to("public/key.pem")
    served = {"app": "hello", "http__static": "public"}
    ((_, sentence),) = told(**served, tls__certfile="real.pem", tls__keyfile="key.pem")
    assert f"{folder}/public holds tls.keyfile, {folder}/key.pem, which" in sentence
    ((_, sentence),) = told(**served, tls__certfile="public/key.pem")
    assert "holds tls.certfile, " in sentence
    ((_, sentence),) = told(**served, log__file="public/x.log")
    assert "holds log.file, " in sentence


def test_files_of_a_broker(folder: Path) -> None:
    """Authorities, certificate and key that its URL names are there, or each is told."""
    Path("ca.pem").touch()
    assert [] == told(bus__url=f"tls://h?ca={folder}/ca.pem")
    sentence = f"bus.url: there is no file {folder}/x.pem; create it, or correct the path"
    assert [("bus.url", sentence)] == told(bus__url=f"rediss://h?ca={folder}/ca.pem&cert={folder}/x.pem")


@pytest.mark.parametrize(
    ("url", "sentences"),
    [
        ("valkey://h", [("bus.url", 'bus.url needs the package redis: pip install "wsworker[redis]"')]),
        ("nats://h", []),
    ],
)
def test_an_extra_that_is_not_installed(folder: Path, url: str, sentences: list[tuple[str, str]]) -> None:
    """The library of a broker is looked for and not imported; where it is not, the sentence has the command for it."""
    code = (
        "import sys; from pathlib import Path; from wsworker.surroundings import objections\n"
        f"print([*objections({{'bus.url': '{url}'}}, Path('/x.yaml'))], {{'redis'}} & {{*sys.modules}})"
    )
    # a folder of that name is no library
    (folder / "redis").mkdir()
    environ = os.environ | {"PYTHONPATH": bare_path(folder / "bare")}
    for command, expected in ((bare_command("-c", code), sentences), ([sys.executable, "-c", code], [])):
        run = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert f"{expected} set()\n" == run.stdout
