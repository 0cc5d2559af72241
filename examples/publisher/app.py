"""Lets in who has signed in at the Django site. What the site and the API publish reaches them by the topic "news"."""

import os
from importlib import import_module

import django
from django.conf import settings

from wsworker import Reject

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore


async def on_handshake(request):
    # Django's own way to a session: it checks the cookie, and may wait for a database without blocking anybody
    session = SessionStore(request.cookies.get(settings.SESSION_COOKIE_NAME))
    if await session.aget("name") is None:
        raise Reject(403, body="sign in first\n")


def on_connect(connection):
    connection.subscribe("news")


def on_message(connection, data):
    connection.close(4403, "publish by the site")
