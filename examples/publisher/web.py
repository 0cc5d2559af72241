"""The site, in Django: signs people in, serves the page, publishes what they write."""

import json
import logging
from pathlib import Path

from django.http import HttpResponse, HttpResponseBadRequest, HttpResponseForbidden
from django.urls import path
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST
from django.views.static import serve

from wsworker import client
from wsworker.errors import WsworkerError

CONFIG = Path(__file__).with_name("config.yaml")
PUBLIC = Path(__file__).with_name("public")

logger = logging.getLogger(__name__)


@require_POST
def sign_in(request):
    name = request.POST.get("name", "")
    if not 1 <= len(name) <= 30:
        return HttpResponseBadRequest("a name has 1 to 30 characters\n")
    # here a site of your own asks for a password
    request.session.cycle_key()
    request.session["name"] = name
    return HttpResponse(status=204)


@require_POST
def publish(request):
    name, text = request.session.get("name"), request.POST.get("text", "")
    if name is None:
        return HttpResponseForbidden("sign in first\n")
    if not 1 <= len(text) <= 1000:
        return HttpResponseBadRequest("a text has 1 to 1000 characters\n")
    try:
        client.publish("news", json.dumps({"from": name, "text": text}), config=CONFIG)
    except WsworkerError as error:  # not running, or not accepted: its text says which, and what to do
        logger.error("%s", error)
        return HttpResponse("nobody can be reached, try again later\n", status=503)
    return HttpResponse(status=204)


urlpatterns = [
    path("sign-in", sign_in),
    path("publish", publish),
    path("", ensure_csrf_cookie(serve), {"path": "index.html", "document_root": PUBLIC}),
    path("<path:path>", serve, {"document_root": PUBLIC}),
]
