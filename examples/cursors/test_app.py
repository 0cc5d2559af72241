import json

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


def told(mover, data):
    """Return what the others get of a mover."""
    return bytes([len(mover.id)]) + mover.id.encode() + data


def test_the_others_see_it_and_the_mover_does_not(worker):
    mover, other = connect(worker), connect(worker)
    app.on_message(mover, b"\x00\x01\x00\x02")
    turn(worker)
    assert other.sent == [told(mover, b"\x00\x01\x00\x02")]
    assert mover.sent == []


def test_only_the_newest_position(worker):
    mover, other = connect(worker), connect(worker)
    for y in range(100):
        app.on_message(mover, bytes([0, 0, 0, y]))
    turn(worker)
    turn(worker)
    assert other.sent == [told(mover, b"\x00\x00\x00\x63")]
    assert worker.timers[0].seconds >= 1 / 30


def test_every_line(worker):
    mover, other = connect(worker), connect(worker)
    for _ in range(2):
        app.on_message(mover, b"\x00\x01\x00\x02\x00\x03\x00\x04")
    assert other.sent == [told(mover, bytes([0, 0, 0, n]) + b"\x00\x01\x00\x02\x00\x03\x00\x04") for n in (1, 2)]
    assert mover.sent == []


def test_a_reload(worker):
    """What the old worker has not published is published by the new one, once; the numbers of lines go on."""
    mover, other = connect(worker), connect(worker)
    app.on_message(mover, b"\x00\x01\x00\x02")
    app.on_message(mover, b"12345678")
    other.sent.clear()
    state = json.loads(json.dumps(app.on_handover(mover)))
    assert app.newest == {}
    app.on_resume(mover, state)
    turn(worker)
    app.on_message(mover, b"12345678")
    assert other.sent == [told(mover, b"\x00\x01\x00\x02"), told(mover, b"\x00\x00\x00\x0212345678")]
    assert app.on_handover(mover) == {}
    app.on_resume(other, {})
    assert app.newest == {}


def test_leaving(worker):
    mover, other = connect(worker), connect(worker)
    app.on_message(mover, b"\x00\x01\x00\x02")
    mover.end()
    app.on_close(mover, 1001, "")
    turn(worker)
    assert other.sent == [mover.id]


@pytest.mark.parametrize("message", ["", "text", b"", b"123", b"12345", b"1234567"])
def test_what_is_no_point(worker, message):
    mover = connect(worker)
    app.on_message(mover, message)
    assert mover.closed == (4400, "no points")
    assert app.newest == {}
