r"""Lines: how one record looks, in each format of the log.

    terminal   01:40:53 INFO  worker 1  ready, pid 4243
    plain      2025-01-31T01:40:53.250+01:00 INFO  worker 1  ready, pid 4243
    journal    <6>worker 1  ready, pid 4243               the journal has its own time; <6> is sd-daemon(3)
    json       {"time": "2025-01-31T01:40:53.250+01:00", "level": "info", "logger": "wsworker.worker", ...}

In the first three, the id of the connection on whose behalf the code ran stands in brackets before the message. Nothing
in a record can pretend to be another one: a control character becomes visible text such as \x1b, and every line after a
record's first is indented by two blanks. In JSON a record is one line whatever it holds.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime
from typing import Any, Final

from wsworker import speaker
from wsworker.visible import escape, escape_json, escape_line

# level names of more than five letters would push the columns apart
_SHORT: Final = {"WARNING": "WARN", "CRITICAL": "CRIT"}
# sd-daemon(3): the priority from each level up
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7
# ECMA-48, from each level up: bold red, red, yellow; what is usual has no colour, and what matters less is faint
_COLORS: Final = ((logging.CRITICAL, "1;31"), (logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, ""))
_FAINT: Final = "2"

# what every record has; all else in one is `extra` of whoever has logged it
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "connection"}


class Line(logging.Formatter):
    """Makes the text of a record, without the last newline. slot: of the worker; None: this is the master.

    No Exception that a __str__ or a __repr__ of the user's raises gets out of format().
    """

    def __init__(self, slot: int | None) -> None:
        super().__init__("%(message)s")
        self._slot = slot
        self._process = "master" if slot is None else f"worker {slot}"

    def _text(self, record: logging.LogRecord) -> str:
        """Return the message with its traceback and its stack.

        Arguments that do not fit the message are the caller's mistake: the text then says so, as losing it would hide
        both the message and the mistake.
        """
        try:
            return super().format(record)
        except Exception as exc:  # whatever a __str__ of the user's raises
            return _cannot_format(record, exc)

    def _front(self, record: logging.LogRecord) -> tuple[str, str]:
        """Return what stands before the message: the process, and the connection, "" if there is none."""
        connection = connection_of(record)
        return f"{self._process:<8}  ", f"[{escape(connection)}] " if connection else ""

    def _lines(self, record: logging.LogRecord) -> list[str]:
        """Return the lines of the text, made harmless."""
        return [escape_line(line) for line in self._text(record).split("\n")]


class Console(Line):
    """Lines for people. dated: with date, milliseconds and offset; colored: levels in colour, connections faint."""

    def __init__(self, slot: int | None, *, dated: bool, colored: bool = False) -> None:
        super().__init__(slot)
        self._dated = dated
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and one for each further line of the text, indented."""
        at = _local(record) if self._dated else f"{datetime.fromtimestamp(record.created):%H:%M:%S}"
        level = f"{_SHORT.get(record.levelname, record.levelname):<5}"
        process, connection = self._front(record)
        if self._colored:
            level = _colored(level, _of_level(_COLORS, record.levelno, _FAINT))
            connection = _colored(connection, _FAINT)
        return f"{at} {level} {process}{connection}" + "\n  ".join(self._lines(record))


class Journal(Line):
    """Lines for systemd's journal, which makes an entry of each: so each carries the priority."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and one for each further line of the text, indented behind its priority."""
        mark = f"<{_of_level(_PRIORITIES, record.levelno, _DEBUG_PRIORITY)}>"
        return mark + "".join(self._front(record)) + f"\n{mark}  ".join(self._lines(record))


class Json(Line):
    """Lines for programs: an object each, always with the same nine keys first, then what `extra` of the caller holds.

    A key of `extra` that is one of ours gets an underscore behind it. A value that has no JSON is shown as text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        try:
            message = record.getMessage()
        except Exception as exc:  # whatever a __str__ of the user's raises
            message = _cannot_format(record, exc)
        fields: dict[str, Any] = {
            "time": _local(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": "master" if self._slot is None else "worker",
            "slot": self._slot,
            "pid": os.getpid(),
            "connection": connection_of(record),
            "message": message,
            "exception": self._exception(record),
        }
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for key, value in vars(record).items():
            if key not in _STANDARD:
                name = key if isinstance(key, str) else _shown(key)
                fields[f"{name}_" if name in fields else name] = _with_json(value)
        return escape_json(json.dumps(fields, ensure_ascii=False))

    def _exception(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info:
            return None
        try:
            return self.formatException(record.exc_info)
        except Exception as exc:  # exc_info of the caller that is none
            return _cannot_format(record, exc)


def connection_of(record: logging.LogRecord) -> str | None:
    """Return the id of the connection that a record is about: what `extra` says, else who is speaking now."""
    told = vars(record).get("connection", record)
    if told is record:
        return speaker.connection_id()
    return told if told is None or isinstance(told, str) else _shown(told)


def _local(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _of_level(table: tuple[tuple[int, Any], ...], level: int, below: Any) -> Any:
    return next((value for lowest, value in table if level >= lowest), below)


def _colored(text: str, color: str) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if text and color else text


def _cannot_format(record: logging.LogRecord, exc: Exception) -> str:
    try:
        message = repr(record.msg)
    except Exception:  # a __repr__ of the user's that raises too
        message = f"a message of type {type(record.msg).__name__}"
    return f"cannot format {message} of {record.pathname}:{record.lineno} ({type(exc).__name__})"


def _with_json(value: object) -> object:
    """Return the value if JSON has it (NaN is not in JSON), else a text that shows it."""
    try:
        json.dumps(value, allow_nan=False)
    except Exception:  # TypeError, ValueError for a circle or NaN, RecursionError, or what a class of the user's raises
        return _shown(value)
    return value


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as exc:  # an int with more digits than sys.get_int_max_str_digits(), or a __repr__ of the user's
        return f"cannot show a value of type {type(value).__name__} ({type(exc).__name__})"
