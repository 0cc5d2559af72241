"""`wsworker status`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from tests.cli import conftest
from tests.cli.conftest import NAME, Answering, Place, Result, Script
from wsworker.cli.draw import render
from wsworker.cli.options import Settings
from wsworker.cli.status import cells, picture, remark, remarks, total_rate

STATES = ("STATE", "ready", "parked", "new-state")
HEAVY = ("pydantic", "websockets", "uvloop", "psutil", "asyncio")
NOW = 1_700_000_000.0

WORKER: dict[str, Any] = {
    **conftest.STATUS["workers"][0],
    "generation": 1,
    "weight": 256,
    "lent_to": None,
    "queue": 0,
    "rate_in": 0.5,
    "rate_out": 0.5,
    "send_queue": 0,
    "bus_connected": None,
    "bus_queued": 0,
}
STATUS: dict[str, Any] = {
    **conftest.STATUS,
    "over_budget": False,
    "steering": "weights",
    "bus": {"url": None, "connected": None, "lag": None},
    "totals": {**conftest.STATUS["totals"], "log_dropped": 0, "bus_dropped": 0, "bus_gaps": 0},
    "workers": [WORKER],
}
DEATH: dict[str, Any] = {
    "reason": "killed by SIGKILL",
    "class": "crash",
    "code": None,
    "signal": "SIGKILL",
    "error": "",
    "time": NOW - 125,
}


def slot(number: int, **changes: Any) -> dict[str, Any]:
    """Return the row of a worker."""
    return {**WORKER, "slot": number, **changes}


def empty(number: int, **changes: Any) -> dict[str, Any]:
    """Return the row of a slot without a worker."""
    return slot(number, pid=None, id=None, state="waiting", weight=0, retry_in=None) | changes


def draw(document: dict[str, Any], width: int | None = None, *, wide: bool = False, color: str = "never") -> str:
    """Draw a document."""
    return render(Settings(color=color), *picture(document, "journalctl -u hello", NOW, width, wide))


def plain(document: dict[str, Any], width: int | None = None, *, wide: bool = False) -> list[str]:
    """Draw a document without colour."""
    return draw(document, width, wide=wide).splitlines()


HELLO = STATUS | {
    "name": "hello",
    "workers": [slot(1), slot(2, pid=14244, messages_in=123456, weight=1, rate_in=1234.56, send_queue=65536)],
    "workers_configured": 2,
    "workers_ready": 2,
}
ABOVE = [
    "hello  running  pid 4242  up 2m10s  reloads 0  ws://127.0.0.1:2346  config /srv/hello/config.yaml",
    "2/2 workers  1 connection  in 1235 msg/s  out 1.0 msg/s  restarts 0  logs: journalctl -u hello",
    "",
]


def test_connections_that_moved() -> None:
    """How many, once there are any; a master of an earlier version does not tell."""
    none = {"moved": 0, "drained": {}, "longest_pause": 0.0, "last_pause": 0.0}
    assert ABOVE == plain(HELLO | {"handover": none})[:3]
    assert "1 connection  moved 512  in 1235 msg/s" in plain(HELLO | {"handover": none | {"moved": 512}})[1]


def test_the_picture() -> None:
    """A line for the service, a summary, an empty line, and a table with a row for each worker."""
    assert plain(HELLO) == [
        *ABOVE,
        " #    PID  STATE    UP  CONN  IN/s  OUT/s   SENDQ  CPU%     RSS   LAG  RESTARTS",
        " 1   4243  ready  2m9s     1   0.5    0.5     0 B   0.1  27 MiB  0 ms         0",
        " 2  14244  ready  2m9s     1  1235    0.5  64 KiB   0.1  27 MiB  0 ms         0",
    ]


def test_a_terminal_of_80_columns() -> None:
    """All of it fits, as long as nothing in it is large."""
    document = HELLO | {"workers": [slot(1, pid=14244)]}
    assert plain(document, 80)[3:] == [
        " #    PID  STATE    UP  CONN  IN/s  OUT/s  SENDQ  CPU%     RSS   LAG  RESTARTS",
        " 1  14244  ready  2m9s     1   0.5    0.5    0 B   0.1  27 MiB  0 ms         0",
    ]
    assert plain(document, 200) == plain(document)


def test_a_terminal_of_60_columns() -> None:
    """What matters least is left out, by the column, and named; the lines above are for the terminal to fold."""
    assert plain(HELLO, 60) == [
        *ABOVE,
        " #    PID  STATE  CONN  IN/s  OUT/s  CPU%     RSS   LAG",
        " 1   4243  ready     1   0.5    0.5   0.1  27 MiB  0 ms",
        " 2  14244  ready     1  1235    0.5   0.1  27 MiB  0 ms",
        "too narrow for: UP, SENDQ, RESTARTS",
    ]


def test_a_wide_picture() -> None:
    """Totals, the share of new connections, who waits, and how the bus stands."""
    picture = plain(HELLO, wide=True)
    assert ["RESTARTS", "IN", "OUT", "WGT", "QUEUE", "BUS", "BUSQ"] == picture[3].split()[-7:]
    assert ["0", "123456", "8", "1", "0", "-", "0", "B"] == picture[5].split()[-8:]


def test_what_an_older_master_does_not_tell() -> None:
    """It has no rates, no send queues and no bus: dashes."""
    news = ("rate_in", "rate_out", "send_queue", "bus_connected", "bus_queued")
    older = {key: value for key, value in WORKER.items() if key not in news}
    without_bus = {key: value for key, value in STATUS.items() if key != "bus"} | {"workers": [older]}
    assert ["-", "-"] == plain(without_bus, wide=True)[-1].split()[-2:]
    picture = plain(without_bus)
    assert "in - msg/s  out - msg/s" in picture[1]
    assert ["1", "-", "-", "-", "0.1"] == picture[-1].split()[4:9]


def test_the_rates_of_a_slot_count_once() -> None:
    """Its counters are the slot's: the worker that drains shows the same as the one that follows it."""
    document = {"workers": [slot(1, state="draining"), slot(1, pid=4300), slot(2, rate_in=2.0)]}
    assert 2.5 == total_rate(document, "rate_in")
    assert None is total_rate({"workers": [slot(1, rate_in=None)]}, "rate_in")


