"""`wsworker takeover`: what a master executes in its own place, see master/succession.py. Nobody else calls it.

With --rehearse nothing is taken over: this process reads the estate as if it were to go on with it, says in a line of
JSON whether it could, and ends.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsworker.cli.failures import FAILED, OK
from wsworker.cli.options import Settings, global_options
from wsworker.cli.start import Prepared, load
from wsworker.cli.version import version
from wsworker.configfile import Loaded
from wsworker.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from wsworker.master.estate import Estate


@click.command(hidden=True)
@click.argument("descriptor", type=int)
@click.option("--rehearse", is_flag=True)
@global_options
@click.pass_obj
def takeover(settings: Settings, descriptor: int, rehearse: bool) -> int:
    """Go on with the service of the program that has executed this one."""
    from wsworker import log
    from wsworker.master.process import die_with_parent

    if rehearse:
        # nobody hears the answer then
        die_with_parent(os.getppid())
    try:
        prepared, estate = _prepare(settings, descriptor)
        if not rehearse:
            return prepared.go_on(estate)
        # a configuration that a reload would refuse is told before anything has happened
        load(prepared.path, prepared.environ, prepared.flags)
        # and so is a log that cannot be opened, without which no master goes on
        log.set_up(prepared.loaded.config.log)
    except (PlatformError, ConfigError) as error:
        if not rehearse:
            raise PlatformError(str(error)) from None
        click.echo(json.dumps({"error": str(error)}))
        return FAILED
    click.echo(json.dumps({"version": version()}))
    return OK


def _prepare(settings: Settings, descriptor: int) -> tuple[Prepared, Estate]:
    """Read the estate; return what goes on with it. Raises Unfit."""
    # the rehearsal is to load all that a master loads, also for its workers: what is missing must be found here
    from wsworker.master import estate as estates
    from wsworker.master import inventory, main, succession  # noqa: F401
    from wsworker.worker.boot import preload
    from wsworker.worker.main import run  # noqa: F401

    left = estates.decode(succession.read(descriptor), inventory.SHARED)
    call = left.call
    config = estates.config_of(left.settings)
    preload(config)
    loaded = Loaded(config, Path(call.path), call.shown, left.settings.origins)
    return Prepared(settings, loaded, Path(call.shown), dict(os.environ), call.flags, call.detached, call.follow), left
