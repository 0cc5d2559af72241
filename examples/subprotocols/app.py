"""Two languages on one port. The client offers some, config.yaml says which the server likes best."""

from html import escape

from wsworker import Reject

SPOKEN = {
    "soap": "<Envelope><Body>{}</Body></Envelope>",
    "xmpp": "<message><body>{}</body></message>",
}


def on_handshake(request):
    # without this a client with other offers would get a connection without a subprotocol, as RFC 6455 has it
    if SPOKEN.keys().isdisjoint(request.subprotocols):
        raise Reject(400, body=f"offer one of {', '.join(SPOKEN)}\n")


def on_message(connection, data):
    if isinstance(data, bytes):
        connection.close(1003, "text only")
        return
    connection.send(SPOKEN[connection.subprotocol].format(escape(data)))
