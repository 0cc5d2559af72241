"""The sections of the configuration but the top level: connections, TLS, plain HTTP and the log.

Every limit here is on by default unless its field says that 0 is off. What a limit does when it is reached stands in
its sentence, with the close code or the status.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from wsworker import values as read
from wsworker.kinds import (
    Bytes,
    BytesPerSecond,
    FileOrNull,
    Limit,
    PerSecond,
    Seconds,
    SecondsOrZero,
    Section,
    Takes,
    in_folder,
    setting,
)


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
        Takes("one of drop_newest, drop_oldest and disconnect"),
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
    compression: Annotated[Literal["none", "deflate"], Takes("none or deflate")] = setting(
        "none", "Compression of messages: none, or deflate (permessage-deflate without context takeover)."
    )
    subprotocols: Annotated[
        tuple[Annotated[str, AfterValidator(read.token)], ...],
        BeforeValidator(read.as_tuple),
        AfterValidator(read.no_doubles),
        Takes("a list of subprotocol names, such as [chat.v2, chat.v1]"),
    ] = setting(
        (), "Subprotocols in order of preference; a client that offers none of them gets a connection without one."
    )
    origins: Annotated[
        Literal["same-origin", "*"] | tuple[Annotated[str, AfterValidator(read.origin)], ...],
        BeforeValidator(read.as_tuple),
        Takes('same-origin, "*" or a list of origins such as [https://example.org]'),
    ] = setting(
        "same-origin",
        'Web pages that may connect: same-origin compares with the Host header, "*" admits every page, or a list.',
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
    min_version: Annotated[Literal["1.2", "1.3"], Takes('"1.2" or "1.3"')] = setting(
        "1.2", "Oldest version of TLS that is spoken."
    )


class HttpConfig(Section):
    """Plain HTTP requests on the port of the WebSockets: GET and HEAD, one answer, then the connection is closed."""

    health: Annotated[
        Annotated[str, AfterValidator(read.url_path)] | None, Takes("a path such as /healthz, or null")
    ] = setting(None, "Path that answers 200, or 503 while the worker drains; null is none.")
    static: Annotated[Annotated[str, in_folder(read.path)] | None, Takes("the path of a folder, or null")] = setting(
        None, "Folder whose files are served, for development and examples; null is none."
    )
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(read.host)], ...],
        BeforeValidator(read.one_or_more),
        AfterValidator(read.no_doubles),
        Takes("a list of hosts such as [example.org, www.example.org:8080]"),
    ] = setting((), "Host headers that are answered, a host without a port with any; others get 403; empty is all.")


class LogConfig(Section):
    """Where the log goes and how much of it."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Takes("one of debug, info, warning and error")] = (
        setting("info", "Least important messages that are still logged: debug, info, warning or error.")
    )
    file: Annotated[str, in_folder(read.path, "-"), Takes('a path, or "-" (with its quotes) for standard error')] = (
        setting("-", 'File that the log is appended to; "-" is standard error.')
    )
