"""The exception tree: every documented condition has a class here, and nothing else does.

    WsworkerError
    ├── ConfigError          the config file, the environment or a flag is wrong        exit 78
    ├── TlsError             a file of `tls` cannot be used                                 78
    ├── AppError             the user's module cannot be imported, or a callback is wrong    78
    ├── PlatformError        not Linux, or a kernel without pidfd                            1
    ├── AlreadyRunning       another master holds the lock of this configuration             1
    ├── RunDirError          the run directory cannot be made, or is somebody else's         1
    ├── BindError            a listening address cannot be had                               1
    ├── ActivationError      systemd passed a socket that the service cannot use             1
    ├── PrivilegeError       a worker could not become the configured user                   1
    ├── NotRunning           no master answers for this configuration                        7
    ├── ControlError         a master answers, but not with what was asked                   1
    ├── PublishError         a message from outside was not accepted by worker or broker     1
    ├── WireError            a malformed message between two of our own processes
    └── InternalError        a bug in wsworker; never caught except at an entry
    Reject                   raised by the user's on_handshake to refuse a client

Each carries its facts as fields and makes its sentence in __str__, so that callers and tests compare fields.
The sentence names the thing, the place and the next step; cli/main.py prints it behind "error: " and alone
maps a class to an exit code. A fault, that is any other exception, travels untouched to an entry.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_PRINTABLE: Final = re.compile(r"[ -~]*")
_OWN_HEADERS: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})


OUT_OF_DESCRIPTORS: Final[Mapping[int | None, tuple[str, str]]] = {
    errno.EMFILE: ("the master is out of descriptors", "raise LimitNOFILE= of the unit or `ulimit -n`"),
    errno.ENFILE: ("the system is out of descriptors", "raise fs.file-max"),
}
"""By errno(3): which limit of descriptors a system call has reached, and how to raise it."""


EX_CONFIG: Final = 78
"""The exit code for a wrong configuration or app, of a worker and of every command; sysexits.h."""


class WsworkerError(Exception):
    """Base of all documented conditions; str() is one sentence for a person."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a config source.

    place: "config.yaml", "environment WSWORKER_LISTEN" or "flag -b"; line and column count from 1 and are 0 where the
    source has none; excerpt is the source line as written, or "" ; width is how many characters the carets underline.
    All of them count characters; a caret takes a cell of the terminal, of which a character has none, one or two.
    """

    place: str
    line: int
    column: int
    message: str
    excerpt: str = ""
    width: int = 1

    def __str__(self) -> str:
        where = f"{self.place}:{self.line}:{self.column}" if self.line else self.place
        text = f"{where}: error: {self.message}"
        if self.excerpt:
            start = self.column - 1
            # a tab stays a tab in front of the caret, so that both lines indent alike in every terminal
            indent = "".join("\t" if char == "\t" else " " * _cells(char) for char in self.excerpt[:start])
            carets = sum(_cells(char) for char in self.excerpt[start : start + self.width])
            text += f"\n  {self.excerpt}\n  {indent}{'^' * max(1, carets)}"
        return text


def _cells(char: str) -> int:
    """Return how many cells of a terminal a character takes: UAX #11, wide and fullwidth; marks stand on another."""
    if char.isascii():
        return 1
    # here and not above: few lines need it, and every command would pay for it
    import unicodedata

    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


@dataclass(eq=False)
class ConfigError(WsworkerError):
    """Everything wrong with one configuration, in the order of its lines; file is the path as the user gave it."""

    file: str
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        count = len(self.problems)
        blocks = [str(problem) for problem in self.problems]
        # flags and variables are no part of the file
        in_file = any(problem.line or problem.place == self.file for problem in self.problems)
        where = self.file if in_file else "the settings"
        blocks.append(f"wsworker: {count} error{'s' if count != 1 else ''} in {where}")
        return "\n".join(blocks)


@dataclass(eq=False)
class TlsError(WsworkerError):
    """A certificate, key or file of authorities cannot be used.

    key: the setting, such as "tls.certfile"; reason: a sentence that names the file; cure: the next step.
    """

    key: str
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}; {self.cure}"


@dataclass(eq=False)
class AppError(WsworkerError):
    """The user's module does not import, names no callback, or has a callback with a wrong name or signature.

    message: one sentence; trace: the user's own traceback, trimmed of our frames, or "" where it says no more.
    """

    message: str
    trace: str = ""

    def __str__(self) -> str:
        return f"{self.message}\n{self.trace}".rstrip() if self.trace else self.message


