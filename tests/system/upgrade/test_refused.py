"""Upgrades that are refused: nothing has changed, nobody has noticed, and the next one goes well."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.system.daemon import eventually
from tests.system.faults.mischief import call, lift, limit, read_lines
from tests.system.faults.world import GATED, Gate
from tests.system.upgrade.conftest import MakeReleased
from tests.system.upgrade.releases import NEW, OLD, WHICH, Edits, Released, release_of, waits
from wsworker.wire import Command, Reply, decode_reply, encode

UNCHANGED = "not upgraded, and nothing has changed: "
OTHERWISE = "it speaks otherwise with its workers than 1.0.0, which runs; restart the service instead"

OTHERS: dict[str, tuple[Edits, str]] = {
    "format": ({"master/estate.py": ("FORMAT: Final = 1\n", "FORMAT: Final = 2\n")}, OTHERWISE),
    "layout": ({"stats.py": ("MAX_SLOTS: Final = 256\n", "MAX_SLOTS: Final = 128\n")}, OTHERWISE),
    "channel": ({"wire.py": ('Literal["go", "drain", ', 'Literal["go", "hop", "drain", ')}, OTHERWISE),
    "field": (
        {"master/estate.py": ("    target: int\n", "    target: int\n    unheard_of: int\n")},
        "it does not understand what 1.0.0, which runs, knows (facts.unheard_of); restart instead",
    ),
    "syntax": ({"master/main.py": ("    def run(self) -> Exit:\n", "    def run(self -> Exit:\n")}, "SyntaxError"),
    "import": ({"master/main.py": ("import setproctitle\n", "import no_such_title\n")}, "no_such_title"),
    "import of a worker": (
        {"worker/main.py": ("import asyncio\n", "import asyncio\nimport no_such_loop\n")},
        "no_such_loop",
    ),
    "silent": (
        {"cli/takeover.py": ("    try:\n        prepared", "    raise SystemExit\n    try:\n        prepared")},
        "the new program does not start: it said nothing",
    ),
}


def gist(daemon: Released) -> dict[str, Any]:
    """Return all of the status document that an upgrade which is refused must not change."""
    status = daemon.status()
    workers = [[row[key] for key in ("id", "pid", "generation", "state")] for row in status["workers"]]
    same = ("pid", "version", "state", "generation", "reloads", "last_reload", "workers_ready")
    return {key: status[key] for key in same} | {"workers": workers}


def check_refused(daemon: Released, *words: str) -> None:
    """Fail unless an upgrade is refused and has changed nothing, neither for clients nor inside."""
    with daemon.connect() as client:
        client.send("before")
        served_by = str(client.recv(10)).split()[:2]
        before, opened, processes = gist(daemon), daemon.open_in_master(), daemon.processes()
        outcome = daemon.upgrade()
        assert 1 == outcome.code, outcome
        for word in (UNCHANGED, *words):
            assert word in outcome.err, outcome
        outcome.check_tone()
        assert before == gist(daemon)
        eventually(lambda: processes == daemon.processes(), "the rehearsal is over")
        eventually(lambda: opened == daemon.open_in_master(), "nothing is left open")
        client.send("after")
        assert [*served_by, "after"] == str(client.recv(10)).split()


@pytest.mark.parametrize("what", OTHERS)
def test_a_release_that_cannot_go_on(make_released: MakeReleased, what: str) -> None:
    """It has another format, or does not even start: it says so, and the mended release is taken."""
    edits, words = OTHERS[what]
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, edits)
    check_refused(daemon, words)
    assert "upgrade refused: " in daemon.log
    daemon.upgraded(NEW, edits={})
    assert NEW == daemon.release()


def test_the_configuration_on_disk_is_broken(make_released: MakeReleased) -> None:
    """What a reload would refuse is told before anything has happened, also with --json."""
    daemon = make_released(WHICH).start()
    daemon.install(NEW)
    daemon.write_config(wrokers=3)
    check_refused(daemon, daemon.place("wrokers").rpartition(":")[0], "wrokers")
    outcome = daemon.upgrade("--json")
    assert (1, "refused", "upgrade_refused") == (
        outcome.code,
        outcome.document()["result"],
        outcome.document()["error"]["code"],
    )
    del daemon.settings["wrokers"]
    daemon.write_config()
    daemon.upgraded()


def test_the_log_cannot_be_opened_again(make_released: MakeReleased) -> None:
    """Its folder is gone: the one that runs goes on with the file that it has open, and is upgraded when it is back."""
    daemon = make_released(WHICH)
    folder = daemon.folder / "logs"
    folder.mkdir()
    daemon.write_config(log={"file": str(folder / "x.log")})
    daemon.start()
    daemon.install(NEW)
    folder.rename(folder.with_name("away"))
    check_refused(daemon, f"cannot open the log file {folder / 'x.log'}: No such file or directory")
    folder.with_name("away").rename(folder)
    daemon.upgraded()


class Wrapped(Released):
    """A service that is started by a program of somebody's own, `python run.py`, whose last line is this one."""

    def __init__(self, line: str) -> None:
        super().__init__(WHICH)
        text = f"import sys\nfrom wsworker.cli.main import main, run\n{line}\n"
        (self.folder / "run.py").write_text(text)
        # what an interpreter would run that is given nothing but our arguments
        (self.folder / "takeover").write_text("open('planted', 'w')\n")

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        return [sys.executable, "run.py"] if command == "start" else super()._command(command, *arguments)


