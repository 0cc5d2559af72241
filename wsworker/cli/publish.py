"""`wsworker publish`: send one message to the subscribers of a topic; for cron, shell scripts and other languages.

It says that a worker has accepted the message. Who gets it nobody is told, as when a worker publishes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

import click

from wsworker import client
from wsworker.bus.topics import check_name
from wsworker.cli.failures import BAD_CONFIG, FAILED, NOTHING_RUNNING, OK, SCHEMA
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.text import counted

EXITS: Final[Mapping[int, str]] = {
    OK: "a worker has accepted it",
    FAILED: "it was refused, or nobody can tell",
    NOTHING_RUNNING: "nothing running",
    BAD_CONFIG: "no config",
}

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of standard input, which may have no end."""


@click.command(epilog=epilog(EXITS, "date | wsworker publish news -"))
@click.argument("topic")
@click.argument("data", metavar="DATA|-")
@click.option("--binary", is_flag=True, help="Send bytes and not text.")
@global_options
@click.pass_obj
def publish(settings: Settings, topic: str, data: str, binary: bool) -> int:
    """Publish a message; - reads it from standard input, as it is."""
    content = content_of(data)
    message = content if binary else text_of(content)
    # an argument is decoded as the locale has it; what the service knows is UTF-8
    topic = os.fsencode(topic).decode(errors="surrogateescape")
    try:
        check_name(topic, "TOPIC")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    client.publish(topic, message, config=settings.config_path())
    document = {"schema": SCHEMA, "result": "ok", "topic": topic, "bytes": len(content)}
    settings.result(f"published {counted(len(content), 'byte')} to {topic}", document)
    return OK


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
