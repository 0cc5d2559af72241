"""The daemon that the browser talks to: a Daemon of the system tests that runs obedient.py, and can be asked about it.

The test asks over WebSocket connections of its own, to the path /control. So there must be one worker only, and orders
reach it also while a page's connection is paused or closing.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import connect

from tests.system.daemon import Daemon, eventually

APP: Final = Path(__file__).with_name("obedient.py").read_text()


class Service(Daemon):
    """A daemon for pages. It does not run before start().

    websocket: settings of that section, over the few that are set here; origins: the pages that may connect; trust: how
    the test's own connections check the certificate, where the settings have one.
    """

    def __init__(
        self,
        origins: list[str],
        websocket: dict[str, object] | None = None,
        trust: ssl.SSLContext | None = None,
        **settings: object,
    ) -> None:
        # a page that waits for the test may take long on a slow machine
        websocket = {"origins": origins, "max_size": "64MiB", "open_timeout": "30s", **(websocket or {})}
        # for debugging each refusal is logged, else one of a kind in a minute
        super().__init__(APP, websocket=websocket, **{"log": {"level": "debug"}, **settings})
        self.trust = trust

    @property
    def authority(self) -> str:
        """Host and port, as they stand in a URL."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        """Return the URL of a path, which may have a query."""
        return f"{'ws' if self.trust is None else 'wss'}://{self.authority}{path}"

    def ask(self, question: dict[str, Any]) -> Any:
        """Ask the app; see answer() there."""
        with connect(self.url("/control"), ssl=self.trust, proxy=None) as client:
            client.send(json.dumps(question))
            return json.loads(client.recv(10))

    def seen(self, path: str, what: str = "") -> list[dict[str, Any]]:
        """Return what the app has seen on a path, oldest first; all of it, or one kind."""
        facts = self.ask({"seen": path})
        return [
            {key: value for key, value in fact.items() if key not in ("path", "what")} if what else fact
            for fact in facts
            if what in ("", fact["what"])
        ]

    def wait_seen(self, path: str, what: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the app has seen so many things of a kind on a path, and return them."""
        return eventually(lambda: found if len(found := self.seen(path, what)) >= count else [], f"{what} on {path}")

    def order(self, path: str, **order: object) -> None:
        """Have the app do something to the connection of a path; obey() there tells what."""
        self.ask({"path": path, "order": order})

    def release(self, path: str) -> None:
        """Let the app answer the handshakes to a path that it holds."""
        self.ask({"release": path})
