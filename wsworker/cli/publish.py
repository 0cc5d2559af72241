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


@click.command(epilog=epilog(EXITS, "date | wsworker publish news -"))
@click.argument("topic")
@click.argument("data", metavar="DATA|-")
@click.option("--binary", is_flag=True, help="Send bytes and not text.")
@global_options
@click.pass_obj
def publish(settings: Settings, topic: str, data: str, binary: bool) -> int:
    """Publish a message; - reads it from standard input, as it is."""
    message = message_of(data, binary)
    try:
        check_name(topic, "TOPIC")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    client.publish(topic, message, config=settings.config_path())
    size = len(os.fsencode(message))
    document = {"schema": SCHEMA, "result": "ok", "topic": topic, "bytes": size}
    settings.result(f"published {counted(size, 'byte')} to {topic}", document)
    return OK


def message_of(data: str, binary: bool) -> str | bytes:
    """Return what is to be published. data: the argument; "-" reads standard input to its end."""
    # what is no UTF-8 is in an argument as Python has it in file names: os.fsencode gives it back
    content = sys.stdin.buffer.read() if data == "-" else os.fsencode(data)
    if binary:
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError("that is not UTF-8; use --binary for what is no text") from None