@pytest.mark.parametrize(
    "line",
    [
        "sys.exit(run(['start', '-c', 'config.yaml']))",
        "sys.exit(run(['restart', '-c', 'config.yaml']))",
        "sys.argv = ['wsworker', 'start', '-c', 'config.yaml']; main()",
    ],
    ids=["run", "restart", "argv"],
)
def test_a_start_by_another_program(line: str) -> None:
    """Its words would start something else: nothing is started by them, and the service goes on."""
    with Wrapped(line) as daemon:
        daemon.start()
        daemon.install(NEW)
        check_refused(daemon, "it was started by a program of its own and not by `wsworker`; restart it instead")
        assert not (daemon.folder / "planted").exists()


def ask_bare(daemon: Released, command: str) -> socket.socket:
    """Send a command through the control socket; the connection is to be read, and closed, by the caller."""
    sock = call(daemon)
    sock.sendall(encode(Command(command)))  # type: ignore[arg-type]
    return sock


def told(sock: socket.socket) -> list[Reply]:
    """Return all that a caller is answered, to the end."""
    with sock:
        return [decode_reply(line) for line in read_lines(sock)]


def test_asked_twice(make_released: MakeReleased) -> None:
    """While one is rehearsed another one is refused, and the first one goes on, with its caller."""
    daemon = make_released(WHICH, workers=2).start()
    daemon.install(NEW, waits("rehearsal"))
    with ask_bare(daemon, "upgrade") as first:
        with daemon.hold("rehearsal"):
            daemon.wait_held("rehearsal")
            check_refused_by_another(daemon, "an upgrade is under way")
        *progress, result = told(first)
    assert {"event": "note", "text": "wsworker 2.0.0 has taken over from 1.0.0"} == progress[0].body
    assert "ok" == result.body["result"]
    assert NEW == daemon.wait_rested()["version"]


def check_refused_by_another(daemon: Released, why: str) -> None:
    """Fail unless an upgrade is refused now for this reason; it is asked by a caller of its own."""
    before = gist(daemon)
    (answer,) = told(ask_bare(daemon, "upgrade"))
    assert ("refused", "upgrade_refused") == (answer.body["result"], answer.body["error"]["code"])
    assert f"{UNCHANGED}{why}" == answer.body["error"]["message"]
    assert before == gist(daemon)