def test_a_slot_without_a_worker() -> None:
    """It shows its counters; below stands why its last worker ended, who waits at it, and when the next one starts."""
    row = empty(3, restarts=4, retry_in=3.4, queue=7, last_exit=DEATH)
    assert ["3", "-", "waiting", *["-"] * 8, "4", "9", "8", "0", "7", "-", "-"] == list(cells(row, True))
    expected = "worker 3: crash: killed by SIGKILL; next start in 3s; 7 clients wait to be accepted"
    assert ["", expected] == plain(STATUS | {"workers": [row]})[-2:]


def test_a_slot_of_a_service_that_stops() -> None:
    """Its worker has left, as it was told; what one before it died of is as long ago as before."""
    assert "2m5s ago crash: killed by SIGKILL" == remark(empty(3, state="left", last_exit=DEATH), NOW)


def test_nothing_to_remark() -> None:
    """Then the table ends the picture."""
    assert [] == remarks([slot(1), slot(2)], NOW)
    assert "1 client waits to be accepted" == remark(slot(1, queue=1), NOW)


def test_a_queue_that_is_lent_says_who_has_it() -> None:
    """Beside what else there is to say of the slot, and once if two workers of it live."""
    assert "2m5s ago crash: killed by SIGKILL; worker 2 accepts for it" == remark(
        slot(3, state="hung", last_exit=DEATH, lent_to=2), NOW
    )
    assert "worker 2 accepts for it" == remark(empty(3, lent_to=2), NOW)
    assert "" == remark(slot(3, state="draining", lent_to=2), NOW)


def test_a_slot_whose_first_worker_is_not_there_yet() -> None:
    """Nothing has ended and nothing is awaited, so nothing is said."""
    assert "" == remark(empty(3), NOW)


def test_a_parked_slot() -> None:
    """What is parked has no next start; a reason from user code cannot leave its line."""
    death = DEATH | {"class": "boot", "reason": "app.py:7 raised \x1b[31mOops\n", "code": 1, "signal": None}
    row = empty(3, state="parked", last_exit=death)
    assert r"boot: app.py:7 raised \x1b[31mOops\x0a" == remark(row, NOW)


