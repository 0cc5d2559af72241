import app
import pytest

from wsworker import Reject
from wsworker.testing import FakeRequest


@pytest.mark.parametrize(
    ("offer", "chosen"), [(["soap"], "soap"), (["xmpp", "soap"], "soap"), (["xmpp", "mqtt"], "xmpp")]
)
def test_the_server_chooses(wsworker_server, offer, chosen):
    server = wsworker_server("app", websocket={"subprotocols": ["soap", "xmpp"]})
    with server.connect(subprotocols=offer) as client:
        assert client.subprotocol == chosen


@pytest.mark.parametrize("headers", [{}, {"Sec-WebSocket-Protocol": "mqtt"}, {"Sec-WebSocket-Protocol": "SOAP"}])
def test_nothing_in_common(headers):
    with pytest.raises(Reject) as refused:
        app.on_handshake(FakeRequest(headers=headers))
    assert refused.value.status == 400


def test_it_is_escaped(fake_connection):
    fake_connection.subprotocol = "xmpp"
    app.on_message(fake_connection, "<tom>")
    assert fake_connection.sent == ["<message><body>&lt;tom&gt;</body></message>"]
