"""Parting: leave the transport of a connection that goes to another process, and know what still slips out of it.

An aborted transport of asyncio drops what it has. uvloop's is closed in the next tick only: what it has stays with
libuv until then, and if the loop finds the socket writable in between, it is written, while nobody is told. No call
stops that; and the other process would write the same bytes again, into the middle of a frame. So what is left is only
known in connection_lost. uvloop calls that before it closes the handle, and nothing is written after it. Source:
uvloop, basetransport.pyx, _force_close and _call_connection_lost; libuv, unix/stream.c, uv__stream_io.
"""

from __future__ import annotations

import asyncio


class Parting(asyncio.Protocol):
    """The protocol of a transport that is left. You must hold another descriptor of its socket, which stays open.

    slipped: done in the next tick with the number of bytes, of those that it had, which were written all the same; None
    if it had nothing, as most have. You must take so many off the beginning of what take_rest has returned as the tail,
    before anybody else writes it. It is done in any case, also when the client goes meanwhile.
    """

    __slots__ = ("_left", "_transport", "slipped")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.slipped: asyncio.Future[int] | None = None
        transport.set_protocol(self)
        transport.abort()
        self._left = transport.get_write_buffer_size()
        if self._left:
            self.slipped = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Know that nothing is written any more."""
        if self.slipped is not None and not self.slipped.done():
            self.slipped.set_result(self._left - self._transport.get_write_buffer_size())
