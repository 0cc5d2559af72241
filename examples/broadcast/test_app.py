import app

from wsworker.testing import FakeConnection, FakeRequest


def test_the_publisher_reaches_everybody(fake_connection):
    publisher = FakeConnection(fake_connection.worker, FakeRequest("/broadcast"))
    app.on_message(publisher, "dinner is ready")
    assert fake_connection.sent == publisher.sent == ["dinner is ready"]


def test_users_only_listen(fake_connection):
    app.on_message(fake_connection, "hello")
    assert fake_connection.worker.broadcasts == []
    assert fake_connection.closed == (4403, "this path only listens")
