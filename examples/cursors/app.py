"""Everybody's cursor and drawing on everybody's page; `wsworker reload` while they draw, and nobody notices."""

from positions import newest, publish_newest, tell


def on_worker_start(worker):
    worker.every(1 / 30, publish_newest)


def on_connect(connection):
    connection.data["lines"] = 0
    connection.subscribe("cursors")


def on_message(connection, data):
    if not isinstance(data, bytes) or not data or len(data) % 4:
        connection.close(4400, "no points")
    elif len(data) == 4:
        newest[connection] = data
    else:
        # of lines none may be left out: by its number a page knows that it has got all of them
        connection.data["lines"] += 1
        tell(connection, connection.data["lines"].to_bytes(4, "big") + data)


def on_handover(connection):
    # connection.data moves by itself, what is in variables does not
    position = newest.pop(connection, None)
    return {"position": position.hex()} if position else {}


def on_resume(connection, state):
    if "position" in state:
        newest[connection] = bytes.fromhex(state["position"])


def on_close(connection, code, reason):
    newest.pop(connection, None)
    connection.worker.publish("cursors", connection.id)
