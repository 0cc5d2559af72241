"""A worker's life in a process of its own, as its master sees it: channel, seat, exit code, and clients on its port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.frames import Opcode

from tests.bus.mesh.harbor import NODE, RIGHT, SECRET, Harbor, Stranger
from tests.worker.moving import make_pair
from tests.worker.service import DEADLINE_SECONDS, closing, head, text
from tests.worker.ward import (
    ECHO,
    EVERYTHING,
    HOARDS,
    WORKER,
    Start,
    Ward,
    beside_bytes,
    listening,
    queue,
    socket_of,
    until,
)
from wsworker.bus import records
from wsworker.bus.mesh import gate
from wsworker.bus.mesh.berth import Berth
from wsworker.bus.mesh.members import Member, Standing
from wsworker.bus.records import Reader, Record, Type
from wsworker.bus.topics import Envelope, Key
from wsworker.errors import WireError
from wsworker.sections import LogConfig
from wsworker.wire import DrainReason, Order, Report, decode_report, encode
from wsworker.worker import accept, drain, heartbeat, main, watcher
from wsworker.worker.hub import Hub

CALLED_EXIT = "the app called sys.exit(); take that call out, as wsworker ends its workers itself"


# Boot


def test_it_reports_ready(start: Start) -> None:
    """Once, when the app is imported and on_worker_start is done."""
    ward = start(EVERYTHING)
    assert Report("ready") == ward.report()
    assert ["start 7 1"] == ward.journal()
    until(lambda: "ready, pid" in ward.stderr())


def test_term_before_ready_ends_it(start: Start) -> None:
    """Nobody waits for a boot that is not wanted any more."""
    ward = start("async def on_worker_start(worker):\n    note('began')\n    await asyncio.Event().wait()\n" + ECHO)
    until(ward.journal)
    ward.signal(signal.SIGTERM)
    assert (None, "SIGTERM") == ward.exit()


# Serving


def test_a_saved_file_is_reported(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each change, while it goes on, and at first what is about to be loaded.

    What it compiles is not kept, as it might be taken for the next edit.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    # not by how long a look has taken: one in which the machine is busy would put off the next beyond any deadline
    monkeypatch.setattr(watcher, "pause", lambda restless, seconds: 0.1)
    config = tmp_path / "config.yaml"
    config.write_text("one")
    ward = start("def on_message(connection, data): pass\n", watched=str(config))
    loaded = ward.report()
    assert ("changed", "") == (loaded.name, loaded.error)
    ward.ready()
    until(lambda: "a saved change is loaded at once" in ward.stderr())
    (ward.folder / "chat.py").unlink()
    first = ward.report()
    assert ("changed", "chat.py") == (first.name, first.error)
    config.write_text("other")
    second = ward.report()
    assert ("changed", str(config)) == (second.name, second.error)
    assert 3 == len({loaded.mark, first.mark, second.mark})
    assert not (ward.folder / "__pycache__").exists()
    ward.leave("reload")
    assert (0, None) == ward.exit()


@pytest.mark.parametrize(("slot", "generation"), [(1, 1), (2, 1), (1, 2)])
def test_what_is_watched_is_told_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: int, generation: int
) -> None:
    """By the first worker of the first slot, and with it that there is too much: the others would repeat it."""
    monkeypatch.setattr(watcher, "MOST_ENTRIES", 1)
    (tmp_path / "config.yaml").write_text("")
    ward = start(ECHO, watched=str(tmp_path / "config.yaml"), slot=slot, generation=generation)
    ward.report()
    ward.ready()
    ward.leave("reload")
    assert (0, None) == ward.exit()
    is_told = (slot, generation) == (1, 1)
    assert is_told == ("new files are not noticed" in ward.stderr())
    assert is_told == ("a saved change is loaded at once" in ward.stderr())


def test_nobody_is_accepted_before_go(start: Start) -> None:
    """Clients wait in the queue until the master says go; then they are served."""
    ward = start(ECHO)
    ward.ready()
    client = ward.dial(head(), text("hello"))
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name  # so the loop has gone round since the client came
    assert 1 == ward.waiting()
    ward.tell(Order("go"))
    assert 101 == client.status()
    assert (Opcode.TEXT, b"hello") == client.receive()
    assert 0 == ward.waiting()


def test_term_after_ready_asks_to_leave(start: Start) -> None:
    """A signal from outside is passed on to the master, who decides; the worker serves on."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.signal(signal.SIGTERM)
    assert Report("leaving") == ward.report()
    client.send(text("still there?"))
    assert (Opcode.TEXT, b"still there?") == client.receive()
    ward.open()
    assert not any(line.startswith(("close", "stop")) for line in ward.journal())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH])
