"""Row 33: topics whose names, and whose number, come from clients."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from tests.system.conftest import MakeDaemon

LISTENS = """
def on_message(connection, data):
    word, _, name = data.partition(" ")
    if word == "sub":
        connection.subscribe(name)
    elif word == "user":
        connection.user = name
    elif word == "tell":
        connection.worker.send_to(name, "for your eyes only")
    connection.send(f"ok {len(connection.topics)}")
"""


def test_row_33_names_have_limits(make_daemon: MakeDaemon) -> None:
    """255 bytes of UTF-8 and no control character; whoever asks for more loses its connection, and nobody else does."""
    daemon = make_daemon(LISTENS).start()
    with daemon.connect() as witness:
        for name in ("x" * 255, "é" * 127, "*", "a b"):
            with daemon.connect() as client:
                client.send(f"sub {name}")
                assert "ok 1" == client.recv(10)
        for name in ("", "x" * 256, "é" * 128, "a\nb", "\x1b[2J", "\0"):
            for word in ("sub", "user"):
                with daemon.connect() as client:
                    client.send(f"{word} {name}")
                    with pytest.raises(ConnectionClosed):
                        client.recv(10)
                    assert 1011 == client.protocol.close_code
        witness.send("sub room")
        assert "ok 1" == witness.recv(10)
    # escapes for a terminal do not get into the log either
    assert "\x1b[2J" not in daemon.log


def test_row_33_as_many_topics_as_allowed(make_daemon: MakeDaemon) -> None:
    """The limit is reached exactly; what is over it is an exception in the callback, and so the end of that client."""
    daemon = make_daemon(LISTENS).start()
    with daemon.connect() as client:
        for number in range(128):
            client.send(f"sub {number}")
            assert f"ok {number + 1}" == client.recv(10)
        client.send("sub 0")
        assert "ok 128" == client.recv(10)
        client.send("sub 128")
        with pytest.raises(ConnectionClosed):
            client.recv(10)
        assert 1011 == client.protocol.close_code
    daemon.wait_log("a connection has at most 128 topics, see websocket.max_topics")


def test_row_33_a_topic_is_never_a_user(make_daemon: MakeDaemon) -> None:
    """Whoever subscribes to the name of a user hears nothing that is sent to that user."""
    daemon = make_daemon(LISTENS).start()
    with daemon.connect() as eve, daemon.connect() as ann:
        for client, text in ((eve, "sub ann"), (ann, "user ann")):
            client.send(text)
            client.recv(10)
        eve.send("tell ann")
        assert "ok 1" == eve.recv(10)
        assert "for your eyes only" == ann.recv(10)
        eve.send("sub ann")
        assert "ok 1" == eve.recv(10)
