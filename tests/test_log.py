from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wsworker import log
from wsworker.errors import PlatformError
from wsworker.log import Output
from wsworker.sections import LogConfig


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[logging.Logger]:
    """Let the output leave its file and the root logger afterwards, and put the levels back."""
    root, websockets = logging.getLogger(), logging.getLogger("websockets")
    levels = root.level, websockets.level
    yield root
    set_up("info", "-")
    log.flush()
    root.setLevel(levels[0])
    websockets.setLevel(levels[1])
    for output in outputs():
        root.removeHandler(output)


def set_up(level: Any, file: str, slot: int | None = None) -> int:
    """Set the log up as this section of a configuration says."""
    return log.set_up(LogConfig(level=level, file=file), slot)


def outputs() -> list[Output]:
    """Return ours among the handlers of the root logger."""
    return [known for known in logging.getLogger().handlers if isinstance(known, Output)]


# ---- the process


def test_user_code_looks_like_ours(tmp_path: Path) -> None:
    """A logger of the user's and one of ours write the same line."""
    file = tmp_path / "log"
    set_up("info", str(file), 3)
    logging.getLogger("some.module").info("one")
    logging.getLogger("wsworker.worker").info("two")
    logging.info("three")
    assert [line[29:] for line in file.read_text().splitlines()] == [
        " INFO  worker 3  one",
        " INFO  worker 3  two",
        " INFO  worker 3  three",
    ]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["DEBUG", "INFO", "WARN", "ERROR"]),
        ("info", ["INFO", "WARN", "ERROR"]),
        ("warning", ["WARN", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_level(level: str, shown: list[str], tmp_path: Path) -> None:
    """Records below the configured level are not written."""
    file = tmp_path / "log"
    set_up(level, str(file))
    logger = logging.getLogger("wsworker.master")
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(number, "x")
    assert [line.split()[1] for line in file.read_text().splitlines()] == shown


@pytest.mark.parametrize(("level", "shown"), [("debug", ["WARN", "ERROR"]), ("error", ["ERROR"])])
def test_websockets_is_silent(level: str, shown: list[str], tmp_path: Path) -> None:
    """The library is heard from WARNING up, and never more than the configured level allows."""
    file = tmp_path / "log"
    set_up(level, str(file))
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("websockets.server").log(number, "x")
    assert [line.split()[1] for line in file.read_text().splitlines()] == shown


def test_the_file(tmp_path: Path) -> None:
    """A new file is not for everybody, is appended to, and is not inherited by programs."""
    file = tmp_path / "log"
    mask = os.umask(0o022)
    try:
        fd = set_up("info", str(file))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not os.get_inheritable(fd)
    logging.getLogger("wsworker").info("one")
    file.write_text("")
    logging.getLogger("wsworker").info("two")
    assert file.read_text().endswith("INFO  master    two\n")
    assert "\0" not in file.read_text()


def test_a_worker_keeps_the_file_of_the_master(tmp_path: Path) -> None:
    """A second set-up changes the name in the lines and opens nothing: the file may be out of reach by now."""
    file = tmp_path / "log"
    fd = set_up("info", str(file))
    file.rename(tmp_path / "moved")
    assert set_up("warning", str(file), 1) == fd
    logging.getLogger("wsworker").warning("hi")
    assert not file.exists()
    assert (tmp_path / "moved").read_text()[29:] == " WARN  worker 1  hi\n"
    assert len(outputs()) == 1


def test_another_file(tmp_path: Path) -> None:
    """With another file the first one is closed and gets no more lines."""
    first = set_up("info", str(tmp_path / "first"))
    second = set_up("info", str(tmp_path / "second"))
    logging.getLogger("wsworker").info("hi")
    assert (tmp_path / "first").read_text() == ""
    assert (tmp_path / "second").read_text()[29:] == " INFO  master    hi\n"
    assert len(outputs()) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)
    os.fstat(second)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error names the file, the reason and the key; the old output stays."""
    set_up("info", str(tmp_path / "log"))
    with pytest.raises(PlatformError) as error:
        set_up("info", str(tmp_path / "nowhere" / "log"))
    assert str(error.value) == (
        f"cannot open the log file {tmp_path}/nowhere/log: No such file or directory; "
        "change `log.file` or make it writable"
    )
    logging.getLogger("wsworker").info("hi")
    assert (tmp_path / "log").read_text()[29:] == " INFO  master    hi\n"


def test_a_named_pipe_without_a_reader(tmp_path: Path) -> None:
    """Opening it is an error; it does not wait."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlatformError):
        set_up("info", str(tmp_path / "pipe"))


def test_a_full_disk(root_logger: logging.Logger) -> None:
    """What cannot be written is counted, and the caller hears nothing."""
    set_up("info", "/dev/full")
    before = log.dropped()
    root_logger.info("one")
    root_logger.info("two")
    assert log.dropped() - before == 2


def test_a_stuck_pipe(root_logger: logging.Logger, tmp_path: Path) -> None:
    """A pipe that nobody empties takes what it can, then records wait, then they are lost; a flush brings the rest."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    set_up("info", str(tmp_path / "pipe"))
    before = log.dropped()
    root_logger.info("x" * 1_000_000)
    root_logger.info("y")
    root_logger.info("z")
    assert log.dropped() - before == 2
    came = ""
    while not came.endswith("dropped\n"):
        came += os.read(reader, 1 << 20).decode()
        log.flush()
    os.close(reader)
    assert [line[29:] for line in came.splitlines()] == [
        " INFO  master    " + "x" * 1_000_000,
        " WARN  master    2 log lines were dropped",
    ]


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    """Not even a time that no calendar has reaches the caller; the next line tells of the loss."""
    set_up("info", str(tmp_path / "log"))
    before = log.dropped()
    broken = logging.makeLogRecord({"msg": "hi", "created": 1e20})
    outputs()[0].handle(broken)
    assert log.dropped() - before == 1
    logging.getLogger("wsworker").info("hi")
    assert [line[29:] for line in (tmp_path / "log").read_text().splitlines()] == [
        " WARN  master    1 log line was dropped",
        " INFO  master    hi",
    ]


# ---- opened anew


def test_rotation(tmp_path: Path) -> None:
    """A file that was moved away gets the lines until the log is reopened, then a new one does: none is lost."""
    file = tmp_path / "log"
    fd = set_up("info", str(file))
    logger = logging.getLogger("wsworker")
    logger.info("one")
    file.rename(tmp_path / "moved")
    logger.info("two")
    assert log.reopen() == fd
    logger.info("three")
    assert [line[29:] for line in (tmp_path / "moved").read_text().splitlines()] == [
        " INFO  master    one",
        " INFO  master    two",
    ]
    assert file.read_text()[29:] == " INFO  master    three\n"
    assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0
    assert not os.get_inheritable(fd)


def test_reopening_without_rotation(tmp_path: Path) -> None:
    """Nothing changes then; and no descriptor is left over."""
    set_up("info", str(tmp_path / "log"))
    before = os.listdir("/proc/self/fd")
    for number in range(3):
        logging.getLogger("wsworker").info("%d", number)
        log.reopen()
    assert [line[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["0", "1", "2"]
    assert os.listdir("/proc/self/fd") == before


def test_a_file_that_cannot_be_reopened(tmp_path: Path) -> None:
    """The old one stays in use, and the error says which one it is about."""
    (tmp_path / "logs").mkdir()
    set_up("info", str(tmp_path / "logs" / "log"))
    (tmp_path / "logs").rename(tmp_path / "moved")
    with pytest.raises(PlatformError, match=r"cannot open the log file .*/logs/log: No such file or directory; change"):
        log.reopen()
    logging.getLogger("wsworker").info("hi")
    assert (tmp_path / "moved" / "log").read_text()[29:] == " INFO  master    hi\n"


def test_a_worker_adopts_the_file_of_the_master(tmp_path: Path) -> None:
    """It needs no right to open it: the descriptor is put in place of its own and closed."""
    file = tmp_path / "log"
    fd = set_up("info", str(file), 1)
    before = os.listdir("/proc/self/fd")
    file.rename(tmp_path / "moved")
    log.adopt(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    logging.getLogger("wsworker").info("hi")
    assert file.read_text()[29:] == " INFO  worker 1  hi\n"
    assert os.listdir("/proc/self/fd") == before
    assert not os.get_inheritable(fd)


def test_a_process_without_a_log() -> None:
    """A command that logs nothing has nothing to reopen, to flush or to lose."""
    code = "from wsworker import log; log.flush(); print(log.reopen(), log.dropped())"
    folder = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "None 0\n"


def test_logging_config_of_the_user(tmp_path: Path) -> None:
    """User code may take the records elsewhere; it closes our handler, and the file is opened anew all the same."""
    fd = set_up("info", str(tmp_path / "log"), 1)
    for output in outputs():
        logging.getLogger().removeHandler(output)
        output.close()
    (tmp_path / "log").rename(tmp_path / "moved")
    assert log.reopen() == fd
    os.write(fd, b"printed\n")
    assert (tmp_path / "log").read_text() == "printed\n"


@pytest.mark.parametrize("form", ["dict", "file"])
def test_logging_config_that_disables(form: str, tmp_path: Path) -> None:
    """Without disable_existing_loggers=False, the loggers that it does not name are mute; ours are heard again."""
    set_up("info", str(tmp_path / "log"), 1)
    ours, theirs = logging.getLogger("wsworker.some.part"), logging.getLogger("wsworkers")
    if form == "dict":
        logging.config.dictConfig({"version": 1})
    else:
        text = "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n"
        logging.config.fileConfig(io.StringIO(text))
        set_up("info", str(tmp_path / "log"), 1)
    ours.info("mute")
    log.keep_enabled()
    ours.info("heard")
    theirs.info("mute")
    assert (tmp_path / "log").read_text()[29:] == " INFO  worker 1  heard\n"
    theirs.disabled = False


# ---- standard error: in a process of its own, because the test runner has its hands on ours

ON_STDERR = """
import logging, os, sys
if sys.argv[1] == "journal":
    status = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from types import SimpleNamespace
from wsworker import log
assert log.set_up(SimpleNamespace(level="info", file="-", format=sys.argv[2]), 1) == 2
logging.getLogger(__name__).info("hi")
"""


def on_terminal(code: str, *arguments: str, **environ: Any) -> str:
    """Run Python code in a process of its own whose stderr is a terminal; return what came out there."""
    ours, theirs = pty.openpty()
    run(code, *arguments, stderr=theirs, **environ)
    os.close(theirs)
    text = os.read(ours, 4096).decode()
    os.close(ours)
    return text


def run(
    code: str,
    *arguments: str,
    stderr: int = subprocess.PIPE,
    journal_stream: str = "",
    check: bool = True,
    **environ: str,
) -> str:
    """Run Python code in a process of its own; return what came out on stderr."""
    environ = {"PATH": os.environ["PATH"], "JOURNAL_STREAM": journal_stream, **environ}
    command = [sys.executable, "-c", code, *arguments]
    folder = Path(__file__).parent.parent
    done = subprocess.run(command, env=environ, cwd=folder, stderr=stderr, text=True, check=check)
    return done.stderr or ""


def test_stderr() -> None:
    """On a pipe the lines carry date, time and offset."""
    line = run(ON_STDERR, "pipe", "auto")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d INFO  worker 1  hi\n", line)


def test_the_journal_on_stderr() -> None:
    """When $JOURNAL_STREAM names our stderr, the journal's look is used."""
    assert run(ON_STDERR, "journal", "auto") == "<6>worker 1  hi\n"


def test_a_journal_of_somebody_else() -> None:
    """An inherited $JOURNAL_STREAM that is not our stderr means nothing."""
    assert not run(ON_STDERR, "pipe", "auto", journal_stream="8:1234").startswith("<6>")


def test_a_terminal_on_stderr() -> None:
    """On a terminal the lines carry the time of day only."""
    line = on_terminal(ON_STDERR, "terminal", "auto")
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO  worker 1  hi\r\n", line)


@pytest.mark.parametrize(
    ("wanted", "ends", "line"),
    [
        ("console", "pipe", r"20\S+ INFO  worker 1  hi\n"),
        ("console", "journal", r"20\S+ INFO  worker 1  hi\n"),
        ("journal", "pipe", r"<6>worker 1  hi\n"),
        ("json", "journal", r'\{"time": "20\S+", "level": "info", .*, "message": "hi", "exception": null\}\n'),
    ],
)
def test_a_format_that_was_chosen(wanted: str, ends: str, line: str) -> None:
    """It is used wherever the lines go; `console` has the date wherever that is no terminal."""
    assert re.fullmatch(line, run(ON_STDERR, ends, wanted))


@pytest.mark.parametrize(
    ("preferred", "environ", "is_colored"),
    [
        ("None", {}, True),
        ("None", {"NO_COLOR": "1"}, False),
        ("None", {"TERM": "dumb"}, False),
        ("True", {"NO_COLOR": "1"}, True),
        ("False", {}, False),
    ],
)
def test_color(preferred: str, environ: dict[str, Any], is_colored: bool) -> None:
    """A terminal has colour, unless the environment or a flag says otherwise; a flag overrides both."""
    code = ON_STDERR.replace("assert", f"log.prefer_color({preferred})\nassert").replace("info(", "warning(")
    line = on_terminal(code, "terminal", "auto", **environ)
    assert line.endswith((" \x1b[33mWARN \x1b[0m" if is_colored else " WARN ") + " worker 1  hi\r\n")


PRINTING = """
import logging, os, subprocess, sys
from types import SimpleNamespace
from wsworker import log
fd = log.set_up(SimpleNamespace(level="info", file=sys.argv[1], format="auto"), 1)
log.redirect_output(fd)
print("printed")
logging.getLogger(__name__).info("logged")
print("complained", file=sys.stderr)
subprocess.run(["echo", "by a program"], check=True)
os._exit(0)
"""


def test_what_is_printed_goes_to_the_file(tmp_path: Path) -> None:
    """Prints, log lines and the output of programs meet in the file, in the order in which they were made."""
    assert run(PRINTING, str(tmp_path / "log")) == ""
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.removeprefix(line[:29] + " ") if "INFO" in line else line for line in lines] == [
        "printed",
        "INFO  worker 1  logged",
        "complained",
        "by a program",
    ]


