"""The settings: one class per section; every field has its default, bounds, unit and sentence here and nowhere else.

The values of a Config are normalised (see values.py) and a Config never changes. The type of a field reads what a
person writes, sets the bounds and carries the words for a refusal (Takes), so that each refusal is one sentence of one
shape: "KEY must be WORDS, not VALUE; HINT". Pydantic's own wording is never shown: it speaks of types and of branches
of unions, and the reader thinks of lines in a file.

Two ways in. validate() is for a file: it gives all mistakes by key, and relative paths start at the file's folder.
Config(app="hello") is for code: paths stay as they are, and pydantic raises.

Nothing is opened or looked up here. Whether a user exists or a folder is there is asked in configfile.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from wsworker import values as read
from wsworker.values import ListenAddress as ListenAddress  # part of what a Config is made of: importable from here

DAY_SECONDS: Final = 24 * 3600.0
MAX_WORKERS: Final = 256
LEAST_WORKER_BYTES: Final = 32 * 1024**2


@dataclass(frozen=True)
class Takes:
    """What a field accepts, in words that fit behind "must be", and the unit of its normalised value or ""."""

    words: str
    unit: str = ""


def _in_folder(reader: Callable[[str, str], str], word: str | None = None) -> AfterValidator:
    """Make a check of a path, which is told the folder of the config file; word is a value that is no path."""

    def check(value: str, info: ValidationInfo) -> str:
        return value if value == word else reader(value, _folder(info))

    return AfterValidator(check)


def _folder(info: ValidationInfo) -> str:
    return info.context["folder"] if info.context else ""


def _off_or_room_for_a_worker(size: int) -> int:
    # below what a worker without any client needs, workers would be replaced for ever
    if size != 0 and size < LEAST_WORKER_BYTES:
        raise ValueError
    return size


Seconds: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(gt=0, le=DAY_SECONDS),
    Takes("a time above 0 and at most 24h, such as 30s", "seconds"),
]
SecondsOrZero: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=0, le=DAY_SECONDS),
    Takes("0 or a time up to 24h, such as 20s", "seconds"),
]
BeatSeconds: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=4, le=DAY_SECONDS),  # signs of life come and are read once a second; three missed ones are suspicious
    Takes("a time from 4s to 24h, such as 30s", "seconds"),
]
Bytes: TypeAlias = Annotated[
    int,
    BeforeValidator(read.size),
    Field(ge=1, le=read.GIB),
    Takes("a size from 1 to 1GiB, such as 1MiB or 65536", "bytes"),
]
AgeOrZero: TypeAlias = Annotated[
    float,
    BeforeValidator(read.seconds),
    Field(ge=0, le=365 * DAY_SECONDS),
    Takes("0 or a time up to 8760h, such as 24h", "seconds"),
]
MemoryOrZero: TypeAlias = Annotated[
    int,
    BeforeValidator(read.size),
    AfterValidator(_off_or_room_for_a_worker),
    Field(le=1024 * read.GIB),
    Takes("0 or a size from 32MiB to 1024GiB, such as 512MiB", "bytes"),
]
Address: TypeAlias = Annotated[
    ListenAddress, BeforeValidator(lambda value, info: read.listen_address(value, _folder(info)))
]


def _setting(default: Any, description: str, *, reload: bool = True) -> Any:
    """Declare a field; reload says whether a reload applies a changed value or a restart has to."""
    return Field(default=default, description=description, json_schema_extra={"reload": reload})


class _Section(BaseModel):
    # strict: the YAML reader has found the type already, so "4" where a number is due is a slip and True is no 1
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WebSocketConfig(_Section):
    """What a connection may do and how long it may take; the rules of RFC 6455 are not settings."""

    max_size: Bytes = _setting(
        1024**2, "Largest message a client may send, in bytes; a larger one closes the connection with 1009."
    )
    send_buffer: Bytes = _setting(
        1024**2, "Bytes that may wait for a slow client; then on_buffer_full is called and send() returns False."
    )
    ping_interval: SecondsOrZero = _setting(20.0, "Time between pings to a client; 0 sends none.")
    ping_timeout: Seconds = _setting(
        20.0, "Time for the pong; then the connection is cut and on_close gets the code 1006."
    )
    open_timeout: Seconds = _setting(5.0, "Time from accepting a client to the end of its handshake.")
    close_timeout: Seconds = _setting(10.0, "Time for the client's close frame after ours; then the connection is cut.")
    subprotocols: Annotated[
        tuple[Annotated[str, AfterValidator(read.token)], ...],
        BeforeValidator(read.as_tuple),
        AfterValidator(read.no_doubles),
        Takes("a list of subprotocol names, such as [chat.v2, chat.v1]"),
    ] = _setting(
        (), "Subprotocols in order of preference; a client that offers none of them gets a connection without one."
    )
    origins: Annotated[
        Literal["same-origin", "*"] | tuple[Annotated[str, AfterValidator(read.origin)], ...],
        BeforeValidator(read.as_tuple),
        Takes('same-origin, "*" or a list of origins such as [https://example.org]'),
    ] = _setting(
        "same-origin",
        'Web pages that may connect: same-origin compares with the Host header, "*" admits every page, or a list.',
    )


class LogConfig(_Section):
    """Where the log goes and how much of it."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Takes("one of debug, info, warning and error")] = (
        _setting("info", "Least important messages that are still logged: debug, info, warning or error.")
    )
    file: Annotated[str, _in_folder(read.path, "-"), Takes('a path, or "-" (with its quotes) for standard error')] = (
        _setting("-", 'File that the log is appended to; "-" is standard error.')
    )


