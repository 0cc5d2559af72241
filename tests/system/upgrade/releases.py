"""Releases: versions of wsworker side by side, and a link that says which one is installed.

Each release is a copy of the package in a folder of its own, with metadata of its own, from which it knows its version.
PYTHONPATH leads over the link. So whoever is started runs the release that the link leads to by then, and who runs
already goes on with what it has loaded: just as with a virtual environment that is updated or replaced.

What a release has otherwise is put into its copy. So a test can have one that does not start, or that waits where a
test wants to do something in between (HELD, and Hold).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import ClientConnection

from tests.system.daemon import PACKAGE, Daemon, Outcome, eventually
from tests.system.faults.mischief import callers, descriptors
from tests.system.handover.riders import app

OLD: Final = "1.0.0"
NEW: Final = "2.0.0"

Edits = Mapping[str, tuple[str, str]]
"""What another release has otherwise: file of the package, a text that stands in it once, and what replaces that."""

WHICH: Final = """
import os
import wsworker

def on_message(connection, data):
    connection.send(f"{os.getpid()} {wsworker.RELEASE} {data}")
"""
"""Answers like WHO, and with the release that its worker was made of."""

RIDERS_APP: Final = app(0).replace("VERSION = 0", "import wsworker\nVERSION = int(wsworker.RELEASE[0])")
"""The app of the riders, whose version is that of the release that its worker was made of."""

_WAIT: Final = """\
            import pathlib, time
            pathlib.Path("reached-NAME").touch()
            while pathlib.Path("hold-NAME").exists():
                time.sleep(0.01)
"""
_LOOK: Final = "        # a configuration that a reload would refuse is told before anything has happened\n"
_GO_ON: Final = "            return prepared.go_on(estate)\n"


def waits(*names: str) -> Edits:
    """Return a release that waits in its rehearsal, or when it takes over, or in both; see Released.hold."""
    wait = {name: _WAIT.replace("NAME", name) for name in names}
    after = wait.get("takeover", "") + _GO_ON
    if "rehearsal" in names:
        after += f"        if rehearse:\n{wait['rehearsal']}"
    return {"cli/takeover.py": (_GO_ON, after)}


class Released(Daemon):
    """A service that runs a release, OLD at first."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.install(OLD)

    def install(self, version: str, edits: Edits | None = None) -> None:
        """Make a version the one that is installed; with edits it is laid out anew."""
        folder = self._releases / version
        if edits is not None and folder.exists():
            shutil.rmtree(folder)
        if not folder.exists():
            _lay(folder, version, edits or {})
        half = self._releases / "half"
        half.symlink_to(version)
        half.replace(self._releases / "current")

    def upgrade(self, *flags: str) -> Outcome:
        """Ask for an upgrade, and return how the command has ended."""
        return self.cli("upgrade", *flags, seconds=60)

    def upgraded(self, version: str = NEW, edits: Edits | None = None) -> dict[str, Any]:
        """Install a version, upgrade to it, and return the document of the command; fail unless it is well."""
        self.install(version, edits)
        outcome = self.upgrade("--json")
        assert 0 == outcome.code, (outcome, self.log)
        assert version == self.status()["version"]
        return outcome.document()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold a release that waits at "rehearsal" or "takeover" there; it goes on when this ends."""
        (self.folder / f"reached-{name}").unlink(missing_ok=True)
        held = self.folder / f"hold-{name}"
        held.touch()
        try:
            yield
        finally:
            held.unlink()

    def wait_held(self, name: str) -> None:
        """Wait until a release waits there."""
        eventually((self.folder / f"reached-{name}").exists, f"the {name}")

    def wait_rested(self) -> dict[str, Any]:
        """Wait until every slot has its worker and nobody else is there; return the status document."""
        return self.wait_status(
            lambda status: (
                status["state"] == "running"
                and len(status["workers"]) == status["workers_configured"] == status["workers_ready"]
            )
        )

    def open_in_master(self) -> list[str]:
        """Return what the master has open when nobody calls it, without the numbers of sockets and files."""
        master = self.master
        eventually(lambda: callers(self) == 0, "nobody calls")
        opened = []
        for descriptor in descriptors(master):
            # the last caller's may just have been closed
            with suppress(FileNotFoundError):
                opened.append(os.readlink(f"/proc/{master}/fd/{descriptor}").partition(":[")[0])
        return sorted(opened)

    def check_closed_on_exec(self) -> None:
        """Fail if the master has something open that a program which it starts would inherit."""
        of_master = Path("/proc") / str(self.master)
        for descriptor in descriptors(self.master):
            with suppress(FileNotFoundError):
                flags = (of_master / "fdinfo" / str(descriptor)).read_text().partition("flags:")[2].split()[0]
                what = os.readlink(of_master / "fd" / str(descriptor))
                assert descriptor <= 2 or int(flags, 8) & os.O_CLOEXEC, what

    def release(self) -> str:
        """Return the release that a new client is served by; the app must be WHICH."""
        return self.echo("").split()[1]

    @property
    def _releases(self) -> Path:
        return self.folder / "releases"

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": str(self._releases / "current")}


def release_of(client: ClientConnection) -> str:
    """Return the release that a client is served by; the app must be WHICH."""
    client.send("which")
    return str(client.recv(10)).split()[1]


def _lay(folder: Path, version: str, edits: Edits) -> None:
    """Make a release in a folder."""
    # what another process compiles meanwhile has such a name until it is whole
    shutil.copytree(PACKAGE, folder / "wsworker", ignore=shutil.ignore_patterns("*.pyc.*"))
    metadata = folder / f"wsworker-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: wsworker\nVersion: {version}\n")
    package = folder / "wsworker" / "__init__.py"
    package.write_text(f'{package.read_text()}\nRELEASE = "{version}"\n')
    for name, (before, after) in edits.items():
        file = folder / "wsworker" / name
        text = file.read_text()
        assert 1 == text.count(before), f"{before!r} stands in {name} {text.count(before)} times"
        file.write_text(text.replace(before, after))