AT_THE_GATE = f"{WHICH}{GATED}\nasync def on_worker_start(worker):\n    await pass_gate()\n"
"""No worker gets ready while the gate is closed."""


def test_during_a_reload(make_released: MakeReleased) -> None:
    """It is refused while a reload is under way, which it does not disturb."""
    daemon = make_released(AT_THE_GATE, workers=2).start()
    daemon.install(NEW)
    gate = Gate(daemon)
    gate.close()
    with ask_bare(daemon, "reload") as reload:
        daemon.wait_status(lambda status: status["state"] == "reloading" and len(status["workers"]) == 3)
        check_refused_by_another(daemon, "a reload is under way")
        gate.open()
        assert "ok" == told(reload)[-1].body["result"]
    daemon.wait_rested()
    daemon.upgraded()


def test_while_a_worker_boots(make_released: MakeReleased) -> None:
    """It is refused while a dead worker is being replaced, before the rehearsal and behind it."""
    daemon = make_released(AT_THE_GATE, workers=2).start()
    daemon.install(NEW, waits("rehearsal"))
    gate = Gate(daemon)
    gate.close()
    why = "a worker boots or leaves; try again when `wsworker status` shows all of them ready"
    with ask_bare(daemon, "upgrade") as first:
        with daemon.hold("rehearsal"):
            daemon.wait_held("rehearsal")
            kill_a_worker(daemon)
        assert f"{UNCHANGED}{why}" == told(first)[-1].body["error"]["message"]
    check_refused_by_another(daemon, why)
    gate.open()
    assert OLD == daemon.wait_rested()["version"]
    daemon.upgraded()


def kill_a_worker(daemon: Released) -> None:
    """Kill the last worker, and wait until its successor boots."""
    pid = daemon.workers[-1]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_status(
        lambda status: status["workers"][-1]["state"] == "starting" and status["workers"][-1]["pid"] != pid
    )


BROKEN_WITH_NEW = f"{WHICH}\nif wsworker.RELEASE == '{NEW}':\n    raise RuntimeError('too new for me')\n"


def test_the_app_does_not_start_under_it(make_released: MakeReleased) -> None:
    """The new release is the master and the old workers go on under it, until a reload with a mended app."""
    daemon = make_released(BROKEN_WITH_NEW, workers=2).start()
    workers, master = daemon.workers, daemon.master
    daemon.install(NEW)
    with daemon.connect() as client:
        outcome = daemon.upgrade()
        assert 1 == outcome.code, outcome
        assert "too new for me" in outcome.err
        status = daemon.wait_rested()
        assert (NEW, master, workers, 1) == (status["version"], status["pid"], daemon.workers, status["generation"])
        # with what the new release has taken over of them
        daemon.check_closed_on_exec()
        assert OLD == release_of(client)
        daemon.write_app(WHICH)
        assert 0 == daemon.cli("reload").code
        assert NEW == release_of(client)
    daemon.wait_rested()
    assert not {*workers} & {*daemon.workers}


def test_few_descriptors(make_released: MakeReleased) -> None:
    """Without descriptors for a rehearsal there is none, whichever one is the first that is not to be had."""
    daemon = make_released(WHICH).start()
    daemon.install(NEW)
    with daemon.connect() as client:
        before, opened = gist(daemon), daemon.open_in_master()
        # one is the caller's
        for spare in (1, 2, 3):
            limit(daemon.master, resource.RLIMIT_NOFILE, len(opened) + spare)
            (answer,) = told(ask_bare(daemon, "upgrade"))
            lift(daemon.master, resource.RLIMIT_NOFILE)
            assert "Too many open files" in answer.body["error"]["message"]
            eventually(lambda: opened == daemon.open_in_master(), "nothing is left open")
        assert before == gist(daemon)
        daemon.upgraded()
        assert NEW == release_of(client)
