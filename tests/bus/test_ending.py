"""What is left of a connection that is ended at once."""

from __future__ import annotations

import asyncio
import socket

from tests.worker.conftest import Run
from wsworker.bus.ending import forget_at_close


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
