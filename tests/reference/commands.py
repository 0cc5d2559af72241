"""docs/commands.md: every command with its options, from click."""

from __future__ import annotations

import signal

import click

from tests.reference.template import filled, folded, table
from wsworker.cli.failures import BAD_CONFIG, BROKEN_PIPE, FAILED, INTERRUPTED, NOTHING_RUNNING, OK, PARKED, USAGE
from wsworker.cli.main import COMMANDS, commands
from wsworker.master.signals import SIGNALS

EXITS = {
    OK: "done",
    FAILED: "failed: already running, cannot listen, reload refused or partial, stop incomplete, another config file",
    USAGE: "wrong usage: no such command or option",
    NOTHING_RUNNING: "nothing running that could be stopped, reloaded or asked",
    PARKED: "every worker was given up, because none stayed alive",
    BAD_CONFIG: "the configuration is wrong, or the app cannot be imported",
    INTERRUPTED: "Ctrl+C ended what would have gone on: a wait, `top`",
    BROKEN_PIPE: "nobody reads the output any more, as in `wsworker top --json | head -1`",
}
"""What an exit code means whichever command it is of; `status` has its own."""

MORE = {
    "init": (
        "It writes `app.py`, `config.yaml`, `config.schema.json`, a test page and `test_app.py`. If one of them is "
        "there already, nothing is written."
    ),
    "check": (
        "It reads the configuration as `start` does, imports the app in a child process, as root with the rights of "
        "`user`, tries the addresses, and looks at certificates, the log file, the run directory, the control socket, "
        "the rights of the app's files and the limits of the system. What a start would fail by is an error, but for "
        "`on_worker_start`, which is not run; a warning changes nothing in the exit code. A service that runs is not "
        "touched."
    ),
    "start": (
        "Whatever is wrong with the configuration is told before anything starts. With `-d` it returns when every "
        "worker is ready, or prints the cause and fails; that needs `log.file`. `--reload` is for development."
    ),
    "stop": (
        "Clients get 1001 and at most `graceful_timeout`. It returns when the service has gone: from then on "
        "`start` works."
    ),
    "restart": (
        "With the options of `start`. The new configuration is read and the app imported first, so that a mistake "
        "does not cost the service that runs. Under systemd it refuses: use `systemctl restart`."
    ),
    "reload": (
        "The canary first, then worker by worker; [reload.md](reload.md) has the whole story. If the new code does "
        "not start, the old workers keep serving. Connections move to the new workers; it says how many did, and how "
        "many were told to reconnect and why. It returns when the last old worker has left."
    ),
    "upgrade": (
        "That is the version under the path by which the service was started. It is rehearsed first; what it cannot "
        "take over is refused, and nothing has changed. Then it takes over in the master's process and reloads: what "
        "is shown, and the exit code, are those of `reload`. [upgrade.md](upgrade.md) has the whole story."
    ),
    "rebalance": (
        "New connections go to the emptiest workers by themselves; this moves those that are there, until all workers "
        "have as many, and no client notices. What cannot move stays, and the reason is told: "
        "[metrics.md](metrics.md#label-values) has them. It is refused while a worker boots or leaves, and with "
        "`reload_strategy: drain`."
    ),
    "reopen": "For logrotate; USR1 does the same.",
    "status": "One look. `--json` has more, such as bytes and the reason of a worker's last exit.",
    "top": "`status` again and again, until q or Ctrl+C; `--json` prints one document a line.",
    "connections": "Each worker is asked; one that gives no answer in 2 s is named and not waited for.",
    "publish": (
        "For cron, shell scripts and other languages. It says that a worker has accepted the message, not who got it. "
        "By a broker it goes to the service on all machines, and needs none on this one, see "
        "[bus.md](bus.md#publishing-from-other-programs)."
    ),
    "schema": (
        "Put it beside your `config.yaml`; [configuration.md](configuration.md#in-an-editor) says how an editor "
        "finds it. It needs no service and no config file."
    ),
    "unit": (
        "With the paths of this virtual environment and this config file, in the sandbox of "
        "[deployment.md](deployment.md)."
    ),
}
"""What --help has no room for, by command."""

SIGNAL_WORDS = {
    "SIGTERM": "stop: clients get 1001, at most `graceful_timeout`",
    "SIGINT": "stop; a second INT or TERM stops quickly",
    "SIGQUIT": "stop quickly",
    "SIGHUP": "reload code and configuration",
    "SIGUSR1": "open the log file anew",
    "SIGTTIN": "one worker more",
    "SIGTTOU": "one worker less",
    "SIGUSR2": "upgrade: the version that is installed now takes over",
}


def document() -> str:
    """Return the page."""
    context = click.Context(commands, info_name="wsworker")
    own = {option.opts[-1] for option in _options(commands)}
    exits = table(("code", "meaning"), ((f"{code}", meaning) for code, meaning in EXITS.items()))
    known = [signal.Signals(number).name for number in (*SIGNALS, signal.SIGHUP, signal.SIGUSR2)]
    if sorted(known) != sorted(SIGNAL_WORDS):
        raise ValueError(f"the master knows {sorted(known)}, the reference {sorted(SIGNAL_WORDS)}")
    if COMMANDS.keys() != MORE.keys():
        raise ValueError(f"the commands are {list(COMMANDS)}, described are {list(MORE)}")
    return filled(
        "commands.md",
        {
            "overview": table(
                ("command", "what it does"), ((f"[`{name}`](#{name})", COMMANDS[name]) for name in COMMANDS)
            ),
            "global options": _option_table(commands, set()),
            "commands": "\n".join(entry(name, context, own) for name in COMMANDS),
            "exit codes": exits,
            "signals": table(
                ("signal", "meaning"), ((name.removeprefix("SIG"), text) for name, text in SIGNAL_WORDS.items())
            ),
        },
    )


def entry(name: str, context: click.Context, global_names: set[str]) -> str:
    """Return what --help says of one command. global_names: options that every command has."""
    command = commands.get_command(context, name)
    assert command is not None
    own = click.Context(command, info_name=name, parent=context)
    usage = " ".join(["wsworker", name, *command.collect_usage_pieces(own)])
    parts = [f"### {name}\n", f"```text\n{usage}\n```\n", f"{folded(f'{command.help} {MORE[name]}')}\n"]
    if options := _option_table(command, global_names):
        parts.append(f"{options}\n")
    exits, _, example = (command.epilog or "").partition("\n\n")
    if exits:
        parts.append(f"{folded(exits)}\n")
    if example:
        parts.append(f"```console\n$ {example.removeprefix(chr(8)).strip().removeprefix('Example: ')}\n```\n")
    return "\n".join(parts)


def _options(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def _option_table(command: click.Command, without: set[str]) -> str:
    context = click.Context(command, info_name="wsworker")
    rows = []
    for option in _options(command):
        record = option.get_help_record(context)
        if record is None or option.opts[-1] in without:
            continue
        names, text = record
        rows.append((f"`{names}`", text))
    return table(("option", "meaning"), rows) if rows else ""
