"""Ending: how a connection to a broker is ended at once, so that nothing of it comes through afterwards.

A kernel goes on sending what a closed connection still held, for minutes if nobody answers. Once the network is mended
that arrives, behind newer messages that came over the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

_RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: to close is to forget what is not acknowledged, and to reset the connection. socket(7)."""


def abort(transport: asyncio.WriteTransport) -> None:
    """Close a transport; what was not acknowledged by the other side is never sent. Harmless when repeated."""
    sock = transport.get_extra_info("socket")
    # of one that is closed asyncio raises one, uvloop the other
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