def test_signals_of_the_terminal_are_the_masters(start: Start, number: signal.Signals) -> None:
    """Ctrl-C and a hang-up reach the whole group; a worker takes no notice."""
    ward = start(ECHO)
    ward.go()
    client = ward.open()
    ward.signal(number)
    client.send(text("still there?"))
    assert (Opcode.TEXT, b"still there?") == client.receive()


@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    sys.exit(7)\n",
        "async def on_message(connection, data):\n    sys.exit(7)\n",
        "def on_connect(connection):\n    connection.worker.after(0.001, lambda: sys.exit(7))\n",
        "def on_close(connection, code, reason):\n    sys.exit(7)\n",
    ],
    ids=["sync", "async", "timer", "on_close"],
)
def test_an_exit_of_user_code_is_an_exit(start: Start, app: str) -> None:
    """Wherever sys.exit is called, it ends the process with its code; the master is told, and where that was."""
    ward = start(app)
    ward.go()
    client = ward.open(text("bye"), closing(1000))
    assert (7, None) == ward.exit()
    assert 1 == ward.reading().counters.accepted
    told = ward.report()
    assert ("failed", "crash", CALLED_EXIT) == (told.name, told.kind, told.error)
    assert "chat.py" in told.trace
    assert told.trace.endswith("\nSystemExit: 7")
    client.close()


@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    raise KeyboardInterrupt\n",
        "async def on_message(connection, data):\n    raise KeyboardInterrupt\n",
        "def on_connect(connection):\n    connection.worker.after(0.001, interrupt)\n",
    ],
    ids=["sync", "async", "timer"],
)
def test_an_interrupt_of_user_code_ends_it(start: Start, app: str) -> None:
    """On either loop, and not with success; the master is told with the user's frames, and the log has no others."""
    ward = start("def interrupt():\n    raise KeyboardInterrupt\n\n" + app)
    ward.go()
    ward.open(text("bye"))
    told = ward.report()
    assert ("failed", "crash", "worker 1 ended with KeyboardInterrupt") == (told.name, told.kind, told.error)
    first, *frames, last = told.trace.splitlines()
    assert ("Traceback (most recent call last):", "KeyboardInterrupt") == (first, last)
    assert [f'  File "{ward.folder}/chat.py"'] == [line.split(",")[0] for line in frames if line.startswith("  File")]
    assert (1, None) == ward.exit()
    assert "Traceback" not in ward.stderr()


def test_a_fault_that_cannot_be_told_is_reported(start: Start) -> None:
    """User code may have written an exception whose text raises."""
    odd = "class Odd(KeyboardInterrupt):\n    def __str__(self):\n        raise ValueError\n\n"
    ward = start(odd + "def on_message(connection, data):\n    raise Odd\n")
    ward.go()
    ward.open(text("bye"))
    told = ward.report()
    assert ("crash", "worker 1 ended with Odd: <exception str() failed>") == (told.kind, told.error)
    assert (1, None) == ward.exit()


@pytest.mark.parametrize("fault", ["loop.stop()", "[task.cancel() for task in asyncio.all_tasks()]"])
def test_a_fault_of_the_loop_is_reported(start: Start, fault: str) -> None:
    """Whatever ends the loop that is no exit: a sentence for the master, and the counters are kept."""
    ward = start(f"def on_message(connection, data):\n    loop = asyncio.get_running_loop()\n    {fault}\n")
    ward.go()
    ward.open(text("stop"))
    report = ward.report()
    assert ("failed", "crash") == (report.name, report.kind)
    error, _, reason = report.error.partition(":")
    kind = "RuntimeError" if fault == "loop.stop()" else "CancelledError"
    assert (f"worker 1 ended with {kind}", kind == "RuntimeError") == (error, bool(reason))
    assert kind in report.trace
    assert "\n" not in report.error
    assert (1, None) == ward.exit()
    assert 1 == ward.reading().counters.messages_in
    # it could be a bug of ours, so all frames are in the log
    assert "the event loop has failed" in ward.stderr()
    assert "wsworker/worker/main.py" in ward.stderr()


