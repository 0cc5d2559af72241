"""`bus.url` at a reload: a wrong one is refused, a right one is taken, and nothing ever shows its password."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.bare import bare_command, bare_path
from tests.ports import free_port
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon

SECRET = "hunter2"


class BareDaemon(Daemon):
    """One whose interpreter has no extras."""

    def _command(self, command: str, *arguments: str) -> Sequence[str]:
        return bare_command("-m", "wsworker", command, "-c", self.config.name, *arguments)


def test_no_password_is_shown(make_daemon: MakeDaemon) -> None:
    """Not when a reload is refused, not while nobody answers there, in no output and not in the log."""
    daemon = make_daemon().start()
    shown = []

    def ask(*command: str, code: int = 0) -> None:
        outcome = daemon.cli(*command)
        assert code == outcome.code, outcome
        shown.append(outcome.out + outcome.err)

    for wrong in (f"redis://{SECRET}@127.0.0.1", f"redis://ada:{SECRET}", f"http://:{SECRET}@127.0.0.1"):
        daemon.write_config(bus={"url": wrong})
        ask("reload", code=1)
        assert "bus.url must be a URL such as" in shown[-1]
    # there is nobody, and the service does not wait for anybody
    nobody = f"127.0.0.1:{free_port()}"
    daemon.write_config(bus={"url": f"redis://ada:{SECRET}@{nobody}"})
    ask("reload")
    daemon.wait_log(f"redis://{nobody}")
    for command in ("status", "connections", "check", "unit"):
        ask(command)
        ask(command, "--json")
    ask("check", "--print")
    assert f"redis://{nobody}" in shown[-1]
    ask("stop")
    assert SECRET not in "".join(shown)
    assert SECRET not in daemon.log + daemon.out


def test_an_extra_that_is_missing() -> None:
    """A reload is refused with the command that installs it, and the workers go on."""
    with BareDaemon() as daemon:
        daemon.environ["PYTHONPATH"] = bare_path(daemon.folder / "bare")
        daemon.start()
        workers = daemon.workers
        daemon.write_config(bus={"url": "redis://127.0.0.1"})
        outcome = daemon.cli("reload", "--json")
        assert 1 == outcome.code, outcome
        error = json.loads(outcome.out)["error"]["message"]
        assert 'bus.url needs the package redis: pip install "wsworker[redis]"' in error
        assert error.startswith("config.yaml:5:")
        assert workers == daemon.workers
