"""An example as it is shipped: its folder copied, its own config.yaml, a free port, a page or clients to talk to it.

The copy keeps what Python and the examples write (__pycache__, keys) out of the checkout. Everything else is the
Daemon of the system tests.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Self

from websockets.sync.client import ClientConnection

from tests.system.daemon import Daemon

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
IGNORED: Final = shutil.ignore_patterns("__pycache__", "*.pem", "*.key", ".*")

NAMES: Final = (
    "hello",
    "echo",
    "broadcast",
    "ticker",
    "chat",
    "cursors",
    "upload",
    "subprotocols",
    "wss",
    "publisher",
)
"""All examples, in the order to learn from, which is that of examples/README.md."""


class Example(Daemon):
    """The service of one example. It does not run before start()."""

    def __init__(self, example: str) -> None:
        super().__init__()
        self.example = example
        shutil.copytree(EXAMPLES / example, self.folder, ignore=IGNORED, dirs_exist_ok=True)

    def start(self, *flags: str) -> Self:
        """Start it on a free port instead of its own, and wait until every worker is ready."""
        return super().start("-b", f"127.0.0.1:{self.port}", *flags)

    @property
    def site(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    def change(self, old: str, new: str, file: str = "app.py") -> None:
        """Replace a text that stands once in a file of the copy; for tests that cannot wait as long as people."""
        path = self.folder / file
        text = path.read_text()
        assert 1 == text.count(old), f"{old!r} in {file}"
        path.write_text(text.replace(old, new))


def code_at_end(client: ClientConnection) -> int | None:
    """Wait until the server has closed, and return its code."""
    assert client.wait_closed(10), "still open"
    return client.close_code


def send_until(sender: ClientConnection, data: str | bytes, receiver: ClientConnection) -> str | bytes:
    """Send a message again and again until a receiver is told something, and return that.

    A subscription takes effect in other workers a moment later than in its own.
    """
    for _ in range(100):
        sender.send(data)
        try:
            return receiver.recv(0.1)
        except TimeoutError:
            continue
    raise AssertionError("nothing has come in 10 s")
