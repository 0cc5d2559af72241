"""The master's loop: a real one in a forked child, driven by signals and commands, with workers that do nothing.

What a whole daemon does for its clients is tested in tests/system/.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sys
import tempfile
import termios
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
    become_able,
    needs_root,
    orders,
    polite,
    readable,
    say,
    stay,
    until,
)
from tests.ports import free_port
from wsworker import configfile, log, wire
from wsworker.assignment import Assignment
from wsworker.cli.version import version
from wsworker.errors import WsworkerError
from wsworker.master import inquiry
from wsworker.master.cgroup import OomCounter
from wsworker.master.estate import Call
from wsworker.master.main import Master
from wsworker.master.roll import refused as refusal
from wsworker.query import Query
from wsworker.sections import LogConfig
from wsworker.wire import Command, Report, encode

GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name


class Daemon:
    """A master in a forked child.

    folder: for its files; config: lines of its config file beside app, name and listen; terminal: "", "own" for
    one that controls its session, or "foreign"; its other end is ours; before: called in the child first of all;
    follows: as of Master.
    """

    def __init__(
        self,
        folder: Path,
        enter_worker: Callable[..., int] = polite,
        config: str = "",
        environ: dict[str, str] | None = None,
        listen: str = "",
        terminal: str = "",
        before: Callable[[], object] = lambda: None,
        follows: bool = False,
    ) -> None:
        self._follows = follows
        self.folder = folder
        self.port = free_port()
        self.listen = listen or f"127.0.0.1:{self.port}"
        self.run = folder / "run" / "wsworker"
        self.socket = self.run / "chat.sock"
        self.log = folder / "log"
        self.settled = Pipe()
        self._enter_worker = enter_worker
        self._environ = environ or {}
        self._before = before
        self.configure(config)
        self._terminal = terminal
        self.ours, self._theirs = os.openpty() if terminal else (-1, -1)
        self.child = Child(self._serve)
        if terminal:
            os.close(self._theirs)

    def configure(self, config: str, listen: str = "", level: str = "info", file: Path | None = None) -> None:
        """Write the config file anew; level and file: of the log, which a reload applies too."""
        self.config = self.folder / "config.yaml"
        lines = ["app: hello", "name: chat", f"listen: {listen or self.listen}", config]
        # on one line and last, so that the lines of a test keep their numbers
        self.config.write_text("\n".join([*lines, f"log: {{level: {level}, file: {file or self.log}}}", ""]))

    def _serve(self) -> list[Any]:
        """Be the master; return the exit code and the error, or the name and the text of what was raised."""
        for name in ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)
        os.environ.update({"XDG_RUNTIME_DIR": str(self.folder / "run")} | self._environ)
        self._take_terminal()
        self._before()
        log.set_up(LogConfig(file=str(self.log)))
        try:
            entry, settled = self._enter_worker, self.settled.tell
            call = Call(str(self.config), "config.yaml", follow=self._follows)
            master = Master(self._load(), self._load, entry, settled, lambda: None, "1.2.3", call)
            final = master.run()
        except WsworkerError as error:
            return [type(error).__name__, str(error)]
        return [final.code, final.error]

    def _load(self) -> configfile.Loaded:
        return configfile.load(self.config, {}, {})

    def _take_terminal(self) -> None:
        terminal = os.open(os.devnull, os.O_RDWR)
        if self._terminal:
            os.close(self.ours)
            terminal = self._theirs
            os.setsid()
        if self._terminal == "own":
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(terminal, fd)

    def ask(self, command: Command) -> list[Any]:
        """Send a command; return the bodies of all replies, the result last."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE_SECONDS)
            sock.connect(str(self.socket))
            sock.sendall(encode(command))
            with sock.makefile("rb") as lines:
                return [json.loads(line)["body"] for line in lines]

    def status(self) -> Any:
        """Return the document of `status`."""
        return self.ask(Command("status"))[-1]

    def pids(self) -> list[int]:
        """Return the pids of the workers."""
        return [row["pid"] for row in self.status()["workers"]]

    def logged(self, text: str) -> None:
        """Wait for a text in the log."""
        until(lambda: text in self.log.read_text())

    def end(self) -> Any:
        """Wait for the end; return its exit code and error, or name and text of what was raised."""
        result = self.child.result()
        self.child.exit_code()
        return result

    def close(self) -> None:
        """End it by force if it still runs."""
        self.child.__exit__(None, None, None)
        self.settled.close()


Start = Callable[..., Daemon]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path, for the control socket stands in it."""
    made = Path(tempfile.mkdtemp())
    yield made
    shutil.rmtree(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Give a function that starts a daemon."""
    daemons: list[Daemon] = []

    def made(*args: Any, **settings: Any) -> Daemon:
        daemons.append(Daemon(folder, *args, **settings))
        return daemons[-1]

    yield made
    for daemon in daemons:
        daemon.close()


def running(start: Start, *args: Any, **settings: Any) -> Daemon:
    """Start a daemon and wait until it has settled well."""
    daemon = start(*args, **settings)
    assert "" == daemon.settled.hear()
    return daemon


