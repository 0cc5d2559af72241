"""Half-open clients: many that connect and say nothing keep nobody out for long, and cost little."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.certificates import HOST, Authority
from tests.system.clients import raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import eventually
from tests.system.test_proxy_protocol import TELLS, V1, remote


@pytest.mark.parametrize("how", ["plain", "PROXY", "TLS"])
def test_a_thousand_silent_clients(make_daemon: MakeDaemon, tmp_path: Path, how: str) -> None:
    """They keep a good client waiting for one deadline, not for ever, and take no memory to speak of.

    At most max_handshakes of them are inside at any time; the others wait in the queue, and cost the worker nothing.
    """
    authority = Authority(tmp_path)
    settings: dict[str, object] = {"websocket": {"open_timeout": "2s", "max_handshakes": 600}}
    if how == "PROXY":
        settings["proxy_protocol"] = "v1"
    if how == "TLS":
        settings["tls"] = authority.issue("one").settings
    daemon = make_daemon(TELLS, **settings).start()

    def good() -> str:
        with raw(daemon) as sock:
            if how == "PROXY":
                sock.sendall(V1)
            if how != "TLS":
                return remote(sock)
            with authority.client().wrap_socket(sock, server_hostname=HOST) as secure:
                return remote(secure)

    assert good()
    before = daemon.wait_status(lambda status: status["workers"][0]["rss"])["workers"][0]["rss"]
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(raw(daemon))
        assert good()
        during = daemon.status()["workers"][0]["rss"]
        daemon.wait_log("600 handshakes are under way, as many as websocket.max_handshakes allows")
    assert during - before < 64 * 1024**2
    # once they are gone nobody waits
    eventually(good, "a client that is served")
