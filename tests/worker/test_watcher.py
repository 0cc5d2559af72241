"""What is looked at on disk, and what is told of it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.worker.service import until
from wsworker.worker import watcher
from wsworker.worker.watcher import Watcher, python_files, stamp

Told = list[tuple[str, str]]


def still() -> float:
    """Be the clock of looks that take no time: after one in which the machine is busy there would be a long pause."""
    return 0.0


Watch = Callable[[Callable[[Told], object]], Told]


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    """Return a folder with an app in two files, and a config beside it."""
    folder = tmp_path / "srv"
    (folder / "rooms").mkdir(parents=True)
    (folder / "app.py").write_text("def on_message(connection, data): ...\n")
    (folder / "rooms" / "one.py").write_text("")
    (tmp_path / "config.yaml").write_text("app: app\n")
    return folder


@pytest.fixture
def watching(app_dir: Path) -> Watch:
    """Return a function that watches while another one runs; what was told is waited for, and returned."""

    def run(act: Callable[[Told], object]) -> Told:
        told: Told = []

        async def main() -> None:
            watched = Watcher(
                str(app_dir), str(app_dir.parent / "config.yaml"), lambda *change: told.append(change), still
            )
            watched.start(asyncio.get_running_loop())
            act(told)
            await until(lambda: told)
            watched.stop()

        asyncio.run(main())
        return told

    return run


def found(folder: Path, most: int = 100) -> tuple[list[str], bool]:
    """Return the files below a folder, and whether that are all of them."""
    files, is_all = python_files(str(folder), most)
    return sorted(os.path.relpath(file, folder) for file in files), is_all


def test_files_below_a_folder(app_dir: Path) -> None:
    """Python files at any depth; not hidden ones, compiled ones, tests, or those of a virtual environment."""
    for file in (
        "test_app.py",
        "rooms/conftest.py",
        "notes.txt",
        ".#app.py",
        ".git/hook.py",
        "__pycache__/x.py",
        "node_modules/a/b.py",
    ):
        (app_dir / file).parent.mkdir(parents=True, exist_ok=True)
        (app_dir / file).write_text("")
    (app_dir / "env" / "lib").mkdir(parents=True)
    (app_dir / "env" / "pyvenv.cfg").write_text("")
    (app_dir / "env" / "lib" / "six.py").write_text("")
    (app_dir / "loop").symlink_to(app_dir)
    (app_dir / "linked.py").symlink_to(app_dir / "app.py")
    assert (["app.py", "linked.py", "rooms/one.py"], True) == found(app_dir)


def test_a_huge_folder_is_cut(app_dir: Path) -> None:
    """So much is looked at and no more, from the top on."""
    for number in range(9):
        (app_dir / "rooms" / f"{number}.py").write_text("")
    files, is_all = found(app_dir, most=5)
    assert ("app.py", 4, False) == (files[0], len(files), is_all)


def test_hidden_files_count(app_dir: Path) -> None:
    """They are looked at like the others: where they fill a folder, it is not said that all was found."""
    for number in range(9):
        (app_dir / f".{number}").write_text("")
    for number in range(9):
        (app_dir / f"{number}.py").write_text("")
    _, is_all = found(app_dir, most=10)
    assert not is_all
    files, is_all = found(app_dir, most=22)
    assert (11, True) == (len(files), is_all)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It has no files: what cannot be read is not imported either."""
    assert ([], True) == found(tmp_path / "nothing")


def test_stamps(app_dir: Path) -> None:
    """A file that is put in place of another one is another one, and what is not there has no stamp."""
    before = stamp(str(app_dir / "app.py"))
    (app_dir / "new").write_bytes((app_dir / "app.py").read_bytes())
    os.replace(app_dir / "new", app_dir / "app.py")
    assert before != stamp(str(app_dir / "app.py"))
    assert stamp(str(app_dir / "nothing.py")) is None


def test_a_save_is_told(app_dir: Path, watching: Watch) -> None:
    """With the names below app_dir."""
    told = watching(lambda _: (app_dir / "rooms" / "one.py").write_text("x = 1\n"))
    assert ["rooms/one.py"] == [names for names, _ in told]


def test_the_config_is_watched(app_dir: Path, watching: Watch) -> None:
    """It is a file like the others."""
    config = app_dir.parent / "config.yaml"
    told = watching(lambda _: config.write_text("app: app\nworkers: 2\n"))
    assert [str(config)] == [names for names, _ in told]


def test_two_workers_tell_the_same(app_dir: Path) -> None:
    """Each by itself, with the same mark."""
    told: Told = []

    async def main() -> None:
        both = [Watcher(str(app_dir), "/none", lambda *change: told.append(change), still) for _ in range(2)]
        for each in both:
            assert each.start(asyncio.get_running_loop()) >= 3
        (app_dir / "app.py").unlink()
        await until(lambda: len(told) == 2)
        for each in both:
            each.stop()

    asyncio.run(main())
    assert told[0] == told[1]
    assert "app.py" == told[0][0]
    assert told[0][1] == Watcher(str(app_dir), "/none", lambda *change: None, time.monotonic).mark