def refused(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


# --- start and stop -----------------------------------------------------------------------------------------------


def test_start_and_graceful_stop(start: Start) -> None:
    """TERM ends it with 0; its workers are gone, its files too, save the lock."""
    daemon = running(start, config="workers: 2\numask: '0027'")
    body = daemon.status()
    assert ("running", 2, 2, 1) == (
        body["state"],
        body["workers_configured"],
        body["workers_ready"],
        body["generation"],
    )
    assert ["ready", "ready"] == [row["state"] for row in body["workers"]]
    assert (daemon.child.pid, "1.2.3") == (body["pid"], body["version"])
    assert str(daemon.child.pid) == (daemon.run / "chat.pid").read_text().split()[0]
    assert b"wsworker: master [chat]" == Path(f"/proc/{daemon.child.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert not refused(daemon.port)
    workers = [os.pidfd_open(pid) for pid in daemon.pids()]
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()
    for worker in workers:
        assert readable(worker)
        os.close(worker)
    assert [daemon.run / "chat.lock"] == [*daemon.run.iterdir()]
    assert refused(daemon.port)
    assert "SIGTERM: stopping" in daemon.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_stop_too(start: Start, number: signal.Signals) -> None:
    """Ctrl-C stops as TERM does, QUIT is quick; a stop that was asked for ends with 0."""
    daemon = running(start)
    daemon.child.signal(number)
    assert [0, ""] == daemon.end()
    assert f"{number.name}: stopping" in daemon.log.read_text()


def test_a_stop_by_command_answers_at_the_end(start: Start) -> None:
    """The caller hears of the end before the socket goes."""
    daemon = running(start)
    assert [{"result": "stopped", "cut": 0, "killed": 0}] == daemon.ask(Command("stop"))
    assert [0, ""] == daemon.end()


def stubborn(assignment: Assignment) -> int:
    """Leave only when told to be quick."""
    say(assignment.channel, Report("ready"))
    for order in orders(assignment.channel):
        if order.why == "quick":
            return 0
    return 9


def test_a_second_term_makes_the_stop_quick(start: Start) -> None:
    """Whoever still drains is told so; a `stop --quick` does the same at once."""
    daemon = running(start, stubborn)
    daemon.child.signal(signal.SIGTERM)
    daemon.logged("SIGTERM: stopping")
    assert "stopping" == daemon.status()["state"]
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()
    again = running(start, stubborn)
    assert [{"result": "stopped", "cut": 0, "killed": 0}] == again.ask(Command("stop", quick=True))
    assert [0, ""] == again.end()


def test_workers_auto_is_a_number(start: Start) -> None:
    """As many workers as CPUs that may be used."""
    daemon = running(start, config="workers: auto")
    assert 1 <= daemon.status()["workers_configured"] <= len(os.sched_getaffinity(0))


# --- a start that fails -------------------------------------------------------------------------------------------


def marking(file: Path) -> Callable[..., int]:
    """Make a worker that leaves a mark."""

    def enter_worker(assignment: Assignment) -> int:
        file.touch()
        return polite(assignment)

    return enter_worker


def occupy(pipe: Pipe, port: int = 0) -> None:
    """Be another program that listens on a port and would share it, as long as it lives."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
        pipe.tell(sock.getsockname()[1])
        stay()


def test_a_port_in_use_is_told_before_any_worker_runs(start: Start, folder: Path, pipe: Pipe) -> None:
    """Also one of a program that would share it (SO_REUSEPORT): a BindError with its place, and no leftovers."""
    with Child(lambda: occupy(pipe)) as other:
        address = f"127.0.0.1:{pipe.hear()}"
        daemon = start(marking(folder / "mark"), listen=address)
        kind, text = daemon.end()
        assert "BindError" == kind
        assert f"cannot listen on {address}: address in use by pid {other.pid}" in text
        assert f"{daemon.config}:3:9" in text
    assert not (folder / "mark").exists()
    assert [daemon.run / "chat.lock"] == [*daemon.run.iterdir()]


def test_a_port_that_is_taken_while_the_first_worker_boots(start: Start, pipe: Pipe) -> None:
    """The address is asked for again before the first listen: exit 1, the other program keeps its clients."""
    gate, opener = os.pipe()

    def slow(assignment: Assignment) -> int:
        pipe.tell("boots")
        os.read(gate, 1)
        return polite(assignment)

    daemon = start(slow, config="workers: 2")
    assert "boots" == pipe.hear()
    with Child(lambda: occupy(pipe, daemon.port)):
        assert daemon.port == pipe.hear()
        os.write(opener, b"x")
        code, error = daemon.end()
    os.close(gate)
    os.close(opener)
    assert 1 == code
    assert f"cannot listen on 127.0.0.1:{daemon.port}: address in use" in error
    assert daemon.settled.silent()


def test_only_root_starts_workers_of_another_user(start: Start, folder: Path) -> None:
    """Told at the start, with the place, and not by every worker; `user` may name who starts it.

    Capabilities do not help, as a worker would keep them.
    """
    folder.chmod(0o777)

    def give_up_root() -> None:
        if os.geteuid() == 0:
            become_able(NOBODY.pw_uid, [])

    refused = "`user` and `group` name somebody else than who runs this, which takes root; start as root, or remove"
    for setting, place in (("user: root", "4:7"), ("group: root", "4:8")):
        daemon = start(config=setting, before=give_up_root)
        assert ["PlatformError", f"{refused} them ({daemon.config}:{place})"] == daemon.end()
    me = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    daemon = running(start, config=f"user: {me}", before=give_up_root)
    assert ["ready"] == [row["state"] for row in daemon.status()["workers"]]


def test_a_second_start_hears_that_one_runs(start: Start) -> None:
    """Same name, same directory: AlreadyRunning with the pid of the first, which is not disturbed."""
    daemon = running(start)
    kind, text = start().end()
    assert "AlreadyRunning" == kind
    assert f"chat is already running (pid {daemon.child.pid})" in text
    assert "running" == daemon.status()["state"]


def test_a_control_socket_that_cannot_be_made(start: Start, folder: Path) -> None:
    """The path and the key are named."""
    daemon = start(config=f"control_socket: {folder}/missing/sock")
    kind, text = daemon.end()
    assert "RunDirError" == kind
    assert f"{folder}/missing/sock: No such file or directory; see `control_socket`" in text


def unbootable(assignment: Assignment) -> int:
    """Say that the app cannot be imported."""
    say(assignment.channel, Report("failed", kind="app", error="no module named 'hello'", trace="Traceback"))
    return 78


def test_an_app_that_cannot_be_imported_ends_the_start(start: Start) -> None:
    """Exit 78 with the worker's own words; the port never listened, and nobody was told of a settled service."""
    daemon = start(unbootable, config="workers: 2")
    assert [78, "no module named 'hello'\nTraceback"] == daemon.end()
    assert daemon.settled.silent()
    assert refused(daemon.port)


def half_bootable(assignment: Assignment) -> int:
    """Be a good worker in slot 1, a bad one elsewhere."""
    return polite(assignment) if assignment.slot == 1 else unbootable(assignment)


def test_a_start_that_goes_well_for_some_is_degraded(start: Start) -> None:
    """It serves, and whoever waits for the start hears which worker does not run, and why."""
    daemon = start(half_bootable, config="workers: 2")
    text = daemon.settled.hear()
    assert "chat runs degraded: 1 of 2 workers are ready; worker 2: no module named 'hello'" in text
    assert "degraded" == daemon.status()["state"]


def test_the_weights_reach_the_kernel(start: Start) -> None:
    """On every address all new clients wait where a worker is, none in the slot that has none."""
    ports = [free_port(), free_port()]
    daemon = start(half_bootable, config="workers: 2", listen=f"['127.0.0.1:{ports[0]}', '127.0.0.1:{ports[1]}']")
    assert "1 of 2 workers are ready" in daemon.settled.hear()
    with contextlib.ExitStack() as stack:
        for port in ports * 20:
            stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS))
        assert [40, 0] == [row["queue"] for row in daemon.status()["workers"]]