def test_nothing_open_to_print_to(tmp_path: Path) -> None:
    """A process that was started without stdout and stderr can be redirected too."""
    code = PRINTING.replace("fd = ", "sys.stdout = sys.stderr = None\nfd = ").replace('print("printed")', "")
    code = code.replace('print("complained", file=sys.stderr)', "")
    run(code, str(tmp_path / "log"))
    assert (tmp_path / "log").read_text().splitlines()[-1] == "by a program"


# ---- what is printed in a worker

WORKER = """
import logging, os, subprocess, sys
from types import SimpleNamespace
from wsworker import log
def set_up(file, form="auto", slot=1):
    return log.set_up(SimpleNamespace(level="info", file=file, format=form), slot)
logger = logging.getLogger(__name__)
file = sys.argv[1]
output = set_up(file, *sys.argv[3:])
if file != "-":
    log.redirect_output(output)
log.capture_output()
"""


def lines_of(text: str) -> list[str]:
    """Return the lines, without the time of those that have one."""
    return [line[30:] if line[:2] == "20" else line for line in text.splitlines()]


def test_prints_follow_the_file(tmp_path: Path) -> None:
    """Prints, log lines and programs share the file in order, also after it was moved away; old files get no more."""
    code = """
print("printed")
logger.info("logged")
print("complained", file=sys.stderr)
subprocess.run(["echo", "by a program"], check=True)
os.rename(file, file + ".1")
print("late")
log.reopen()
print("new")
logger.info("logged anew")
subprocess.run(["echo", "by a new program"], stdout=sys.stdout, check=True)
os.rename(file, file + ".2")
log.adopt(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
print("newer", file=sys.stderr)
subprocess.run(["sh", "-c", "echo by the newest program >&2"], check=True)
assert (1, 2) == (sys.stdout.fileno(), sys.stderr.fileno())
"""
    file = tmp_path / "log"
    assert run(WORKER + code, str(file)) == ""
    assert lines_of((tmp_path / "log.1").read_text()) == [
        "INFO  worker 1  printed",
        "INFO  worker 1  logged",
        "WARN  worker 1  complained",
        "by a program",
        "INFO  worker 1  late",
    ]
    assert lines_of((tmp_path / "log.2").read_text()) == [
        "INFO  worker 1  new",
        "INFO  worker 1  logged anew",
        "by a new program",
    ]
    assert lines_of(file.read_text()) == ["WARN  worker 1  newer", "by the newest program"]


