"""The settings: a Config with its sections; every field has its default, bounds, unit and sentence in one place.

The values of a Config are normalised (see values.py) and a Config never changes. The type of a field (see kinds.py)
reads what a person writes, sets the bounds and carries the words for a refusal.

Two ways in. judging.validate() is for a file: it gives all mistakes by key, and relative paths start at the file's
folder. Config(app="hello") is for code: paths stay as they are, and pydantic raises.

Nothing is opened or looked up here. Whether a user exists or a folder is there is asked in surroundings.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic.fields import FieldInfo

from wsworker import values as read
from wsworker.kinds import (
    ADDRESS_TEXT,
    NETWORK_TEXT,
    PATH_TEXT,
    Address,
    AgeOrZero,
    BeatSeconds,
    FileOrNull,
    FilePath,
    ForwardedHeader,
    MemoryOrZero,
    Mode,
    OrAlone,
    Seconds,
    SecondsOrZero,
    Section,
    SocketMode,
    Takes,
    folder_of,
    in_folder,
    setting,
    text_schema,
)
from wsworker.sections import AdminConfig, BusConfig, HttpConfig, LogConfig, TlsConfig, WebSocketConfig
from wsworker.values import ListenAddress as ListenAddress  # part of what a Config is made of: importable from here
from wsworker.values import ProxiedAddress as ProxiedAddress

MAX_WORKERS: Final = 256
PROXIED_TEXT: Final = f"{ADDRESS_TEXT.removesuffix('$')}=v[12]$"


def _proxied(value: object, info: ValidationInfo) -> ProxiedAddress:
    proxied = read.proxied_address(value, folder_of(info))
    listen = info.data.get("listen")
    # None: `listen` was refused, and that refusal is enough
    if listen is not None and proxied.address not in listen:
        raise read.Sentence(f"names {proxied.address}, which is not in `listen`; remove it, or correct the address")
    return proxied


def _of_different_addresses(several: tuple[ProxiedAddress, ...]) -> tuple[ProxiedAddress, ...]:
    read.no_doubles(tuple(proxied.address for proxied in several))
    return several


def _apart(admin: AdminConfig, info: ValidationInfo) -> AdminConfig:
    # None: `listen` was refused, and that refusal is enough
    if admin.listen is not None and admin.listen in (info.data.get("listen") or ()):
        raise read.Sentence(f"is {admin.listen}, which is in `listen` already; choose another port")
    return admin


class Config(Section):
    """Everything that config.yaml can set; defaults are those of a first try on one's own machine."""

    name: Annotated[
        str,
        BeforeValidator(lambda value: "" if value is None else value),
        AfterValidator(lambda value: value and read.service_name(value)),
        WithJsonSchema({"type": ["string", "null"], "pattern": "^([A-Za-z0-9_][A-Za-z0-9._-]{0,63})?$"}),
        Takes("1 to 64 letters, digits or . _ - that start with a letter, a digit or _"),
    ] = setting(
        "",
        "Name of the service in process titles, log and control socket, unique for each user and machine; "
        "null takes the name of this file's folder.",
        reload=False,
    )
    app: Annotated[
        str,
        AfterValidator(read.app),
        text_schema(r"^[^\s:./-]+(\.[^\s:./-]+)*(:[^\s:./-]+(\.[^\s:./-]+)*)?$"),
        Takes("a module or module:attribute, such as hello or chat.rooms:app"),
    ] = setting(
        ..., "Module with your on_message, or module:attribute for an object that has it.", examples=("app", "app:chat")
    )
    app_dir: Annotated[FilePath, Field(validate_default=True), Takes("the path of a folder")] = setting(
        ".", "Folder that is searched first for app and what it imports.", examples=("/opt/hello",)
    )
    listen: Annotated[
        tuple[Address, ...],
        BeforeValidator(read.one_or_more),
        AfterValidator(read.not_empty),
        AfterValidator(read.no_doubles),
        OrAlone(least=1),
        Takes('an address such as 127.0.0.1:2346, "[::]:2346" or unix:/run/hello.ws'),
    ] = setting(
        (ListenAddress("127.0.0.1", 2346),),
        "Address that clients connect to, or a list of addresses.",
        reload=False,
        examples=("0.0.0.0:2346", "[::]:2346", "unix:/run/wsworker/hello.ws", ["0.0.0.0:2346", "[::]:2346"]),
    )
    workers: Annotated[
        Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"],
        Takes(f"a number from 1 to {MAX_WORKERS}, or auto", "processes"),
    ] = setting(1, "Number of worker processes; auto is one for each CPU that this service may use.")
    worker_connections: Annotated[
        int, Field(ge=1, le=1_000_000), Takes("a number from 1 to 1000000", "connections")
    ] = setting(10000, "Connections that one worker takes; when all are full, clients get 503.")
    backlog: Annotated[int, Field(ge=1, le=65535), Takes("a number from 1 to 65535", "connections")] = setting(
        2048, "Clients that may wait at each listening socket to be accepted.", reload=False
    )
    boot_timeout: Seconds = setting(60.0, "Time for a new worker to import app and become ready.")
    worker_timeout: BeatSeconds = setting(30.0, "Silence of a worker's event loop after which it is replaced.")
    graceful_timeout: Seconds = setting(30.0, "Time for a stop or reload; what is still open then is cut.")
    drain_window: SecondsOrZero = setting(
        10.0, "Time over which a stop or reload spreads the goodbyes (1001, 1012) to many clients."
    )
    reload_strategy: Annotated[
        Literal["handover", "drain"], Takes("handover (connections move to the new worker) or drain (they are closed)")
    ] = setting("handover", "What becomes of the connections of a worker that is replaced.")
    handover_timeout: Seconds = setting(
        5.0, "Time for a connection that is busy to become free to move; what is still busy then is closed (1012)."
    )
    max_messages: Annotated[int, Field(ge=0, le=10**15), Takes("0 or a number of messages", "messages")] = setting(
        0, "A worker is replaced after it received so many messages, plus up to 10 % at random; 0 is never."
    )
    max_worker_age: AgeOrZero = setting(
        0.0, "A worker is replaced when it is so old, plus up to 10 % at random; 0 is never.", examples=("24h",)
    )
    max_worker_rss: MemoryOrZero = setting(
        0,
        "A worker is replaced when it holds so much memory, and killed at twice as much; 0 is never.",
        examples=("512MiB",),
    )
    user: Annotated[str | None, Takes("the name of a user, or null")] = setting(
        None, "User that workers run as when the service is started as root.", reload=False, examples=("wsworker",)
    )
    group: Annotated[str | None, Takes("the name of a group, or null")] = setting(
        None, "Group that workers run as when the service is started as root; null is the user's own.", reload=False
    )
    umask: Mode = setting(0o027, "Rights that files made by the service do not get.", reload=False)
    pidfile: FileOrNull = setting(None, "File that holds the master's process id, for information only.", reload=False)
    control_socket: Annotated[
        str,
        in_folder(read.socket_path, "auto"),
        text_schema(PATH_TEXT),
        Takes("auto or the path of a socket"),
    ] = setting(
        "auto",
        "Socket that commands such as `wsworker status` use; auto is NAME.sock in the run directory.",
        reload=False,
        examples=("/run/wsworker/hello.sock",),
    )
    control_socket_mode: SocketMode = setting(
        0o600,
        "Who may give commands: 0600 is root and the user of the service, 0660 also everybody in the group of its "
        "workers; the run directory is opened to that group, and the kernel is no longer asked who calls.",
        reload=False,
    )
    forwarded_allow_ips: Annotated[
        tuple[Annotated[str, AfterValidator(read.network), text_schema(NETWORK_TEXT)], ...],
        BeforeValidator(read.one_or_more),
        AfterValidator(read.no_doubles),
        OrAlone(),
        Takes('a list of addresses or networks such as [127.0.0.1, 10.0.0.0/8, unix], or "*"'),
    ] = setting(
        ("127.0.0.1", "::1"),
        "Proxies whose word about the client's address is taken; unix is the peers of unix sockets.",
        examples=(["10.0.0.0/8", "unix"],),
    )
    forwarded_header: ForwardedHeader = setting("x-forwarded-for", "Header in which those proxies name the client.")
    proxy_protocol: Annotated[
        Literal["none", "v1", "v2"]
        | Annotated[
            tuple[Annotated[ProxiedAddress, BeforeValidator(_proxied), text_schema(PROXIED_TEXT)], ...],
            BeforeValidator(read.one_or_more),
            AfterValidator(_of_different_addresses),
            OrAlone(),
        ],
        Takes(
            "none, v1, v2 or a list such as [127.0.0.1:2346=v2]",
            "",
            {"none": "no header", "v1": "a line of text", "v2": "binary, as `send-proxy-v2` of HAProxy"},
        ),
    ] = setting(
        "none", "PROXY protocol that a client begins with, by address; it must be one of forwarded_allow_ips then."
    )
    loop: Annotated[
        Literal["auto", "uvloop", "asyncio"],
        Takes(
            "one of auto, uvloop and asyncio",
            "",
            {"auto": "uvloop", "uvloop": "the fast one", "asyncio": "the one that comes with Python"},
        ),
    ] = setting("auto", "Event loop of the workers; auto is uvloop.")
    websocket: WebSocketConfig = Field(default_factory=WebSocketConfig, description=str(WebSocketConfig.__doc__))
    tls: TlsConfig = Field(default_factory=TlsConfig, description=str(TlsConfig.__doc__))
    http: HttpConfig = Field(default_factory=HttpConfig, description=str(HttpConfig.__doc__))
    log: LogConfig = Field(default_factory=LogConfig, description=str(LogConfig.__doc__))
    admin: Annotated[AdminConfig, AfterValidator(_apart)] = Field(
        default_factory=AdminConfig, description=str(AdminConfig.__doc__)
    )
    bus: BusConfig = Field(default_factory=BusConfig, description=str(BusConfig.__doc__))


def _leaves() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
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
    changed = tuple(key for key in KEYS if value_of(old, key) != value_of(new, key))
    # proxy_protocol speaks of addresses: with those of the new listen, an old one might be left without its header
    late = {"proxy_protocol"} if "listen" in changed else set()
    return tuple(key for key in changed if key in late or not applies_on_reload(key))


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
