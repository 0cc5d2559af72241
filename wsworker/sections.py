"""The sections of the configuration: connections, TLS, plain HTTP, the log, the admin listener and the bus.

Every limit here is on by default unless its field says that 0 is off. What a limit does when it is reached stands in
its sentence, with the close code or the status.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from wsworker import values as read
from wsworker.brokers import SCHEMES, BrokerUrl
from wsworker.kinds import (
    PATH_TEXT,
    Address,
    Bytes,
    BytesPerSecond,
    FileOrNull,
    FilePath,
    Limit,
    OrAlone,
    PerSecond,
    Seconds,
    SecondsOrZero,
    Section,
    Takes,
    in_folder,
    setting,
    text_schema,
)

ORIGIN_TEXT = r"^(null|[A-Za-z][A-Za-z0-9+.-]*://[^/\s*]+)$"
URL_TEXT = rf"^({'|'.join(map(re.escape, SCHEMES))})://[^\s#]+$"
PREFIX_TEXT = "^([A-Za-z0-9_-]+:)+$"


class WebSocketConfig(Section):
    """What a connection may do and how long it may take; the rules of RFC 6455 are not settings."""

    max_size: Bytes = setting(
        1024**2, "Largest message a client may send, in bytes; a larger one closes the connection with 1009."
    )
    send_buffer: Bytes = setting(
        1024**2, "Bytes that may wait for a slow client; then on_buffer_full is called and slow_consumer decides."
    )
    slow_consumer: Annotated[
        Literal["drop_newest", "drop_oldest", "disconnect"],
        Takes(
            "one of drop_newest, drop_oldest and disconnect",
            "",
            {
                "drop_newest": "the message that finds no room",
                "drop_oldest": "messages that wait, the oldest first",
                "disconnect": "the connection, with 3008",
            },
        ),
    ] = setting(
        "drop_newest",
        "What goes when a message meets a full send_buffer: that message, older ones, or the client (3008).",
    )
    write_timeout: Seconds = setting(30.0, "Time in which a client takes nothing of what waits; then it is cut (1006).")
    ping_interval: SecondsOrZero = setting(20.0, "Time between pings to a client; 0 sends none.")
    ping_timeout: Seconds = setting(
        20.0, "Time without a byte behind a ping; then the connection is cut and on_close gets the code 1006."
    )
    open_timeout: Seconds = setting(5.0, "Time from accepting a client to the end of its handshake.")
    close_timeout: Seconds = setting(10.0, "Time for the client's close frame after ours; then the connection is cut.")
    idle_timeout: SecondsOrZero = setting(
        0.0, "Time without any message, either way, after which the connection is closed with 1000; 0 is never."
    )
    auth_timeout: SecondsOrZero = setting(
        0.0, "Time for your code to set connection.user; then the connection is closed with 3502; 0 is never."
    )
    message_timeout: SecondsOrZero = setting(
        60.0, "Time in which a message must have come whole; then the connection is closed with 1008; 0 is for ever."
    )
    rate_messages: PerSecond = setting(
        0, "Messages a second that a client may send; over it the connection is closed with 1008; 0 is any number."
    )
    rate_bytes: BytesPerSecond = setting(
        0, "Bytes a second that a client may send; over it the connection is closed with 1008; 0 is any number."
    )
    rate_control: PerSecond = setting(
        1000, "Pings and pongs a second that a client may send; over it the connection is closed with 1008; 0 is any."
    )
    rate_handshakes: PerSecond = setting(
        0, "Handshakes a second from one address in each worker; over it clients get 429; 0 is any number."
    )
    max_handshakes: Annotated[int, Field(ge=1, le=10**6), Takes("a number from 1 to 1000000", "connections")] = setting(
        512, "Clients in each worker whose handshake is not over; a worker with so many accepts the next ones later."
    )
    max_per_address: Limit = setting(
        0,
        "Connections from one address in each worker, an IPv6 /64 being one; over it clients get 429; 0 is any number.",
    )
    max_per_user: Limit = setting(
        0, "Connections of one connection.user in each worker; the next one is closed with 3504; 0 is any number."
    )
    max_topics: Limit = setting(
        128, "Topics that one connection may subscribe to; subscribe() raises ValueError beyond them; 0 is any number."
    )
    compression: Annotated[
        Literal["none", "deflate"],
        Takes("none or deflate", "", {"none": "off", "deflate": "permessage-deflate (RFC 7692)"}),
    ] = setting("none", "Compression of messages: none, or deflate (permessage-deflate without context takeover).")
    subprotocols: Annotated[
        tuple[Annotated[str, AfterValidator(read.token), text_schema(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")], ...],
        BeforeValidator(read.as_tuple),
        AfterValidator(read.no_doubles),
        Takes("a list of subprotocol names, such as [chat.v2, chat.v1]"),
    ] = setting(
        (),
        "Subprotocols in order of preference; a client that offers none of them gets a connection without one.",
        examples=(["chat.v2", "chat.v1"],),
    )
    origins: Annotated[
        Literal["same-origin", "*"] | tuple[Annotated[str, AfterValidator(read.origin), text_schema(ORIGIN_TEXT)], ...],
        BeforeValidator(read.as_tuple),
        Takes(
            'same-origin, "*" or a list of origins such as [https://example.org]',
            "",
            {"same-origin": "pages of the host and port that the client asks for", "*": "pages of every site"},
        ),
    ] = setting(
        "same-origin",
        'Web pages that may connect: same-origin compares with the Host header, "*" admits every page, or a list.',
        examples=(["https://example.org"],),
    )


def _with_certfile(value: str | None, info: ValidationInfo) -> str | None:
    # a certfile that was refused is not in data, and its own refusal is enough
    if value is not None and info.data.get("certfile", "refused") is None:
        raise read.Sentence("has no effect without tls.certfile; set that as well, or remove this key")
    return value


class TlsConfig(Section):
    """TLS on every address of listen, if certfile is set; files are read again at each reload."""

    certfile: FileOrNull = setting(None, "PEM file with the certificate and its chain; null is plain TCP.")
    keyfile: Annotated[FileOrNull, AfterValidator(_with_certfile)] = setting(
        None, "PEM file with the private key; null takes the key from certfile."
    )
    ca_certs: Annotated[FileOrNull, AfterValidator(_with_certfile)] = setting(
        None, "PEM file with authorities; then every client must show a certificate of one of them."
    )
    # the numbers: to an editor 1.2 without quotes is one, to us it is the text
    min_version: Annotated[
        Literal["1.2", "1.3"], WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]}), Takes('"1.2" or "1.3"')
    ] = setting("1.2", "Oldest version of TLS that is spoken.")


class HttpConfig(Section):
    """Plain HTTP requests on the port of the WebSockets: GET and HEAD, one answer, then the connection is closed."""

    health: Annotated[
        Annotated[str, AfterValidator(read.url_path), text_schema(r"^/[^\s?#]*$")] | None,
        Takes("a path such as /healthz, or null"),
    ] = setting(None, "Path that answers 200, or 503 while the worker drains; null is none.", examples=("/healthz",))
    static: Annotated[FilePath | None, Takes("the path of a folder, or null")] = setting(
        None, "Folder whose files are served, for development and examples; null is none.", examples=("./public",)
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(read.host), text_schema(r"^[^/*\s]+$")], ...],
        BeforeValidator(read.one_or_more),
        AfterValidator(read.no_doubles),
        OrAlone(),
        Takes("a list of hosts such as [example.org, www.example.org:8080]"),
    ] = setting((), "Host headers that are answered, a host without a port with any; others get 403; empty is all.")


def _no_file(value: object) -> object:
    # other servers take a path here
    if isinstance(value, str) and ("/" in value or "." in value or value == "-"):
        raise ValueError("its lines go into the log, see log.file")
    return value


class LogConfig(Section):
    """Where the log goes and how much of it."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Takes(
            "one of debug, info, warning and error",
            "",
            {
                "debug": "everything",
                "info": "what a service does",
                "warning": "what may be a mistake",
                "error": "what went wrong",
            },
        ),
    ] = setting("info", "Least important messages that are still logged: debug, info, warning or error.")
    format: Annotated[
        Literal["auto", "console", "journal", "json"],
        Takes(
            "one of auto, console, journal and json",
            "",
            {
                "auto": "journal under systemd, else console",
                "console": "for people; in colour on a terminal",
                "journal": "lines that begin with their priority (sd-daemon(3))",
                "json": "an object a line",
            },
        ),
    ] = setting(
        "auto",
        "Look of a line: console, journal (with its priorities), json (an object a line); auto suits the output.",
    )
    file: Annotated[
        str,
        in_folder(read.path, "-"),
        text_schema(PATH_TEXT),
        Takes('a path, or "-" (with its quotes) for standard error'),
    ] = setting(
        "-", 'File that the log is appended to; "-" is standard error.', examples=("/var/log/wsworker/hello.log",)
    )
    access: Annotated[bool, BeforeValidator(_no_file), Takes("true or false")] = setting(
        False, "Whether a line is logged when a connection opens, and one when it closes."
    )


