"""A real worker in a thread: it serves, and it tells what went wrong."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.certificates import Authority
from tests.system.daemon import eventually
from wsworker.errors import AppError, Reject
from wsworker.rig import Server, configure, home

SECONDS = 10


def hello(connection: Any, data: Any) -> None:
    """Answer."""
    connection.send(f"hello {data}")


def fail(connection: Any, data: Any) -> None:
    """Raise what the tests look for."""
    raise LookupError(data)


class Counting:
    """An app that is an object."""

    def __init__(self) -> None:
        self.count = 0

    def on_message(self, connection: Any, data: Any) -> None:
        self.count += 1
        connection.send(str(self.count))


def serve(**callbacks: Any) -> Server:
    """Start a server for some callbacks."""
    return Server(SimpleNamespace(**callbacks), {})


def asked(server: Server, text: str = "tom", path: str = "/") -> str | bytes:
    """Return what a new client is answered."""
    with server.connect(path) as client:
        client.send(text)
        answer: str | bytes = client.recv(SECONDS)
        return answer


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    """Return a module that stands in a file, imported from there."""
    (tmp_path / "rigged.py").write_text(
        "class Chat:\n"
        "    def on_message(self, connection, data):\n"
        "        connection.send(connection.request.path)\n"
        "def on_message(connection, data):\n"
        "    connection.send(data[::-1])\n"
    )
    before = [*sys.path]
    yield ModuleType("rigged")
    sys.path[:] = before
    sys.modules.pop("rigged", None)


def test_an_app_by_its_name(module: ModuleType, tmp_path: Path) -> None:
    """As `app` of a configuration; the folder is found."""
    with Server("rigged", {}, (tmp_path / "nothing", tmp_path)) as server:
        assert "mot" == asked(server)
    with Server("rigged:Chat", {}, (tmp_path,)) as server:
        assert "/room" == asked(server, path="/room")
    with Server(sys.modules["rigged"], {}) as server:
        assert "mot" == asked(server)


def test_any_object_is_an_app() -> None:
    """A class is called once for each server; what it keeps is not seen by the next one."""
    for _ in range(2):
        with Server(Counting, {}) as server:
            assert ["1", "2"] == [asked(server), asked(server)]
    with Server(Counting(), {}) as server:
        assert "1" == asked(server)


def test_several_at_once() -> None:
    """Each has a port of its own and knows its own clients only."""
    with serve(on_message=hello) as one, Server(Counting, {}) as other:
        assert one.port != other.port
        assert (f"ws://127.0.0.1:{one.port}", f"<Server ws://127.0.0.1:{one.port}>") == (one.url, repr(one))
        assert ["hello tom", "1"] == [asked(one), asked(other)]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_whole_life_of_a_worker(loop: str) -> None:
    """Every callback has its turn, on both loops, and the thread is gone at the end."""
    calls: list[str] = []

    async def start(worker: Any) -> None:
        await asyncio.sleep(0)
        calls.append(f"start {worker.slot}")

    def connect(connection: Any) -> None:
        connection.subscribe("room")
        connection.worker.publish("room", "welcome")

    app = SimpleNamespace(
        on_worker_start=start,
        on_connect=connect,
        on_close=lambda connection, code, reason: calls.append(f"close {code}"),
        on_worker_stop=lambda worker: calls.append("stop"),
    )
    threads = {*threading.enumerate()}
    server = Server(app, {"loop": loop})
    with server.connect() as client:
        assert "welcome" == client.recv(SECONDS)
        server.close()
        server.close()
    assert ["start 1", "close 1001", "stop"] == calls
    # the client has threads of its own, which may end a moment later; so may those of the test before
    eventually(lambda: {*threading.enumerate()} <= threads)


def test_settings_are_those_of_the_config() -> None:
    """Limits hold; sizes and times are written as in the file."""
    with (
        Server(SimpleNamespace(on_message=hello), {"websocket": {"max_size": "1KiB"}}) as server,
        server.connect() as client,
    ):
        client.send("x" * 1025)
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(SECONDS)
    assert caught.value.rcvd is not None
    assert 1009 == caught.value.rcvd.code


def test_wrong_settings() -> None:
    """One sentence for each."""
    expected = "unknown setting 'workrs'; did you mean 'workers'?; backlog must be a number from 1 to 65535"
    with pytest.raises(ValueError, match="unknown setting") as caught:
        configure("app", {"workrs": 1, "backlog": 0}, Path())
    assert str(caught.value).startswith(expected)
    with pytest.raises(ValueError, match="has no effect here") as caught:
        configure("app", {"workers": 2, "admin": {"min_ready": 2}}, Path())
    assert str(caught.value) == "; ".join(
        f"setting {key!r} has no effect here; remove it: a test has one worker, on a free port, and no master"
        for key in ("workers", "admin.min_ready")
    )
    made = configure(None, {"websocket.subprotocols": ["a", "b"], "http": {"static": "public"}}, Path("/srv"))
    assert (("a", "b"), "/srv/public", "/srv", "app") == (
        made.websocket.subprotocols,
        made.http.static,
        made.app_dir,
        made.app,
    )


def test_where_a_module_lies(tmp_path: Path) -> None:
    """The first folder that has it, as a file or a package, else the last."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    folders = [tmp_path / name for name in ("a", "b", "c")]
    (folders[1] / "chat").mkdir()
    (folders[1] / "chat" / "__init__.py").write_text("")
    (folders[0] / "app.py").write_text("")
    found = [home(app, folders) for app in ("app", "chat.rooms:Room", "nothing", None)]
    assert [folders[0], folders[1], folders[2], folders[2]] == found


