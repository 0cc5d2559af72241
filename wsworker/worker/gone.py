"""GONE: the transport of a connection whose socket is gone.

A connection may be kept by user code for as long as it likes, and its parts refer to each other. With the real
transport it would keep what that holds, which with TLS is some 50 KiB, until a full collection of the garbage. So it is
exchanged for this one, which takes nothing, has nothing left and is closed.
"""

from __future__ import annotations

import asyncio
from typing import Final


class _Gone(asyncio.Transport):
    """What a transport is after its end."""

    __slots__ = ()

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        pass


GONE: Final[asyncio.Transport] = _Gone()
