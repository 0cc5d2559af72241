"""`wsworker upgrade`: the version of wsworker that is installed now takes over, and no client notices.

The master is replaced in its own process and then reloads, so what is shown is what `reload` shows. Before that it has
the new version rehearse; if that one cannot go on with what runs, nothing has changed.
"""

from __future__ import annotations

import os

import click

from wsworker.cli import ask
from wsworker.cli.options import Settings, epilog, global_options
from wsworker.cli.reload import EXITS, load_anew


@click.command(epilog=epilog(EXITS, "pip install -U wsworker && wsworker upgrade"))
@global_options
@click.pass_obj
def upgrade(settings: Settings) -> int:
    """Let the version that is installed now take over."""
    service = ask.locate(settings.config_path(), os.environ)
    document = ask.status(service)
    ask.check_is_ours(service, document)
    settings.progress(f"upgrading {service.name}: wsworker {document['version']} runs")
    return load_anew(settings, service, "upgrade")