def test_two_modules_of_one_name(module: ModuleType, tmp_path: Path) -> None:
    """The second is not served from the first one's file: a test would test another app than it names."""
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "rigged.py").write_text((tmp_path / "rigged.py").read_text())
    (tmp_path / "linked").symlink_to(tmp_path / "one")
    for folder in ("one", "linked", "none"):
        # in the last one it is not looked for: it comes from wherever Python finds it
        with Server("rigged", {}, (tmp_path / folder,)) as server:
            assert "mot" == asked(server)
    file = tmp_path / "one" / "rigged.py"
    text = f"module 'rigged' was already imported from {file}; give it another name or pass the module"
    for app in ("rigged", "rigged:Chat"):
        with pytest.raises(AppError) as caught:
            Server(app, {}, (tmp_path / "two",))
        assert text == str(caught.value)


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("no_such_module", "no module 'no_such_module'"),
        (SimpleNamespace(on_message=lambda connection: None), "wsworker calls it with (connection, data)"),
        (SimpleNamespace(), "has no callback"),
    ],
)
def test_a_wrong_app(app: Any, sentence: str, tmp_path: Path) -> None:
    """It is the AppError of a start, and nothing is left open."""
    threads, path = threading.active_count(), [*sys.path]
    with pytest.raises(AppError) as caught:
        Server(app, {}, (tmp_path,))
    assert sentence in str(caught.value)
    sys.path[:] = path
    assert threads >= threading.active_count() - 1


def test_a_start_that_fails() -> None:
    """What on_worker_start raises comes out where the server is started."""

    def start(worker: Any) -> None:
        raise LookupError("no database")

    with pytest.raises(LookupError, match="no database"):
        serve(on_worker_start=start)


def test_a_callback_that_raises_fails_the_test(caplog: pytest.LogCaptureFixture) -> None:
    """The close says so, and the log has the traceback."""
    server = serve(on_message=fail)
    with pytest.raises(ConnectionClosedError):
        asked(server)
    with pytest.raises(AssertionError, match="a callback raised LookupError; see the log") as caught:
        server.close()
    assert isinstance(caught.value.__cause__, LookupError)
    assert "in fail" in caplog.text


def test_an_exception_belongs_to_its_server() -> None:
    """Another one, which runs at the same time, has nothing to do with it."""
    with serve(on_message=hello) as other:
        server = serve(on_message=fail)
        with pytest.raises(ConnectionClosedError):
            asked(server)
        with pytest.raises(AssertionError, match="a callback raised LookupError"):
            server.close()
        assert [] == other.errors


def test_the_failure_of_a_test_is_not_hidden() -> None:
    """What the test has met stays what it fails of, with a note."""
    with pytest.raises(ConnectionClosedError) as caught, serve(on_message=fail) as server:
        asked(server)
    assert ["a callback raised LookupError; see the log"] == caught.value.__notes__


