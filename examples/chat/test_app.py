import json

import app
import pytest
import ticket

from wsworker import Reject
from wsworker.testing import FakeConnection, FakeRequest, FakeWorker


def signed_in(worker, name):
    """Return a connection whose client has shown a ticket."""
    connection = FakeConnection(worker, FakeRequest(headers={"Cookie": f"ticket={ticket.make(name)}"}))
    app.on_handshake(connection.request)
    app.on_connect(connection)
    return connection


def say(connection, **message):
    app.on_message(connection, json.dumps(message))


def heard(connection):
    """Return what a connection was told since the last time."""
    messages = [json.loads(message) for message in connection.sent]
    connection.sent.clear()
    return [(message["what"], message["from"], message["in"], message["text"]) for message in messages]


@pytest.fixture
def tom():
    return signed_in(FakeWorker(), "tom")


@pytest.fixture
def ada(tom):
    return signed_in(tom.worker, "ada")


def test_a_room(tom, ada):
    say(tom, join="lobby")
    say(ada, join="lobby")
    say(ada, say="hello")
    assert heard(tom) == [
        ("joined", "tom", "lobby", ""),
        ("joined", "ada", "lobby", ""),
        ("says", "ada", "lobby", "hello"),
    ]
    assert heard(ada) == [("joined", "ada", "lobby", ""), ("says", "ada", "lobby", "hello")]


def test_another_room(tom, ada):
    say(tom, join="lobby")
    say(ada, join="garden")
    say(ada, say="hello")
    assert heard(tom) == [("joined", "tom", "lobby", "")]
    say(ada, join="lobby")
    assert ada.topics == {"lobby"}


def test_a_private_line(tom, ada):
    say(ada, say="hello", to="tom")
    assert heard(tom) == [("whispers", "ada", "", "hello")]
    assert heard(ada) == []


def test_leaving(tom, ada):
    say(tom, join="lobby")
    say(ada, join="lobby")
    heard(tom)
    ada.end()
    app.on_close(ada, 1001, "")
    assert heard(tom) == [("left", "ada", "lobby", "")]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[",
        "[" * 100_000,
        b"\xff",
        "null",
        "[]",
        '{"join": 1}',
        '{"join": ""}',
        '{"join": "a b"}',
        '{"join": "%s"}' % ("a" * 31),
        '{"say": "in no room"}',
        '{"say": "x", "to": ["tom"]}',
        '{"say": "x", "to": "\\ud800"}',
        "9" * 5000,
    ],
)
def test_what_is_no_message(tom, message):
    app.on_message(tom, message)
    assert tom.closed == (4400, "not a message of this chat")
    assert tom.worker.published == tom.worker.sent_to == []


@pytest.mark.parametrize(
    "cookie", ["", "ticket=", "ticket=tom", "ticket=..", "ticket=tom.9999999999.00", "ticket=\xff.\xff"]
)
def test_without_a_ticket(cookie):
    with pytest.raises(Reject) as refused:
        app.on_handshake(FakeRequest(headers={"Cookie": cookie}))
    assert refused.value.status == 401


def test_a_ticket_that_has_expired():
    with pytest.raises(Reject):
        app.on_handshake(FakeRequest(headers={"Cookie": f"ticket={ticket.make('tom', seconds=0)}"}))
