"""The list of a worker's connections: what a row says, which are found, in what order, and in how small steps."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from websockets.frames import Opcode

from tests.worker.clock import Wire, arrive, on_the_clock, passes
from tests.worker.service import DEADLINE_SECONDS, frame, head, make_app, make_hub, text
from tests.worker.ward import Start, until
from wsworker.query import Query
from wsworker.wire import MAX_LINE_BYTES, Order, Report, encode
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub
from wsworker.worker.listing import CONNECTIONS_PER_SLICE, MAX_TOPICS, ROW, Moment, reports


def moment(hub: Hub) -> Moment:
    """Return this moment."""
    return Moment(hub.loop.time(), hub.tick)


def listed(hub: Hub, **query: Any) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that a query finds, and the total."""
    found = [one for one in reports(hub.worker.connections.values(), Query(**query), 7, moment(hub)) if one]
    assert {("rows", 7)} == {(one.name, one.token) for one in found}
    assert 1 == len({one.total for one in found})
    assert [*[False] * (len(found) - 1), True] == [one.last for one in found]
    assert all(len(encode(one)) <= MAX_LINE_BYTES for one in found)
    return [dict(row) for one in found for row in one.rows], found[0].total


def opened(hub: Hub, target: str = "/", **facts: Any) -> tuple[Connection, Wire]:
    """Return an open connection. facts: of its arrival."""
    connection, wire = arrive(hub, head(target), **facts)
    wire.writes.clear()
    return connection, wire


def test_a_row() -> None:
    """All that is shown of a connection, key by key, as docs/json.md has it."""

    async def main() -> None:
        hub = make_hub(make_app(on_message=lambda connection, data: connection.send(data)), ping_interval=0)
        connection, _ = opened(hub, "/chat?token=secret", peer=("192.0.2.7", 55232))
        await passes(2)
        connection.user = "tom"
        connection.subscribe("weather")
        connection.subscribe("news")
        connection.data_received(text("hello"))
        await passes(1.5)
        (row,), total = listed(hub)
        assert {
            "id": "node.boot.1",
            "slot": 2,
            "pid": os.getpid(),
            "remote": "192.0.2.7:55232",
            "path": "/chat",
            "user": "tom",
            "subprotocol": None,
            "state": "open",
            "topics": ["news", "weather"],
            "uptime": 3.5,
            "idle": 1.5,
            "messages_in": 1,
            "messages_out": 1,
            "bytes_in": len(head("/chat?token=secret") + text("hello")),
            "bytes_out": row["bytes_out"],
            "send_queue": 0,
            "ping": None,
        } == row
        assert row["bytes_out"] == hub.counters.bytes_out
        assert 1 == total

    on_the_clock(main)


def test_counts_are_those_of_the_worker_but_of_one_client() -> None:
    """Whichever way messages take, they are counted for both: in runs, one by one, and in parts."""

    async def main() -> None:
        def on_message(connection: Connection, data: str | bytes) -> None:
            connection.send(data)

        hub = make_hub(make_app(on_message=on_message), ping_interval=0, max_size=1024**2)
        some = [opened(hub) for _ in range(3)]
        for connection, wire in some:
            connection.data_received(text("a") * 3)
            connection.data_received(frame(Opcode.TEXT, b"b", fin=False) + frame(Opcode.PING))
            connection.data_received(frame(Opcode.CONT, b"c"))
            connection.data_received(frame(Opcode.BINARY, bytes(50_000)) * 2)
            wire.takes = False
            connection.data_received(text("d" * 20_000) * 4)
        rows, _ = listed(hub)
        counters = hub.counters
        assert {10} == {row["messages_in"] for row in rows}
        assert (30, counters.bytes_in) == (counters.messages_in, sum(row["bytes_in"] for row in rows))
        assert counters.messages_out == sum(row["messages_out"] for row in rows)
        assert counters.bytes_out == sum(row["bytes_out"] for row in rows)
        assert all(row["send_queue"] > 0 for row in rows)

    on_the_clock(main)


