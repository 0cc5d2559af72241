"""TLS changes nothing for the app: it is in config.yaml, and on_message is that of hello."""


def on_message(connection, data):
    connection.send(f"hello {data}, over TLS")