@pytest.mark.parametrize(
    ("reason", "error", "expected"),
    [
        ("exit 1", "", "crash: exit 1"),
        ("exit 1", "ValueError: bad", "crash: exit 1 (ValueError: bad)"),
        ("exit 1", "\x1b[31mValueError\n", r"crash: exit 1 (\x1b[31mValueError\x0a)"),
        ("app.py:7 raised ValueError: bad", "ValueError: bad", "crash: app.py:7 raised ValueError: bad"),
    ],
)
def test_the_last_line_of_the_traceback(reason: str, error: str, expected: str) -> None:
    """It stands behind the reason, unless the reason quotes it; it cannot leave its line either."""
    row = empty(3, last_exit=DEATH | {"reason": reason, "error": error})
    assert expected == remark(row, NOW)


def test_a_slot_that_lives_again_says_what_its_last_worker_died_of() -> None:
    """For an hour: then it is history, which is in the log."""
    assert "2m5s ago crash: killed by SIGKILL" == remark(slot(1, last_exit=DEATH), NOW)
    assert "59m59s ago crash: killed by SIGKILL" == remark(slot(1, last_exit=DEATH), NOW - 125 + 3599)
    assert "" == remark(slot(1, last_exit=DEATH), NOW - 125 + 3600)


def test_an_exit_that_was_asked_for_is_not_remarkable() -> None:
    """Each reload makes one in each slot."""
    death = DEATH | {"class": "asked", "reason": "exit 0", "code": 0, "signal": None}
    assert "" == remark(slot(1, last_exit=death), NOW)


def test_a_last_exit_is_shown_once_for_a_slot() -> None:
    """A worker that leaves says nothing of those before it: its successor does."""
    old, new = slot(1, state="draining", last_exit=DEATH), slot(1, pid=4300, last_exit=DEATH)
    assert ["worker 1: 2m5s ago crash: killed by SIGKILL"] == remarks([old, new], NOW)


def test_what_is_not_known_is_a_dash() -> None:
    """No weights steer, or nobody can count the queue."""
    row = slot(1, weight=256, queue=None)
    assert ["256", "-"] == list(cells(row, True)[-4:-2])
    assert ["-", "-"] == list(cells(row, False)[-4:-2])
    shared = plain(STATUS | {"steering": "shared", "workers": [row]}, wide=True)
    assert ["9", "8", "-", "-"] == shared[-1].split()[-7:-3]


URL = "redis://10.0.0.5:6379"


def bus(connected: int, lag: float | None = 0.0004, **totals: int) -> dict[str, Any]:
    """Return a document with a broker that so many of 4 workers reach."""
    facts = {"bus": {"url": URL, "connected": connected, "lag": lag}, "workers_ready": 4}
    return STATUS | facts | {"totals": STATUS["totals"] | totals}


def test_who_reaches_the_broker() -> None:
    """One line, only if there is a broker; what was lost is added if there is anything."""
    assert "" == plain(STATUS)[2]
    assert "bus redis://10.0.0.5:6379  reached by 4 of 4 workers  lag 0.4 ms" == plain(bus(4))[2]
    assert "bus redis://10.0.0.5:6379  reached by 0 of 4 workers" == plain(bus(0, None))[2]
    lossy = plain(bus(4, 0.0, bus_gaps=1, bus_dropped=12))[2]
    assert "bus redis://10.0.0.5:6379  reached by 4 of 4 workers  1 gap  12 dropped" == lossy


@pytest.mark.parametrize(("connected", "color"), [(4, ""), (3, "33"), (1, "33"), (0, "31")])
def test_a_broker_that_is_out_of_reach_has_a_colour(connected: int, color: str) -> None:
    """Yellow for some of the workers, red for all."""
    words = f"reached by {connected} of 4 workers"
    line = draw(bus(connected), color="always").splitlines()[2]
    assert (f"\x1b[{color}m{words}\x1b[0m" if color else f"  {words}  ") in line


def test_a_service_that_stops_has_no_broker_to_miss() -> None:
    """Nobody is ready, so nobody lacks it."""
    shown = draw(bus(0, None) | {"workers_ready": 0}, color="always").splitlines()[2]
    assert shown.endswith("reached by 0 of 0 workers")


