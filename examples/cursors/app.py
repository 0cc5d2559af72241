"""Everybody's cursor on everybody's page: at most 30 positions a second from each, and always the newest."""

newest = {}  # connection -> its position since the last turn


def on_worker_start(worker):
    def turn():
        for connection, position in newest.items():
            worker.publish("cursors", position + connection.id.encode(), exclude=connection)
        newest.clear()

    worker.every(1 / 30, turn)


def on_connect(connection):
    connection.subscribe("cursors")


def on_message(connection, data):
    # x and y as two numbers of 16 bits: every four bytes are a position, so there is nothing else to check
    if isinstance(data, bytes) and len(data) == 4:
        newest[connection] = data
    else:
        connection.close(4400, "not a position")


def on_close(connection, code, reason):
    newest.pop(connection, None)
    connection.worker.publish("cursors", connection.id)
