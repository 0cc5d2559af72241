"""The control socket: who may command, what a caller gets, and that no caller holds up the loop."""

from __future__ import annotations

import json
import os
import resource
import selectors
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.master.forks import (
    DEADLINE_SECONDS,
    NOBODY,
    Child,
    Pipe,
    Watch,
    become_nobody,
    in_child,
    needs_root,
    readable,
    stay,
    until,
)
from tests.master.heirs import inheritable, left
from wsworker.master.control import ANSWER_SECONDS, MAX_OTHERS, MAX_UNREAD_BYTES, MAX_WAITING, REQUEST_SECONDS, Control
from wsworker.wire import MAX_LINE_BYTES, Command, encode

STATUS = encode(Command("status"))


class Caller:
    """A client that says exactly what a test wants said; the desk turns while it waits."""

    def __init__(self, desk: Desk, receive_buffer: int = 0) -> None:
        self._desk = desk
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.connect(str(desk.path))
        desk.turn()

    def send(self, data: bytes) -> None:
        """Send bytes, and let the master's loop turn."""
        self.sock.sendall(data)
        self._desk.turn()

    def receive(self, limit: int = 65536) -> bytes:
        """Return what is there, b"" when the master has hung up; the loop turns until one of these is so."""
        self._desk.until(lambda: readable(self.sock.fileno(), 0.0))
        try:
            return self.sock.recv(limit)
        except ConnectionResetError:
            # how a hang-up looks to a caller who has sent what was not read any more: unix(7)
            return b""

    def rest(self) -> bytes:
        """Return all that comes until the master hangs up."""
        received = b""
        while data := self.receive():
            received += data
        return received

    def silent(self) -> bool:
        """Whether the master has neither said anything nor hung up."""
        self._desk.turn()
        return not readable(self.sock.fileno(), 0.0)