def test_what_is_delivered_behind_the_end_counts() -> None:
    """Messages that were read, and had to wait until the client was gone."""

    async def main() -> None:
        may = asyncio.Event()

        async def on_message(connection: Connection, data: str | bytes) -> None:
            await may.wait()

        hub = make_hub(make_app(on_message=on_message), ping_interval=0)
        connection, _ = opened(hub)
        connection.data_received(text("a") * 40)
        assert hub.counters.messages_in < 40
        connection.connection_lost(None)
        assert [("closed", 40)] == [(row["state"], row["messages_in"]) for row in listed(hub)[0]]
        assert 40 == hub.counters.messages_in
        may.set()
        await passes(1)
        assert hub.empty.is_set()

    on_the_clock(main)


def test_a_ping_that_was_answered() -> None:
    """It shows how long the last one took; a clock that stands still makes it 0."""

    async def main() -> None:
        hub = make_hub(make_app(), ping_interval=1, ping_timeout=20)
        connection, wire = opened(hub)
        assert [None] == [row["ping"] for row in listed(hub)[0]]
        await passes(2)
        opcode, payload = wire.sent()[-1]
        assert Opcode.PING is opcode
        connection.data_received(frame(Opcode.PONG, payload))
        (ping,) = [row["ping"] for row in listed(hub)[0]]
        assert 0 <= ping < 60

    on_the_clock(main)


def test_filters() -> None:
    """Each alone, and all of them together; the total counts what fits."""

    async def main() -> None:
        hub = make_hub(make_app())
        for number, target in enumerate(("/chat/1", "/chat/2", "/news", "/chat/3"), 1):
            connection, _ = opened(hub, target, peer=(f"192.0.2.{number}", 1))
            connection.user = "tom" if number % 2 else None
            if number > 2:
                connection.subscribe("weather")
        opened(hub, "/chat/unix", peer="")
        found = {
            "all": listed(hub),
            "path": listed(hub, path="/chat/"),
            "user": listed(hub, user="tom"),
            "topic": listed(hub, topic="weather"),
            "ip": listed(hub, ip="192.0.2.2/31"),
            "several": listed(hub, path="/chat/", topic="weather", ip="192.0.2.0/24"),
            "none": listed(hub, user="nobody"),
        }
        assert {
            "all": [1, 2, 3, 4, 5],
            "path": [1, 2, 4, 5],
            "user": [1, 3],
            "topic": [3, 4],
            "ip": [2, 3],
            "several": [4],
            "none": [],
        } == {name: [int(row["id"].split(".")[2]) for row in rows] for name, (rows, _) in found.items()}
        assert all(len(rows) == total for rows, total in found.values())

    on_the_clock(main)


def test_order_and_limit() -> None:
    """The first ones of the whole, and how many there are in all."""

    async def main() -> None:
        hub = make_hub(make_app(), worker_connections=1000)
        for number in range(CONNECTIONS_PER_SLICE + 30):
            connection, _ = opened(hub)
            connection.data_received(text("x" * (number * 7 % 100)))
        rows, total = listed(hub, sort="in", limit=5)
        assert CONNECTIONS_PER_SLICE + 30 == total
        everything = sorted((row["bytes_in"] for row in listed(hub, limit=1000)[0]), reverse=True)
        assert everything[:5] == [row["bytes_in"] for row in rows]
        # the oldest first, where the order says nothing
        assert ["1", "2", "3"] == [row["id"].split(".")[2] for row in listed(hub, limit=3)[0]]

    on_the_clock(main)


