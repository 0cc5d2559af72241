"""The boot of a worker: what each step prepares, and what the master is told when one fails."""

from __future__ import annotations

import select
import signal
import sys
from pathlib import Path

import pytest
from websockets.frames import Opcode

from tests.worker.service import head, text
from tests.worker.ward import ECHO, PREAMBLE, WORKER, Start, Ward, until
from wsworker.sections import LogConfig
from wsworker.wire import Report
from wsworker.worker import accept


def test_an_async_start_is_waited_for(start: Start) -> None:
    """Ready means that on_worker_start is over."""
    ward = start("async def on_worker_start(worker):\n    await asyncio.sleep(0.01)\n    note('started')\n" + ECHO)
    ward.ready()
    assert ["started"] == ward.journal()


def test_an_app_that_does_not_import_is_reported(start: Start) -> None:
    """With a sentence, and the traceback of the user's frames only; the exit code says that it is the app."""
    ward = start("def boom():\n    1 / 0\n\nboom()\n")
    report = ward.report()
    assert Report("failed", kind="app", error=report.error, trace=report.trace) == report
    line = PREAMBLE.count("\n") + 2
    assert f"cannot import app 'chat': chat.py:{line} raised ZeroDivisionError" == report.error
    assert 2 == report.trace.count('  File "')
    assert report.trace.endswith("ZeroDivisionError: division by zero")
    assert (78, None) == ward.exit()


def test_a_misspelt_callback_is_reported(start: Start) -> None:
    """There is nothing to trace then."""
    ward = start("def on_mesage(connection, data):\n    pass\n")
    report = ward.report()
    assert ("failed", "app", "") == (report.name, report.kind, report.trace)
    assert "did you mean 'on_message'?" in report.error
    assert (78, None) == ward.exit()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_start_that_raises_is_reported(start: Start, kind: str) -> None:
    """That it was not the import tells the kind and the exit code; the trace begins at the callback."""
    ward = start(f"{kind} on_worker_start(worker):\n    raise OSError('no database')\n")
    report = ward.report()
    line = PREAMBLE.count("\n") + 1
    assert ("failed", "boot") == (report.name, report.kind)
    assert f"on_worker_start (chat.py:{line}) raised OSError" == report.error
    assert [
        "Traceback (most recent call last):",
        f'  File "{ward.folder}/chat.py", line {line + 1}, in on_worker_start',
        "    raise OSError('no database')",
        "OSError: no database",
    ] == report.trace.splitlines()
    assert (1, None) == ward.exit()


@pytest.mark.parametrize("raised", ["Exception('x' * 10**6)", "Odd()", "asyncio.CancelledError()"])
def test_whatever_a_start_raises_is_reported(start: Start, raised: str) -> None:
    """Also an exception with a megabyte of text, one that has no text, and one that asyncio uses itself."""
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n"
    ward = start(f"{odd}\nasync def on_worker_start(worker):\n    raise {raised}\n")
    report = ward.report()
    assert ("failed", "boot") == (report.name, report.kind)
    assert " raised " in report.error
    assert (1, None) == ward.exit()


def test_a_log_that_cannot_be_opened_is_reported(start: Start) -> None:
    """The log itself cannot say it, so the master is told."""
    ward = start(ECHO, log=LogConfig(file="/nowhere/wsworker.log"))
    report = ward.report()
    assert Report("failed", kind="boot", error=report.error) == report
    assert report.error.startswith("a worker cannot start: PlatformError: ")
    assert "/nowhere/wsworker.log" in report.error
    assert (1, None) == ward.exit()


def test_a_loop_that_cannot_be_had_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvloop a worker that wants it ends with a sentence."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    ward = Ward(tmp_path / "app", ECHO, loop="auto")
    report = ward.report()
    assert ("failed", "boot", "") == (report.name, report.kind, report.trace)
    assert report.error.startswith("a worker cannot start: ModuleNotFoundError: ")
    assert (1, None) == ward.exit()
    ward.bury()


# The last words


def test_the_last_words_are_for_the_master(start: Start) -> None:
    """What kills it in C is in the stacks that it leaves behind."""
    ward = start("def on_message(connection, data):\n    os.abort()\n")
    ward.go()
    ward.open(text("die"))
    assert (None, "SIGABRT") == ward.exit()
    assert "Fatal Python error: Aborted" in ward.last_words()
    assert f'File "{ward.folder}/chat.py"' in ward.last_words()
    assert "Fatal" not in ward.stderr()


def test_usr2_shows_the_stacks(start: Start) -> None:
    """The master can read them; also of a loop that is blocked, and it goes on afterwards."""
    ward = start("def on_message(connection, data):\n    block('here')\n    connection.send(data)\n")
    ward.go()
    client = ward.open(text("hello"))
    until(ward.journal)
    ward.signal(signal.SIGUSR2)
    until(lambda: " in run" in ward.last_words())
    assert f'File "{ward.folder}/chat.py", line 13 in block' in ward.last_words()
    assert " in on_message" in ward.last_words()
    assert "chat.py" not in ward.stderr()
    ward.release("here")
    assert (Opcode.TEXT, b"hello") == client.receive()


# The way of a client


def test_nobody_hangs_when_all_are_full(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom no other worker takes is told after a while; those who are in are served as ever."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 0.2)
    ward = start(ECHO, worker_connections=1)
    ward.table.claim(2, WORKER + 1)
    ward.go()
    client = ward.open()
    assert 503 == ward.dial(head()).status()
    client.send(text("hello"))
    assert (Opcode.TEXT, b"hello") == client.receive()


def test_whether_others_may_take_a_client_is_asked_each_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are added and taken away while this one lives: it waits for others only while there are some."""
    monkeypatch.setattr(accept, "CROWD_SECONDS", 3600.0)
    ward = start(ECHO, worker_connections=1, workers=1)
    ward.go()
    ward.open()
    assert 503 == ward.dial(head()).status()
    ward.table.claim(2, WORKER + 1)
    waiting = ward.dial(head())
    assert not select.select([waiting.socket], [], [], 0.3)[0]
    ward.table.fold(2, WORKER + 1)
    assert 503 == waiting.status()