class Desk:
    """A control socket with its loop, a clock that the test sets, and the commands that came."""

    def __init__(self, path: Path, group: int | None = None) -> None:
        self.path = path
        self.now = 1000.0
        self.commands: list[tuple[Command, int]] = []
        self.selector = selectors.DefaultSelector()
        self.control = Control(
            path, self.selector, lambda *command: self.commands.append(command), lambda: self.now, group
        )
        self.callers: list[Caller] = []

    def turn(self) -> None:
        """Handle what is ready; waits for nothing."""
        for key, _ in self.selector.select(0):
            key.data()

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until a condition holds."""

        def turned() -> object:
            self.turn()
            return condition()

        until(turned)

    def call(self) -> Caller:
        """Connect."""
        self.callers.append(Caller(self))
        return self.callers[-1]

    def clients(self) -> int:
        """Return how many connections the loop watches beside the listener, which it may not watch itself."""
        return sum(key.fileobj is not self.control._listener for key in self.selector.get_map().values())

    def command(self) -> tuple[Caller, int]:
        """Connect and ask for the status; return the caller and its token."""
        caller = self.call()
        caller.send(STATUS)
        return caller, self.commands[-1][1]

    def close(self) -> None:
        """End everything."""
        self.control.close()
        self.selector.close()
        for caller in self.callers:
            caller.sock.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path that every user may enter."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def desk(folder: Path) -> Iterator[Desk]:
    """Give an open control socket."""
    made = Desk(folder / "chat.sock")
    made.control.open()
    yield made
    made.close()


def replies(data: bytes) -> list[Any]:
    """Return the replies in what a caller received, as (final, body)."""
    lines = [json.loads(line) for line in data.splitlines()]
    assert data.endswith(b"\n") or not data
    assert all(line["type"] == "reply" and line["v"] == 1 for line in lines)
    return [(line["final"], line["body"]) for line in lines]


# --- who may command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o777])
def test_the_socket_is_ours_alone_from_the_first_moment(folder: Path, umask: int) -> None:
    """The mode is 0600 when the file appears and is never set afterwards; the umask of the process is as before."""

    def open_it() -> list[int]:
        os.umask(umask)
        desk = Desk(folder / "chat.sock")
        watch = Watch(folder, Watch.IN_CREATE | Watch.IN_ATTRIB)
        desk.control.open()
        mode = stat.S_IMODE(desk.path.stat().st_mode)
        return [*watch.masks(), mode, os.umask(0)]

    assert [Watch.IN_CREATE, 0o600, umask] == in_child(open_it)


def test_a_path_that_cannot_be_bound_is_an_os_error(folder: Path) -> None:
    """The descriptor is closed and the umask restored, and nothing is watched."""

    def open_it() -> list[Any]:
        os.umask(0o022)
        (folder / "chat.sock").touch()
        desk = Desk(folder / "chat.sock")
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use"):
            desk.control.open()
        desk.control.close()
        return [before == sorted(os.listdir("/proc/self/fd")), os.umask(0), len(desk.selector.get_map())]

    assert [True, 0o022, 0] == in_child(open_it)


def call_as_nobody(path: Path, pipe: Pipe) -> None:
    """Connect as another user, command, and tell what came."""
    become_nobody()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        try:
            sock.connect(str(path))
            sock.sendall(STATUS)
            received = sock.recv(100)
        except (PermissionError, ConnectionResetError, BrokenPipeError) as error:
            pipe.tell(type(error).__name__)
        else:
            pipe.tell(received.decode())


@needs_root
def test_another_user_cannot_connect(desk: Desk, pipe: Pipe) -> None:
    """The mode of the socket keeps everybody else out."""
    with Child(lambda: call_as_nobody(desk.path, pipe)):
        assert "PermissionError" == pipe.hear()
    assert 0 == desk.clients()


@needs_root
def test_another_user_is_refused_whatever_the_mode(desk: Desk, pipe: Pipe) -> None:
    """Should the socket be open to all, the kernel still says who is there: cut off, and no command is taken."""
    desk.path.chmod(0o666)
    with Child(lambda: call_as_nobody(desk.path, pipe)):
        desk.until(lambda: not pipe.silent())
        assert pipe.hear() in ("", "ConnectionResetError", "BrokenPipeError")
    assert [] == desk.commands
    assert 0 == desk.clients()


@needs_root
def test_root_may_command_a_master_that_is_not_root(folder: Path, pipe: Pipe) -> None:
    """An administrator needs no second account."""
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)

    def master() -> None:
        become_nobody()
        desk = Desk(folder / "chat.sock")
        desk.control.open()
        pipe.tell("open")
        desk.until(lambda: desk.commands)
        desk.control.answer(desk.commands[0][1], {"uid": os.geteuid()})
        stay()

    with Child(master), socket.socket(socket.AF_UNIX) as sock:
        assert "open" == pipe.hear()
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(str(folder / "chat.sock"))
        sock.sendall(STATUS)
        assert [(True, {"uid": NOBODY.pw_uid})] == replies(sock.recv(65536))


# --- a group that may command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_socket_of_a_group(folder: Path, umask: int) -> None:
    """The mode is 0660 when the file appears; nobody can connect before the group is the right one."""

    def open_it() -> list[int]:
        os.umask(umask)
        desk = Desk(folder / "chat.sock", os.getegid())
        watch = Watch(folder, Watch.IN_CREATE)
        desk.control.open()
        return [*watch.masks(), stat.S_IMODE(desk.path.stat().st_mode), os.umask(0)]

    assert [Watch.IN_CREATE, 0o660, umask] == in_child(open_it)


@pytest.fixture
def shared(folder: Path) -> Iterator[Desk]:
    """Give an open control socket that the group of `nobody` may use."""
    made = Desk(folder / "chat.sock", NOBODY.pw_gid)
    made.control.open()
    yield made
    made.close()


@needs_root
def test_members_of_the_group_may_command(shared: Desk, pipe: Pipe) -> None:
    """Whoever the mode lets through, also when the socket was made again."""
    shared.path.unlink()
    shared.control.renew()
    assert (NOBODY.pw_gid, 0o660) == (shared.path.stat().st_gid, stat.S_IMODE(shared.path.stat().st_mode))
    with Child(lambda: call_as_nobody(shared.path, pipe)):
        shared.until(lambda: shared.commands)
        shared.control.answer(shared.commands[0][1], {"state": "running"})
        assert "running" in pipe.hear()


@needs_root
def test_who_is_not_in_the_group_cannot_connect(shared: Desk, pipe: Pipe) -> None:
    """The mode keeps everybody else out."""
    os.chown(shared.path, -1, NOBODY.pw_gid + 1)
    with Child(lambda: call_as_nobody(shared.path, pipe)):
        assert "PermissionError" == pipe.hear()


def test_a_group_that_is_not_ours_to_give(folder: Path) -> None:
    """Only root may give a file to any group: an OSError, and nothing is left open."""

    def open_it() -> bool:
        if os.geteuid() == 0:
            folder.chmod(0o777)
            become_nobody()
        desk = Desk(folder / "chat.sock", 1)
        before = open_files()
        with pytest.raises(PermissionError):
            desk.control.open()
        return before == open_files()

    assert in_child(open_it)


# --- commands -----------------------------------------------------------------------------------------------------


def test_a_command_arrives_with_a_token_and_is_answered(desk: Desk) -> None:
    """After the result the connection is closed and nothing of it is left in the loop."""
    caller = desk.call()
    caller.send(encode(Command("stop", quick=True)))
    ((command, token),) = desk.commands
    assert Command("stop", quick=True) == command
    desk.control.answer(token, {"result": "stopped"})
    assert [(True, {"result": "stopped"})] == replies(caller.rest())
    assert 0 == desk.clients()


def test_progress_comes_before_the_answer(desk: Desk) -> None:
    """Any number of lines on the way, each sent at once, then one result."""
    caller, token = desk.command()
    desk.control.progress(token, {"event": "note", "text": "é"})
    assert [(False, {"event": "note", "text": "é"})] == replies(caller.receive())
    desk.control.progress(token, {"step": 2})
    desk.control.answer(token, {"result": "ok"})
    assert [(False, {"step": 2}), (True, {"result": "ok"})] == replies(caller.rest())


def test_each_caller_gets_its_own_answer(desk: Desk) -> None:
    """Tokens are never used twice, also after a caller has gone."""
    first, one = desk.command()
    second, two = desk.command()
    desk.control.answer(two, {"for": 2})
    third, three = desk.command()
    assert 3 == len({one, two, three})
    desk.control.answer(one, {"for": 1})
    desk.control.answer(three, {"for": 3})
    for number, caller in enumerate((first, second, third), 1):
        assert [(True, {"for": number})] == replies(caller.rest())


@pytest.mark.parametrize("at", [1, len(STATUS) // 2, len(STATUS) - 1])
def test_a_command_may_come_in_parts(desk: Desk, at: int) -> None:
    """Nothing happens until the line is whole."""
    caller = desk.call()
    caller.send(STATUS[:at])
    assert [] == desk.commands
    caller.send(STATUS[at:])
    assert [Command("status")] == [command for command, _ in desk.commands]


def test_one_command_a_connection(desk: Desk) -> None:
    """What comes behind the first one means nothing, in the same write or in a later one, sense or nonsense."""
    caller = desk.call()
    caller.send(STATUS + encode(Command("stop")))
    caller.send(encode(Command("reload")) + b"nonsense\n")
    ((command, token),) = desk.commands
    assert Command("status") == command
    assert caller.silent()
    desk.control.answer(token, {"state": "running"})
    assert [(True, {"state": "running"})] == replies(caller.rest())


@pytest.mark.parametrize(
    "line",
    [b"hello\n", b"\n", b"{}\n", b"\xff\xfe\n", b"[" * 5000 + b"\n", STATUS.replace(b"status", b"explode")],
    ids=["text", "empty", "object", "bytes", "deep", "unknown"],
)
def test_garbage_gets_an_error_and_the_end(desk: Desk, line: bytes) -> None:
    """One reply that says what is wrong, then the connection is closed; no command is taken."""
    caller = desk.call()
    caller.send(line)
    ((final, body),) = replies(caller.rest())
    assert (True, "usage") == (final, body["error"]["code"])
    assert body["error"]["message"].startswith("malformed message: ")
    assert [] == desk.commands
    assert 0 == desk.clients()


def test_a_line_that_never_ends_is_cut(desk: Desk) -> None:
    """More than 64 KiB without a newline: an error, and no more of it is held."""
    caller = desk.call()
    caller.send(b"x" * MAX_LINE_BYTES)
    assert caller.silent()
    caller.send(b"x")
    ((final, body),) = replies(caller.rest())
    assert final
    assert f"malformed message: a line is longer than {MAX_LINE_BYTES} bytes" == body["error"]["message"]
    assert 0 == desk.clients()


# --- callers that leave or linger ---------------------------------------------------------------------------------


def test_an_answer_to_a_caller_that_left_is_harmless(desk: Desk) -> None:
    """Its command is not cancelled; the replies go nowhere, and the token stays dead."""
    caller, token = desk.command()
    caller.sock.close()
    desk.until(lambda: not desk.clients())
    desk.control.progress(token, {"step": 1})
    desk.control.answer(token, {"result": "ok"})
    desk.control.answer(99, {"result": "ok"})
    assert 1 == len(desk.commands)


def test_an_answer_to_a_caller_that_is_just_leaving_is_harmless(desk: Desk) -> None:
    """The loop has not heard of it yet, so the write fails: a broken pipe, which ends this caller alone."""
    caller, token = desk.command()
    other, other_token = desk.command()
    caller.sock.close()
    desk.control.progress(token, {"step": 1})
    assert 1 == desk.clients()
    desk.control.answer(token, {"result": "ok"})
    desk.control.answer(other_token, {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(other.rest())


def test_a_reset_connection_is_dropped(desk: Desk) -> None:
    """Whoever closes with our reply unread resets the connection; reading from it fails, and nothing is raised."""
    caller, token = desk.command()
    desk.control.progress(token, {"step": 1})
    caller.sock.close()
    desk.until(lambda: not desk.clients())


def test_who_sends_nothing_is_cut_after_5_seconds(desk: Desk) -> None:
    """Also who has sent half a command; one whose command is whole waits for its answer as long as it takes."""
    silent = desk.call()
    half = desk.call()
    half.send(STATUS[:10])
    waiting, token = desk.command()
    desk.now += REQUEST_SECONDS - 0.01
    desk.control.expire()
    assert 3 == desk.clients()
    desk.now += 0.01
    desk.control.expire()
    assert 1 == desk.clients()
    assert b"" == silent.rest() == half.rest()
    desk.now += 3600
    desk.control.expire()
    desk.control.answer(token, {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(waiting.rest())


def test_who_half_closes_behind_its_command_is_answered(desk: Desk) -> None:
    """As `nc` does at the end of its input; the loop does not spin meanwhile."""
    caller, token = desk.command()
    caller.sock.shutdown(socket.SHUT_WR)
    desk.turn()
    assert 0 == desk.clients()
    assert [] == desk.selector.select(0)
    desk.control.progress(token, {"event": "note"})
    desk.control.answer(token, {"result": "ok"})
    assert [(False, {"event": "note"}), (True, {"result": "ok"})] == replies(caller.rest())


def test_who_does_not_read_its_answer_is_cut_after_5_seconds(desk: Desk) -> None:
    """Otherwise sixteen of them would shut everybody else out."""
    caller, token = desk.command()
    desk.control.answer(token, {"text": "x" * (MAX_UNREAD_BYTES - 1000)})
    assert 1 == desk.clients()
    desk.now += ANSWER_SECONDS
    desk.control.expire()
    assert 0 == desk.clients()
    assert not caller.rest().endswith(b"\n")


def parts_of(count: int, size: int = 20_000) -> list[dict[str, Any]]:
    """Return the parts of a long answer."""
    return [{"number": number, "text": "x" * size} for number in range(count)]


def test_a_long_answer_comes_in_parts(desk: Desk) -> None:
    """Longer than what may wait for a caller: each part is written when there is room, and then the result."""
    caller, token = desk.command()
    count = 2 * MAX_UNREAD_BYTES // 20_000
    desk.control.answer(token, {"result": "ok"}, parts_of(count))
    told = replies(caller.rest())
    assert [(False, number) for number in range(count)] == [(final, body["number"]) for final, body in told[:-1]]
    assert (True, {"result": "ok"}) == told[-1]
    assert 0 == desk.clients()


def test_a_long_answer_holds_nobody_up(desk: Desk) -> None:
    """A turn of the loop writes one part of it, however fast its caller reads."""
    _, token = desk.command()
    desk.control.answer(token, {"result": "ok"}, parts_of(3, 10))
    (client,) = desk.control._clients.values()
    left = [len(client.later)]
    while client.later:
        desk.turn()
        left.append(len(client.later))
    assert [2, 1, 0] == left


def test_who_reads_a_long_answer_slowly_has_time_for_each_part(desk: Desk) -> None:
    """As long as it reads at all; who stops is cut off."""
    caller, token = desk.command()
    desk.control.answer(token, {"result": "ok"}, parts_of(100))
    received = 0
    for _ in range(20):
        desk.now += ANSWER_SECONDS - 0.1
        desk.control.expire()
        received += len(caller.receive())
        desk.turn()
    assert received > 20 * 20_000
    desk.now += ANSWER_SECONDS
    desk.control.expire()
    assert 0 == desk.clients()


def test_a_long_answer_to_a_caller_that_leaves(desk: Desk) -> None:
    """What is left of it is forgotten."""
    caller, token = desk.command()
    desk.control.answer(token, {"result": "ok"}, parts_of(100))
    caller.receive()
    caller.sock.close()
    desk.until(lambda: not desk.clients())


def test_the_end_of_the_master_sends_what_fits(desk: Desk) -> None:
    """A caller that reads gets the whole of a short list although no loop turns any more."""
    caller, token = desk.command()
    stuck, stuck_token = desk.command()
    desk.control.answer(token, {"result": "ok"}, parts_of(5, 10))
    desk.control.answer(stuck_token, {"result": "ok"}, parts_of(100))
    desk.control.finish()
    assert 6 == len(replies(caller.rest()))
    assert 0 < len(stuck.rest()) < 100 * 20_000


def open_files() -> list[str]:
    """Return the numbers of all open descriptors; the one that reads them is among them."""
    return sorted(os.listdir("/proc/self/fd"))


def exhaust() -> None:
    """Let this process open nothing more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # the lowest free number is the limit: what is open already stays open
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))


