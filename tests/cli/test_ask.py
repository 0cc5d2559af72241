"""Questions to the master, over its real control socket."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import NAME, STATUS, Answering, Place, Script
from wsworker.cli import ask
from wsworker.errors import ConfigError, ControlError, NotRunning
from wsworker.master.rundir import Paths, elsewhere
from wsworker.wire import Command, Reply, encode


def located(place: Place) -> ask.Service:
    """Return the service of the test's config file."""
    return ask.locate(place.config, os.environ)


def test_where_a_service_is_looked_for(place: Place) -> None:
    """First where our own environment puts it, then where systemd does."""
    service = located(place)
    assert (NAME, (place.paths, *elsewhere(NAME))) == (service.name, service.places)
    assert str(place.paths.socket) == service.socket


def test_a_socket_of_its_own(place: Place) -> None:
    """With control_socket there is one socket, and still several places for the lock."""
    place.config.write_text(f"name: {NAME}\ncontrol_socket: own.sock\n")
    service = located(place)
    assert {place.folder / "own.sock"} == {at.socket for at in service.places}
    assert place.paths.lock == service.places[0].lock
    assert len(service.places) == 1 + len(elsewhere(NAME))


def test_a_socket_of_its_own_is_trusted(place: Place, running: Callable[[Script], Answering]) -> None:
    """The config file says where it is; that our own run directory is not there, or not ours, does not matter."""
    running({"status": [STATUS]})
    moved = place.folder / "own.sock"
    place.paths.socket.rename(moved)
    place.config.write_text(f"name: {NAME}\ncontrol_socket: own.sock\n")
    place.paths.folder.rename(place.paths.folder.with_name("elsewhere"))
    assert ask.status(located(place)) == STATUS


def test_no_config_file(place: Place) -> None:
    """Without a file nothing can be found."""
    with pytest.raises(ConfigError):
        ask.locate(place.folder / "nope.yaml", os.environ)


def test_an_answer(place: Place, running: Callable[[Script], Answering]) -> None:
    """The body of the reply is the document, and the lock shows who runs."""
    master = running({"status": [STATUS]})
    service = located(place)
    assert place.paths == ask.holder(service)
    assert ask.status(service) == STATUS
    assert [Command("status")] == master.heard


def test_a_long_answer(place: Place, running: Callable[[Script], Answering]) -> None:
    """The status of a large service is longer than any command may be."""
    body = STATUS | {"workers": STATUS["workers"] * 1000}
    running({"status": [body]})
    assert ask.status(located(place)) == body


def test_progress_comes_before_the_result(place: Place, running: Callable[[Script], Answering]) -> None:
    """Replies come in their order and end with the final one."""
    running({"reload": [{"event": "note"}, {"result": "ok"}]})
    expected = [Reply(False, {"event": "note"}), Reply(True, {"result": "ok"})]
    assert expected == list(ask.replies(located(place), Command("reload")))


def test_silence(place: Place) -> None:
    """A long silence is no end: as long as the master answers a `status`, its reply is waited for."""
    place.paths.folder.mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(place.paths.socket))
        listener.listen()

        def master() -> None:
            reload, _ = listener.accept()
            status, _ = listener.accept()
            with reload, status:
                status.recv(65536)
                # the result first: there is no second silence then, however slow this thread is
                reload.sendall(encode(Reply(True, {"result": "ok"})))
                status.sendall(encode(Reply(True, STATUS)))

        thread = threading.Thread(target=master)
        thread.start()
        expected = [Reply(True, {"result": "ok"})]
        assert expected == list(ask.replies(located(place), Command("reload"), silence_seconds=0.01))
        thread.join()


def test_nobody_runs(place: Place) -> None:
    """Without lock and files the service is not running; nothing is made on the way."""
    service = located(place)
    with pytest.raises(NotRunning) as caught:
        ask.status(service)
    assert (NAME, str(place.paths.socket), ()) == (caught.value.name, caught.value.socket, caught.value.leftovers)
    assert ask.holder(service) is None
    assert not place.paths.folder.exists()


def test_a_dead_master(place: Place) -> None:
    """Files without a lock are leftovers, and are named."""
    place.paths.folder.mkdir()
    place.paths.lock.touch()
    place.paths.pid.write_text("1 1\n")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(place.paths.socket))
    with pytest.raises(NotRunning) as caught:
        ask.status(located(place))
    assert (str(place.paths.socket), str(place.paths.pid)) == caught.value.leftovers


def test_a_held_lock_without_a_socket(place: Place) -> None:
    """A master may be in its first moments, so we try again; after 2 s the lock alone is no answer."""
    place.paths.folder.mkdir()
    with open(place.paths.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ControlError) as caught:
            ask.status(located(place))
    assert "timeout" == caught.value.code