def test_a_wide_picture_names_who_does_not_reach_the_broker() -> None:
    """And shows what waits to go out."""
    workers = [slot(1, bus_connected=True, bus_queued=65536), slot(2, bus_connected=False)]
    shown = plain(bus(1) | {"workers": workers}, wide=True)
    assert [["0", "up", "64", "KiB"], ["0", "down", "0", "B"]] == [line.split()[-4:] for line in shown[-2:]]


def test_a_spent_crash_budget_is_shown() -> None:
    """The workers die of something that the log names."""
    assert plain(STATUS | {"over_budget": True})[2].startswith("crash budget exceeded: ")


def test_a_kernel_that_takes_no_weights_is_shown() -> None:
    """Sharing one socket is as configured, and no warning."""
    expected = "the kernel spreads connections by hash: weights could not be set"
    assert expected == plain(STATUS | {"steering": "hash"})[2]
    assert "" == plain(STATUS | {"steering": "shared"})[2]


def test_lost_log_lines_are_shown() -> None:
    """How many, and what may be the cause."""
    totals = STATUS["totals"]
    assert plain(STATUS | {"totals": totals | {"log_dropped": 1}})[2].startswith("1 log line dropped: ")
    assert plain(STATUS | {"totals": totals | {"log_dropped": 20}})[2].startswith("20 log lines dropped: ")


def test_nothing_is_cut() -> None:
    """A long last exit stays whole, and lines have no limit."""
    death = DEATH | {"reason": "r" * 400, "error": "e" * 400}
    last = plain(STATUS | {"workers": [empty(1, last_exit=death)]}, 60)[-1]
    assert last.endswith(f"{'r' * 400} ({'e' * 400})")


def test_no_markup_is_read_out_of_values() -> None:
    """What looks like rich's markup is text."""
    document = STATUS | {"name": "[red]hello[/red]", "workers": [slot(1, state="[bold]odd")]}
    assert plain(document)[0].startswith("[red]hello[/red]  running")
    assert "[bold]odd" in plain(document)[-1]


def test_a_reload_that_failed_is_shown() -> None:
    """As long as the last reload did not go well, its reason has a line."""
    error = {
        "code": "reload_refused",
        "message": "the new code does not start",
        "cause": "app.py:7 is bad",
        "trace": "",
    }
    document = STATUS | {"last_reload": {"result": "refused", "error": error, "restart_needed": []}}
    assert "last reload refused: app.py:7 is bad" == plain(document)[2]
    error |= {"message": "config.yaml:1:1: error: no\nwsworker: 1 error in config.yaml", "cause": ""}
    document = STATUS | {"last_reload": {"result": "refused", "error": error, "restart_needed": []}}
    assert "last reload refused: config.yaml:1:1: error: no" == plain(document)[2]
    document = STATUS | {"last_reload": {"result": "ok", "error": None, "restart_needed": []}}
    assert "" == plain(document)[2]


def test_what_waits_for_a_restart_is_shown() -> None:
    """A reload that left settings as they were is over, and its caller may be another person."""
    last = {"result": "ok", "error": None, "restart_needed": ["listen", "admin.listen"]}
    shown = plain(STATUS | {"last_reload": last})
    assert ["restart needed: listen, admin.listen", ""] == shown[2:4]


def test_colour_does_not_move_columns() -> None:
    """States are coloured, an unknown one is not, and without its colours a picture is the plain one."""
    document = STATUS | {"workers": [slot(1), slot(2, state="parked"), slot(3, state="new-state")]}
    assert "\x1b[31mparked\x1b[0m" in draw(document, color="always")
    columns = [line.index(word) for word, line in zip(STATES, plain(document)[3:], strict=True)]
    assert [10, 10, 10, 10] == columns


@pytest.mark.parametrize(("state", "color"), [("ready", 32), ("closing", 33), ("stopped", 31), ("hung", 31)])
def test_states_of_workers_have_colours(state: str, color: int) -> None:
    """Green is well, yellow passes, red does not serve."""
    document = STATUS | {"state": "odd", "workers": [slot(1, state=state)]}
    assert f"\x1b[{color}m{state}\x1b[0m" in draw(document, color="always")