# --- reload -------------------------------------------------------------------------------------------------------


def test_hup_reloads(start: Start) -> None:
    """Every worker is replaced, and the generation goes up."""
    daemon = running(start, config="workers: 2")
    before = daemon.pids()
    daemon.child.signal(signal.SIGHUP)
    until(lambda: daemon.status()["reloads"] == 1 and daemon.status()["state"] == "running")
    until(lambda: len(daemon.pids()) == 2)
    assert set() == set(before) & set(daemon.pids())
    assert 2 == daemon.status()["generation"]


def watchful(assignment: Assignment) -> int:
    """Be a polite worker; in the first generation, tell of two changes, as every worker that sees them does."""
    say(assignment.channel, Report("ready"))
    if assignment.generation == 1:
        say(assignment.channel, Report("changed", error="app.py", mark="one"))
        say(assignment.channel, Report("changed", error="app.py", mark="one"))
    for order in orders(assignment.channel):
        if order.name == "drain":
            return 0
    return 9


def test_a_saved_file_reloads_once(start: Start) -> None:
    """However many workers tell of the same change, it is one reload."""
    daemon = start(watchful, config="workers: 3", follows=True)
    daemon.settled.hear()
    until(lambda: daemon.status()["state"] == "running" and daemon.status()["generation"] == 2)
    until(lambda: len(daemon.pids()) == 3)
    assert 1 == daemon.status()["reloads"]
    assert 1 == daemon.log.read_text().count("app.py changed, reloading")


def late(assignment: Assignment) -> int:
    """Be a polite worker, at whose desk one file after the other is saved."""
    loads = {(1, 1): "", (1, 2): "", (2, 1): "one, two", (2, 2): "one, two, three"}
    generation, slot = assignment.generation, assignment.slot
    say(assignment.channel, Report("changed", mark=loads.get((generation, slot), "one, two, three")))
    ready = encode(Report("ready"))
    if generation == 1:
        # in one piece: told after the reload that the other worker has asked for, it would be news again
        ready += encode(Report("changed", error="app.py", mark="one"))
    assignment.channel.sendall(ready)
    if (generation, slot) == (2, 2):
        say(assignment.channel, Report("changed", error="users.py", mark="one, two, three"))
    for order in orders(assignment.channel):
        if order.name == "drain":
            if generation == 1:
                say(assignment.channel, Report("changed", error="rooms.py", mark="one, two"))
            return 0
    return 9


def test_what_the_canary_has_met_is_not_loaded_again(start: Start) -> None:
    """A file that was saved before the reload began is in it; what another worker has met is in no reload yet."""
    daemon = start(late, config="workers: 2", follows=True)
    daemon.settled.hear()
    until(lambda: daemon.status()["generation"] == 3 and daemon.status()["state"] == "running")
    until(lambda: len(daemon.pids()) == 2)
    assert ["app.py", "users.py"] == re.findall(r"(\S+) changed, reloading", daemon.log.read_text())


