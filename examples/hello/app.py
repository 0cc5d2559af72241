def on_message(connection, data):
    connection.send(f"hello {data}")