def test_prints_follow_to_another_file(tmp_path: Path) -> None:
    """A daemon whose log file changes takes its descriptors 1 and 2 along; there is no standard error to go back to."""
    code = """
set_up(file + ".other")
print("printed")
subprocess.run(["echo", "by a program"], check=True)
try:
    set_up("-", slot=None)
except Exception as error:
    logger.info("%s", error)
"""
    run(WORKER + code, str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == ""
    assert lines_of((tmp_path / "log.other").read_text()) == [
        "INFO  worker 1  printed",
        "by a program",
        "INFO  worker 1  there is no standard error to log to after a start with -d; set `log.file`",
    ]


def test_output_that_was_closed(tmp_path: Path) -> None:
    """Prints go to the file where one is named, and nowhere else."""
    code = WORKER.replace("output =", "sys.stdout = sys.stderr = None\noutput =")
    run(f"{code}\nprint('printed')", str(tmp_path / "log"))
    assert lines_of((tmp_path / "log").read_text()) == ["INFO  worker 1  printed"]
    assert run(f"{code}\nassert sys.stdout is None and sys.stderr is None\nprint('nothing')", "-") == ""


def test_prints_go_where_they_would(tmp_path: Path) -> None:
    """What goes to stdout stays there, in the same format; no level keeps it back, and log lines stay on stderr."""
    code = """
logging.getLogger().setLevel("ERROR")
print("on stdout")
print("on stderr", file=sys.stderr)
logger.error("logged")
"""
    with (tmp_path / "out").open("wb") as out:
        keep = f"os.dup2({out.fileno()}, 1)"
        command = f"import os\n{keep}\n{WORKER}{code}"
        err = subprocess.run(
            [sys.executable, "-c", command, "-", "", "json"],
            cwd=Path(__file__).parent.parent,
            pass_fds=[out.fileno()],
            stderr=subprocess.PIPE,
            check=True,
        ).stderr
    (printed,) = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert ("stdout", "info", "on stdout") == (printed["logger"], printed["level"], printed["message"])
    lines = [json.loads(line) for line in err.splitlines()]
    assert [("stderr", "warning", "on stderr"), ("__main__", "error", "logged")] == [
        (line["logger"], line["level"], line["message"]) for line in lines
    ]


@pytest.mark.parametrize(
    "wrapped",
    ['io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")', 'codecs.getwriter("utf-8")(sys.stdout.buffer)'],
)
def test_printing_survives_what_is_wrapped_around(wrapped: str, tmp_path: Path) -> None:
    """What was in place before, once collected, closes the stream that both have below them; that harms nobody."""
    code = f"""
import codecs, io
assert ("w", "<stdout>") == (sys.stdout.mode, sys.stdout.name)
print("half", end="")
sys.stdout = {wrapped}
print("wrapped", flush=True)
sys.stdout = {wrapped if "io." in wrapped else "sys.stdout"}
print("wrapped again", flush=True)
"""
    run(WORKER + code, str(tmp_path / "log"))
    assert [line.split("  ")[-1] for line in lines_of((tmp_path / "log").read_text())] == [
        "half",
        "wrapped",
        "wrapped again",
    ]


def test_a_line_that_is_flushed_is_out(tmp_path: Path) -> None:
    """Also if the process is killed then: what was flushed has been written."""
    run(f"{WORKER}\nprint('half', end='', flush=True)\nos.kill(os.getpid(), 9)", str(tmp_path / "log"), check=False)
    assert lines_of((tmp_path / "log").read_text()) == ["INFO  worker 1  half"]


STUCK = """
import select
for number in range(10_000):
    print("x" * 100, number)
    print("y" * 100, number, file=sys.stderr)
    logger.info("%s %d", "z" * 100, number)
lost = log.dropped()
blocking = os.get_blocking(1), os.get_blocking(2)
came = {reader: b"" for reader in readers}
while ready := select.select(readers, [], [], 0)[0]:
    for reader in ready:
        came[reader] += os.read(reader, 65536)
    log.flush()
with open(sys.argv[2], "w") as told:
    print(lost, log.dropped(), blocking, file=told)
    told.write("".join(text.decode() for text in came.values()))
"""

ONE_PIPE = """
import os
reader, writer = os.pipe()
readers = [reader]
os.dup2(writer, 1)
os.dup2(writer, 2)
"""

TWO_PIPES = """
import os
readers = []
for number in (1, 2):
    reader, writer = os.pipe()
    readers.append(reader)
    os.dup2(writer, number)
"""


@pytest.mark.parametrize("pipes", [ONE_PIPE, TWO_PIPES], ids=["one", "two"])
def test_a_stuck_reader_of_standard_output(pipes: str, tmp_path: Path) -> None:
    """Neither prints nor log lines wait for it or raise, and the pipe keeps its mode.

    When it reads again it gets whole lines in order, and hears how many others there were.
    """
    run(pipes + WORKER + STUCK, "-", str(tmp_path / "told"))
    told, *lines = (tmp_path / "told").read_text().splitlines()
    lost, lost_at_the_end, *blocking = told.split(maxsplit=2)
    assert ["(True, True)"] == blocking
    assert lost == lost_at_the_end
    losses = [int(found[1]) for line in lines if (found := re.search(r" (\d+) log lines? (?:was|were) dropped$", line))]
    assert int(lost) == sum(losses)
    assert 30_000 == len(lines) - len(losses) + sum(losses)
    for kind in "xyz":
        kept = [line[line.index(kind * 100) :] for line in lines if kind * 100 in line]
        numbers = [int(line.removeprefix(f"{kind * 100} ")) for line in kept]
        assert numbers == sorted(set(numbers))
