"""What every command has in common: the global options, before or behind the command's name, and how it speaks.

Results go to standard output, progress and errors to standard error. With --json a command says one thing only, the
document of its result, on standard output. Colour is for terminals: click takes it out of everything else, NO_COLOR
(no-color.org) and a terminal that calls itself dumb switch it off, and --color decides against all of them.

Every command's --help ends alike: with its exit codes and one example, which `epilog` makes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from wsworker.cli.failures import FAILED, USAGE, Failure
from wsworker.cli.version import banner
from wsworker.visible import is_colorless

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])

YAML_ENDINGS: Final = (".yaml", ".yml")


@dataclass
class Settings:
    """The global options of this run, and the two voices of a command.

    config: as typed behind -c; lost: the exit code if the result cannot be written.
    """

    config: str | None = None
    json: bool = False
    color: str = "auto"
    debug: bool = False
    lost: int = FAILED

    def config_path(self) -> Path:
        """Return the config file that this run is about. Raises ConfigError if there is none."""
        # here and not above: --help would pay for PyYAML
        from wsworker import configfile

        return configfile.find(self.config, os.environ)

    def result(self, text: str, document: Mapping[str, Any]) -> None:
        """Print a result: the text, or with --json the document."""
        click.echo(_line(document) if self.json else text, color=self.colored())

    def progress(self, line: str) -> None:
        """Print a line on the way to a result; nothing with --json."""
        if not self.json:
            # a restart must not end half-way because nobody reads how far it is
            with suppress(OSError):
                click.echo(line, err=True, color=self.colored())

    def failure(self, failure: Failure) -> None:
        """Print a failure. Only the document may raise OSError: the exit code tells of a line that nobody can read."""
        if self.json:
            click.echo(_line(failure.document))
            return
        word, colon, rest = failure.text.partition("error:")
        text = click.style("error:", fg="red") + rest if colon and not word else failure.text
        with suppress(OSError):
            click.echo(text, err=True, color=self.colored())

    def colored(self) -> bool | None:
        """Whether to keep colour; None leaves it to click, which keeps it on a terminal."""
        if self.color == "auto":
            return False if is_colorless(os.environ) else None
        return self.color == "always"


def _line(document: Mapping[str, Any]) -> str:
    # here and not above: --help would pay for it
    import json

    return json.dumps(document)


def global_options(command: Command) -> Command:
    """Give a command the global options; they end in the Settings that click hands on as its object."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def epilog(exits: Mapping[int, str], example: str) -> str:
    """Return what --help ends with; give it to click.command(epilog=...).

    exits: each exit code of the command to what it means, in a few words; 2 for wrong usage, which every command has,
    is added. example: one command line, with or without a comment behind it.
    """
    meanings = dict(sorted({**exits, USAGE: "wrong usage"}.items()))
    codes = "; ".join(f"{code} {meaning}" for code, meaning in meanings.items())
    # \b keeps click from folding the paragraph
    return f"Exit codes: {codes}.\n\n\b\nExample: {example}"


def yaml_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a path: the YAML files of that folder, and its folders where there is none."""
    from click.shell_completion import CompletionItem

    folder, _, start = incomplete.rpartition("/")
    prefix = f"{folder}/" if "/" in incomplete else ""
    try:
        names = sorted(os.listdir(prefix or "."))
    except OSError:
        names = []
    # a hidden file is offered to those who type its dot
    fitting = [name for name in names if name.startswith(start) and name.startswith(".") <= start.startswith(".")]
    items = [CompletionItem(prefix + name) for name in fitting if name.endswith(YAML_ENDINGS)]
    # bash looks for folders itself
    return items or [CompletionItem(incomplete, type="dir")]


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store an option that was given. The group and the command both have it, and silence must not undo a word."""
    if value is None or value is False:
        return
    if value == "":
        # such as a variable of a script that is not set: no word for another file
        raise click.UsageError("FILE of -c is empty; name a file, or leave -c out", context)
    assert parameter.name is not None
    setattr(context.ensure_object(Settings), parameter.name, value)


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(banner())
        context.exit()


_OPTIONS = (
    click.option(
        "-c",
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_keep,
        shell_complete=yaml_files,
        help="Config file; else $WSWORKER_CONFIG, ./config.yaml or /etc/wsworker/config.yaml.",
    ),
    click.option(
        "--json", is_flag=True, expose_value=False, callback=_keep, help="Print one JSON document, also for errors."
    ),
    click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        expose_value=False,
        callback=_keep,
        help="Colour; auto is on terminals, and without NO_COLOR.",
    ),
    click.option("--debug", is_flag=True, expose_value=False, callback=_keep, help="Show tracebacks of errors."),
    click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    ),
)
