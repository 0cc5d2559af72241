"""Logging: set up once per process, for our own lines and for the user's.

User code keeps logging.getLogger(__name__); its records reach the root logger and leave it looking like ours, in the
format that `log.format` says (lines.py). What it prints in a worker becomes lines of the log too (capture.py).

A record is one write(2) to a descriptor opened for appending, so processes that share a file do not mix their lines.
Logging never blocks and never raises into the code that logs or prints; what that costs is counted, see sink.py.

There is one output in a process, and the code that serves never notices when it leads elsewhere: a file is put in place
of another one by dup2(2), under the same number. What is printed on stdout still goes to stdout: where that is another
file or pipe than the log, lines go both ways, each in the format that suits its end.

There is no rotating file: two processes cannot agree on the moment to rotate. Something else moves the file away, and
the master opens it anew and hands the descriptor to each worker, as one that runs as another user could not open it.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, Protocol, TypeAlias

from wsworker.capture import Stream
from wsworker.errors import PlatformError
from wsworker.lines import Console, Journal, Json, Line
from wsworker.sink import Sink
from wsworker.visible import is_colorless

Format: TypeAlias = Literal["auto", "console", "journal", "json"]

STDERR: Final = 2

PRINTED: Final = {1: ("stdout", logging.INFO), STDERR: ("stderr", logging.WARNING)}
"""The logger and the level of what is printed. Whatever `log.level` says, it is written: printing has no levels."""


class Settings(Protocol):
    """The section `log` of the configuration. file: an absolute path, or "-" for stderr."""

    @property
    def level(self) -> str:
        """The least important that is written: debug, info, warning or error."""

    @property
    def format(self) -> Format:
        """How lines look."""

    @property
    def file(self) -> str:
        """Where they go."""


class Way:
    """Where lines go, and how they look there. fd stays the caller's."""

    def __init__(self, fd: int, line: Line) -> None:
        self.line = line
        self.sink = Sink(fd, self._losses)

    def put(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        try:
            # backslashreplace: what the line does not look at, as the name of a level
            data = self.line.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:
            self.sink.drop()
            return
        self.sink.write(data)

    def _losses(self, count: int) -> bytes:
        """Return the line that tells of lost records."""
        text = "1 log line was dropped" if count == 1 else f"{count} log lines were dropped"
        return f"{self.line.format(_record(__name__, logging.WARNING, text, None))}\n".encode()


class Output(logging.Handler):
    """Writes records to a descriptor, and what user code prints to the same one or its own.

    file: as in the configuration. fd: where the records go. dress: makes the line for a descriptor. ways: the first one
    is for the records, the others for what is printed and goes elsewhere. redirected: descriptors 1 and 2 lead to the
    file too.
    """

    def __init__(self, file: str, fd: int, dress: Callable[[int], Line]) -> None:
        super().__init__()
        self.file = file
        self.fd = fd
        self.redirected = False
        self._dress = dress
        self.ways = [Way(fd, dress(fd))]

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        self.ways[0].put(record)

    def flush(self) -> None:
        """Try to write what waits. Closing does no more than that: what is printed still has to go somewhere."""
        for way in self.ways:
            way.sink.flush()

    def dress(self, dress: Callable[[int], Line]) -> None:
        """Have lines look otherwise from now on."""
        self._dress = dress
        for way in self.ways:
            way.line = dress(way.sink.fd)

    def way_of(self, fd: int) -> Way:
        """Return the way for what is printed to fd: the same one where the same file, pipe or socket is behind it."""
        for way in self.ways:
            if os.path.sameopenfile(fd, way.sink.fd):
                return way
        self.ways.append(Way(fd, self._dress(fd)))
        return self.ways[-1]

    def move(self, file: str, fd: int) -> None:
        """Write to another file, and close the descriptor of the old one."""
        old, self.file, self.fd = self.fd, file, fd
        self.redirect()
        self.ways[0].sink.lead_to(fd)
        if old > STDERR:
            os.close(old)

    def replace(self, fd: int) -> None:
        """Put an open file in place of ours, under the same number; fd is closed."""
        self.flush()
        os.dup2(fd, self.fd, inheritable=self.fd <= STDERR)
        os.close(fd)
        self.redirect()
        self.ways[0].sink.lead_to(self.fd)

    def redirect(self) -> None:
        """Let descriptors 1 and 2 follow, if they lead to the file."""
        if self.redirected:
            os.dup2(self.fd, 1)
            os.dup2(self.fd, STDERR)


_output: Output | None = None
"""The one of this process. Not looked for among the root logger's handlers: logging.config of user code clears those,
and the file must be reopened all the same."""

_color: bool | None = None
"""What was decided about colour for this process and its workers; None: it depends on the descriptor."""


def prefer_color(color: bool | None) -> None:
    """Have coloured levels or not, whatever the output is; None: on a terminal only. You must call it before set_up."""
    global _color
    _color = color


def set_up(settings: Settings, slot: int | None = None) -> int:
    """Send every record of this process to a file, as the settings say; return the descriptor that is written to.

    slot: of the worker; None: this is the master.
    May be called again, with other values too. A forked worker calls it with its own slot and keeps the file that the
    master has opened, because a worker that runs as another user could not open it.
    Raises PlatformError when the file cannot be opened; the output is then what it was.
    """
    global _output
    dress = partial(_line, settings.format, slot)
    if _output is None:
        _output = Output(settings.file, _open(settings.file), dress)
    elif _output.file != settings.file:
        _output.move(settings.file, _open(settings.file))
    else:
        # something else may have been put under the number since, as dup2(2) does
        _output.ways[0].sink.lead_to(_output.fd)
    _output.dress(dress)
    root = logging.getLogger()
    if _output not in root.handlers:
        root.addHandler(_output)
    threshold = logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(threshold)
    # websockets logs every frame at DEBUG and every connection at INFO; our own lines say what matters
    logging.getLogger("websockets").setLevel(max(threshold, logging.WARNING))
    return _output.fd


def redirect_output(fd: int) -> None:
    """Let what this process prints on stdout and stderr go to fd, also what libraries in C and child programs print.

    fd: what set_up returned; the redirection follows when the log is opened anew.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a file would otherwise get the printed lines in blocks, long after the log lines around them
            stream.reconfigure(line_buffering=True)
            stream.flush()
    assert _output is not None, "set_up comes first"
    assert _output.fd == fd, "set_up returned it"
    _output.redirected = True
    _output.redirect()


def capture_output() -> None:
    """Make lines of the log of what user code prints; neither blocks nor raises. For a worker, after set_up.

    Puts text streams in place of sys.stdout and sys.stderr; fileno() stays 1 and 2. What is closed by now stays closed.
    Out of reach: what libraries in C and child programs write to descriptors 1 and 2 themselves, and sys.__stdout__ and
    sys.__stderr__. That goes out as it is, and blocks on a pipe that nobody reads.
    """
    assert _output is not None, "set_up comes first"
    if _output.redirected or sys.stdout is not None:
        sys.stdout = _stream(_output, 1)
    if _output.redirected or sys.stderr is not None:
        sys.stderr = _stream(_output, STDERR)


def reopen() -> int | None:
    """Open the log file anew, as it was moved away; return its descriptor, or None when the log goes to stderr.

    The number stays, so pass a duplicate of it on to each worker, which adopts it.
    Raises PlatformError when the file cannot be opened; the old one stays in use.
    """
    if _output is None or _output.file == "-":
        return None
    _output.replace(_open(_output.file))
    return _output.fd


def adopt(fd: int) -> None:
    """Write to this open file from now on, as the master has opened the log anew; fd is closed."""
    assert _output is not None, "set_up comes first"
    _output.replace(fd)


def keep_enabled() -> None:
    """Let our loggers be heard: a logging.config of user code disables those that it does not name. For a worker.

    To be called whenever user code may have done that, and about once a second.
    """
    # a list first, as a thread may add a logger meanwhile
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        if name.partition(".")[0] == "wsworker" and isinstance(logger, logging.Logger):
            logger.disabled = False


def flush() -> None:
    """Try to write what waits for a stuck pipe, and tell of lost lines. To be called about once a second."""
    if _output is not None:
        _output.flush()


def dropped() -> int:
    """Return how many log lines, and lines that user code printed, this process has lost so far."""
    return sum(way.sink.dropped for way in _output.ways) if _output is not None else 0


def _stream(output: Output, fd: int) -> io.TextIOWrapper:
    name, level = PRINTED[fd]
    way = output.way_of(fd)

    def say(line: str, connection: str | None) -> None:
        way.put(_record(name, level, line, connection))

    # write_through: the stream itself holds the parts of lines, and knows whose they are
    text = io.TextIOWrapper(Stream(fd, say), "utf-8", "backslashreplace", write_through=True)
    # as open() does, since what wraps sys.stdout may ask for it; read-only in typeshed, not in Python
    text.mode = "w"  # type: ignore[misc]
    return text


def _record(name: str, level: int, text: str, connection: str | None) -> logging.LogRecord:
    facts = {"name": name, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord({**facts, "msg": text, "connection": connection})


def _open(file: str) -> int:
    """Return a descriptor to append to a log file; umask narrows the mode 0640.

    O_NONBLOCK: a named pipe that nobody reads is an error here, and a full one drops records later.
    """
    if file == "-":
        if _output is not None and _output.redirected:
            raise PlatformError("there is no standard error to log to after a start with -d; set `log.file`")
        return STDERR
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(file, flags, 0o640)
    except OSError as exc:
        raise PlatformError(
            f"cannot open the log file {file}: {exc.strerror}; change `log.file` or make it writable"
        ) from exc


def _line(wanted: Format, slot: int | None, fd: int) -> Line:
    """Return how a record looks in what is behind fd. A date is for what is read later than it is written."""
    if wanted == "json":
        return Json(slot)
    if wanted == "journal" or (wanted == "auto" and _is_journal(fd, os.environ.get("JOURNAL_STREAM", ""))):
        return Journal(slot)
    on_terminal = os.isatty(fd)
    has_color = on_terminal and not is_colorless(os.environ)
    return Console(slot, dated=not on_terminal, colored=has_color if _color is None else _color)


def _is_journal(fd: int, journal_stream: str) -> bool:
    """journal_stream: $JOURNAL_STREAM, the device and inode of the journal's socket, see systemd.exec(5).

    It is inherited by programs whose stderr then goes elsewhere, hence the comparison.
    """
    status = os.fstat(fd)
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
