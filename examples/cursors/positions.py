"""What the others are told: at most 30 positions a second of each client, and always the newest.

A point is x and y as two numbers of 16 bits: every four bytes are one, so there is nothing to check in them.
"""

newest = {}  # connection -> its position since the last turn


def publish_newest():
    for connection, position in newest.items():
        tell(connection, position)
    newest.clear()


def tell(connection, data):
    # behind who it is from: a byte that says how long the id is, and the id
    sender = connection.id.encode()
    connection.worker.publish("cursors", bytes([len(sender)]) + sender + data, exclude=connection)