class AdminConfig(Section):
    """Plain HTTP for operators on an address of its own: /metrics, /healthz, /readyz and /status.json."""

    listen: Annotated[Address | None, Takes("an address such as 127.0.0.1:9464, or null")] = setting(
        None,
        "Address that operators connect to, without a password: keep it on loopback or a private network.",
        reload=False,
        examples=("127.0.0.1:9464",),
    )
    min_ready: Annotated[int, Field(ge=1, le=256), Takes("a number from 1 to 256", "workers")] = setting(
        1, "Ready workers below which /readyz answers 503; a larger number than `workers` counts as `workers`."
    )


class BusConfig(Section):
    """How messages that are published in one worker reach the others, on this machine and on others."""

    url: Annotated[
        Annotated[BrokerUrl, BeforeValidator(read.broker_url), PlainSerializer(str), text_schema(URL_TEXT)] | None,
        Takes("a URL such as redis://10.0.0.5:6379 or nats://10.0.0.5:4222, or null", shown=read.shown_url),
    ] = setting(
        None,
        "Redis, Valkey or NATS that carries messages between machines; null is this machine only, and a password, "
        "which nothing shows, belongs in WSWORKER_BUS__URL.",
        examples=("redis://10.0.0.5:6379", "nats://10.0.0.5:4222,10.0.0.6:4222"),
    )
    prefix: Annotated[
        str,
        AfterValidator(read.prefix),
        text_schema(PREFIX_TEXT),
        Takes(read.PREFIX_WORDS),
    ] = setting(
        "wsworker:",
        "What all channels at the broker begin with; services that share a broker have one each.",
        examples=("chat:", "prod:chat:"),
    )
    max_message: Bytes = setting(1024**2, "Largest message that can be published, in bytes.")
    peer_queue: Bytes = setting(
        8 * 1024**2, "Bytes that may wait for another worker; what is published beyond them is lost and told as a gap."
    )
