"""Tickets: a name and when it expires, signed, so that any worker can check one without asking anybody.

    python ticket.py tom        prints an address that signs tom in for a day

A ticket is NAME.EXPIRES.SIGNATURE: a name, seconds since 1970, HMAC-SHA256 of both in hex. There is one algorithm, and
the ticket has no say in it; nothing in it is looked at before the signature was compared, which takes the same time for
every wrong one. In a service of your own the web application makes them, where it knows who somebody is.
"""

import contextlib
import functools
import hashlib
import hmac
import os
import re
import secrets
import sys
import tempfile
import time
from pathlib import Path

from wsworker import Reject

KEY_FILE = Path(__file__).with_name("ticket.key")
DAY_SECONDS = 24 * 3600
WORD = re.compile(r"[\w-]{1,30}", re.ASCII)


def make(name, seconds=DAY_SECONDS):
    """Return a ticket for a name, valid for so many seconds. ValueError for what is no WORD."""
    if not WORD.fullmatch(name):
        raise ValueError(f"{name!r} is no name: use 1 to 30 letters, digits, - and _")
    said = f"{name}.{int(time.time() + seconds)}"
    return f"{said}.{_signature(said)}"


def name_of(request):
    """Return the name in the ticket that a client has as a cookie; Reject(401) unless it is signed and valid."""
    said, _, signature = request.cookies.get("ticket", "").rpartition(".")
    if not hmac.compare_digest(_signature(said).encode(), signature.encode()):
        raise Reject(401, body="sign in first\n")
    name, _, expires = said.partition(".")
    if time.time() >= int(expires):
        raise Reject(401, body="the ticket has expired, sign in again\n")
    return name


def _signature(said):
    # "chat ticket": what the same key may sign elsewhere is no ticket
    return hmac.new(_key(), f"chat ticket {said}".encode(), hashlib.sha256).hexdigest()


@functools.cache
def _key():
    """Return the key. Whoever comes first makes it; all workers and this script have the same one."""
    if not KEY_FILE.exists():
        with tempfile.NamedTemporaryFile(dir=KEY_FILE.parent, prefix=".", suffix=".key") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, KEY_FILE)  # it appears whole, and only where there is none
    return KEY_FILE.read_bytes()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not WORD.fullmatch(sys.argv[1]):
        sys.exit("usage: python ticket.py NAME (1 to 30 letters, digits, - and _)")
    # behind the #: what stands there no browser sends, so no log has it
    print(f"http://127.0.0.1:2346/#{make(sys.argv[1])}")
