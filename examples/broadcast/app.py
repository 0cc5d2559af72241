"""What a publisher on the path /broadcast sends goes to every client of every worker."""


def on_message(connection, data):
    if connection.request.path == "/broadcast":
        connection.worker.broadcast(data)
    else:
        connection.close(4403, "this path only listens")