def test_modules_from_elsewhere(
    app_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watching: Watch,
) -> None:
    """One that was imported late is watched from then on: its import is no change, a save of it is."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "watched_elsewhere.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(library))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    async def main() -> Told:
        told: Told = []
        watched = Watcher(str(app_dir), "/none", lambda *change: told.append(change), still)
        watched.start(asyncio.get_running_loop())
        importlib.import_module("watched_elsewhere")
        await until(lambda: str(library / "watched_elsewhere.py") in watched._others)
        (library / "watched_elsewhere.py").write_text("x = 22\n")
        await until(lambda: told)
        watched.stop()
        return told

    told = asyncio.run(main())
    del sys.modules["watched_elsewhere"]
    assert [str(library / "watched_elsewhere.py")] == [names for names, _ in told]


class Lazy(ModuleType):
    """A module that is loaded when anything is asked of it, and then cannot be, as importlib.util.LazyLoader's."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


class Proxy:
    """An object that lets another one answer for it, as those of werkzeug.local."""

    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


@pytest.mark.parametrize("make", [lambda: Lazy("strange"), Proxy], ids=["lazy", "proxy"])
def test_no_module_is_asked(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch, watching: Watch, make: Callable[[], Any]
) -> None:
    """What stands in sys.modules may have code of its own; none of it runs."""
    monkeypatch.setitem(sys.modules, "strange", make())
    told = watching(lambda _: (app_dir / "app.py").write_text("x = 1\n"))
    assert ["app.py"] == [names for names, _ in told]


def test_a_lazy_module_is_watched_and_not_loaded(
    app_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is known before it is loaded."""
    file = tmp_path / "lazily.py"
    file.write_text("raise LookupError('loaded')\n")
    spec = importlib.util.spec_from_file_location("lazily", file)
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazily", module)
    spec.loader.exec_module(module)
    watched = Watcher(str(app_dir), "/none", lambda *change: None, time.monotonic)
    assert str(file) in watched._outside()


def test_a_look_that_fails_is_not_the_last(app_dir: Path) -> None:
    """The next one is planned all the same."""
    told: Told = []

    def fail_once(names: str, mark: str) -> None:
        told.append((names, mark))
        if len(told) == 1:
            raise LookupError(names)

    async def main() -> list[BaseException]:
        loop = asyncio.get_running_loop()
        raised: list[BaseException] = []
        loop.set_exception_handler(lambda loop, context: raised.append(context["exception"]))
        watched = Watcher(str(app_dir), "/none", fail_once, still)
        watched.start(loop)
        (app_dir / "app.py").write_text("#")
        await until(lambda: len(told) == 1)
        (app_dir / "app.py").write_text("##")
        await until(lambda: len(told) == 2)
        watched.stop()
        return raised

    assert [LookupError] == [type(error) for error in asyncio.run(main())]


def test_a_look_that_takes_long_is_followed_by_a_long_pause(app_dir: Path) -> None:
    """However many files there are, the loop has most of its time for clients."""
    times = iter([10.0, 10.25])
    planned: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watched = Watcher(str(app_dir), "/none", lambda *change: None, lambda: next(times))
        began_at = loop.time()
        watched.start(loop)
        assert watched._timer is not None
        planned.append(watched._timer.when() - began_at)
        watched.stop()

    asyncio.run(main())
    assert planned[0] >= 5.0


def test_the_package_itself_is_not_watched(app_dir: Path) -> None:
    """Nor is what is installed: only the app's own files are left."""
    watched = Watcher(str(app_dir), "/none", lambda *change: None, time.monotonic)
    outside = [*watched._outside()]
    package = str(Path(watcher.__file__).parents[1])
    assert [] == [path for path in outside if path.startswith(f"{package}/") or "/site-packages/" in path]


def test_a_huge_app_dir_is_told_once(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning that names the setting; what was found at first is watched, whatever else comes."""
    monkeypatch.setattr(watcher, "MOST_ENTRIES", 2)
    watched = Watcher(str(app_dir), "/none", lambda *change: None, time.monotonic)
    (app_dir / "aaa.py").write_text("")
    assert [str(app_dir / "app.py")] == [*watched._tree()]
    text = f"{app_dir} holds more than 2 files and folders; new files are not noticed, set `app_dir` to a smaller one"
    assert [text] == caplog.messages


def test_a_huge_app_dir_is_told_by_one_worker(
    app_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others watch the same files, and say nothing of it."""
    monkeypatch.setattr(watcher, "MOST_ENTRIES", 2)
    watched = Watcher(str(app_dir), "/none", lambda *change: None, time.monotonic, warns=False)
    assert [str(app_dir / "app.py")] == [*watched._tree()]
    assert [] == caplog.messages
