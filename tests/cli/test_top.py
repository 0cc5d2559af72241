"""`wsworker top`: what keys and documents make of the screen, and the real thing on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, Group

from tests.cli.conftest import NAME, STATUS, Answering, Place, Result, Script, Turns
from wsworker.cli.history import BLOCKS, SAMPLES, History
from wsworker.cli.top import SORTS, View, ordered, press, rows, screen, waiting_screen

WORKER: dict[str, Any] = {
    **STATUS["workers"][0],
    "weight": 256,
    "lent_to": None,
    "queue": 0,
    "rate_in": 0.5,
    "rate_out": 0.5,
    "send_queue": 0,
}
DOCUMENT: dict[str, Any] = {
    **STATUS,
    "over_budget": False,
    "steering": "weights",
    "totals": {**STATUS["totals"], "log_dropped": 0},
    "workers": [WORKER],
}
COMMAND = [sys.executable, "-m", "wsworker", "top"]


def slot(number: int, **changes: Any) -> dict[str, Any]:
    """Return the row of a worker."""
    return {**WORKER, "slot": number, **changes}


def service(*workers: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a status document."""
    return DOCUMENT | {"workers": list(workers)} | changes


def drawn(document: Mapping[str, Any], history: History, width: int, height: int, sort: str = "#") -> list[str]:
    """Return the lines of the screen as far as something stands on them."""
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, width=width, height=height, color_system=None, highlight=False, markup=False)
        with console.capture() as captured:
            console.print(Group(*screen(document, "/var/log/hello.log", history, View(sort), console)))
    return [line.rstrip() for line in captured.get().splitlines()]


def lived(*counts: int) -> History:
    """Return what is remembered of a service with one slot after these looks, a second apart."""
    history = History()
    for second, count in enumerate(counts):
        history.add(service(slot(1, messages_in=count, messages_out=0), uptime=second + 1.0))
    return history


# Keys


@pytest.mark.parametrize("key", list(SORTS))
def test_a_key_chooses_what_to_sort_by(key: str) -> None:
    """And nothing else."""
    assert View(key) == press(View(), key)


def test_q_leaves() -> None:
    """In the order that was chosen, which nobody sees any more."""
    assert View("c", left=True) == press(View("c"), "q")


@given(st.characters().filter(lambda key: key != "q" and key not in SORTS))
def test_other_keys_do_nothing(key: str) -> None:
    """Arrows and typing errors too."""
    assert View("c") == press(View("c"), key)


# The order


def test_the_order_of_slots() -> None:
    """As the master has it, which puts the worker that leaves beside its successor."""
    workers = [slot(1, rss=1), slot(2, rss=3), slot(3, rss=2)]
    assert workers == ordered(workers, "#")


@pytest.mark.parametrize("key", [key for key in SORTS if key != "#"])
def test_the_highest_value_stands_on_top(key: str) -> None:
    """Whoever has none, or no worker, stands below; equals keep the order of their slots."""
    field, _ = SORTS[key]
    workers = [
        slot(1, **{field: None}),
        slot(2, pid=None),
        slot(3, **{field: 1}),
        slot(4, **{field: 7.5}),
        slot(5, **{field: 1}),
    ]
    assert [4, 3, 5, 1, 2] == [worker["slot"] for worker in ordered(workers, key)]


def test_what_an_older_master_does_not_tell() -> None:
    """Such a field sorts nothing."""
    workers = [{key: value for key, value in slot(number).items() if key != "rate_in"} for number in (1, 2)]
    assert workers == ordered(workers, "i")


# The screen