class Config(_Section):
    """Everything that config.yaml can set; defaults are those of a first try on one's own machine."""

    name: Annotated[
        str,
        BeforeValidator(lambda value: "" if value is None else value),
        AfterValidator(lambda value: value and read.service_name(value)),
        Takes("1 to 64 letters, digits or . _ - that start with a letter, a digit or _"),
    ] = _setting(
        "",
        "Name of the service in process titles, log and control socket; null takes the name of this file's folder.",
        reload=False,
    )
    app: Annotated[
        str, AfterValidator(read.app), Takes("a module or module:attribute, such as hello or chat.rooms:app")
    ] = _setting(..., "Module with your on_message, or module:attribute for an object that has it.")
    app_dir: Annotated[str, _in_folder(read.path), Field(validate_default=True), Takes("the path of a folder")] = (
        _setting(".", "Folder that is searched first for app and what it imports.")
    )
    listen: Annotated[
        tuple[Address, ...],
        BeforeValidator(read.one_or_more),
        AfterValidator(read.not_empty),
        AfterValidator(read.no_doubles),
        Takes('an address such as 127.0.0.1:2346, "[::]:2346" or unix:/run/hello.ws'),
    ] = _setting(
        (ListenAddress("127.0.0.1", 2346),), "Address that clients connect to, or a list of addresses.", reload=False
    )
    workers: Annotated[
        Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"],
        Takes(f"a number from 1 to {MAX_WORKERS}, or auto", "processes"),
    ] = _setting(1, "Number of worker processes; auto is one for each CPU that this service may use.")
    worker_connections: Annotated[
        int, Field(ge=1, le=1_000_000), Takes("a number from 1 to 1000000", "connections")
    ] = _setting(10000, "Connections that one worker takes; when all are full, clients get 503.")
    backlog: Annotated[int, Field(ge=1, le=65535), Takes("a number from 1 to 65535", "connections")] = _setting(
        2048, "Clients that may wait at each listening socket to be accepted.", reload=False
    )
    boot_timeout: Seconds = _setting(60.0, "Time for a new worker to import app and become ready.")
    worker_timeout: BeatSeconds = _setting(30.0, "Silence of a worker's event loop after which it is replaced.")
    graceful_timeout: Seconds = _setting(30.0, "Time for a stop or reload; what is still open then is cut.")
    drain_window: SecondsOrZero = _setting(
        10.0, "Time over which a stop or reload spreads the goodbyes (1001, 1012) to many clients."
    )
    max_messages: Annotated[int, Field(ge=0, le=10**15), Takes("0 or a number of messages", "messages")] = _setting(
        0, "A worker is replaced after it received so many messages, plus up to 10 % at random; 0 is never."
    )
    max_worker_age: AgeOrZero = _setting(
        0.0, "A worker is replaced when it is so old, plus up to 10 % at random; 0 is never."
    )
    max_worker_rss: MemoryOrZero = _setting(
        0, "A worker is replaced when it holds so much memory, and killed at twice as much; 0 is never."
    )
    user: Annotated[str | None, Takes("the name of a user, or null")] = _setting(
        None, "User that workers run as when the service is started as root.", reload=False
    )
    group: Annotated[str | None, Takes("the name of a group, or null")] = _setting(
        None, "Group that workers run as when the service is started as root; null is the user's own.", reload=False
    )
    umask: Annotated[
        int,
        BeforeValidator(read.mode),
        Field(ge=1, le=0o777),
        Takes('an octal mode from "0001" to "0777", such as "0027"'),
    ] = _setting(0o027, "Rights that files made by the service do not get.", reload=False)
    pidfile: Annotated[Annotated[str, _in_folder(read.path)] | None, Takes("the path of a file, or null")] = _setting(
        None, "File that holds the master's process id, for information only.", reload=False
    )
    control_socket: Annotated[str, _in_folder(read.socket_path, "auto"), Takes("auto or the path of a socket")] = (
        _setting(
            "auto",
            "Socket that commands such as `wsworker status` use; auto is NAME.sock in the run directory.",
            reload=False,
        )
    )
    loop: Annotated[Literal["auto", "uvloop", "asyncio"], Takes("one of auto, uvloop and asyncio")] = _setting(
        "auto", "Event loop of the workers; auto is uvloop."
    )
    websocket: WebSocketConfig = Field(default_factory=WebSocketConfig, description=str(WebSocketConfig.__doc__))
    log: LogConfig = Field(default_factory=LogConfig, description=str(LogConfig.__doc__))