def test_a_master_that_ends_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may come before the command; that raises no signal, whatever SIGPIPE means in this program."""
    ours, theirs = socket.socketpair()
    theirs.close()
    monkeypatch.setattr(ask, "_connect", lambda service, give_up_at: ours)
    raised: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: raised.append(number))
    try:
        with pytest.raises(ControlError, match="closed the connection without an answer"):
            ask.status(located(place))
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert [] == raised


def test_a_hung_up_connection(place: Place, running: Callable[[Script], Answering]) -> None:
    """A connection that ends without an answer is told as such."""
    running({"status": []})
    with pytest.raises(ControlError) as caught:
        ask.status(located(place))
    assert "no_answer" == caught.value.code


@pytest.mark.parametrize(
    "answer",
    [b"what?\n", encode(Reply(True, {"error": {"code": "usage", "message": "malformed message"}}))],
    ids=["no reply", "a refusal"],
)
def test_another_version(place: Place, answer: bytes) -> None:
    """What we cannot read, and that we cannot be read, both mean another wsworker than ours."""
    place.paths.folder.mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(place.paths.socket))
        listener.listen()
        with contextlib.closing(ask.Call(located(place), Command("status"), time.monotonic())) as call:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(answer)
                with pytest.raises(ControlError) as caught:
                    call.reply(time.monotonic() + 5)
    assert "no_answer" == caught.value.code
    assert "restart it" in caught.value.message


def test_no_reply_in_time(place: Place) -> None:
    """A call gives the time back when it is over, also if that was before it began."""
    place.paths.folder.mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(place.paths.socket))
        listener.listen()
        with contextlib.closing(ask.Call(located(place), Command("status"), time.monotonic())) as call:
            assert call.reply(time.monotonic() + 0.01) is None
            assert call.reply(time.monotonic() - 1) is None


def test_a_link_in_the_place_of_a_lock(place: Place) -> None:
    """No master of ours made it, so it proves nothing."""
    place.paths.folder.mkdir()
    place.paths.lock.symlink_to("/dev/null")
    assert ask.holder(located(place)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a directory somebody else's")
def test_a_run_directory_of_somebody_else(place: Place, running: Callable[[Script], Answering]) -> None:
    """In /tmp another user may have made our directory first, with a socket of theirs in it: we do not talk to it."""
    running({"status": [STATUS]})
    os.chown(place.paths.folder, 65534, 65534)
    with pytest.raises(NotRunning):
        ask.status(located(place))
    os.chown(place.paths.folder, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_no_permission(place: Place, tmp_path: Path, running: Callable[[Script], Answering]) -> None:
    """Where we may not look, we cannot say whether anybody runs."""
    running({"status": [STATUS]})
    service = located(place)
    named = ask.at_socket(place.paths.socket)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        for question in (lambda: ask.status(service), lambda: ask.holder(service), lambda: ask.status(named)):
            try:
                question()
            except ControlError as error:
                os.write(writer, f"{error.code} ".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        assert "permission permission permission " == answer.read()


def test_a_socket_that_a_caller_names(place: Place, tmp_path: Path, running: Callable[[Script], Answering]) -> None:
    """It is asked, in whatever folder it is; one that is not there, or that refuses, means that nobody runs."""
    running({"status": [STATUS]})
    assert ask.status(ask.at_socket(place.paths.socket)) == STATUS
    dead, file = place.paths.folder / "dead.sock", tmp_path / "file"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(dead))
    file.touch()
    for path, leftovers in {tmp_path / "none": (), file: (), file / "x": (), dead: (str(dead),)}.items():
        with pytest.raises(NotRunning) as caught:
            ask.status(ask.at_socket(path))
        error = caught.value
        assert ("the service", str(path), leftovers) == (error.name, error.socket, error.leftovers)


def test_what_is_no_control_socket(tmp_path: Path) -> None:
    """It is told at once, with the reason."""
    path = tmp_path / ("x" * 200)
    with pytest.raises(ControlError, match=r"xxx cannot be asked: .*too long; name the control socket") as caught:
        ask.status(ask.at_socket(path))
    assert "no_answer" == caught.value.code


def test_places_are_looked_at_in_turn(place: Place, running: Callable[[Script], Answering], tmp_path: Path) -> None:
    """A service that is not where we look first is found where we look next."""
    running({"status": [STATUS]})
    first = Paths(tmp_path, tmp_path / "x.lock", tmp_path / "x.sock", tmp_path / "x.pid")
    service = ask.Service(NAME, (first, place.paths))
    assert ask.status(service) == STATUS
    assert place.paths == ask.holder(service)


def test_the_config_file_goes_with_each_command(place: Place, running: Callable[[Script], Answering]) -> None:
    """As it really is called; without a file nothing is said."""
    linked = place.folder / "linked.yaml"
    linked.symlink_to(place.config)
    master = running({"status": [STATUS]})
    ask.status(ask.locate(Path("linked.yaml"), os.environ))
    assert {os.path.realpath(place.config)} == master.configs
    ask.status(ask.at_socket(place.paths.socket))
    assert {os.path.realpath(place.config), ""} == master.configs


def test_a_service_of_another_file(place: Place, running: Callable[[Script], Answering]) -> None:
    """The word of the master is passed on as it is."""
    running({"reopen": [{"error": {"code": "other_config", "message": "chat runs with /other"}}]})
    with pytest.raises(ControlError, match=r"^chat runs with /other$") as caught:
        list(ask.replies(located(place), Command("reopen")))
    assert "other_config" == caught.value.code
