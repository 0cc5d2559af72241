import app
import pytest

from wsworker.testing import FakeConnection, FakeWorker


@pytest.fixture
def worker():
    app.newest.clear()
    worker = FakeWorker()
    app.on_worker_start(worker)
    return worker


def connect(worker):
    connection = FakeConnection(worker)
    app.on_connect(connection)
    return connection


def turn(worker):
    """Do what the worker does 30 times a second."""
    worker.timers[0].fn()


def test_the_others_see_it_and_the_mover_does_not(worker):
    mover, other = connect(worker), connect(worker)
    app.on_message(mover, b"\x00\x01\x00\x02")
    turn(worker)
    assert other.sent == [b"\x00\x01\x00\x02" + mover.id.encode()]
    assert mover.sent == []


def test_only_the_newest_position(worker):
    mover, other = connect(worker), connect(worker)
    for y in range(100):
        app.on_message(mover, bytes([0, 0, 0, y]))
    turn(worker)
    turn(worker)
    assert other.sent == [b"\x00\x00\x00\x63" + mover.id.encode()]
    assert worker.timers[0].seconds >= 1 / 30


def test_leaving(worker):
    mover, other = connect(worker), connect(worker)
    app.on_message(mover, b"\x00\x01\x00\x02")
    mover.end()
    app.on_close(mover, 1001, "")
    turn(worker)
    assert other.sent == [mover.id]


@pytest.mark.parametrize("message", ["", "text", b"", b"123", b"12345"])
def test_what_is_no_position(worker, message):
    mover = connect(worker)
    app.on_message(mover, message)
    assert mover.closed == (4400, "not a position")
    assert app.newest == {}
