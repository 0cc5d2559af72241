import app


def test_hello(fake_connection):
    """TLS is a matter of config.yaml: the app is tested without it."""
    app.on_message(fake_connection, "tom")
    assert fake_connection.sent == ["hello tom, over TLS"]
