import app


def test_hello(fake_connection):
    """Called directly: no server, no socket."""
    app.on_message(fake_connection, "tom")
    assert fake_connection.sent == ["hello tom"]


def test_hello_over_a_socket(wsworker_server):
    """A real worker in a thread, a real client."""
    with wsworker_server("app").connect() as client:
        client.send("tom")
        assert client.recv() == "hello tom"
