"""Ending: what becomes of that which a closed connection to a broker still held.

A kernel goes on sending it, for minutes if nobody answers. Once the network is mended it arrives, behind newer messages
that came over the next connection. So a connection is made to forget it from its first moment on: who closes it, be it
a library, need not think of that. What a worker publishes last is confirmed by the broker before it closes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

_RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: to close is to forget what is not acknowledged, and to reset the connection. socket(7)."""


def forget_at_close(transport: asyncio.BaseTransport) -> None:
    """Have nothing be sent any more once this is closed. transport: of an open socket."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
