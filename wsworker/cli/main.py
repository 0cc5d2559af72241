"""The command line: the group of commands, and the one place where a failure becomes an exit code.

A documented condition (errors.py, a usage error of click) is one line, "error: ...", that names the next step; --debug
shows the traceback behind it. A fault keeps its traceback: it is a bug. Ctrl+C is neither.

Each command is imported only when it is the one that was asked for: `status` must be quick, and its import must not
pay for what `start` needs.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import click

from wsworker.cli import streams
from wsworker.cli.failures import BROKEN_PIPE, INTERRUPTED, OK, describe
from wsworker.cli.options import Settings, global_options
from wsworker.master import invocation

COMPLETION: Final = """\
\b
Completion: put the line of your shell into its start file.
  bash, ~/.bashrc:  eval "$(_WSWORKER_COMPLETE=bash_source wsworker)"
  zsh, ~/.zshrc:    eval "$(_WSWORKER_COMPLETE=zsh_source wsworker)"
  fish:             _WSWORKER_COMPLETE=fish_source wsworker | source
"""

COMMANDS: Final[Mapping[str, str]] = {
    "init": "Write a small service to start from.",
    "check": "Check configuration, app and system; start nothing.",
    "start": "Run the service in the foreground, or in the background (-d).",
    "stop": "Stop the service and wait for its end.",
    "restart": "Stop the service if it runs, then start it.",
    "reload": "Load new code and configuration, worker by worker.",
    "upgrade": "Let the version that is installed now take over.",
    "rebalance": "Move connections from the fullest workers to the emptiest.",
    "reopen": "Reopen the log file, after it was moved away.",
    "status": "Show the service and its workers.",
    "top": "Watch the service and its workers.",
    "connections": "Show the open connections.",
    "publish": "Publish a message; - reads it from standard input, as it is.",
    "schema": "Print the JSON Schema of config.yaml, for editors.",
    "unit": "Print a systemd unit for this service and virtualenv.",
}
"""What --help says of each command: its own first sentence, written here too so that --help need not import them."""


HIDDEN: Final = ("takeover",)
"""Commands that a master gives to the program that follows it, and nobody else."""


class Commands(click.Group):
    """The commands, each in the file of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a service needs them."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in (*COMMANDS, *HIDDEN):
            return None
        command = getattr(importlib.import_module(f"wsworker.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for; of one that does not exist, say which was meant."""
        name = args[0]
        if name not in (*COMMANDS, *HIDDEN) and not ctx.resilient_parsing:
            # here and not above: --help would pay for it
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise click.UsageError(f"No such command {name!r}{f'; did you mean {near[0]!r}?' if near else ''}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the global options, of which --help and --version print something."""
        with _for_a_reader():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An option without its value is an error of the command, which click does not note."""
        try:
            with _for_a_reader():
                return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is None and ctx.invoked_subcommand is not None:
                command = self.get_command(ctx, ctx.invoked_subcommand)
                assert command is not None
                error.ctx = click.Context(command, ctx, ctx.invoked_subcommand)
            raise


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=COMPLETION,
)
@global_options
@click.pass_context
def commands(context: click.Context) -> None:
    """Run a WebSocket service: a master, its workers, one port."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. arguments: without the program's name."""
    streams.prepare()
    settings = Settings()
    try:
        with invocation.given(arguments):
            return _run(settings, arguments)
    except OSError as error:
        if not _is_of_output(error):
            raise
        if isinstance(error.__context__, KeyboardInterrupt):
            # click could not write below the ^C, on standard error
            return INTERRUPTED
        streams.discard_output()
        if error.errno == errno.EPIPE:
            return BROKEN_PIPE
        with suppress(OSError):
            click.echo(f"error: cannot write to standard output: {error.strerror}", err=True)
        return settings.lost
    finally:
        streams.settle_errors()


def _run(settings: Settings, arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; OSError if a result or the document of a failure cannot be written."""
    try:
        code = commands.main(list(arguments), prog_name="wsworker", standalone_mode=False, obj=settings)
    except click.Abort:
        # click's word for KeyboardInterrupt: 128 + SIGINT, as a shell has it
        return INTERRUPTED
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        # the options may stand behind what click could not read
        settings.json = settings.json or "--json" in arguments
        with suppress(OSError):
            if settings.debug:
                import traceback

                traceback.print_exc()
            if failure.exit_code == INTERRUPTED and sys.stderr.isatty():
                # below the ^C
                click.echo(err=True)
        settings.failure(failure)
        return failure.exit_code
    return code if isinstance(code, int) else OK


@contextmanager
def _for_a_reader() -> Iterator[None]:
    """End as other programs in a pipe do when the reader has gone. click makes it 1, to `status` a dead service."""
    try:
        yield
    except BrokenPipeError as error:
        if not _is_of_output(error):
            raise
        streams.discard_output()
        raise click.exceptions.Exit(BROKEN_PIPE) from None


def _is_of_output(error: OSError) -> bool:
    """Whether it was click.echo that could not write, such as on a full disk. All else is a fault."""
    # here and not above: every command would pay for it
    from traceback import walk_tb

    *_, (innermost, _) = walk_tb(error.__traceback__)
    return innermost.f_code is click.echo.__code__


def main() -> None:
    """Be the program."""
    sys.exit(run(sys.argv[1:]))
