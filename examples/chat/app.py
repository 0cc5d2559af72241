"""Rooms are topics; names come from signed tickets; a private line finds a name wherever it is connected."""

from message import build, parse
from ticket import WORD, name_of


def on_handshake(request):
    name_of(request)  # or 401


def on_connect(connection):
    connection.user = name_of(connection.request)


def on_message(connection, data):
    match parse(data):
        case {"join": str(room)} if WORD.fullmatch(room):
            leave(connection)
            connection.data["room"] = room
            connection.subscribe(room)
            connection.worker.publish(room, build(connection, "joined", room))
        case {"say": str(text), "to": str(name)} if WORD.fullmatch(name):
            connection.worker.send_to(name, build(connection, "whispers", text=text))
        case {"say": str(text)} if room := connection.data.get("room"):
            connection.worker.publish(room, build(connection, "says", room, text))
        case _:
            connection.close(4400, "not a message of this chat")


def on_close(connection, code, reason):
    leave(connection)


def leave(connection):
    if room := connection.data.pop("room", None):
        connection.unsubscribe(room)
        connection.worker.publish(room, build(connection, "left", room))