def test_without_descriptors_one_caller_at_a_time_is_answered(folder: Path) -> None:
    """A reserve is kept for that: the loop does not spin over the next caller, whose turn comes when one leaves."""

    def master() -> list[Any]:
        desk = Desk(folder / "chat.sock")
        desk.control.open()
        callers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for caller in callers:
            caller.connect(str(desk.path))
            caller.sendall(STATUS)
        exhaust()
        seen: list[Any] = []
        for caller in callers:
            desk.until(lambda: desk.clients() == 1)
            desk.turn()
            seen.append(len(desk.commands))
            # the others wait, and nobody looks at them meanwhile
            assert [] == desk.selector.select(0)
            desk.control.answer(desk.commands[-1][1], {"state": "running"})
            seen.append(replies(caller.recv(65536)))
            assert b"" == caller.recv(1)
            # the number is the reserve's again, before anything else can have it
            with pytest.raises(OSError, match="Too many"):
                os.dup(0)
        assert 0 == desk.clients()
        return seen

    told = [[True, {"state": "running"}]]
    assert [1, told, 2, told, 3, told] == in_child(master)


def test_a_reserve_that_is_lost_is_taken_back_later(folder: Path) -> None:
    """Something else may take the number when a caller leaves: callers wait then, until there is room again."""

    def master() -> list[Any]:
        desk = Desk(folder / "chat.sock")
        before = open_files()
        desk.control.open()
        opened = open_files()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        callers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for caller in callers:
            caller.connect(str(desk.path))
        exhaust()
        desk.until(lambda: desk.clients() == 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        callers[0].close()
        desk.until(lambda: not desk.selector.get_map())
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        lost = open_files()
        desk.control.expire()
        held = len(open_files()) - len(lost)
        desk.until(lambda: desk.clients() == 1)
        callers[1].close()
        desk.until(lambda: not desk.clients())
        same = open_files() == opened
        desk.control.close()
        return [held, same, open_files() == before]

    assert [1, True, True] == in_child(master)


def test_a_newcomer_without_a_descriptor_takes_the_place_of_the_oldest(folder: Path) -> None:
    """The reserve serves it, and the descriptor of who had to go becomes the reserve."""

    def master() -> list[int]:
        desk = Desk(folder / "chat.sock")
        desk.control.open()
        first = [desk.call() for _ in range(MAX_OTHERS)]
        late = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for caller in late:
            caller.connect(str(desk.path))
            caller.sendall(STATUS)
        exhaust()
        desk.until(lambda: len(desk.commands) == len(late))
        gone = [caller for caller in first if readable(caller.sock.fileno(), 0.0)]
        with pytest.raises(OSError, match="Too many"):
            os.dup(0)
        return [desk.clients(), len(gone), gone == first[:2]]

    assert [MAX_OTHERS, 2, True] == in_child(master)


# --- a socket file that is gone -----------------------------------------------------------------------------------


def test_a_socket_that_is_there_is_not_made_again(desk: Desk) -> None:
    """Nothing changes, also when its mode or its times have."""
    before = desk.path.lstat().st_ino
    os.utime(desk.path, (1, 1))
    desk.path.chmod(0o666)
    assert not desk.control.renew()
    assert before == desk.path.lstat().st_ino
    desk.command()


def test_a_socket_that_is_gone_is_made_again(desk: Desk) -> None:
    """Callers find it again at the same path, with the same mode; those that are connected keep their connection."""
    old, token = desk.command()
    before = open_files()
    desk.path.unlink()
    assert desk.control.renew()
    assert before == open_files()
    assert 0o600 == stat.S_IMODE(desk.path.lstat().st_mode)
    assert not desk.control.renew()
    new, new_token = desk.command()
    assert 2 == desk.clients()
    desk.control.answer(token, {"for": "old"})
    desk.control.answer(new_token, {"for": "new"})
    assert [(True, {"for": "old"})] == replies(old.rest())
    assert [(True, {"for": "new"})] == replies(new.rest())


def test_what_somebody_else_has_put_there_is_left_alone(desk: Desk) -> None:
    """It is an error that changes nothing; once the way is free the socket is made again."""
    desk.path.unlink()
    desk.path.write_text("somebody's")
    before = open_files()
    with pytest.raises(OSError, match="in use"):
        desk.control.renew()
    assert before == open_files()
    assert "somebody's" == desk.path.read_text()
    desk.path.unlink()
    assert desk.control.renew()
    desk.command()


def test_a_folder_that_is_gone_is_an_os_error(desk: Desk, folder: Path) -> None:
    """The socket cannot be made; the master goes on without."""
    desk.path.unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        desk.control.renew()
    folder.mkdir()
    assert desk.control.renew()


def test_a_socket_is_made_again_while_descriptors_are_short(folder: Path) -> None:
    """The old listener is not watched then, which must not be an error."""

    def master() -> list[Any]:
        desk = Desk(folder / "chat.sock")
        desk.control.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        callers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for caller in callers:
            caller.connect(str(desk.path))
        exhaust()
        # one is let in at the cost of the reserve, the other one waits
        desk.until(lambda: desk.selector.get_map() and not desk.selector.select(0))
        desk.path.unlink()
        with pytest.raises(OSError, match="Too many"):
            desk.control.renew()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        renewed = desk.control.renew()
        desk.command()
        return [renewed, desk.clients()]

    assert [True, 2] == in_child(master)


def test_a_newcomer_takes_the_place_of_the_oldest_that_does_not_wait(desk: Desk) -> None:
    """Who connects and says nothing, or does not read its result, keeps nobody out; who waits for a result stays."""
    waiting, _ = desk.command()
    idle = [desk.call() for _ in range(MAX_OTHERS)]
    assert 1 + MAX_OTHERS == desk.clients()
    late, token = desk.command()
    assert b"" == idle[0].rest()
    assert all(caller.silent() for caller in (waiting, late, *idle[1:]))
    desk.control.answer(token, {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(late.rest())


def test_callers_that_wait_keep_nobody_out(desk: Desk) -> None:
    """There may be many, and a limit to them holds for reloads alone: stop and status are always heard."""
    reload, stop = encode(Command("reload")), encode(Command("stop"))
    for _ in range(MAX_WAITING):
        desk.call().send(reload)
    assert [Command("reload")] * MAX_WAITING == [command for command, _ in desk.commands]
    one_more = desk.call()
    one_more.send(reload)
    message = f"{MAX_WAITING} callers wait for a reload already"
    assert [(True, {"error": {"code": "busy", "message": message}})] == replies(one_more.rest())
    for data in (STATUS, stop):
        desk.call().send(data)
    assert ["status", "stop"] == [command.name for command, _ in desk.commands[MAX_WAITING:]]


def test_a_crowd_that_says_nothing_keeps_nobody_out(desk: Desk) -> None:
    """Whoever stands behind it and speaks is heard."""
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for sock in crowd:
        sock.connect(str(desk.path))
    desk.call().send(STATUS)
    desk.until(lambda: desk.commands)
    for sock in crowd:
        sock.close()


def test_a_caller_that_has_gone_before_it_was_accepted(desk: Desk) -> None:
    """The loop finds a connection that is closed already, and takes nothing from it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(desk.path))
    desk.turn()
    desk.until(lambda: not desk.clients())
    assert [] == desk.commands
    # nobody waits at all, which the kernel may also do to a listener
    desk.control._accept()
    assert 0 == desk.clients()


def test_who_does_not_read_is_cut_at_1_mib(desk: Desk) -> None:
    """What is not read piles up to a limit, without the loop ever waiting; other callers are served meanwhile."""
    deaf, token = desk.command()
    body = {"text": "x" * 10_000}
    told = 0
    while desk.clients():
        desk.control.progress(token, body)
        desk.turn()
        told += 1
        assert told * 10_000 < 4 * MAX_UNREAD_BYTES, "nothing bounds what is held for a deaf caller"
    in_the_kernel = len(deaf.rest())
    assert MAX_UNREAD_BYTES - 20_000 < told * 10_000 - in_the_kernel < MAX_UNREAD_BYTES + 100_000
    other, other_token = desk.command()
    desk.control.answer(other_token, {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(other.rest())


def test_who_reads_late_gets_everything(desk: Desk) -> None:
    """A reply larger than the kernel's buffer arrives whole and in order, and the answer behind it ends it."""
    late, token = desk.command()
    bodies = [{"number": number, "text": "x" * 10_000} for number in range(80)]
    for body in bodies:
        desk.control.progress(token, body)
    desk.control.answer(token, {"result": "ok"})
    assert 1 == desk.clients()
    assert [*((False, body) for body in bodies), (True, {"result": "ok"})] == replies(late.rest())
    assert 0 == desk.clients()


def test_the_loop_sleeps_again_once_all_is_read(desk: Desk) -> None:
    """A writable socket is watched only while something waits to be written, else the loop would spin."""
    caller, token = desk.command()
    body = {"text": "x" * 900_000}
    desk.control.progress(token, body)
    received = b""
    while not received.endswith(b"\n"):
        received += caller.receive()
    assert [(False, body)] == replies(received)
    assert [] == desk.selector.select(0)
    desk.control.answer(token, {})
    assert [(True, {})] == replies(caller.rest())


def test_a_caller_dropped_in_this_turn_is_not_touched_again(desk: Desk) -> None:
    """Two sockets are ready at once, and what the first one says ends the second: the turn goes on over its key."""
    first, second = desk.call(), desk.call()
    first.sock.sendall(STATUS)
    second.sock.sendall(STATUS)
    ready = desk.selector.select(0)
    assert 2 == len(ready)
    desk.now += REQUEST_SECONDS
    desk.control.expire()
    for key, _ in ready:
        key.data()
    assert [] == desk.commands
    assert b"" == first.rest() == second.rest()


# --- the end ------------------------------------------------------------------------------------------------------


def test_finish_sends_what_is_left(desk: Desk) -> None:
    """A result that still waits goes out, as far as the kernel takes it; whoever has no result is hung up on."""
    waiting, _ = desk.command()
    answered, token = desk.command()
    # more than the kernel takes at once, less than it takes at twice
    desk.control.progress(token, {"text": "x" * 300_000})
    desk.control.answer(token, {"result": "stopped"})
    assert 2 == desk.clients()
    received = b""
    while readable(answered.sock.fileno(), 0.0):
        received += answered.sock.recv(65536)
    desk.control.finish()
    assert [(False, {"text": "x" * 300_000}), (True, {"result": "stopped"})] == replies(received + answered.rest())
    assert b"" == waiting.rest()


def test_finish_removes_the_file(desk: Desk) -> None:
    """Also the one that was made again; a forked child, which only closes, does not."""
    desk.control.close()
    assert desk.path.exists()
    desk.path.unlink()
    desk.control.renew()
    desk.control.finish()
    assert not desk.path.exists()
    desk.control.finish()


def test_finish_leaves_the_file_of_another_service(desk: Desk) -> None:
    """Ours was removed, and another service with the same `control_socket` has started since."""
    desk.path.unlink()
    other = Desk(desk.path)
    other.control.open()
    desk.control.finish()
    _, token = other.command()
    other.control.answer(token, {})
    other.close()


def test_close_before_open_is_harmless(folder: Path) -> None:
    """A start that fails early closes what was never opened."""
    desk = Desk(folder / "chat.sock")
    desk.control.finish()
    desk.close()


def test_close_in_a_forked_child_does_not_disturb_the_master(desk: Desk, pipe: Pipe) -> None:
    """Master and child share what epoll(7) watches: taking a socket out there would make the master deaf to it."""
    half = desk.call()
    half.send(STATUS[:10])
    waiting, token = desk.command()
    desk.control.progress(token, {"text": "x" * 500_000})

    def worker() -> None:
        # in this order, as the master has it done
        desk.selector.close()
        desk.control.close()
        sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) in master_fds]
        pipe.tell(sockets)
        stay()

    master_fds = {key.fd for key in desk.selector.get_map().values()}
    with Child(worker):
        # nothing of the control socket is left in the child, which lives on
        assert [] == [name for name in pipe.hear() if name.startswith("socket:")]
        half.send(STATUS[10:])
        assert 2 == len(desk.commands)
        desk.control.answer(desk.commands[1][1], {"result": "half"})
        assert [(True, {"result": "half"})] == replies(half.rest())
        desk.control.answer(token, {"result": "waiting"})
        assert [(False, {"text": "x" * 500_000}), (True, {"result": "waiting"})] == replies(waiting.rest())
        new, new_token = desk.command()
        desk.control.answer(new_token, {"result": "new"})
        assert [(True, {"result": "new"})] == replies(new.rest())
        assert 0 == desk.clients()
        assert [] == desk.selector.select(0)


# --- the next program in this process -----------------------------------------------------------------------------


def heir(desk: Desk) -> Desk:
    """Return the desk of the next program; the one before is gone, as behind an execve."""
    given = inheritable()
    after = Desk(desk.path)
    after.now = desk.now + 1.0
    after.control.inherit(left(desk.control.bequeath()))
    desk.control.close()
    assert given == inheritable()
    for caller in desk.callers:
        caller._desk = after
    after.callers = desk.callers
    return after


@pytest.fixture
def handed(desk: Desk) -> Iterator[Callable[[], Desk]]:
    """Give a function: have another program go on."""
    made: list[Desk] = []

    def hand_over() -> Desk:
        made.append(heir(desk))
        return made[0]

    yield hand_over
    made[0].close()


def test_another_program_answers(desk: Desk, handed: Callable[[], Desk]) -> None:
    """Who waits for a result gets it, by its token; who comes then gets another one; the file is ours still."""
    one, one_token = desk.command()
    two, two_token = desk.command()
    after = handed()
    new, new_token = after.command()
    assert 3 == len({one_token, two_token, new_token})
    after.control.progress(two_token, {"event": "note"})
    for token in (new_token, one_token, two_token):
        after.control.answer(token, {"token": token})
    assert [(True, {"token": one_token})] == replies(one.rest())
    assert [(False, {"event": "note"}), (True, {"token": two_token})] == replies(two.rest())
    assert [(True, {"token": new_token})] == replies(new.rest())
    assert after.control.is_there()
    after.control.finish()
    assert not desk.path.exists()


def test_nobody_gets_the_token_of_one_who_has_left(desk: Desk, handed: Callable[[], Desk]) -> None:
    """Else the result that the other one had asked for would be this one's."""
    gone, token = desk.command()
    gone.sock.close()
    desk.until(lambda: not desk.clients())
    after = handed()
    new, new_token = after.command()
    after.control.answer(token, {"result": "not yours"})
    assert new_token > token
    after.control.answer(new_token, {"result": "yours"})
    assert [(True, {"result": "yours"})] == replies(new.rest())


def test_a_character_that_is_half_sent_goes_on(desk: Desk, handed: Callable[[], Desk]) -> None:
    """Answers are UTF-8, and the kernel takes bytes."""
    slow, token = desk.command()
    words = "д" * 200_000
    desk.control.progress(token, {"text": words})
    desk.control.progress(token, {"text": "x" + words})
    after = handed()
    after.control.answer(token, {"result": "ok"})
    assert [(False, {"text": words}), (False, {"text": "x" + words}), (True, {"result": "ok"})] == replies(slow.rest())


def test_who_waits_has_any_time(desk: Desk, handed: Callable[[], Desk]) -> None:
    """And who has said nothing yet has as much as a newcomer."""
    waiting, _ = desk.command()
    silent = desk.call()
    after = handed()
    after.now += REQUEST_SECONDS - 0.1
    after.control.expire()
    assert waiting.silent()
    assert silent.silent()
    after.now += 0.1
    after.control.expire()
    assert waiting.silent()
    assert b"" == silent.rest()


@pytest.mark.parametrize("at", [0, 1, 9, len(STATUS) - 1])
def test_half_a_command_is_read_to_its_end(desk: Desk, handed: Callable[[], Desk], at: int) -> None:
    """What was read of it goes along."""
    caller = desk.call()
    caller.send(STATUS[:at])
    after = handed()
    caller.send(STATUS[at:])
    after.until(lambda: after.commands)
    assert [Command("status")] == [command for command, _ in after.commands]
    after.control.answer(after.commands[0][1], {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(caller.rest())


def test_half_a_line_of_any_bytes_goes_along(desk: Desk, handed: Callable[[], Desk]) -> None:
    """It is garbage, and its sender is told when the line is whole."""
    caller = desk.call()
    caller.send(bytes(range(128, 256)))
    after = handed()
    caller.send(b"\n")
    assert "usage" == replies(caller.rest())[0][1]["error"]["code"]
    assert [] == after.commands


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_not_read_is_sent(desk: Desk, handed: Callable[[], Desk], answered: bool) -> None:
    """In order, and once; the result behind it ends the connection."""
    late, token = desk.command()
    bodies = [{"number": number, "text": "é" * 5_000} for number in range(80)]
    for body in bodies:
        desk.control.progress(token, body)
    if answered:
        desk.control.answer(token, {"result": "ok"})
    after = handed()
    if not answered:
        after.control.answer(token, {"result": "ok"})
    assert [*((False, body) for body in bodies), (True, {"result": "ok"})] == replies(late.rest())
    assert 0 == after.clients()


def test_who_does_not_read_the_rest_is_cut(desk: Desk, handed: Callable[[], Desk]) -> None:
    """As before: its result was given."""
    late, token = desk.command()
    desk.control.answer(token, {"text": "x" * 900_000})
    after = handed()
    assert 1 == after.clients()
    after.now += REQUEST_SECONDS
    after.control.expire()
    assert 0 == after.clients()
    assert late.rest()


def test_who_is_in_the_middle_of_an_answer_in_parts_is_cut(desk: Desk, handed: Callable[[], Desk]) -> None:
    """It sees the end of the connection before a result; others are not cut."""
    late, token = desk.command()
    other, other_token = desk.command()
    desk.control.answer(token, {"result": "ok"}, [{"text": "x" * 900_000} for _ in range(3)])
    after = handed()
    assert 1 == after.clients()
    data = late.rest()
    assert data
    assert b'"final":true' not in data
    after.control.answer(other_token, {"result": "ok"})
    assert [(True, {"result": "ok"})] == replies(other.rest())


def test_the_reserve_is_taken_anew(desk: Desk, handed: Callable[[], Desk]) -> None:
    """It does not go along, and is there for the next shortage."""
    before = len(os.listdir("/proc/self/fd"))
    after = handed()
    # the selector of the desk that is gone stays until the end of the test
    assert 1 == len(os.listdir("/proc/self/fd")) - before
    assert after.control._reserve is not None