def test_nobody_reloads_a_service_that_does_not_follow(start: Start) -> None:
    """A worker that tells of a change all the same is not listened to."""
    daemon = running(start, watchful, config="workers: 2")
    # what the workers have told is read before the signal is
    daemon.child.signal(signal.SIGUSR1)
    daemon.logged("SIGUSR1: reopening the log")
    assert ("running", 1) == (daemon.status()["state"], daemon.status()["generation"])
    assert "changed" not in daemon.log.read_text()


@pytest.mark.parametrize("bad", ["workers: none", "workers: [", "no_such_key: 1"])
def test_hup_with_a_bad_config_changes_nothing(start: Start, bad: str) -> None:
    """It is refused with its place in the log; the workers, the generation and the configuration are as before."""
    daemon = running(start, config="workers: 2")
    before = daemon.pids()
    daemon.configure(bad)
    daemon.child.signal(signal.SIGHUP)
    daemon.logged("reload refused: the configuration is wrong")
    daemon.logged(f"{daemon.config}:")
    body = daemon.status()
    assert ("running", 1, 0, 2) == (body["state"], body["generation"], body["reloads"], body["workers_configured"])
    assert before == daemon.pids()


def test_a_reload_by_command_is_refused_with_the_place(start: Start) -> None:
    """The caller gets what is wrong; a good file afterwards is taken."""
    daemon = running(start)
    daemon.configure("workers: 0")
    (body,) = daemon.ask(Command("reload"))
    message = body["error"]["message"]
    assert refusal(message, generation=1) == body
    assert f"{daemon.config}:4:10: error: workers must be" in message
    daemon.configure("")
    *_, body = daemon.ask(Command("reload"))
    assert "ok" == body["result"]


@pytest.mark.parametrize("name", ["stop", "reload", "rebalance", "upgrade", "reopen", "bus"])
def test_a_command_for_another_service(start: Start, name: wire.CommandName) -> None:
    """Whoever has read another config file of that name means another service; to look is free."""
    daemon = running(start)
    other = daemon.folder / "other.yaml"
    other.touch()
    (body,) = daemon.ask(Command(name, config=str(other)))
    message = f"chat runs with {daemon.config}; give this one its own `name`, or name that file with -c"
    assert {"error": {"code": "other_config", "message": message}} == body
    daemon.logged(f"`{name}` refused: asked with another config file")
    assert "running" == daemon.ask(Command("status", config=str(other)))[-1]["state"]
    assert "error" not in daemon.ask(Command("connections", query=Query(), config=str(other)))[-1]
    # a link to the same file is the same file
    linked = daemon.folder / "linked.yaml"
    linked.symlink_to(daemon.config)
    assert "other_config" not in str(daemon.ask(Command(name, config=str(linked))))


def test_a_service_whose_file_was_moved_obeys(start: Start) -> None:
    """Nobody could name the file any more."""
    daemon = running(start)
    moved = daemon.config.rename(daemon.folder / "moved.yaml")
    assert [{"result": "stopped", "cut": 0, "killed": 0}] == daemon.ask(Command("stop", config=str(moved)))


def test_a_reload_says_what_needs_a_restart(start: Start) -> None:
    """The new address is noted and not taken; the rest of the reload goes on."""
    daemon = running(start)
    port = free_port()
    daemon.configure("", listen=f"127.0.0.1:{port}")
    first, *_, last = daemon.ask(Command("reload"))
    note = {"event": "note", "text": f"listen changed ({daemon.config}:3:9): needs a restart"}
    assert note == first
    assert ("ok", ["listen"]) == (last["result"], last["restart_needed"])
    assert refused(port)
    assert not refused(daemon.port)


def test_what_needs_a_restart_keeps_its_value(start: Start, pipe: Pipe) -> None:
    """New workers get the accepted configuration: the umask of the start, log level and drain window of the reload."""

    def look(assignment: Assignment) -> int:
        config = assignment.config
        umask = os.umask(0)
        pipe.tell([oct(umask), oct(config.umask), config.log.level, config.drain_window])
        return polite(assignment)

    daemon = running(start, look, config="umask: '0027'")
    assert ["0o27", "0o27", "info", 10.0] == pipe.hear()
    daemon.configure("umask: '0077'\ndrain_window: 3s", level="error")
    *_, last = daemon.ask(Command("reload"))
    assert ("ok", ["umask"]) == (last["result"], last["restart_needed"])
    assert {"drain_window", "log.level"} == set(last["applied"])
    assert ["0o27", "0o27", "error", 3.0] == pipe.hear()


def test_a_reload_moves_the_log(start: Start, folder: Path) -> None:
    """From the accepted canary on the master writes to the new file, and the status names it."""
    daemon = running(start)
    daemon.configure("", file=folder / "other")
    *_, last = daemon.ask(Command("reload"))
    assert ("ok", ["log.file"]) == (last["result"], last["applied"])
    assert "reloaded: generation 2 runs in every slot" in (folder / "other").read_text()
    assert "reloaded" not in daemon.log.read_text()
    assert str(folder / "other") == daemon.ask(Command("reopen"))[-1]["file"]


