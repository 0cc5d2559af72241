"""What cannot move: only that is told to reconnect, by 1012, and the reload says how many and why. All others move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.certificates import HOST, Authority
from tests.frames import CONTINUATION, FIN, TEXT, frame
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon
from tests.system.handover.riders import ASYNC, Rider, aboard, app, ended_well, until

GIVES = """
def on_handover(connection):
    return {"of": VERSION}
"""
TAKES = """
def on_resume(connection, state):
    connection.send(f"S {state['of']}")
"""
RAISES_AT_HANDOVER = """
def on_handover(connection):
    if "kept" in connection.data:
        raise RuntimeError("not this one")
    return {"of": VERSION}
"""
RAISES_AT_RESUME = """
def on_resume(connection, state):
    if "kept" in connection.data:
        raise RuntimeError("not this one")
"""
AWAITS_AND_RAISES = """
async def on_resume(connection, state):
    await asyncio.sleep(0)
    if "kept" in connection.data:
        raise RuntimeError("not this one")
"""
GIVES_NO_JSON = """
async def on_handover(connection):
    await asyncio.sleep(0)
    return {"kept": {1, 2} if "kept" in connection.data else []}
"""
KEEPS_NO_JSON = """
def on_message(connection, data):
    obey(connection, data)
    if "kept" in connection.data:
        connection.data["deep"] = [{"of": {1, 2}}]