def test_the_screen() -> None:
    """The header of status, the service's last minute, the table with a sparkline for each worker, and the keys."""
    workers = [slot(1), slot(2, messages_in=0, connections=5)]
    history = History()
    for second, count in enumerate((0, 0, 7, 8)):
        history.add(service(slot(1, messages_in=count, messages_out=0), workers[1], uptime=second + 1.0))
    assert drawn(service(*workers), history, 106, 24, "c") == [
        f"{NAME}  running  pid 4242  up 2m10s  reloads 0  ws://127.0.0.1:2346  config /srv/hello/config.yaml",
        "1/1 worker  1 connection  in 1.0 msg/s  out 1.0 msg/s  restarts 0  logs: /var/log/hello.log",
        "messages 1.0/s, 7.0 at most  ▁█▂",
        "",
        " #   PID  STATE    UP  CONN  IN/s  OUT/s                        MSG/s  SENDQ  CPU%     RSS   LAG  RESTARTS",
        " 2  4243  ready  2m9s     5   0.5    0.5                          ▁▁▁    0 B   0.1  27 MiB  0 ms         0",
        " 1  4243  ready  2m9s     1   0.5    0.5                          ▁█▂    0 B   0.1  27 MiB  0 ms         0",
        "",
        "sort by # slot  c connections  i in  o out  s send queue  p cpu  m memory  l lag  q quits",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200, 500])
def test_no_line_of_the_table_is_wider_than_the_terminal(width: int) -> None:
    """Columns are left out for it; the sparkline is as long as there is room, and a minute at most."""
    history = lived(*range(SAMPLES + 5))
    lines = drawn(service(slot(1)), history, width, 24)
    row = next(line for line in lines if line.startswith(" 1"))
    assert len(row) <= width
    length = sum(character in BLOCKS for character in row)
    assert length == (0 if width == 40 else SAMPLES if width >= 200 else length)
    assert length in (0, *range(10, SAMPLES + 1))


def test_the_broker_has_a_line() -> None:
    """As in `status`, and only if there is one; a row less has room then."""
    totals = {**DOCUMENT["totals"], "bus_dropped": 0, "bus_gaps": 0}
    bus = {"url": "nats://10.0.0.5:4222", "connected": 1, "lag": 0.0012}
    workers = [slot(number) for number in range(1, 30)]
    without = drawn(service(*workers), lived(0, 10), 120, 20)
    shown = drawn(service(*workers, bus=bus, totals=totals), lived(0, 10), 120, 20)
    assert "bus nats://10.0.0.5:4222  reached by 1 of 1 worker  lag 1.2 ms" == shown[2]
    assert len(without) == len(shown) == 20


def test_rows_beyond_the_screen_are_counted() -> None:
    """The keys stay visible, and the first in order are shown."""
    workers = [slot(number, connections=number) for number in range(1, 41)]
    lines = drawn(service(*workers), History(), 120, 15, "c")
    assert len(lines) == 15
    assert lines[-1].startswith("sort by # slot")
    shown = [line for line in lines if line.endswith("         0")]
    assert "40" == shown[0].split()[0]
    assert f"{40 - len(shown)} more; sort by what you look for" == lines[-3]


@settings(deadline=None, max_examples=25)
@given(height=st.integers(16, 60), width=st.integers(60, 250), count=st.integers(0, 80), warned=st.booleans())
def test_nothing_is_pushed_off_the_screen(height: int, width: int, count: int, warned: bool) -> None:
    """Whatever folds above and below the table, all of it has no more lines than the screen."""
    document = service(*(slot(number + 1) for number in range(count)), over_budget=warned)
    lines = drawn(document, History(), width, height)
    assert len(lines) <= height
    assert lines[-1].endswith("quits")