def test_a_fault_that_the_user_causes_is_told_with_their_frames(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are only in the log."""
    monkeypatch.setattr(Hub, "drain", lambda hub: hub.app.on_message.function(None, None))
    ward = start("def on_message(connection, data):\n    raise ValueError('of mine')\n")
    ward.go()
    ward.leave("stop")
    report = ward.report()
    assert ("crash", "worker 1 ended with ValueError: of mine") == (report.kind, report.error)
    assert f'File "{ward.folder}/chat.py"' in report.trace
    assert "leaving.py" not in report.trace
    assert (1, None) == ward.exit()
    assert "leaving.py" in ward.stderr()


def test_a_loop_that_fails_before_it_is_ready_is_a_failed_boot(start: Start) -> None:
    """The master treats it like any other one."""
    waits = (
        "async def on_worker_start(worker):\n    asyncio.get_running_loop().stop()\n    await asyncio.Event().wait()\n"
    )
    ward = start(waits + ECHO)
    report = ward.report()
    assert ("failed", "boot") == (report.name, report.kind)
    assert (1, None) == ward.exit()


FORKS = """\
def show(who):
    for fd in os.listdir("/proc/self/fd"):
        try:
            note(who, os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass

def fork():
    show("worker")
    pid = os.fork()
    if pid == 0:
        show("child")
        os._exit(0)
    os.waitpid(pid, 0)

def on_worker_start(worker):
    fork()

def on_message(connection, data):
    fork()
    connection.send(data)
"""


def test_a_child_of_user_code_holds_neither_port_nor_channel(start: Start) -> None:
    """Whenever it is forked; the worker itself goes on with both."""
    ward = start(FORKS)
    ward.go()
    for _ in range(2):
        seen = [line.split(maxsplit=1) for line in ward.journal()]
        assert ward.worker_only <= {what for who, what in seen if who == "worker"}
        assert "child" in {who for who, _ in seen}
        assert not ward.worker_only & {what for who, what in seen if who == "child"}
        (ward.folder / "journal").unlink()
        client = ward.open(text("hello"))
        assert (Opcode.TEXT, b"hello") == client.receive()
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name


def test_a_child_of_user_code_holds_nothing_that_is_lent(start: Start) -> None:
    """Nor the file of the last words; its own crash is not the worker's."""
    ward = start(FORKS.replace("os._exit(0)", "os.abort()"))
    ward.go()
    with listening() as other:
        ward.lend(2, other)
        client = ward.dial(head(), text("hello"), to=other)
        assert 101 == client.status()
        assert (Opcode.TEXT, b"hello") == client.receive()
        seen = [line.split(maxsplit=1) for line in ward.journal()]
        assert ["worker", socket_of(other)] in seen
        assert ["child", socket_of(other)] not in seen
        assert [["worker", "/memfd:words (deleted)"]] * 2 == [line for line in seen if "memfd:words" in line[1]]
        assert "" == ward.last_words()
        client.close()


NUMBERS = """\
def on_message(connection, data):
    if os.fork() == 0:
        files = [os.memfd_create("mine") for _ in range(20)]
        grandchild = os.fork()
        if grandchild == 0:
            for file in files:
                os.fstat(file)
            os._exit(7)
        note(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        os._exit(0)
    os.wait()
    connection.send(data)
"""


def test_a_grandchild_keeps_the_files_of_its_parent(start: Start) -> None:
    """They may have the numbers that were closed when the child began."""
    ward = start(NUMBERS)
    ward.go()
    with listening() as other:
        # its order is not whole, so the channel still holds the descriptor
        socket.send_fds(ward.channel, [encode(Order("lend", slot=2, fds=1))[:5]], [other.fileno()])
        client = ward.open(text("hello"))
        assert (Opcode.TEXT, b"hello") == client.receive()
    assert ["7"] == ward.journal()


COMING_BACK = """\
import signal

def fork(end):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # for one that is not ended
        end()
        return
    # the worker itself beats no more while it waits, nor does anything else
    note("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

def leave():
    sys.exit(7)

def fail():
    raise ValueError

def come_back():
    pass

def reply(connection, end):
    fork(end)
    connection.send("hello")

async def sleep(end):
    await asyncio.sleep(0)
    fork(end)

async def late(connection, end):
    await sleep(end)
    connection.send("hello")

async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        note("cancelled in", os.getpid())

def on_worker_start(worker):
    worker.task = asyncio.get_running_loop().create_task(forever())

"""


@pytest.mark.parametrize(("end", "code"), [("leave", 7), ("fail", 1), ("come_back", 0)])
@pytest.mark.parametrize(
    "app",
    [
        "def on_message(connection, data):\n    fork({end})\n    connection.send(data)\n",
        "async def on_message(connection, data):\n    await sleep({end})\n    connection.send(data)\n",
        "def on_message(connection, data):\n    connection.worker.after(0.001, lambda: reply(connection, {end}))\n",
        "def on_message(connection, data):\n    connection.worker.after(0.001, lambda: late(connection, {end}))\n",
    ],
    ids=["sync", "async", "timer", "async timer"],
)
def test_a_child_that_comes_back_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch, app: str, end: str, code: int
) -> None:
    """With its own code, and without a touch of the worker's seat, tasks, channel or loop: the worker goes on."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 3600.0)
    ward = start(COMING_BACK + app.format(end=end))
    ward.go()
    client = ward.open()
    beat_at = ward.reading().beat_at
    client.send(text("hello"))
    until(lambda: f"code {code}" in ward.journal())
    assert beat_at == ward.reading().beat_at
    assert not any(line.startswith("cancelled") for line in ward.journal())
    if end == "leave":
        # the others may have sent something before they ended
        assert (Opcode.TEXT, b"hello") == client.receive()
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name
    assert (end == "come_back") == ("came back and is ended" in ward.stderr())
    assert (end == "fail") == ("a process that the app has forked has failed" in ward.stderr())
    ward.open()


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("end", ["leave", "fail", "come_back"])
def test_a_child_that_comes_back_serves_nobody(start: Start, kind: str, end: str) -> None:
    """Not even the message that came with the one before it; nor is its fault told to the client."""
    app = (
        f"{kind} on_message(connection, data):\n"
        "    note(data)\n"
        f"    if data == 'fork':\n        fork({end})\n"
        "    else:\n        connection.send(data)\n"
    )
    ward = start(COMING_BACK + app)
    ward.go()
    client = ward.open(text("fork") + text("next"))
    assert (Opcode.TEXT, b"next") == client.receive()
    client.send(text("last"))
    assert (Opcode.TEXT, b"last") == client.receive()
    assert ["fork", "next", "last"] == [line for line in ward.journal() if not line.startswith("code")]


@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("1 / 0", 1), ("pass", 0)])
def test_a_child_that_comes_back_from_the_import(start: Start, end: str, code: int) -> None:
    """It is ended before it would be a worker."""
    ward = start(COMING_BACK.split("def leave", maxsplit=1)[0] + f"def end():\n    {end}\n\nfork(end)\n" + ECHO)
    ward.ready()
    assert [f"code {code}"] == ward.journal()


@pytest.mark.parametrize(("end", "code"), [("leave", 7), ("come_back", 0)])
def test_a_child_that_comes_back_from_a_task_of_the_user(start: Start, end: str, code: int) -> None:
    """The loop has it then, and the loop ends it."""
    app = f"def on_message(connection, data):\n    connection.task = asyncio.ensure_future(sleep({end}))\n"
    ward = start(COMING_BACK + app)
    ward.go()
    ward.open(text("hello"))
    until(lambda: f"code {code}" in ward.journal())
    assert not any(line.startswith("cancelled") for line in ward.journal())
    ward.signal(signal.SIGTERM)
    assert "leaving" == ward.report().name


def test_a_child_that_leaves_with_a_text(start: Start) -> None:
    """It is printed and means 1, as the interpreter has it; sys.exit() means 0."""
    app = "def on_message(connection, data):\n    fork(lambda: sys.exit('why' if data == '1' else None))\n"
    ward = start(COMING_BACK + app)
    ward.go()
    ward.open(text("1"), text("0"))
    until(lambda: ["code 1", "code 0"] == [line for line in ward.journal() if line.startswith("code")])
    assert "why\n" in ward.stderr()


def test_a_child_that_comes_back_from_the_last_callback(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the worker's life is over in it before the loop turns again; it does not beat for the worker either."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 3600.0)
    app = (
        "def on_worker_stop(worker):\n"
        "    worker_pid = os.getpid()\n"
        "    fork(come_back)\n"
        "    if os.getpid() == worker_pid:\n"
        "        block('stop')\n"
    )
    ward = start(COMING_BACK + ECHO + app)
    ward.go()
    beat_at = ward.reading().beat_at
    ward.leave("stop")
    until(lambda: "blocked" in ward.journal())
    assert beat_at == ward.reading().beat_at
    ward.release("stop")
    assert (0, None) == ward.exit()
    assert "code 0" in ward.journal()
    assert 1 == sum(line.startswith("cancelled") for line in ward.journal())


def test_an_exit_during_the_start_is_an_exit(start: Start) -> None:
    """It keeps its code; the master is told why there is no worker."""
    ward = start("def on_worker_start(worker):\n    sys.exit(7)\n")
    assert (7, None) == ward.exit()
    told = ward.report()
    assert ("failed", "boot", CALLED_EXIT) == (told.name, told.kind, told.error)


def test_the_end_of_the_channel_ends_it(start: Start) -> None:
    """The master is dead: at once, without a goodbye."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.channel.close()
    assert (1, None) == ward.exit()
    assert b"" == client.rest()
    assert not any(line.startswith(("close", "stop")) for line in ward.journal())


def test_the_end_of_the_channel_ends_a_boot(start: Start) -> None:
    """Also while on_worker_start waits for something."""
    ward = start("async def on_worker_start(worker):\n    note('began')\n    await asyncio.Event().wait()\n" + ECHO)
    until(ward.journal)
    ward.channel.close()
    assert (1, None) == ward.exit()


def test_nonsense_on_the_channel_ends_it(start: Start) -> None:
    """Who says so is no master."""
    ward = start(ECHO)
    ward.ready()
    with pytest.raises(WireError):
        decode_report(b"nonsense")
    ward.channel.sendall(b"nonsense\n")
    assert (1, None) == ward.exit()


# Other orders


def test_it_serves_a_slot_that_is_lent(start: Start) -> None:
    """Until that slot is recalled; its own clients are served all the time."""
    ward = start(ECHO)
    ward.go()
    with listening() as first, listening() as second:
        ward.lend(2, first, second)
        for one in (first, second, ward.listener):
            assert 101 == ward.dial(head(), to=one).status()
        ward.tell(Order("recall", slot=2))
        ward.signal(signal.SIGTERM)
        assert "leaving" == ward.report().name  # so it has obeyed
        left = ward.dial(head(), to=first)
        ward.open()
        assert (1, 0) == (queue(first), ward.waiting())
        left.close()


def test_who_leaves_borrows_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lent then is closed at once, and what was lent before is closed with its own."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    with listening() as before, listening() as after:
        ward.lend(2, before)
        assert 101 == ward.dial(head(), to=before).status()
        ward.leave("reload")
        assert 1012 == client.close_code()
        ward.lend(2, after)
        waiting = [ward.dial(head(), to=one) for one in (before, after)]
        ward.leave("quick")
        assert (0, None) == ward.exit()
        assert (1, 1) == (queue(before), queue(after))
        for one in waiting:
            one.close()


def test_what_is_lent_before_go_waits_for_it(start: Start) -> None:
    """Also if the worker has not booted yet; nothing is accepted meanwhile."""
    ward = start("block('import')\n" + ECHO)
    until(ward.journal)
    with listening() as other:
        ward.lend(2, other)
        client = ward.dial(head(), to=other)
        ward.release("import")
        ward.ready()
        ward.signal(signal.SIGTERM)
        assert "leaving" == ward.report().name
        assert 1 == queue(other)
        ward.tell(Order("go"))
        assert 101 == client.status()


def test_a_loan_that_is_lost_is_seen(start: Start) -> None:
    """The worker shows itself as full, so that the master lends to another one, and takes clients again by itself."""
    ward = start(HOARDS)
    ward.go()
    client = ward.open(text("take"))
    assert (Opcode.TEXT, b"take") == client.receive()
    with listening() as other:
        ward.lend(2, other)
        until(lambda: ward.reading().full)
        client.send(text("give"))
        assert (Opcode.TEXT, b"give") == client.receive()
        until(lambda: not ward.reading().full)
        ward.lend(2, other)
        assert 101 == ward.dial(head(), to=other).status()
    assert "the order lend is lost" in ward.stderr()


def test_the_log_goes_on_in_another_file(start: Start, tmp_path: Path) -> None:
    """The one that came along with the order, and what user code prints as well."""
    log = tmp_path / "log"
    log.touch()
    ward = start(
        "def on_message(connection, data):\n    print('printed', data)\n" + "    connection.send(data)\n",
        log=LogConfig(file=str(log)),
    )
    ward.ready()
    until(lambda: "ready, pid" in log.read_text())
    new = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    socket.send_fds(ward.channel, [encode(Order("reopen", fds=1)) + encode(Order("go"))], [new])
    os.close(new)
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    client.close()
    ward.leave("stop")
    assert (0, None) == ward.exit()
    assert "left, pid" not in log.read_text()
    assert "printed hello" in (tmp_path / "new").read_text()
    assert "left, pid" in (tmp_path / "new").read_text()


# The end


@pytest.mark.parametrize(
    ("why", "code", "reloads"),
    [
        ("reload", 1012, True),
        ("replace", 1012, False),
        ("scale", 1012, False),
        ("stop", 1001, False),
        ("quick", 1001, False),
    ],
)
def test_it_leaves_when_told(
    start: Start, why: DrainReason, code: int, reloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason has its code; on_worker_reload is for a reload, on_worker_stop comes last, the seat is up to date."""
    monkeypatch.setattr(accept, "QUIET_SECONDS", 0.05)
    # the client answers, be it late
    monkeypatch.setattr(drain, "QUICK_SECONDS", float(DEADLINE_SECONDS))
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()
    ward.leave(why)
    assert code == client.close_code()
    client.answer(code)
    assert (0, None) == ward.exit()
    assert [
        "start 7 1",
        f"connect node.{WORKER}.1",
        "message hello",
        *(["reload 1"] if reloads else []),
        f"close {code}",
        "stop 0",
    ] == ward.journal()
    expected = {"accepted": 1, "messages_in": 1, "messages_out": 1}
    assert (0, expected) == (ward.reading().connections, beside_bytes(ward.reading().counters))
    assert f": 1 connection closed with {code}, 0 cut" in ward.stderr()


def test_the_drain_can_be_hurried(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second order to be quick ends the wait for a client that does not answer."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING, graceful_timeout=60.0)
    ward.go()
    client = ward.open()
    ward.leave("stop")
    assert 1001 == client.close_code()
    ward.leave("stop")
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert ["close 1006", "stop 0"] == ward.journal()[-2:]
    assert ": 0 connections closed with 1001, 1 cut" in ward.stderr()


def test_on_close_comes_before_the_end_of_the_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a client whose message is never done with: that callback is cancelled, and no error is told."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    wait = "async def on_message(connection, data):\n    note('began')\n    await asyncio.Event().wait()\n"
    ward = start(EVERYTHING + wait)
    ward.go()
    ward.open(text("a"))
    until(lambda: "began" in ward.journal())
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert ["began", "close 1006", "stop 0"] == ward.journal()[-3:]
    assert 0 == ward.reading().counters.errors


def test_a_quick_stop_interrupts_the_reload_callback(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it might still take, the clients have their goodbye at once, which is that of a stop."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    wait = "async def on_worker_reload(worker):\n    note('reload')\n    await asyncio.Event().wait()\n"
    ward = start(wait + ECHO, graceful_timeout=600.0)
    ward.go()
    client = ward.open()
    ward.leave("reload")
    until(lambda: "reload" in ward.journal())
    ward.leave("quick")
    assert 1001 == client.close_code()
    assert (0, None) == ward.exit()
    assert "was in the way of a quick stop and was cancelled" in ward.stderr()


def test_an_order_to_be_quick_is_never_lost(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it comes together with the first one, before the drain has begun."""
    monkeypatch.setattr(drain, "QUICK_SECONDS", 0.05)
    ward = start(EVERYTHING, graceful_timeout=60.0)
    ward.go()
    client = ward.open()
    ward.tell(Order("drain", "reload"), Order("drain", "quick"))
    assert 1001 == client.close_code()
    assert (0, None) == ward.exit()


@pytest.fixture
def made() -> Iterator[Harbor]:
    """Where workers meet; a stranger to the worker of this test may come there."""
    harbor = Harbor()
    yield harbor
    asyncio.run(harbor.close())


def berth(made: Harbor, others: Callable[[], list[Member]] = list) -> Berth:
    """Return the place of the worker of a test. others: called by it, and returns who else lives."""
    me = Member(WORKER, 1, Standing.STARTING)
    uids = {os.geteuid()}
    return Berth(me, NODE, SECRET, made.listener(1), made.folder, uids, lambda: [me, *others()])


@pytest.mark.parametrize(("why", "is_heard_out"), [("reload", True), ("quick", False)])
def test_what_was_published_from_outside_is_heard_out(
    start: Start, made: Harbor, monkeypatch: pytest.MonkeyPatch, why: DrainReason, is_heard_out: bool
) -> None:
    """Though nobody else keeps the worker: it reads for many turns what a program has sent. Not if in a hurry."""
    # a busy machine takes longer for so many turns than a worker waits
    monkeypatch.setattr(gate, "LAST_SECONDS", float(DEADLINE_SECONDS))
    ward = start(ECHO, berth=berth(made))
    ward.go()
    program = Stranger(made).socket
    program.settimeout(DEADLINE_SECONDS)
    program.sendall(records.encode_hello(RIGHT))
    reader = Reader(10**6)
    assert [Type.HELLO] == [record.type for record in reader.feed(program.recv(65536))]
    ward.signal(signal.SIGSTOP)
    message = records.encode_envelope(Envelope(Key("topic", "news"), b"x"))
    count = 128 * 1024 // len(message)
    program.sendall(message * count)
    ward.leave(why)
    ward.signal(signal.SIGCONT)
    answers: list[Record] = []
    with contextlib.suppress(ConnectionResetError):
        while data := program.recv(65536):
            answers += reader.feed(data)
    program.close()
    assert (0, None) == ward.exit()
    accepted = [records.decode_accepted(answer.body) for answer in answers if answer.type == Type.ACCEPTED]
    assert is_heard_out == (count == max(accepted, default=0))


def test_a_quick_stop_waits_for_no_worker_that_never_answers(
    start: Start, made: Harbor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The master would kill it: what it has published last is lost then, and told."""
    monkeypatch.setattr(main, "LINK_SECONDS", 600.0)
    made.listener(2)
    hung = tmp_path / "hung"
    ward = start(
        "def on_worker_stop(worker):\n    worker.broadcast('last')\n" + ECHO,
        berth=berth(made, lambda: [Member(8, 2, Standing.READY)] if hung.exists() else []),
    )
    ward.go()
    hung.touch()
    ward.leave("quick")
    assert (0, None) == ward.exit()
    assert "some of what was published last could not be written to other workers" in ward.stderr()


def test_term_is_ignored_while_it_leaves(start: Start) -> None:
    """The master has said what it wants; whoever sends TERM then can have nothing more."""
    ward = start(EVERYTHING)
    ward.go()
    client = ward.open()
    ward.leave("stop")
    assert 1001 == client.close_code()
    ward.signal(signal.SIGTERM)
    client.answer(1001)
    assert (0, None) == ward.exit()
    assert b"" == ward.channel.recv(1)


def test_a_reload_leaves_the_queue_to_the_next(start: Start) -> None:
    """Who waits there is neither accepted nor reset: the new worker has the same listener."""
    ward = start(ECHO)
    ward.ready()
    ward.dial(head())
    ward.leave("reload")
    assert (0, None) == ward.exit()
    assert 1 == ward.waiting()


def test_a_stop_answers_the_queue(start: Start) -> None:
    """Nobody else will: who waits gets 503, even if there is no other client to wait for."""
    ward = start(ECHO)
    ward.ready()
    asking, silent = ward.dial(head()), ward.dial()
    ward.leave("stop")
    assert [503, 503] == [asking.status(), silent.status()]
    asking.close()
    silent.close()
    assert (0, None) == ward.exit()
    assert (0, 2) == (ward.waiting(), ward.reading().counters.rejected)


@pytest.mark.parametrize("callback", ["on_worker_reload", "on_worker_stop"])
def test_a_callback_that_raises_does_not_keep_it(start: Start, callback: str) -> None:
    """It is logged and counted, and the worker leaves all the same."""
    ward = start(f"async def {callback}(worker):\n    raise OSError('too late')\n{ECHO}")
    ward.go()
    client = ward.open()
    ward.leave("reload")
    assert 1012 == client.close_code()
    client.close()
    assert (0, None) == ward.exit()
    assert 1 == ward.reading().counters.errors
    assert f"{callback} raised OSError" in ward.stderr()


def test_a_reload_callback_that_never_returns_does_not_keep_the_goodbye(start: Start) -> None:
    """It has half of graceful_timeout; then the clients are told all the same."""
    ward = start(f"async def on_worker_reload(worker):\n    await asyncio.Event().wait()\n{ECHO}", graceful_timeout=4.0)
    ward.go()
    client = ward.open()
    ward.leave("reload")
    assert 1012 == client.close_code()
    client.close()
    assert (0, None) == ward.exit()
    assert "on_worker_reload (" in ward.stderr()
    assert "took longer than 2 s" in ward.stderr()


def test_tasks_of_the_user_are_cancelled(start: Start) -> None:
    """What user code has left running may clean up, after on_worker_stop; timers do not fire any more by then."""
    ward = start(
        "async def forever():\n"
        "    try:\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        note('cleaned up')\n"
        "def on_worker_start(worker):\n"
        "    worker.task = asyncio.get_running_loop().create_task(forever())\n"
        "    worker.every(0.001, lambda: (FOLDER / 'ticks').touch())\n"
        "async def on_worker_stop(worker):\n"
        "    (FOLDER / 'ticks').unlink(missing_ok=True)\n"
        "    await asyncio.sleep(0.05)\n"
        "    note('stop', (FOLDER / 'ticks').exists())\n"
    )
    ward.go()
    until((ward.folder / "ticks").exists)
    ward.leave("stop")
    assert (0, None) == ward.exit()
    assert ["stop False", "cleaned up"] == ward.journal()


# The hand-over

HEIR = """\
def on_resume(connection, state):
    note("resume", connection.id, state)

def on_message(connection, data):
    connection.send("new " + data)
"""


def hand(order: Order, to: Ward, *ends: socket.socket) -> None:
    """Give an order with ends of pairs, which are its own from then on."""
    socket.send_fds(to.channel, [encode(order)], [end.fileno() for end in ends])
    for end in ends:
        end.close()


def test_connections_move_at_a_reload(start: Start) -> None:
    """Take, then drain with the other end: it reports how it went and ends; its client is answered by the new code."""
    old, new = start(EVERYTHING), start(HEIR)
    old.go()
    client = old.open(text("x"))
    assert (Opcode.TEXT, b"x") == client.receive()
    new.ready()
    ours, theirs = make_pair()
    hand(Order("take", fds=1, shares=(1,)), new, theirs)
    hand(Order("drain", "reload", fds=1, shares=(1,)), old, ours)
    report = old.report()
    assert ("moved", 1, {}, 0) == (report.name, report.total, report.left, report.waits)
    assert 0 < report.pause < 10
    client.send(text("y"))
    assert (Opcode.TEXT, b"new y") == client.receive()
    assert (0, None) == old.exit()
    assert ["reload 1", "stop 0"] == old.journal()[-2:]
    assert ["resume node.7.1 {}"] == new.journal()
    assert "1 moved, longest pause" in old.stderr()
    # and on it goes, with an end of its own
    new.leave("stop")
    assert 1001 == client.close_code()
    client.answer(1001)
    assert (0, None) == new.exit()


def test_some_connections_are_given_away(start: Start) -> None:
    """So many go to the other one, and the worker serves on; who leaves takes and gives nothing."""
    old, new = start(ECHO), start(HEIR)
    old.go()
    clients = [old.open() for _ in range(3)]
    until(lambda: old.reading().connections == 3)
    new.ready()
    ours, theirs = make_pair()
    hand(Order("take", fds=1, shares=(2,)), new, theirs)
    hand(Order("give", fds=1, shares=(2,)), old, ours)
    report = old.report()
    assert ("moved", 2, {}) == (report.name, report.total, report.left)
    found = []
    for client in clients:
        client.send(text("x"))
        found.append(client.receive()[1])
    assert [b"new x", b"new x", b"x"] == sorted(found)
    old.leave("stop")
    for name in ("take", "give"):
        mine, its = make_pair()
        with mine:
            mine.settimeout(DEADLINE_SECONDS)
            hand(Order(name, fds=1, shares=(1,)), old, its)
            assert b"" == mine.recv(1)


def test_the_one_that_takes_dies(start: Start) -> None:
    """Its client is served on by the old one, which tells that it waits; with the next one it moves."""
    old, first, second = start(ECHO), start(HEIR), start(HEIR)
    old.go()
    client = old.open()
    until(lambda: old.reading().connections == 1)
    first.ready()
    first.signal(signal.SIGKILL)
    first.exit()
    ours, theirs = make_pair()
    theirs.close()
    hand(Order("drain", "replace", fds=1, shares=(1,)), old, ours)
    report = old.report()
    assert (0, 1) == (report.total, report.waits)
    client.send(text("x"))
    assert b"x" == client.receive()[1]
    second.ready()
    ours, theirs = make_pair()
    hand(Order("take", fds=1, shares=(1,)), second, theirs)
    hand(Order("drain", "replace", fds=1, shares=(1,)), old, ours)
    assert (1, 0) == ((report := old.report()).total, report.waits)
    assert (0, None) == old.exit()
    client.send(text("x"))
    assert b"new x" == client.receive()[1]


# The loop

ALONE = """\
import os, socket, sys
from wsworker.assignment import Assignment
from wsworker.config import Config
from wsworker.stats import Table
from wsworker.wire import Order, encode
from wsworker.worker.main import run

ours, theirs = socket.socketpair()
ours.sendall(encode(Order("drain", "stop")))
config = Config(app="chat", app_dir=sys.argv[1], loop=sys.argv[2])
seat = Table(1).claim(1, 1)
code = run(Assignment(config, 1, 1, 1, "n", [], [], theirs, seat, lambda: False, os.memfd_create("words"), None))
print(code, "uvloop" in sys.modules)
"""


@pytest.mark.parametrize(("loop", "loaded"), [("asyncio", False), ("uvloop", True), ("auto", True)])
def test_uvloop_is_loaded_when_it_is_used(tmp_path: Path, loop: str, loaded: bool) -> None:
    """Auto is uvloop; with asyncio it never comes into the process."""
    (tmp_path / "chat.py").write_text(ECHO)
    command = [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path), loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_SECONDS, check=False)
    # what is printed in a worker is a line of its log
    assert done.stdout.endswith(f" INFO  worker 1  0 {loaded}\n"), done.stderr
