def on_message(connection, data):
    connection.send("hello " + data)