@dataclass(eq=False)
class PlatformError(WsworkerError):
    """The system cannot run a master; reason is the whole sentence."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class AlreadyRunning(WsworkerError):
    """Another master holds the lock. pid is None when the pid file is unreadable.

    config: the path of its config file if that is another one than ours, and known.
    """

    name: str
    pid: int | None
    config: str = ""

    def __str__(self) -> str:
        pid = f" (pid {self.pid})" if self.pid else ""
        if self.config:
            return f"another {self.name} runs with {self.config}{pid}; give this one its own `name` and `listen`"
        return f"{self.name} is already running{pid}; use `wsworker reload` or `wsworker restart`"


@dataclass(eq=False)
class RunDirError(WsworkerError):
    """The run directory or a file in it cannot be used; path is absolute, reason a clause, cure the next step."""

    path: str
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"run directory {self.path}: {self.reason}; {self.cure}"


@dataclass(eq=False)
class BindError(WsworkerError):
    """An address of `listen` or `admin.listen` cannot be bound or listened on.

    reason: a clause such as "address in use"; owner: "pid 812 (nginx)" or "" when nothing is visible;
    place: where the address was set, such as "config.yaml:3:9", or ""; cure: the next step, if not to change that;
    key: the setting that holds the address.
    """

    address: str
    reason: str
    owner: str = ""
    place: str = ""
    cure: str = ""
    key: str = "listen"

    def __str__(self) -> str:
        by = f" by {self.owner}" if self.owner else ""
        place = f" ({self.place})" if self.place else ""
        return f"cannot listen on {self.address}: {self.reason}{by}; {self.cure or f'change `{self.key}`{place}'}"


@dataclass(eq=False)
class ActivationError(WsworkerError):
    """A .socket unit of systemd does not fit the configuration.

    socket: its address, or its name where it has none; reason: a clause that goes on from there; cure: the next step.
    """

    socket: str
    reason: str
    cure: str

    def __str__(self) -> str:
        return f"systemd passed {self.socket}, {self.reason}; {self.cure}"


@dataclass(eq=False)
class PrivilegeError(WsworkerError):
    """A worker could not become the configured user or group; step names the call that failed."""

    step: str
    reason: str

    def __str__(self) -> str:
        return f"cannot drop privileges: {self.step} failed ({self.reason}); start as root or remove `user` and `group`"


@dataclass(eq=False)
class NotRunning(WsworkerError):
    """No master answers. leftovers: files of a dead master that the next start replaces, absolute paths."""

    name: str
    socket: str
    leftovers: tuple[str, ...] = ()

    @property
    def _fact_and_cure(self) -> tuple[str, str]:
        if self.leftovers:
            files = " and ".join(self.leftovers)
            return "its master died", f"start it again with `wsworker start`, which removes {files}"
        return f"no socket at {self.socket}", "start it with `wsworker start`"

    @property
    def reason(self) -> str:
        """Why, and the next step; without the name, for who has said that already."""
        return "; ".join(self._fact_and_cure)

    def __str__(self) -> str:
        fact, cure = self._fact_and_cure
        return f"{self.name} is not running ({fact}); {cure}"


@dataclass(eq=False)
class ControlError(WsworkerError):
    """A master is there, but the command failed. code is one of the error codes of --json, such as "timeout"."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class PublishError(WsworkerError):
    """A message from outside was not accepted, or nobody can tell.

    code: as that of ControlError; or "too_large"; or, by a broker, "no_broker" if none is reached, "refused" by it.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class WireError(WsworkerError):
    """A peer process sent something that is not a message of ours; the reader closes that channel."""

    reason: str

    def __str__(self) -> str:
        return f"malformed message: {self.reason}"


class InternalError(WsworkerError):
    """A bug in wsworker."""


@dataclass(eq=False)
class Reject(Exception):
    """Raise it in on_handshake to refuse a client with an HTTP response.

    status: 300 to 599; headers: names to values of printable ASCII, none of which frames the response or belongs to the
    handshake (Connection, Content-Length, Transfer-Encoding, Upgrade, Sec-WebSocket-*); body: sent as UTF-8 text/plain.
    What could not be sent is refused here, where your traceback shows it: ValueError, or TypeError for what is no str.
    A browser page never sees any of it (it gets close code 1006): to tell it why, accept and close with 3500-4999.
    """

    status: int = 403
    headers: Mapping[str, str] | None = field(default=None)
    body: str = ""

    def __post_init__(self) -> None:
        if self.status not in range(300, 600):
            raise ValueError(f"Reject takes a status from 300 to 599, not {self.status!r}")
        for name, value in (self.headers or {}).items():
            # RFC 9110 section 5.5 lets recipients misread what is not ASCII, and a line end would begin a new header
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"header {name!r} is no name; use letters, digits and !#$%&'*+-.^_`|~")
            if not _PRINTABLE.fullmatch(value):
                raise ValueError(f"the value of header {name!r} must be printable ASCII, not {value!r}")
            if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
                raise ValueError(f"header {name!r} belongs to the handshake and cannot be set")
        str.encode(self.body)  # UnicodeEncodeError is a ValueError; TypeError for bytes

    def __str__(self) -> str:
        return f"handshake refused with {self.status}"
