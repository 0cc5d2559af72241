"""`start --reload`: what is saved is served, and what does not start is shown while the old code goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually


def saying(word: str, begin: str = "") -> str:
    """Return an app that answers with this word."""
    return f"{begin}\ndef on_message(connection, data):\n    connection.send({word!r})\n"


def answers(daemon: Daemon, word: str) -> Callable[[], bool]:
    """Return whether every worker answers so, as far as a few clients can tell."""

    def ask() -> bool:
        try:
            return {daemon.echo("?") for _ in range(6)} == {word}
        except (ConnectionClosed, InvalidStatus, AssertionError):
            # its worker was just told to go; 503 is for those whose handshake was under way, and what the client makes
            # of one that comes before its request has left is an AssertionError of its own
            return False

    return ask


def asked(client: ClientConnection) -> str | bytes:
    """Return what the code that serves a client now says to it, which moves with its worker and not with the others."""
    client.send("?")
    return client.recv(10)


def close_code(client: ClientConnection) -> int:
    """Return the code with which a client is closed, by the end of a reload."""
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(30)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def test_a_day_at_the_desk(make_daemon: MakeDaemon) -> None:
    """Saves of the app, of what it imports and of the config: each is one reload, whoever of the workers sees it."""
    daemon = make_daemon(app=saying("one"), workers=2).start("--reload")
    daemon.wait_log("watching 2 files; a saved change is loaded at once")
    with daemon.connect() as client:
        daemon.write_app(saying("two"))
        eventually(lambda: asked(client) == "two")
    daemon.wait_log("app.py changed, reloading")

    daemon.write_app("def on_message(connection, data)\n")
    daemon.wait_log("SyntaxError: expected ':'")
    eventually(answers(daemon, "two"))

    # what is not there yet is none of the modules that were loaded
    daemon.write_app(saying("three", begin="import rooms"))
    daemon.wait_log("needs the module 'rooms'")
    (daemon.folder / "rooms.py").write_text("")
    eventually(answers(daemon, "three"))

    # as many editors save: another file in place of the old one; and of the same size, within the second
    (daemon.folder / "new").write_text((daemon.folder / "app.py").read_text().replace("three", "seven"))
    os.replace(daemon.folder / "new", daemon.folder / "app.py")
    eventually(answers(daemon, "seven"))

    daemon.write_config(workers="many")
    daemon.wait_log("workers must be a number from 1 to 256, or auto")
    daemon.write_config(workers=3)
    status = daemon.wait_status(lambda status: status["workers_ready"] == 3 and status["state"] == "running")
    assert 4 == status["reloads"]
    assert 0 == status["totals"]["restarts"]


def test_without_the_flag_nothing_is_watched(make_daemon: MakeDaemon) -> None:
    """A service in production loads new code when it is told to."""
    daemon = make_daemon(app=saying("one")).start()
    daemon.write_app(saying("two"))
    assert 0 == daemon.cli("reload").code
    assert answers(daemon, "two")()
    assert "changed, reloading" not in daemon.log
    assert "watching" not in daemon.log