def test_a_reload_changes_the_number_of_workers(start: Start) -> None:
    """A new slot is bound and gets a worker; the callers hear that `workers` was applied."""
    daemon = running(start)
    daemon.configure("workers: 3")
    *_, last = daemon.ask(Command("reload"))
    assert ("ok", [], ["workers"]) == (last["result"], last["restart_needed"], last["applied"])
    until(lambda: ["ready"] * 3 == [row["state"] for row in daemon.status()["workers"]])


# --- signals and deaths -------------------------------------------------------------------------------------------


def saying(folder: Path, lines: str) -> Callable[[], None]:
    """Return what makes a process one that was started by a script, which says something else by now."""
    script = folder / "program"

    def be_started_by_it() -> None:
        sys.orig_argv, sys.argv = [sys.executable, str(script), "start"], [str(script), "start"]

    script.write_text(f"#!{sys.executable}\n{lines}\n")
    script.chmod(0o755)
    return be_started_by_it


def test_usr2_asks_for_an_upgrade(start: Start, folder: Path) -> None:
    """The program on disk is asked whether it can take over; if not the service goes on as before."""
    said = 'import sys; assert sys.argv[1::2] == ["takeover", "--rehearse"]; print(\'{"error": "it is too old"}\')'
    daemon = running(start, before=saying(folder, said))
    before = daemon.pids()
    daemon.child.signal(signal.SIGUSR2)
    daemon.logged("upgrade refused: it is too old")
    assert "SIGUSR2: upgrading" in daemon.log.read_text()
    assert ("running", 1) == (daemon.status()["state"], daemon.status()["generation"])
    assert before == daemon.pids()


def test_an_upgrade_by_command_is_answered(start: Start, folder: Path) -> None:
    """Why it is refused, also a second one that comes while the first is rehearsed."""
    gate, opener = os.pipe()

    def before() -> None:
        os.set_inheritable(gate, True)
        saying(folder, f'import os; os.read({gate}, 1); print(\'{{"error": "it is too old"}}\')')()

    daemon = running(start, before=before)
    with socket.socket(socket.AF_UNIX) as first:
        first.settimeout(DEADLINE_SECONDS)
        first.connect(str(daemon.socket))
        first.sendall(encode(Command("upgrade")))
        daemon.logged("`upgrade` asked")
        (second,) = daemon.ask(Command("upgrade"))
        os.write(opener, b"x")
        with first.makefile("rb") as lines:
            bodies = [json.loads(line)["body"] for line in lines]
    prefix = "not upgraded, and nothing has changed:"
    assert [("upgrade_refused", f"{prefix} an upgrade is under way")] == [
        (body["error"]["code"], body["error"]["message"]) for body in [second]
    ]
    assert [f"{prefix} it is too old"] == [body["error"]["message"] for body in bodies]
    os.close(gate)
    os.close(opener)


def test_an_upgrade_during_a_reload_is_refused(start: Start, folder: Path, pipe: Pipe) -> None:
    """No program is asked; the reload goes on."""
    gate, opener = os.pipe()

    def enter_worker(assignment: Assignment) -> int:
        if assignment.generation == 2:
            pipe.tell("boots")
            os.read(gate, 1)
        return polite(assignment)

    asked = folder / "asked"
    daemon = running(start, enter_worker, before=saying(folder, f"open({str(asked)!r}, 'w')"))
    daemon.child.signal(signal.SIGHUP)
    assert "boots" == pipe.hear()
    (body,) = daemon.ask(Command("upgrade"))
    message = "not upgraded, and nothing has changed: a reload is under way"
    assert ("refused", "upgrade_refused", message) == (
        body["result"],
        body["error"]["code"],
        body["error"]["message"],
    )
    os.write(opener, b"x")
    until(lambda: daemon.status()["reloads"] == 1 and daemon.status()["state"] == "running")
    assert not asked.exists()
    os.close(gate)
    os.close(opener)


def test_what_cannot_be_executed_any_more_takes_nothing_over(start: Start, folder: Path) -> None:
    """It has rehearsed well and is gone when it is to take over: refused, and the service goes on as before."""
    lines = 'import os, sys; print(\'{"version": "2.0.0"}\', flush=True); os.unlink(sys.argv[0])'
    daemon = running(start, config="workers: 2", before=saying(folder, lines))
    before = daemon.pids()
    (body,) = daemon.ask(Command("upgrade"))
    message = f"not upgraded, and nothing has changed: {folder / 'program'} cannot be read any more; install it again"
    assert ("upgrade_refused", message) == (body["error"]["code"], body["error"]["message"])
    assert before == daemon.pids()
    daemon.child.signal(signal.SIGUSR1)
    daemon.logged("the log is reopened")
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()