@pytest.mark.parametrize(
    ("state", "code"), [("running", 0), ("starting", 0), ("reloading", 0), ("stopping", 0), ("degraded", 150)]
)
def test_exit_codes(
    wsworker: Callable[..., Result], running: Callable[[Script], Answering], state: str, code: int
) -> None:
    """The exit code tells what the state is."""
    running({"status": [STATUS | {"state": state}]})
    assert code == wsworker("status").code


def test_json_is_the_master_s(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """The document of the master is printed as it came."""
    running({"status": [STATUS]})
    assert json.loads(wsworker("status", "--json").out) == STATUS


def test_a_pipe_gets_no_colour(wsworker: Callable[..., Result], running: Callable[[Script], Answering]) -> None:
    """What is no terminal gets plain text, of any width."""
    running({"status": [STATUS | {"config": "/" + "x" * 400}]})
    result = wsworker("status")
    assert "\x1b" not in result.out
    assert "x" * 400 in result.out


def test_stopped(place: Place, wsworker: Callable[..., Result]) -> None:
    """Nothing runs: 3, and where it was looked for."""
    result = wsworker("status")
    assert (3, "") == (result.code, result.err)
    assert f"{NAME}  stopped  no socket at {place.paths.socket}; start it with `wsworker start`\n" == result.out


def test_dead(place: Place, wsworker: Callable[..., Result]) -> None:
    """Files of a master without its lock: 1, and which files."""
    place.paths.folder.mkdir()
    place.paths.pid.touch()
    result = wsworker("status", "--json")
    document = json.loads(result.out)
    assert (1, "dead", NAME) == (result.code, document["state"], document["name"])
    reason = f"its master died; start it again with `wsworker start`, which removes {place.paths.pid}"
    assert reason == document["reason"]
    assert f"{NAME}  dead  {reason}\n" == wsworker("status").out


def test_unknown(wsworker: Callable[..., Result], deaf: Callable[[str], subprocess.Popen[str]]) -> None:
    """A lock without an answer: 4."""
    deaf("")
    result = wsworker("status")
    assert (4, "unknown") == (result.code, result.out.split()[1])


def test_no_config_file(place: Place, wsworker: Callable[..., Result]) -> None:
    """Without a config file there is no service to look for: 78."""
    place.config.unlink()
    result = wsworker("status")
    assert (78, "") == (result.code, result.out)
    assert "config.yaml: error: no such file" in result.err


def test_the_import_budget(place: Place, running: Callable[[Script], Answering]) -> None:
    """Nothing is imported that a look at a running service does not need."""
    running({"status": [STATUS]})
    code = "import sys; from wsworker.cli.main import run; run(['status']); print('imported', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stdout.startswith(f"{NAME}  running")
    imported = ended.stdout.splitlines()[-1].split()
    assert "wsworker.cli.status" in imported
    assert [] == [name for name in HEAVY if name in imported]


def on_terminal(place: Place, columns: int, *arguments: str) -> list[str]:
    """Return the lines that `status` writes to a terminal of so many columns."""
    environ = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "wsworker", "status", *arguments]
    subprocess.run(command, stdout=slave, env=environ, check=True, timeout=30)
    os.close(slave)
    shown = b""
    # Linux: EIO once the other end is closed and all is read
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            shown += data
    os.close(master)
    return shown.decode().splitlines()


def test_on_a_terminal(place: Place, running: Callable[[Script], Answering]) -> None:
    """Colour, and as many columns as fit; --wide shows all of them, and NO_COLOR the same without colour."""
    running({"status": [STATUS]})
    narrow = on_terminal(place, 60)
    assert f"\x1b[1m{NAME}\x1b[0m  \x1b[32mrunning\x1b[0m  pid 4242" in narrow[0]
    assert "too narrow for: SENDQ, RESTARTS" in narrow[-1]
    wide = on_terminal(place, 60, "--wide")
    assert "QUEUE" in wide[3]
    assert "too narrow" not in "".join(wide)
    plain = on_terminal(place, 60, "--color", "never")
    assert [click.unstyle(line) for line in narrow] == plain
