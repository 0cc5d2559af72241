import hashlib
import json

import app


def test_digest(fake_connection):
    app.on_message(fake_connection, b"abc")
    assert json.loads(fake_connection.sent[0]) == {"length": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}


def test_text(fake_connection):
    app.on_message(fake_connection, "abc")
    assert fake_connection.closed == (1003, "send the file itself, as a binary message")


def test_the_limit(wsworker_server):
    with wsworker_server("app", websocket={"max_size": 1000}).connect() as client:
        client.send(bytes(1000))
        assert json.loads(client.recv())["length"] == 1000
        client.send(bytes(1001))
        assert client.wait_closed(10)
        assert client.close_code == 1009
