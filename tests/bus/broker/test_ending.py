"""What is left of a connection that is ended at once."""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.worker.conftest import Run
from wsworker.bus.broker.ending import forget_at_close


def forgets(transport: asyncio.BaseTransport) -> bool:
    """Whether a transport, which must be open, forgets what it holds when it is closed."""
    option = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    return struct.unpack("ii", option) == (1, 0)


def test_the_other_side_is_told_by_a_reset(run: Run) -> None:
    """And not by an end, before which what the kernel held would come."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            other, _ = listener.accept()
            with other:
                forget_at_close(transport)
                transport.close()
                other.settimeout(10)
                try:
                    said = await loop.run_in_executor(None, other.recv, 1)
                except ConnectionResetError:
                    said = None
                assert said is None

    run(main())