def test_the_loop_has_its_turn() -> None:
    """After some hundred connections, and after each line; no row is made before all were looked at."""

    async def main() -> None:
        hub = make_hub(make_app(), worker_connections=1000)
        for _ in range(2 * CONNECTIONS_PER_SLICE + 1):
            opened(hub)
        steps = [*reports(hub.worker.connections.values(), Query(limit=1000), 7, moment(hub))]
        assert [None, None, None] == steps[:3]
        lines = [step for step in steps[3:] if isinstance(step, Report)]
        assert len(steps) == 3 + len(lines)
        assert len(lines) > 1
        assert max(len(line.rows) for line in lines) < CONNECTIONS_PER_SLICE

    on_the_clock(main)


def test_connections_that_come_and_go_meanwhile() -> None:
    """Who comes is not in the list; who has gone is, as it ended."""

    async def main() -> None:
        hub = make_hub(make_app())
        (first, _), (second, _) = opened(hub), opened(hub)
        steps = reports(hub.worker.connections.values(), Query(), 7, moment(hub))
        assert next(steps) is None
        first.terminate()
        second.close()
        opened(hub)
        await passes(0)
        (line,) = [*steps]
        assert line is not None
        assert ["closed", "closing"] == [row["state"] for row in line.rows]

    on_the_clock(main)


def test_the_longest_row_fits_a_line() -> None:
    """Whatever a client and the app have chosen."""

    async def main() -> None:
        hub = make_hub(make_app(), max_topics=0)
        connection, _ = opened(hub, "/" + '"' * 4000)
        connection.user = '"' * 255
        for number in range(2 * MAX_TOPICS):
            connection.subscribe(f"{number:03}" + '"' * 252)
        connection.subprotocol = '"' * 10_000
        (row,), _ = listed(hub)
        assert MAX_TOPICS == len(row["topics"])
        assert row["topics"] == sorted(connection.topics)[:MAX_TOPICS]

    on_the_clock(main)


def test_no_connections() -> None:
    """One line says so."""

    async def main() -> None:
        assert ([], 0) == listed(make_hub(make_app()))

    on_the_clock(main)


def test_the_keys_stand_in_the_order_of_their_interest() -> None:
    """The first one names the connection."""
    assert "id" == next(iter(ROW))


# As the master has it

LOUD = """\
def on_connect(connection):
    connection.user = connection.request.path[1:] or None

def on_message(connection, data):
    if data == "block":
        block("hold")
    connection.send(data)
"""


def test_it_lists_its_connections(start: Start) -> None:
    """Those that fit the query, in its order; the answer has the master's token, and comes while clients are served."""
    ward = start(LOUD)
    ward.go()
    for path in ("/ann", "/tom", "/max"):
        client = ward.dial(head(path))
        assert 101 == client.status()
    until_at = time.monotonic() + DEADLINE_SECONDS
    ward.tell(Order("list", token=9, until=until_at, query=Query(sort="user", limit=2)))
    report = ward.report()
    assert ("rows", 9, 3, True) == (report.name, report.token, report.total, report.last)
    assert ["/ann", "/max"] == [row["path"] for row in report.rows]
    assert {(1, ward.process.pid)} == {(row["slot"], row["pid"]) for row in report.rows}


def test_it_does_not_list_for_nobody(start: Start) -> None:
    """A worker that was busy drops the questions of those who have waited long enough."""
    ward = start(LOUD)
    ward.go()
    # without connections it is done before it lets anybody else have a turn
    ward.tell(Order("list", token=6, until=time.monotonic(), query=Query()))
    ward.tell(Order("list", token=7, until=time.monotonic() + DEADLINE_SECONDS, query=Query()))
    assert 7 == ward.report().token
    client = ward.open(text("block"))
    until(lambda: "blocked" in ward.journal())
    ward.tell(Order("list", token=8, until=time.monotonic(), query=Query()))
    ward.tell(Order("list", token=9, until=time.monotonic() + DEADLINE_SECONDS, query=Query()))
    ward.release("hold")
    assert 9 == ward.report().token
    assert (Opcode.TEXT, b"block") == client.receive()