"""
FEW, MANY = 3, 30


def _keep(rider: Rider) -> None:
    rider.send("keep yes")


CASES: Mapping[str, tuple[str, str, str]] = {
    "a hook that raises in the old code": (
        "on_handover",
        app(1, RAISES_AT_HANDOVER),
        app(2, TAKES.replace("S {state['of']}", "S 1")),
    ),
    "a state that is no JSON": (
        "on_handover",
        app(1, GIVES_NO_JSON),
        app(2, "def on_resume(connection, state): pass\n"),
    ),
    "a hook that raises in the new code": ("on_resume", app(1), app(2, RAISES_AT_RESUME)),
    "data that is no JSON": ("data", app(1, messages=KEEPS_NO_JSON), app(2)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES)
def test_only_those_are_drained(make_daemon: MakeDaemon, case: str) -> None:
    """Of 30 connections three cannot move, by what user code does: these get 1012, and the others notice nothing."""
    reason, old, new = CASES[case]
    asyncio.run(_few_stay(make_daemon(old, workers=2, drain_window=0).start(), new, reason, _keep))


async def _few_stay(
    daemon: Daemon, new: str, reason: str, spoil: Callable[[Rider], None], **changes: Any
) -> list[Rider]:
    """Spoil three of thirty, reload, and check that these have to go for that reason and the others have moved."""
    async with aboard(daemon, MANY) as company:
        staying, moving = company.riders[:FEW], company.riders[FEW:]
        await company.all_answered()
        for rider in staying:
            spoil(rider)
        for rider in moving:
            rider.ask_on(0.02)
        daemon.write_config(**changes)
        document = await company.reload(new)
        await until(lambda: all(rider.ended for rider in staying), "they are told to go")
        await company.settle()
        answers = await company.all_answered()
    assert {"1012"} == {rider.ended for rider in staying}
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert [] == [rider for rider in moving if rider.ended]
    assert {2} == {answer.version for answer in answers}
    assert {reason: FEW} == document["drained"], document
    assert FEW == document["asked"]
    assert MANY - FEW == document["moved"]
    return [*moving]


@pytest.mark.timeout(60)
def test_an_async_hook_raises_in_the_new_code(make_daemon: MakeDaemon) -> None:
    """Its connection has moved by then, and counts so; it is told to reconnect as well, and the others go on."""
    asyncio.run(_few_leave(make_daemon(app(1), workers=2, drain_window=0).start()))


async def _few_leave(daemon: Daemon) -> None:
    async with aboard(daemon, MANY) as company:
        leaving, staying = company.riders[:FEW], company.riders[FEW:]
        for rider in leaving:
            _keep(rider)
        await company.all_answered()
        for rider in staying:
            rider.ask_on(0.02)
        document = await company.reload(app(2, AWAITS_AND_RAISES))
        await until(lambda: all(rider.ended for rider in leaving), "they are told to go")
        await company.settle()
        answers = await company.all_answered()
    assert {"1012"} == {rider.ended for rider in leaving}
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert [] == [rider for rider in staying if rider.ended]
    assert {2} == {answer.version for answer in answers}
    assert (MANY, {}) == (document["moved"], document["drained"])


@pytest.mark.timeout(60)
def test_the_new_code_lacks_the_hook(make_daemon: MakeDaemon) -> None:
    """A state that nobody takes is not dropped silently: all of them reconnect, and the log says what is missing."""
    daemon = make_daemon(app(1, GIVES), drain_window=0).start()
    asyncio.run(_all_stay(daemon))
    daemon.wait_log("the new code has no on_resume")


async def _all_stay(daemon: Daemon) -> None:
    async with aboard(daemon, 10) as company:
        await company.all_answered()
        document = await company.reload(app(2))
        await until(lambda: all(rider.ended for rider in company.riders), "they are told to go")
    assert {"1012"} == {rider.ended for rider in company.riders}
    assert (0, {"on_resume": 10}) == (document["moved"], document["drained"])


@pytest.mark.timeout(60)
def test_the_hooks_give_and_take(make_daemon: MakeDaemon) -> None:
    """What on_handover gives is what on_resume gets, sync or async, once for each; on_close does not come."""
    closes = "\ndef on_close(connection, code, reason):\n    print('closed', code, flush=True)\n"
    daemon = make_daemon(app(1, GIVES + closes), workers=2).start()
    asyncio.run(_given(daemon, closes))


async def _given(daemon: Daemon, closes: str) -> None:
    asynchronous = (
        (GIVES + TAKES)
        .replace("\ndef", "\nasync def")
        .replace("    connection.send", "    await asyncio.sleep(0)\n    connection.send")
    )
    async with aboard(daemon, 20) as company:
        await company.all_answered()
        await company.reload(app(2, asynchronous + closes))
        await company.all_answered()
        await company.reload(app(3, TAKES + closes))
        await company.all_answered()
        await until(lambda: all(rider.sizes for rider in company.riders), "on_resume")
        company.check()
        assert {(1, 2)} == {tuple(rider.sizes) for rider in company.riders}
        assert "closed" not in daemon.out


@pytest.mark.timeout(60)
def test_busy_callbacks(make_daemon: MakeDaemon) -> None:
    """A callback that is over within handover_timeout is waited for, one that lasts longer is not."""
    daemon = make_daemon(
        app(1, messages=ASYNC), workers=2, handover_timeout=1, drain_window=0, graceful_timeout=6
    ).start()
    asyncio.run(_busy(daemon))


async def _busy(daemon: Daemon) -> None:
    async with aboard(daemon, MANY) as company:
        lasting, short, others = company.riders[:3], company.riders[3:10], company.riders[10:]
        await company.all_answered()
        for rider in lasting:
            rider.send("wait never")
        for rider in short:
            rider.send("wait soon")
        reload = await company.begin_reload(app(2, messages=ASYNC))
        await company.answered_by(2, others)
        # those wait behind their callbacks, and are answered by the new code
        asked = [asyncio.create_task(rider.ask()) for rider in short]
        (daemon.folder / "soon").touch()
        assert {2} == {answer.version for answer in await asyncio.gather(*asked)}
        document = await ended_well(reload)
        await until(lambda: all(rider.ended for rider in lasting), "the others have to go")
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert [] == [rider for rider in (*short, *others) if rider.ended]
    assert {"busy": 3} == document["drained"], document
    assert MANY - 3 == document["moved"]


@pytest.mark.timeout(60)
def test_fragments(make_daemon: MakeDaemon) -> None:
    """A message in fragments that ends in time is waited for; one that does not keeps its connection from moving."""
    daemon = make_daemon(app(1), workers=2, handover_timeout=1, drain_window=0).start()
    asyncio.run(_fragments(daemon))


async def _fragments(daemon: Daemon) -> None:
    async with aboard(daemon, MANY) as company:
        unending, ending, others = company.riders[:3], company.riders[3:10], company.riders[10:]
        await company.all_answered()
        for rider in (*unending, *ending):
            rider.write(frame(TEXT, b"size "))
        # the master knows them, and what they have sent has been read
        await company.all_answered(others)
        reload = await company.begin_reload(app(2))
        await company.answered_by(2, others)
        for rider in ending:
            rider.write(frame(FIN | CONTINUATION, b"x" * 95))
        await until(lambda: all(rider.sizes == [100] for rider in ending), "whole messages")
        document = await ended_well(reload)
        await until(lambda: all(rider.ended for rider in unending), "the others have to go")
        answers = await company.all_answered()
    assert [] == [fault for rider in company.riders for fault in rider.wrong]
    assert [] == [rider for rider in (*ending, *others) if rider.ended]
    assert {2} == {answer.version for answer in answers}
    assert {"fragment": 3} == document["drained"], document


@pytest.mark.timeout(60)
def test_a_full_taker(make_daemon: MakeDaemon) -> None:
    """A new worker takes no more than its worker_connections, which a reload may have lowered."""
    daemon = make_daemon(app(1), drain_window=0).start()
    asyncio.run(_full(daemon))


async def _full(daemon: Daemon) -> None:
    async with aboard(daemon, MANY) as company:
        await company.all_answered()
        daemon.write_config(worker_connections=20)
        document = await company.reload(app(2))
        await until(lambda: sum(bool(rider.ended) for rider in company.riders) == 10, "ten have to go")
        answers = await company.all_answered()
    assert (20, {"full": 10}) == (document["moved"], document["drained"])
    assert [2] * 20 == [answer.version for answer in answers]
    assert {"1012", ""} == {rider.ended for rider in company.riders}


@pytest.mark.timeout(60)
def test_tls(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A connection over TLS cannot move, as its keys are OpenSSL's: it is told to reconnect."""
    authority = Authority(tmp_path)
    daemon = make_daemon(app(1), drain_window=0, tls=authority.issue("one").settings).start()
    with connect(f"wss://{HOST}:{daemon.port}/", ssl=authority.client(), proxy=None) as client:
        client.send("ask x")
        assert str(client.recv(10)).startswith("A 1 ")
        daemon.write_app(app(2))
        document = daemon.cli("reload", "--json").document()
        with pytest.raises(ConnectionClosed) as closed:
            _listen(client)
    assert closed.value.rcvd is not None
    assert 1012 == closed.value.rcvd.code
    assert (0, {"tls": 1}) == (document["moved"], document["drained"])


def _listen(client: ClientConnection) -> NoReturn:
    """Hear the broadcasts of the timers, until it is over."""
    while True:
        client.recv(10)