@pytest.mark.filterwarnings("default")
def test_whatever_raises_fails_the_test() -> None:
    """A handshake, a timer, a task of the user's, a close."""

    async def later() -> None:
        raise LookupError("task")

    def start(worker: Any) -> None:
        worker.after(0.001, lambda: 1 / 0)
        tasks.append(asyncio.get_running_loop().create_task(later()))

    def handshake(request: Any) -> None:
        if request.path == "/bad":
            raise LookupError("handshake")
        raise Reject(403)

    tasks: list[asyncio.Task[None]] = []
    server = serve(on_worker_start=start, on_handshake=handshake)
    for path, status in (("/bad", 500), ("/good", 403)):
        with pytest.raises(InvalidStatus) as caught:
            server.connect(path)
        assert status == caught.value.response.status_code
    tasks.clear()
    give_up_at = time.monotonic() + SECONDS
    while len(server.errors) < 3 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    with pytest.raises(AssertionError, match="and 2 more"):
        server.close()
    assert {LookupError, ZeroDivisionError} == {type(error) for error in server.errors}


def test_an_exception_that_is_wanted() -> None:
    """A test that wants it takes it out of the list."""
    with serve(on_message=fail, on_error=lambda connection, exc: connection.send(f"sorry: {exc}")) as server:
        assert "sorry: tom" == asked(server)
        assert [LookupError] == [type(error) for error in server.errors]
        server.errors.clear()


def test_the_users_own_log_lines_are_no_failures() -> None:
    """Whoever catches an exception and logs it has dealt with it."""

    def on_message(connection: Any, data: Any) -> None:
        try:
            fail(connection, data)
        except LookupError:
            connection.worker.log.exception("dealt with")
        connection.send("fine")

    with serve(on_message=on_message) as server:
        assert "fine" == asked(server)


def test_an_app_that_exits() -> None:
    """There is no process to end: the server ends, and the test fails."""

    def leave(connection: Any, data: Any) -> None:
        sys.exit(3)

    server = serve(on_message=leave)
    with pytest.raises(ConnectionClosedError):
        asked(server)
    with pytest.raises(AssertionError, match="a callback raised SystemExit"):
        server.close()


def test_a_callback_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The close gives up and shows where the worker is."""
    began, held = threading.Event(), threading.Event()

    def hold(connection: Any, data: Any) -> None:
        began.set()
        held.wait(SECONDS)

    server = serve(on_message=hold)
    monkeypatch.setattr("wsworker.rig.PATIENCE_SECONDS", 0.2)
    with server.connect(close_timeout=0.1) as client:
        client.send("x")
        assert began.wait(SECONDS)
        with pytest.raises(AssertionError, match=r"still busy(.|\n)*in hold"):
            server.close()
        held.set()
        server._thread.join(SECONDS)


def test_with_tls(tmp_path: Path) -> None:
    """As in production, with the files that the settings name."""
    authority = Authority(tmp_path)
    pair = authority.issue("one")
    tls = {"certfile": str(pair.certfile), "keyfile": str(pair.keyfile)}
    with Server(SimpleNamespace(on_message=hello), {"tls": tls}) as server:
        assert server.url.startswith("wss://127.0.0.1:")
        with server.connect(ssl=authority.client()) as client:
            client.send("tom")
            assert "hello tom" == client.recv(SECONDS)


@pytest.fixture
def log() -> Iterator[None]:
    """Put the log back as it was: a test sets it up anew."""
    level = logging.getLogger("wsworker").level
    yield
    logging.disable(logging.NOTSET)
    logging.getLogger("wsworker").setLevel(level)
    for one in logging.root.manager.loggerDict.values():
        if isinstance(one, logging.Logger):
            one.disabled = False


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    "silence",
    [
        lambda: logging.config.dictConfig({"version": 1}),
        lambda: logging.disable(logging.CRITICAL),
        lambda: logging.getLogger("wsworker").setLevel(logging.CRITICAL),
    ],
    ids=["dictConfig", "disable", "setLevel"],
)
def test_an_app_that_silences_the_log(silence: Callable[[], None]) -> None:
    """What its callbacks and timers raise fails the test all the same."""

    def start(worker: Any) -> None:
        silence()
        worker.after(0.001, lambda: 1 / 0)

    server = serve(on_worker_start=start, on_message=fail)
    with pytest.raises(ConnectionClosedError):
        asked(server)
    give_up_at = time.monotonic() + SECONDS
    while len(server.errors) < 2 and time.monotonic() < give_up_at:
        time.sleep(0.01)
    with pytest.raises(AssertionError, match="and 1 more"):
        server.close()
    assert {LookupError, ZeroDivisionError} == {type(error) for error in server.errors}
