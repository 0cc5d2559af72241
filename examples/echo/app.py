"""Text comes back as text, binary as binary: the type of data says which it is."""


def on_message(connection, data):
    connection.send(data)
