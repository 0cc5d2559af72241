"""Event loops as workers have them; what a whole worker does with one is in test_main.py."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto

import pytest

from wsworker.worker.loops import TLS_BUFFER_BYTES, end_tasks, new_loop


@pytest.mark.parametrize(("kind", "module"), [("asyncio", "asyncio"), ("uvloop", "uvloop"), ("auto", "uvloop")])
def test_which_loop(kind: str, module: str) -> None:
    """Auto is uvloop."""
    loop = new_loop(kind)
    assert module == type(loop).__module__.partition(".")[0]
    loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_what_is_left_is_cancelled(kind: str) -> None:
    """Tasks may clean up, and generators that were left in the middle are ended."""
    loop = new_loop(kind)
    told: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            told.append("task")

    async def begin() -> None:
        told.append("begun")
        loop.create_task(forever(), name="forever")
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    end_tasks(loop)
    assert ["begun", "task"] == told
    loop.close()


@pytest.mark.parametrize("exception", [SystemExit(7), KeyboardInterrupt()])
def test_uvloop_lets_exits_pass(exception: BaseException) -> None:
    """It reports them as a fault of the transport in which they were raised, and would go on."""
    loop = new_loop("uvloop")
    loop.call_exception_handler({"message": "", "exception": exception, "transport": None})
    with pytest.raises(type(exception)):
        loop.run_forever()
    loop.close()


def test_uvloop_reports_faults(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else goes wrong in a loop is logged, and it goes on; but not that a task wanted an exit."""
    loop = new_loop("uvloop")
    loop.call_exception_handler({"message": "a fault", "exception": ValueError()})
    assert "a fault" in caplog.text
    caplog.clear()
    loop.call_exception_handler({"message": "a task", "exception": SystemExit(7)})
    loop.run_until_complete(asyncio.sleep(0))
    assert "" == caplog.text
    loop.close()


def test_tls_on_asyncio_has_small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own size would cost 256 KiB for each connection; the place where it is set is there in each version."""
    monkeypatch.setattr(sslproto.SSLProtocol, "max_size", sslproto.SSLProtocol.max_size)
    new_loop("asyncio").close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    loop = asyncio.SelectorEventLoop()
    made = sslproto.SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future(), server_side=True)
    assert TLS_BUFFER_BYTES == len(made.get_buffer(-1))
    made.connection_lost(None)
    loop.close()
