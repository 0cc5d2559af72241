"""What clients say, and what they are told: one JSON object in each message.

From a client: {"join": room}, {"say": text} to its room, {"say": text, "to": name} to one person.
To clients: {"what": "joined", "left", "says" or "whispers", "from": name, "in": room, "text": text}.
"""

import json


def parse(data):
    """Return what a message holds, or None if it is no JSON: that is the client's fault, and no exception of ours."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def build(connection, what, room="", text=""):
    """Return a message from a client to others."""
    return json.dumps({"what": what, "from": connection.user, "in": room, "text": text})
