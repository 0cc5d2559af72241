"""`wsworker publish`: send one message to the subscribers of a topic; for cron, shell scripts and other languages.

It says that a worker has accepted the message, or the broker, if it went there. Who gets it nobody is told, as when a
worker publishes.

What stands in a command line every user of the machine can read while it runs. So the URL of a broker that wants a
password is not to be given by --url: --by-bus takes it from where the service has it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from wsworker import brokers, client, configfile, values
from wsworker.bus.broker.channels import channel, subject
from wsworker.bus.topics import Key, check_name
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted
from wsworker.errors import ConfigError

Value = TypeVar("Value")

EXITS: Final[Mapping[int, str]] = {
    OK: "a worker, or the broker, has accepted it",
    FAILED: "it was refused, or nobody can tell",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}

BUS_URL: Final = "WSWORKER_BUS__URL"

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of standard input, which may have no end."""


@click.command(epilog=epilog(EXITS, "date | wsworker publish news -"))
@click.argument("topic")
@click.argument("data", metavar="DATA|-")
@click.option("--binary", is_flag=True, help="Send bytes and not text.")
@click.option(
    "--by-bus",
    is_flag=True,
    help="Publish at the broker of bus.url, in the config file or $WSWORKER_BUS__URL; no service need run here.",
)
@click.option("--url", metavar="URL", help="Publish at this broker; if it wants a password, use --by-bus.")
@click.option(
    "--prefix", metavar="PREFIX", help=f"What its channels begin with, with --url; {client.PREFIX} if not given."
)
@click.option("--max-message", metavar="SIZE", help="Their bus.max_message, with --url; 1MiB if not given.")
@global_options
@click.pass_obj
def publish(
    settings: Settings,
    topic: str,
    data: str,
    binary: bool,
    by_bus: bool,
    url: str | None,
    prefix: str | None,
    max_message: str | None,
) -> int:
    """Publish a message; - reads it from standard input, as it is."""
    where = way(settings, by_bus, url, prefix, max_message)
    content = content_of(data)
    message = content if binary else text_of(content)
    # an argument is decoded as the locale has it; what the service knows is UTF-8
    topic = os.fsencode(topic).decode(errors="surrogateescape")
    try:
        check_name(topic, "TOPIC")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    client.publish(topic, message, **where)
    document = {"schema": SCHEMA, "result": "ok", "topic": topic, "bytes": len(content)}
    road = f"as {name_at(where, topic)}" if "url" in where else f"to {topic}"
    settings.result(f"published {counted(len(content), 'byte')} {road}", document)
    return OK


def name_at(where: Mapping[str, Any], topic: str) -> str:
    """Return what a topic is called at a broker, and which one that is. where: as of way()."""
    # who publishes with another prefix than the service has reaches nobody, and sees it here
    url, key = brokers.parse(where["url"]), Key("topic", topic)
    name = subject(where["prefix"], key) if url.kind.adapter == "nats" else channel(where["prefix"], key).decode()
    return f"{name} at {url}"


def way(
    settings: Settings, by_bus: bool, url: str | None, prefix: str | None, max_message: str | None
) -> dict[str, Any]:
    """Return where to publish, as client.publish takes it. Raises UsageError or ConfigError."""
    if by_bus and url is not None:
        raise click.UsageError("--by-bus takes the URL from the settings of the service; leave out --url, or --by-bus")
    if url is not None and settings.config is not None:
        raise click.UsageError("--url reads no config file; leave out -c, or use --by-bus")
    for option, value in (("--prefix", prefix), ("--max-message", max_message)):
        if value is not None and url is None:
            raise click.UsageError(f"{option} goes with --url; a service has its own")
    if url is not None:
        judge("--url", values.broker_url, url)
        prefix = client.PREFIX if prefix is None else judge("--prefix", values.prefix, prefix)
        most = client.MAX_MESSAGE if max_message is None else judge("--max-message", values.size, max_message)
        return {"url": url, "prefix": prefix, "max_message": most}
    if by_bus:
        bus = configfile.peek_bus(bus_file(settings), os.environ)
        return {"url": bus.url, "prefix": bus.prefix, "max_message": bus.max_message}
    return {"config": settings.config_path()}


def judge(option: str, reader: Callable[[str], Value], value: str) -> Value:
    """Return what a value means. Raises UsageError for one that a setting could not have."""
    try:
        return reader(value)
    except ValueError as error:
        raise click.UsageError(values.refusal(option, error)) from None


def bus_file(settings: Settings) -> Path | None:
    """Return the config file, None if there is none and the environment is enough. Raises ConfigError."""
    try:
        return settings.config_path()
    except ConfigError:
        if BUS_URL in os.environ:
            return None
        raise


def content_of(data: str) -> bytes:
    """Return the bytes to publish. data: the argument; "-" reads standard input to its end."""
    if data != "-":
        # what is no UTF-8 is in an argument as Python has it in file names: os.fsencode gives it back
        return os.fsencode(data)
    if sys.stdin is None:
        raise click.UsageError("standard input is closed, so - has nothing to read")
    content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise click.UsageError(f"standard input has more than {MOST_BYTES >> 20} MiB, the most that is read")
    return content


def text_of(content: bytes) -> str:
    """Return the text that this is."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("that is not UTF-8; use --binary for what is no text") from None
