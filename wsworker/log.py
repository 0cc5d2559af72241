r"""Logging: set up once per process, for our own lines and for the user's.

User code keeps logging.getLogger(__name__); its records reach the root logger and leave it looking like ours. There are
three looks, chosen by where the lines go:

    terminal   01:40:53 INFO  worker 1  ready, pid 4243
    journal    <6>worker 1  ready, pid 4243               the journal has its own time; <6> is sd-daemon(3)
    plain      2025-01-31T01:40:53.250+01:00 INFO  worker 1  ready, pid 4243

A record is one write(2) to a descriptor opened for appending, so processes that share a file do not mix their lines.
Nothing in a record can pretend to be another one: a control character becomes visible text such as \x1b, and every line
after a record's first is indented by two blanks. What cannot be written (a full disk, a closed pipe) is dropped and
counted; logging never raises into the code that logs.

There is no rotating file: two processes cannot agree on the moment to rotate.
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

Look: TypeAlias = Literal["terminal", "journal", "plain"]

STDERR: Final = 2

# C0, DEL and C1; what Unicode also calls a line end; the marks that reorder text on a screen; surrogates, which have no
# UTF-8. The tab is the one control character that a line may hold.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
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
    """Writes records to a descriptor.

    file: as in the configuration; fd: closed by close(), unless it is stderr. To let the lines go elsewhere, dup2 the
    new descriptor onto fd. dropped: how many records were not, or not wholly, written.
    """

    def __init__(self, file: str, fd: int) -> None:
        super().__init__()
        self.file = file
        self.fd = fd
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never raises."""
        try:
            # backslashreplace: the level or the process may hold what the formatter does not look at
            data = self.format(record).encode(errors="backslashreplace") + b"\n"
            if os.write(self.fd, data) < len(data):
                self.dropped += 1
        except Exception:
            self.dropped += 1

    def close(self) -> None:
        """Close the descriptor; records that come later are dropped. May be called twice, as logging does at exit."""
        fd, self.fd = self.fd, -1
        if fd > STDERR:
            os.close(fd)
        super().close()


def set_up(level: str, file: str, process: str) -> int:
    """Send every record of this process from level up to a file; return the descriptor that is written to.

    level: debug, info, warning or error; file: an absolute path, or "-" for stderr; process: "master" or "worker 1".
    A forked worker calls this again with its own name. It keeps the file that the master has opened, because a worker
    that runs as another user could not open it.
    Raises PlatformError when the file cannot be opened.
    """
    root = logging.getLogger()
    output = next((known for known in root.handlers if isinstance(known, Output)), None)
    if output is None or output.file != file:
        fd = STDERR if file == "-" else _open(file)
        if output is not None:
            root.removeHandler(output)
            output.close()
        output = Output(file, fd)
        root.addHandler(output)
    output.setFormatter(Line(_look(output.fd, os.environ.get("JOURNAL_STREAM", "")), process))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)
    # websockets logs every frame at DEBUG and every connection at INFO; our own lines say what matters
    logging.getLogger("websockets").setLevel(max(threshold, logging.WARNING))
    return output.fd


def redirect_output(fd: int) -> None:
    """Let what this process prints on stdout and stderr go to fd, also what libraries in C and child programs print."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a file would otherwise get the printed lines in blocks, long after the log lines around them
            stream.reconfigure(line_buffering=True)
            stream.flush()
    os.dup2(fd, 1)
    os.dup2(fd, STDERR)


def _open(file: str) -> int:
    """Open a log file to append; umask narrows the mode 0640.

    O_NONBLOCK: a named pipe that nobody reads is an error here, and a full one drops records later.
    """
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