def _leaves() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            yield from ((f"{name}.{key}", leaf) for key, leaf in field.annotation.model_fields.items())
        else:
            yield name, field


# every key as it is written in docs and messages, a section's key with a dot, in the order of config.yaml
KEYS: Final[Mapping[str, FieldInfo]] = dict(_leaves())
SECTIONS: Final = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS if "." in key))


def takes(key: str) -> Takes:
    """Return what a key accepts, in words; key is one of KEYS."""
    return next(item for item in KEYS[key].metadata if isinstance(item, Takes))


def applies_on_reload(key: str) -> bool:
    """Say whether a reload applies a changed value of this key; key is one of KEYS."""
    extra = KEYS[key].json_schema_extra
    assert isinstance(extra, dict)
    return bool(extra["reload"])


def value_of(config: Config, key: str) -> Any:
    """Return the value of one of KEYS."""
    section, dot, name = key.partition(".")
    return getattr(getattr(config, section), name) if dot else getattr(config, key)


def restart_needed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the keys that differ and that a reload cannot apply, in the order of KEYS."""
    return tuple(key for key in KEYS if not applies_on_reload(key) and value_of(old, key) != value_of(new, key))


def carry_over(old: Config, new: Config) -> Config:
    """Return new with the values of old for all that restart_needed names: the Config that a reload may apply."""
    kept: dict[str, Any] = {}
    for key in restart_needed(old, new):
        section, dot, name = key.partition(".")
        if dot:
            kept[section] = kept.get(section, getattr(new, section)).model_copy(update={name: value_of(old, key)})
        else:
            kept[key] = value_of(old, key)
    return new.model_copy(update=kept)


@dataclass(frozen=True)
class Mistake:
    """One refused value: its key, its position in a list (else None) and the whole sentence about it."""

    key: str
    item: int | None
    message: str


def validate(values: Mapping[str, object], folder: str) -> Config | list[Mistake]:
    """Judge raw values by key and return the Config, or every mistake in the order of KEYS.

    values: from KEYS to what the YAML reader made of them, lists as tuples; a missing key takes its default.
    folder: absolute; where relative paths start. Never raises for a bad value.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.partition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    try:
        return Config.model_validate(nested, context={"folder": folder})
    except ValidationError as error:
        return _mistakes(error.errors(), values)


def _mistakes(errors: list[ErrorDetails], values: Mapping[str, object]) -> list[Mistake]:
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key(error), []).append(error)
    found = []
    for key in sorted(by_key, key=list(KEYS).index):
        # A union reports once for each of its branches. The branch that got as far as an item of a list is the one
        # that was meant; without such a branch, one report is enough.
        of_items = {_item(error): error for error in by_key[key] if _item(error) is not None}
        for item, error in (of_items or {None: by_key[key][0]}).items():
            found.append(Mistake(key, item, _message(key, item, error, values.get(key))))
    return found


def _key(error: ErrorDetails) -> str:
    first, *rest = error["loc"]
    return str(first) if first in KEYS else f"{first}.{rest[0]}"


def _item(error: ErrorDetails) -> int | None:
    return next((part for part in error["loc"] if isinstance(part, int)), None)


def _message(key: str, item: int | None, error: ErrorDetails, value: object) -> str:
    if error["type"] == "missing":
        return f"{key} is missing; add `{key}: module`, the module with your on_message"
    # only a refusal of values.py has the type value_error; all others are pydantic's, whose text is dropped
    refusal = error["ctx"]["error"] if error["type"] == "value_error" else ValueError()
    if isinstance(refusal, read.Sentence):
        return f"{key} {refusal}"
    if item is not None and isinstance(value, list | tuple):
        value = value[item]
    hint = str(refusal)
    if error["type"] == "string_type" and type(value) in (int, float):
        hint = "text made of digits needs quotes"
    return f"{key} must be {takes(key).words}, not {read.shown(value)}" + (f"; {hint}" if hint else "")
