"""Takes binary messages, answers how long each was and its SHA-256."""

import hashlib
import json


def on_message(connection, data):
    if isinstance(data, str):
        connection.close(1003, "send the file itself, as a binary message")
        return
    # a megabyte takes a few milliseconds; much larger files belong into asyncio.to_thread, or to the web server
    answer = {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    connection.send(json.dumps(answer))