def test_without_a_master() -> None:
    """Why there is nothing to see, and the keys."""
    console = Console(width=120, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(Group(*waiting_screen("hello", "hello is not running", View())))
    name, reason, _, keys = captured.get().splitlines()
    assert ("hello", "waiting: hello is not running") == (name, reason)
    assert keys.endswith("q quits")


def test_sparklines_of_workers_share_a_scale() -> None:
    """So that the busier one looks busier."""
    history = History()
    for second, count in enumerate((0, 8, 16)):
        history.add(service(slot(1, messages_in=count), slot(2, messages_in=count // 4), uptime=second + 1.0))
    sparks = [row[7].strip() for row in rows([slot(1), slot(2), slot(3)], history, True, 80)]
    assert ["██", "▃▃", ""] == sparks


# The command


def test_not_on_a_terminal(wsworker: Callable[..., Result]) -> None:
    """It says what to use instead, and that a person can read it where it is."""
    result = wsworker("top")
    assert (2, "") == (result.code, result.out)
    assert result.err.startswith("error: top draws on a terminal; use `wsworker status` or `wsworker top --json` here")


@pytest.mark.parametrize("interval", ["0", "-1", "soon", "nan", "inf", "1e9"])
def test_a_wrong_interval(wsworker: Callable[..., Result], interval: str) -> None:
    """Seconds, not so few that it would only ask, and an hour at most."""
    result = wsworker("top", "--interval", interval)
    expected = "error: Invalid value for '--interval': must be a number from 0.1 to 3600 (see `wsworker top --help`)\n"
    assert Result(2, "", expected) == result


def test_a_stream_for_machines(running: Callable[[Script], Answering]) -> None:
    """One document a line, the master's own; where nobody runs, what a client can tell; Ctrl-C ends it with 130."""
    command = [*COMMAND, "--json", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (1, NAME, "stopped") == (first["schema"], first["name"], first["state"])
        running({"status": [DOCUMENT]})
        while (document := json.loads(process.stdout.readline()))["state"] == "stopped":
            pass
        assert DOCUMENT == document
        process.send_signal(signal.SIGINT)
        assert (130, "") == (process.wait(30), process.stderr.read() if process.stderr else None)


def test_a_stream_whose_reader_goes(place: Place) -> None:
    """It ends at the next line, silently, as every program in a pipe."""
    command = [*COMMAND, "--json", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (141, "") == (process.wait(30), process.stderr.read())


def test_a_stream_of_a_dead_master(place: Place, wsworker: Callable[..., Result]) -> None:
    """Its lines are those of `status --json`, whoever answers."""
    place.paths.folder.mkdir()
    place.paths.pid.touch()
    with subprocess.Popen([*COMMAND, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert wsworker("status", "--json").out == process.stdout.readline()
        process.send_signal(signal.SIGINT)


class Terminal:
    """`wsworker top` on a pseudo-terminal. shown: all that was written to it; its modes are looked at from outside."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.shown = ""
        self.before = self.modes()
        variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*COMMAND, "--interval", "0.2", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=variables | {"TERM": "xterm"} | environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def modes(self) -> list[Any]:
        """Return the modes of the terminal."""
        return termios.tcgetattr(self._slave)

    def until(self, text: str) -> None:
        """Wait until a text is shown that was not when this was called last."""
        give_up_at = time.monotonic() + 30
        while text not in click.unstyle(self.shown):
            assert time.monotonic() < give_up_at, f"no {text!r} in {self.shown!r}"
            self._read(0.1)
        self.shown = self.shown[self.shown.rindex(text[0]) :] if text else self.shown

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._master, keys.encode())

    def resize(self, height: int, width: int) -> None:
        """Be larger or smaller."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def end(self) -> int:
        """Return the exit code, and have in shown all that was left to read."""
        give_up_at = time.monotonic() + 30
        while (code := self.process.poll()) is None:
            assert time.monotonic() < give_up_at, self.shown
            self._read(0.05)
        while self._read(0):
            pass
        return code

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready)


@contextlib.contextmanager
def restored(terminal: Terminal) -> Iterator[None]:
    """Fail unless the terminal is in the end as it was: its modes, its screen, its cursor."""
    yield
    assert terminal.before == terminal.modes()
    last = [found[0] for found in re.finditer(r"\x1b\[\?(1049|25)[hl]", terminal.shown)][-2:]
    assert {"\x1b[?1049l", "\x1b[?25h"} == {*last}


def test_on_a_terminal(running: Callable[[Script], Answering]) -> None:
    """It shows the service on a screen of its own, sorts at a key, and q leaves at once with 0."""
    running({"status": [DOCUMENT]})
    with Terminal() as terminal, restored(terminal):
        terminal.until(f"{NAME}  running  pid 4242")
        assert "\x1b[?1049h" in terminal.shown or terminal.modes() != terminal.before
        terminal.press("c")
        terminal.until("q quits")
        terminal.press("q")
        assert 0 == terminal.end()


def test_it_waits_for_a_service(running: Callable[[Script], Answering]) -> None:
    """One that does not run, or stops meanwhile, may come any time, with another pid."""
    running({"status": Turns(DOCUMENT, DOCUMENT, None)})
    with Terminal() as terminal, restored(terminal):
        terminal.until(f"{NAME}  running  pid 4242")
        terminal.until("waiting: ")
        terminal.press("q")
        assert 0 == terminal.end()


def test_nobody_runs_yet(place: Place, running: Callable[[Script], Answering]) -> None:
    """Then it says so, and shows the service once it is there."""
    with Terminal() as terminal, restored(terminal):
        terminal.until(f"waiting: no socket at {place.paths.socket}")
        running({"status": [DOCUMENT]})
        terminal.until(f"{NAME}  running  pid 4242")
        terminal.press("q")
        assert 0 == terminal.end()


def test_a_master_that_hangs(deaf: Callable[[str], subprocess.Popen[str]]) -> None:
    """Each look at it takes longer than the interval; the keys have their turn all the same."""
    deaf("")
    with Terminal() as terminal, restored(terminal):
        terminal.until("gave no answer in 2 s")
        terminal.press("q")
        assert 0 == terminal.end()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_unicode(running: Callable[[Script], Answering], encoding: str) -> None:
    """The lines are drawn in ASCII."""
    looks = [DOCUMENT | {"uptime": float(second), "workers": [slot(1, messages_in=9**second)]} for second in range(9)]
    running({"status": Turns(*looks)})
    with Terminal(PYTHONIOENCODING=encoding) as terminal, restored(terminal):
        terminal.until("...:@")
        terminal.press("q")
        assert 0 == terminal.end()
        assert terminal.shown.isascii()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(running: Callable[[Script], Answering], number: signal.Signals, code: int) -> None:
    """Ctrl-C, a kill, a closed window: the terminal is left as it was, and no traceback on it."""
    running({"status": [DOCUMENT]})
    with Terminal() as terminal, restored(terminal):
        terminal.until(f"{NAME}  running")
        terminal.process.send_signal(number)
        assert code == terminal.end()
        assert "Traceback" not in terminal.shown


def test_ctrl_c_and_ctrl_z_as_keys(running: Callable[[Script], Answering]) -> None:
    """The terminal makes a signal of the one, and nothing of the other."""
    running({"status": [DOCUMENT]})
    with Terminal() as terminal, restored(terminal):
        terminal.until(f"{NAME}  running")
        terminal.press("\x1a")
        terminal.until("q quits")
        terminal.press("\x03")
        assert 130 == terminal.end()


def test_another_size(running: Callable[[Script], Answering]) -> None:
    """The next picture fits it."""
    running({"status": [DOCUMENT]})
    with Terminal("--interval", "60") as terminal, restored(terminal):
        terminal.until("RESTARTS")
        terminal.resize(24, 60)
        terminal.until("too narrow for: ")
        terminal.press("q")
        assert 0 == terminal.end()


def test_a_terminal_that_cannot_be_drawn_on(place: Place) -> None:
    """It would get a heap of lines."""
    with Terminal(TERM="dumb") as terminal:
        assert 2 == terminal.end()
        assert "top draws on a terminal" in terminal.shown
