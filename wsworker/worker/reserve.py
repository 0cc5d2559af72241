"""The reserve: a descriptor put aside at boot, so that a worker without any other can still answer.

A worker that has used up its descriptors cannot accept, so a client that no other worker takes would hang. The reserve
is given up, the client accepted with it and answered in a few plain bytes, its socket closed, and the reserve taken
back. There is neither a handshake nor a connection: whatever the client has asked, it may come again. Where clients
speak TLS they are closed without the answer, which would be plain text.

The admin endpoints have one of their own, which they give up to answer like ever: see admin.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
from itertools import cycle
from typing import Final

ANSWER: Final = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Retry-After: {seconds}\r\n"
    "Connection: close\r\n"
    "Content-Type: text/plain\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
    "{text}"
)
TEXT: Final = "This worker takes no connections now; connect again.\n"
MOST_SECONDS: Final = 5
"""Retry-After goes from 1 to this, so that clients that were turned away together do not come back together."""

UNREAD_BYTES: Final = 64 * 1024


class Reserve:
    """One descriptor of /dev/null, given up and taken back; it may be lost meanwhile, to a thread of the user.

    mute: clients are closed without a word.
    """

    def __init__(self, mute: bool = False) -> None:
        self._mute = mute
        self._descriptor = _open_null()
        self._seconds = cycle(range(1, MOST_SECONDS + 1))

    def give_up(self) -> bool:
        """Let somebody else have the descriptor; whether it was there. You must take it back."""
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        return True

    def take_back(self) -> None:
        """Have a descriptor again, if there is one."""
        if self._descriptor is None:
            self._descriptor = _open_null()

    def has_company(self) -> bool:
        """Whether another descriptor is to be had, beside the reserve itself; a reserve that was lost is taken back."""
        self.take_back()
        spare = _open_null()
        if spare is not None:
            os.close(spare)
        return spare is not None

    def turn_away(self, listener: socket.socket) -> bool:
        """Accept the next client of a listener, answer 503 and close; whether one was there and a descriptor for it."""
        if not self.give_up():
            return False
        try:
            client, _ = listener.accept()
            with client:
                if not self._mute:
                    self._answer(client)
        except OSError:
            return False
        finally:
            self.take_back()
        return True

    def _answer(self, client: socket.socket) -> None:
        """Say it if the socket takes it at once. RFC 9110 sections 10.2.3 and 15.6.4."""
        answer = ANSWER.format(seconds=next(self._seconds), length=len(TEXT), text=TEXT)
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.send(answer.encode())
        with contextlib.suppress(OSError):
            # closing a socket with unread input sends RST, which can destroy the answer
            client.recv(UNREAD_BYTES)


def _open_null() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