def test_what_systemd_has_not_read_is_not_lost(start: Start, folder: Path) -> None:
    """What waits for room waits in this program: refused, until there is room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        script = saying(folder, 'print(\'{"version": "2.0.0"}\')')
        daemon = running(start, config="workers: 14", before=script, environ={"NOTIFY_SOCKET": str(folder / "notify")})
        (body,) = daemon.ask(Command("upgrade"))
        assert body["error"]["message"].endswith("systemd reads no messages now; try again")
        assert 14 == len(daemon.pids())


def test_another_program_goes_on(start: Start, folder: Path) -> None:
    """The real one, in the same process: who has asked is answered by it, workers of its own follow, a stop is 0."""
    (folder / "hello.py").write_text("def on_message(connection, data):\n    connection.send(data)\n")

    def before() -> None:
        sys.orig_argv, sys.argv = [sys.executable, "-m", "wsworker", "start"], ["", "start"]
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])

    daemon = running(start, config=f"workers: 2\napp_dir: {folder}", before=before)
    workers, began = daemon.pids(), daemon.status()["uptime"]
    note, *_, last = daemon.ask(Command("upgrade"))
    assert {"event": "note", "text": f"wsworker {version()} has taken over from 1.2.3"} == note
    assert ("ok", 2, 2) == (last["result"], last["generation"], len(last["workers"]))
    status = daemon.status()
    assert (daemon.child.pid, version()) == (status["pid"], status["version"])
    assert status["uptime"] > began
    until(lambda: len(daemon.pids()) == 2)
    assert not {*workers} & {*daemon.pids()}
    assert not refused(daemon.port)
    daemon.child.signal(signal.SIGTERM)
    assert 0 == daemon.child.exit_code()
    assert [daemon.run / "chat.lock"] == [*daemon.run.iterdir()]


def listening(pipe: Pipe) -> Callable[[Assignment], int]:
    """Make a worker that tells which orders it gets."""

    def enter_worker(assignment: Assignment) -> int:
        say(assignment.channel, Report("ready"))
        for order in orders(assignment.channel):
            pipe.tell(order.name)
            if order.name == "drain":
                return 0
        return 9

    return enter_worker


def test_usr1_reopens_the_log(start: Start, folder: Path, pipe: Pipe) -> None:
    """A log that was moved away is made anew, and each worker is handed it."""
    daemon = running(start, listening(pipe))
    daemon.log.rename(folder / "log.1")
    daemon.child.signal(signal.SIGUSR1)
    assert ["go", "reopen"] == [pipe.hear(), pipe.hear()]
    until(daemon.log.exists)
    daemon.logged("the log is reopened")
    assert "SIGUSR1: reopening the log" in (folder / "log.1").read_text()


def test_a_rebalance_by_command_is_answered(start: Start) -> None:
    """By the supervisor: what is level already stays as it is, and a setting may be against it."""
    daemon = running(start)
    (body,) = daemon.ask(Command("rebalance"))
    assert ("ok", None, 0, [{"slot": 1, "before": 0, "wanted": 0}]) == tuple(
        body[key] for key in ("result", "error", "moved", "workers")
    )
    daemon.logged("`rebalance` asked")


def test_reopen_by_command_tells_the_file_or_the_failure(start: Start, folder: Path) -> None:
    """The caller hears where the log is now; one that cannot be opened is an error, and the old file goes on."""
    daemon = running(start)
    assert [{"result": "ok", "file": str(daemon.log)}] == daemon.ask(Command("reopen"))
    daemon.log.rename(folder / "log.1")
    daemon.log.mkdir()
    (body,) = daemon.ask(Command("reopen"))
    assert ("failed", "log_failed") == (body["result"], body["error"]["code"])
    assert str(daemon.log) in body["error"]["message"]
    assert "the log stays where it was" in (folder / "log.1").read_text()


def test_usr1_leaves_a_new_log_alone_that_is_just_being_tried(start: Start, folder: Path, pipe: Pipe) -> None:
    """The first worker of a reload logs to the new `log.file`, the others to the old one, which is what is reopened."""
    gate, opener = os.pipe()

    def enter_worker(assignment: Assignment) -> int:
        if assignment.generation == 2:
            pipe.tell("boots")
            os.read(gate, 1)
        say(assignment.channel, Report("ready"))
        for order in orders(assignment.channel):
            pipe.tell([assignment.generation, order.name])
            if order.name == "drain":
                return 0
        return 9

    daemon = running(start, enter_worker)
    assert [1, "go"] == pipe.hear()
    daemon.configure("", file=folder / "other")
    daemon.child.signal(signal.SIGHUP)
    assert "boots" == pipe.hear()
    daemon.child.signal(signal.SIGUSR1)
    assert [1, "reopen"] == pipe.hear()
    os.write(opener, b"x")
    heard = sorted([pipe.hear(), pipe.hear(), pipe.hear()])
    assert [[1, "drain"], [2, "go"], [2, "take"]] == heard
    os.close(gate)
    os.close(opener)


def test_a_mask_of_whoever_starts_it_does_not_keep_it_from_stopping(start: Start) -> None:
    """Blocked signals and ignored ones are inherited; the master hears of each, and of its dead workers too."""

    def block() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1})

    daemon = running(start, before=block)
    (pid,) = daemon.pids()
    os.kill(pid, signal.SIGKILL)
    daemon.logged(f"worker 1 (pid {pid}) died: killed by SIGKILL")
    daemon.child.signal(signal.SIGUSR1)
    daemon.logged("SIGUSR1: reopening the log")
    daemon.child.signal(signal.SIGHUP)
    until(lambda: daemon.status()["reloads"] == 1)
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()


def test_ttin_and_ttou_scale(start: Start) -> None:
    """One worker more in a new last slot, or one less; the slot goes once its queue is sure to be empty; 1 stays."""
    daemon = running(start)
    (first,) = daemon.pids()
    daemon.child.signal(signal.SIGTTIN)
    until(lambda: ["ready", "ready"] == [row["state"] for row in daemon.status()["workers"]])
    daemon.child.signal(signal.SIGTTOU)
    until(lambda: [first] == daemon.pids())
    daemon.child.signal(signal.SIGTTOU)
    daemon.logged("1 worker as before; the limits are 1 and 256")
    assert [first] == daemon.pids()
    assert not refused(daemon.port)


def test_where_programs_outside_find_workers(start: Start) -> None:
    """The sockets of those that are ready, in a folder beside the control socket; the secret is in no log."""
    daemon = running(start)
    (address,) = daemon.ask(Command("bus"))
    assert {"node", "secret", "sockets"} == address.keys()
    assert [str(daemon.socket.with_suffix(".bus") / "1.sock")] == address["sockets"]
    assert address["secret"] not in daemon.log.read_text()
    # where no socket can be made there is no slot more
    folder = daemon.socket.with_suffix(".bus")
    (folder / "2.sock").mkdir()
    daemon.child.signal(signal.SIGTTIN)
    daemon.logged(f"cannot have 2 workers: cannot make a socket in {folder}: ")
    assert 1 == len(daemon.pids())
    assert not refused(daemon.port)
    (folder / "2.sock").rmdir()
    daemon.child.signal(signal.SIGTTIN)
    until(lambda: len(daemon.ask(Command("bus"))[-1]["sockets"]) == 2)


def test_no_storm_of_signals_drowns_a_stop(start: Start) -> None:
    """However many come before it, and however busy each keeps the loop, TERM is heard."""
    daemon = running(start)
    for _ in range(5000):
        daemon.child.signal(signal.SIGHUP)
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()


def test_a_signal_of_daily_life_is_not_even_logged(start: Start) -> None:
    """A resized window, a broken pipe and a dead child are no news."""
    daemon = running(start)
    for number in (signal.SIGWINCH, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1):
        daemon.child.signal(number)
        # signals of one moment are not kept in order, so the one that is logged goes alone
        assert "running" == daemon.status()["state"]
    daemon.logged("SIGUSR1: reopening the log")
    text = daemon.log.read_text()
    assert not [name for name in ("SIGWINCH", "SIGPIPE", "SIGCHLD") if name in text]


def test_a_killed_worker_is_replaced(start: Start) -> None:
    """The death is seen by its pidfd and shown in the status; another worker takes the slot."""
    daemon = running(start)
    (pid,) = daemon.pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: [row["state"] for row in daemon.status()["workers"] if row["pid"] not in (pid, None)] == ["ready"])
    (row,) = daemon.status()["workers"]
    assert (1, "killed by SIGKILL") == (row["restarts"], row["last_exit"]["reason"])
    daemon.logged(f"worker 1 (pid {pid}) died: killed by SIGKILL")


def test_the_kernel_s_kills_are_looked_at_while_nobody_dies(start: Start, folder: Path) -> None:
    """A kill of another process of the cgroup is old news by the time that a worker dies of something else."""
    kills = folder / "memory.events"
    kills.write_text("oom_kill 0\n")

    def live_in_a_cgroup() -> None:
        (folder / "membership").write_text("0::/\n")
        OomCounter.__init__.__defaults__ = (folder, folder / "membership")

    running(start, before=live_in_a_cgroup)
    watch = Watch(kills, Watch.IN_OPEN)
    assert [Watch.IN_OPEN] == watch.masks()[:1]
    watch.close()


def test_a_closed_terminal_stops_the_service(start: Start) -> None:
    """The kernel sends HUP then too; nobody is there any more to want a reload."""
    daemon = running(start, terminal="own")
    daemon.child.signal(signal.SIGHUP)
    until(lambda: daemon.status()["reloads"] == 1)
    os.close(daemon.ours)
    assert [0, ""] == daemon.end()
    assert "the terminal is gone: stopping" in daemon.log.read_text()


def test_a_terminal_of_another_session_is_no_reason_to_stop(start: Start) -> None:
    """A daemon in the background may still write to the terminal it was started on: HUP means reload."""
    daemon = running(start, terminal="foreign")
    daemon.child.signal(signal.SIGHUP)
    until(lambda: daemon.status()["reloads"] == 1)
    os.close(daemon.ours)


# --- what else a start leaves behind ------------------------------------------------------------------------------


def open_files() -> list[str]:
    """Return the sockets, locks and selectors that this process has open."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        # the one that listed them is gone
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in names if name.startswith(("socket:", "anon_inode:")) or name.endswith(".lock")]


