"""`wsworker schema`: print the JSON Schema of config.yaml, for editors.

It needs no service and no config file. It is a JSON document with --json and without, and of a format of its own: no
"schema": 1 stands in it.
"""

from __future__ import annotations

import click

from wsworker.cli.failures import OK
from wsworker.cli.options import Settings, epilog, global_options


@click.command(epilog=epilog({OK: "done"}, "wsworker schema > config.schema.json"))
@global_options
@click.pass_obj
def schema(settings: Settings) -> int:
    """Print the JSON Schema of config.yaml, for editors."""
    from wsworker.schema import text

    # one line ending is click's own
    click.echo(text().rstrip("\n"), color=settings.colored())
    return OK
