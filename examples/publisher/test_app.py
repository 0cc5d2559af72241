import asyncio

import pytest
from django.conf import settings

from wsworker import Reject
from wsworker.testing import FakeRequest

# instead of settings.py, which wants a key that is kept
settings.configure(SECRET_KEY="for tests", SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies")
import app  # noqa: E402 - it needs the settings


def cookie(**values):
    """Return the cookie of a session that holds these values."""
    session = app.SessionStore()
    session.update(values)
    return f"sessionid={session._get_session_key()}"


def shake_hands(cookie):
    asyncio.run(app.on_handshake(FakeRequest(headers={"Cookie": cookie})))


def test_who_has_signed_in_comes_in():
    shake_hands(cookie(name="tom"))


@pytest.mark.parametrize("cookie", ["", "sessionid=", "sessionid=forged", cookie(), cookie(name="tom")[:-1]])
def test_others_do_not(cookie):
    with pytest.raises(Reject) as refused:
        shake_hands(cookie)
    assert refused.value.status == 403


def test_news(fake_connection):
    app.on_connect(fake_connection)
    fake_connection.worker.publish("news", "dinner is ready")
    assert fake_connection.sent == ["dinner is ready"]