def test_a_worker_holds_nothing_of_the_master(start: Start, pipe: Pipe) -> None:
    """Lock, control socket, notify socket, wakeup pipe, selector and the listeners of other slots are closed in it."""

    def look(assignment: Assignment) -> int:
        assert assignment.berth is not None
        own = {*(sock.fileno() for sock in assignment.sockets), assignment.channel.fileno()}
        own.add(assignment.berth.listener.fileno())
        pipe.tell([assignment.slot, len(open_files()) - len(own) - before, "NOTIFY_SOCKET" in os.environ])
        return polite(assignment)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0wsworker-test-" + str(os.getpid()))
        # what the test has open stays open in every fork of it
        before = len(open_files())
        running(start, look, config="workers: 2", environ={"NOTIFY_SOCKET": f"@wsworker-test-{os.getpid()}"})
        assert [[1, 0, False], [2, 0, False]] == sorted([pipe.hear(), pipe.hear()])


def test_systemd_is_told(start: Start, folder: Path) -> None:
    """READY when settled, WATCHDOG while the loop turns, RELOADING and READY again, STOPPING at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(DEADLINE_SECONDS)
        systemd.bind(str(folder / "notify"))

        def heard(beginning: str) -> str:
            while not (text := systemd.recv(4096).decode()).startswith(beginning):
                pass
            return text

        # one datagram each half second: few wait to be read, so that a status finds room, which is said only once
        daemon = running(start, environ={"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1500000"})
        assert "READY=1\nSTATUS=1/1 workers, 0 connections" == heard("READY")
        assert "WATCHDOG=1" == heard("WATCHDOG")
        daemon.child.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in heard("RELOADING=1\n")
        assert "READY=1" in heard("READY")
        daemon.configure("workers: 0")
        daemon.child.signal(signal.SIGHUP)
        news = f"; last reload refused: {daemon.config}:4:10: error: workers must be"
        assert news in heard("STATUS=1/1 workers, 0 connections;")
        daemon.child.signal(signal.SIGTERM)
        assert "STOPPING=1" in heard("STOPPING")
        assert [0, ""] == daemon.end()


def test_a_pid_file_of_one_s_own(start: Start, folder: Path) -> None:
    """`pidfile` holds the master's pid alone; one that cannot be written is logged and stops nothing."""
    daemon = running(start, config=f"pidfile: {folder}/pid")
    assert f"{daemon.child.pid}\n" == (folder / "pid").read_text()
    daemon.child.signal(signal.SIGTERM)
    assert [0, ""] == daemon.end()
    assert not (folder / "pid").exists()
    daemon = running(start, config=f"pidfile: {folder}/missing/pid")
    assert f"cannot write the pid file {folder}/missing/pid: No such file or directory" in daemon.log.read_text()


