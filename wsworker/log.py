r"""Logging: set up once per process, for our own lines and for the user's.

User code keeps logging.getLogger(__name__); its records reach the root logger and leave it looking like ours. There are
three looks, chosen by where the lines go:

    terminal   01:40:53 INFO  worker 1  ready, pid 4243
    journal    <6>worker 1  ready, pid 4243               the journal has its own time; <6> is sd-daemon(3)
    plain      2025-01-31T01:40:53.250+01:00 INFO  worker 1  ready, pid 4243

A record is one write(2) to a descriptor opened for appending, so processes that share a file do not mix their lines.
Nothing in a record can pretend to be another one: a control character becomes visible text such as \x1b, and every line
after a record's first is indented by two blanks.

Logging never blocks and never raises into the code that logs; what that costs is counted, see sink.py. The same holds
for what user code prints in a worker. There is one output in a process, and the code that serves never notices when it
leads elsewhere: a file is put in place of another one by dup2(2), under the same number.

There is no rotating file: two processes cannot agree on the moment to rotate. Something else moves the file away, and
the master opens it anew and hands the descriptor to each worker, as one that runs as another user could not open it.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from datetime import datetime
from typing import Final, Literal, TypeAlias

from wsworker.errors import PlatformError
from wsworker.sink import Sink, Stream

Look: TypeAlias = Literal["terminal", "journal", "plain"]

STDERR: Final = 2

# C0, DEL and C1; what Unicode also calls a line end; the marks that reorder text on a screen; surrogates, which have no
# UTF-8. The tab is the one control character that a line may hold.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINE: Final = re.compile(_UNSAFE.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0a-\x1f"))

# level names of more than five letters would push the columns apart
_SHORT: Final = {"WARNING": "WARN", "CRITICAL": "CRIT"}
# sd-daemon(3): the priority from each level up
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7


def escape(text: str, limit: int = 200) -> str:
    r"""Return a client's text fit for a log line: control characters as \x1b or \u202e, cut after limit characters.

    A cut is marked by how many characters are missing. Backslashes stay as they are.
    """
    shown = _UNSAFE.sub(_visible, text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text) - limit} more)"


class Line(logging.Formatter):
    """Makes the text of a record, without the last newline. process: "master" or "worker 1"."""

    def __init__(self, look: Look, process: str) -> None:
        super().__init__("%(message)s")
        self._look = look
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record, its traceback and its stack; lines after the first are indented.

        Arguments that do not fit the message are the caller's mistake: the line then says so, as losing it would hide
        both the message and the mistake.
        """
        try:
            text = super().format(record)
        except Exception as exc:  # whatever a __str__ of the user's raises
            text = f"cannot format {record.msg!r} of {record.pathname}:{record.lineno} ({type(exc).__name__})"
        if self._look == "journal":
            # the journal makes an entry of each line, so each carries the priority
            mark = f"<{_priority(record.levelno)}>"
            front, between = mark, f"\n{mark}  "
        else:
            level = _SHORT.get(record.levelname, record.levelname)
            front, between = f"{self._time(record)} {level:<5} ", "\n  "
        lines = between.join(_UNSAFE_IN_LINE.sub(_visible, line) for line in text.split("\n"))
        return f"{front}{self._process:<8}  {lines}"

    def _time(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        return f"{at:%H:%M:%S}" if self._look == "terminal" else at.isoformat(timespec="milliseconds")


class Output(logging.Handler):
    """Writes records to a descriptor, and what user code prints to the same one or its own.

    file: as in the configuration. fd: where the records go. sinks: the first one writes the records, the others what is
    printed and goes elsewhere. redirected: descriptors 1 and 2 lead to the file too.
    """

    def __init__(self, file: str, fd: int) -> None:
        super().__init__()
        self.file = file
        self.fd = fd
        self.redirected = False
        self.sinks = [Sink(fd, self.losses)]

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        try:
            # backslashreplace: the level or the process may hold what the formatter does not look at
            data = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:
            self.sinks[0].drop()
            return
        self.sinks[0].write(data)

    def flush(self) -> None:
        """Try to write what waits. Closing does no more than that: what is printed still has to go somewhere."""
        for sink in self.sinks:
            sink.flush()

    def losses(self, count: int) -> bytes:
        """Return the line that tells of lost records."""
        text = "1 log line was dropped" if count == 1 else f"{count} log lines were dropped"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        return f"{self.format(record)}\n".encode()

    def sink_of(self, fd: int) -> Sink:
        """Return the sink for what is printed to fd: the same one where the same file, pipe or socket is behind it."""
        for sink in self.sinks:
            if os.path.sameopenfile(fd, sink.fd):
                return sink
        self.sinks.append(Sink(fd, self.losses))
        return self.sinks[-1]

    def move(self, file: str, fd: int) -> None:
        """Write to another file, and close the descriptor of the old one."""
        old, self.file, self.fd = self.fd, file, fd
        self.redirect()
        self.sinks[0].lead_to(fd)
        if old > STDERR:
            os.close(old)

    def replace(self, fd: int) -> None:
        """Put an open file in place of ours, under the same number; fd is closed."""
        self.flush()
        os.dup2(fd, self.fd, inheritable=self.fd <= STDERR)
        os.close(fd)
        self.redirect()
        self.sinks[0].lead_to(self.fd)

    def redirect(self) -> None:
        """Let descriptors 1 and 2 follow, if they lead to the file."""
        if self.redirected:
            os.dup2(self.fd, 1)
            os.dup2(self.fd, STDERR)


_output: Output | None = None
"""The one of this process. Not looked for among the root logger's handlers: logging.config of user code clears those,
and the file must be reopened all the same."""


def set_up(level: str, file: str, process: str) -> int:
    """Send every record of this process from level up to a file; return the descriptor that is written to.

    level: debug, info, warning or error; file: an absolute path, or "-" for stderr; process: "master" or "worker 1".
    May be called again, with other values too. A forked worker calls it with its own name and keeps the file that the
    master has opened, because a worker that runs as another user could not open it.
    Raises PlatformError when the file cannot be opened; the output is then what it was.
    """
    global _output
    if _output is None:
        _output = Output(file, _open(file))
    elif _output.file != file:
        _output.move(file, _open(file))
    else:
        # something else may have been put under the number since, as dup2(2) does
        _output.sinks[0].lead_to(_output.fd)
    _output.setFormatter(Line(_look(_output.fd, os.environ.get("JOURNAL_STREAM", "")), process))
    root = logging.getLogger()
    if _output not in root.handlers:
        root.addHandler(_output)
    threshold = logging.getLevelNamesMapping()[level.upper()]
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


def unblock_output() -> None:
    """Let what user code prints neither block nor raise, as it is with log lines: for a worker, after set_up.

    Puts text streams over sinks in place of sys.stdout and sys.stderr; fileno() stays 1 and 2. What is closed stays
    closed. Out of reach: what libraries in C and child programs write to descriptors 1 and 2 themselves, and
    sys.__stdout__ and sys.__stderr__. Those block on a pipe that nobody reads.
    """
    assert _output is not None, "set_up comes first"
    if _output.redirected or sys.stdout is not None:
        sys.stdout = _text(_output, 1)
    if _output.redirected or sys.stderr is not None:
        sys.stderr = _text(_output, STDERR)


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


def flush() -> None:
    """Try to write what waits for a stuck pipe, and tell of lost lines. To be called about once a second."""
    if _output is not None:
        _output.flush()


def dropped() -> int:
    """Return how many log lines, and lines that user code printed, this process has lost so far."""
    return sum(sink.dropped for sink in _output.sinks) if _output is not None else 0


def _text(output: Output, fd: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(Stream(output.sink_of(fd), fd), "utf-8", "backslashreplace", line_buffering=True)


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


def _look(fd: int, journal_stream: str) -> Look:
    """journal_stream: $JOURNAL_STREAM, the device and inode of the journal's socket, see systemd.exec(5).

    It is inherited by programs whose stderr then goes elsewhere, hence the comparison.
    """
    status = os.fstat(fd)
    if journal_stream == f"{status.st_dev}:{status.st_ino}":
        return "journal"
    return "terminal" if os.isatty(fd) else "plain"


def _priority(level: int) -> int:
    return next((priority for lowest, priority in _PRIORITIES if level >= lowest), _DEBUG_PRIORITY)


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
