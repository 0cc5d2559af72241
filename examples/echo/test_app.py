import app
import pytest


@pytest.mark.parametrize("message", ["tom", "", b"\x00\xff"])
def test_unchanged(fake_connection, message):
    app.on_message(fake_connection, message)
    assert fake_connection.sent == [message]


def test_unchanged_over_a_socket(wsworker_server):
    with wsworker_server("app").connect() as client:
        for message in ("tom", "", b"\x00\xff"):
            client.send(message)
            assert client.recv() == message