@needs_root
def test_workers_that_run_as_root_are_warned_of(start: Start, pipe: Pipe) -> None:
    """Nobody should do so unknowingly; with `user` the warning is gone."""
    warning = "workers run as root; set `user` in"

    def look(assignment: Assignment) -> int:
        pipe.tell(os.getresuid())
        return polite(assignment)

    daemon = running(start, look)
    assert [0, 0, 0] == pipe.hear()
    assert warning in daemon.log.read_text()
    assert [{"result": "stopped", "cut": 0, "killed": 0}] == daemon.ask(Command("stop"))
    daemon.end()
    daemon.log.unlink()
    daemon = running(start, look, config="user: nobody")
    assert [NOBODY.pw_uid] * 3 == pipe.hear()
    assert warning not in daemon.log.read_text()


def listing(assignment: Assignment) -> int:
    """Be a worker that has one connection; the one in slot 3 never answers."""
    say(assignment.channel, Report("ready"))
    for order in orders(assignment.channel):
        if order.name == "list" and assignment.slot != 3:
            assert order.query is not None
            row = {"id": str(assignment.slot), "user": order.query.user}
            say(assignment.channel, Report("rows", token=order.token, total=1, rows=(row,), last=True))
        if order.name == "drain":
            return 0
    return 9


def test_connections_are_asked_of_the_workers(start: Start) -> None:
    """Their rows come before the result, which names who did not answer; a slot alone may be asked."""

    def be_patient() -> None:
        # nobody waits for worker 3 alone: the others must have answered by then
        inquiry.PATIENCE_SECONDS = 5.0  # type: ignore[misc]

    daemon = start(listing, config="workers: 3", before=be_patient)
    daemon.settled.hear()
    *parts, result = daemon.ask(Command("connections", query=Query(user="tom")))
    rows = [row for part in parts for row in part["connections"]]
    assert [{"id": "1", "user": "tom"}, {"id": "2", "user": "tom"}] == sorted(rows, key=lambda row: str(row["id"]))
    assert {"total": 2, "shown": 2, "missing": [3]} == result
    *parts, result = daemon.ask(Command("connections", query=Query(slot=2)))
    assert [{"connections": [{"id": "2", "user": None}]}] == parts
    assert {"total": 1, "shown": 1, "missing": []} == result


@pytest.mark.parametrize("group", ["", pytest.param(GROUP, marks=needs_root)])
def test_a_group_may_command(start: Start, group: str) -> None:
    """With `control_socket_mode: "0660"`: `group`, or that of the master."""
    named = f"group: {group}" if group else ""
    daemon = start(config=f'control_socket_mode: "0660"\n{named}')
    daemon.settled.hear()
    gid = grp.getgrnam(group).gr_gid if group else os.getegid()
    found = {path.name: (path.stat().st_gid, oct(path.stat().st_mode)[-3:]) for path in (daemon.socket, daemon.run)}
    assert {"chat.sock": (gid, "660"), "wsworker": (gid, "710")} == found


def test_a_unix_socket_needs_no_weights(start: Start, folder: Path) -> None:
    """All slots share it, so there is nothing to steer and nothing to complain of; it is gone after the stop."""
    path = folder / "hello.ws"
    daemon = running(start, config="workers: 2", listen=f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    assert [{"result": "stopped", "cut": 0, "killed": 0}] == daemon.ask(Command("stop"))
    assert [0, ""] == daemon.end()
    assert not path.exists()
    assert "cannot steer" not in daemon.log.read_text()
