"""Listing: the open connections of one worker, as `wsworker connections` shows them.

A worker may have ten thousand, and its loop must not stand still to show them. So the work is cut into slices, and
between two of them the loop has its turn: first all connections are looked at, a few hundred at a time, and those that
fit are put in order; then rows are made of the first ones only, and sent in lines of a bounded length.

What a client or the app has chosen (path, topics) may be long: it is cut, so that each row fits a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from wsworker.query import SORTS, Query, Rank, rank, within
from wsworker.wire import Order, Report
from wsworker.worker.channel import Channel
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub
from wsworker.worker.wheel import TICK_SECONDS

CONNECTIONS_PER_SLICE: Final = 250
MAX_CHARACTERS: Final = 500
MAX_TOPICS: Final = 100
"""Of 255 bytes each, which JSON may double: 51 KB, and all else of a row is some 8 KB at most."""

LINE_BYTES: Final = 16_000
"""Of several rows in one line, which takes a millisecond. A long row has a line of its own."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a list was asked for: seconds on the clock of the loop, and ticks of the wheel."""

    now: float
    tick: int


Value: TypeAlias = Callable[[Connection, Moment], Any]

ROW: Final[Mapping[str, Value]] = {
    "id": lambda connection, at: connection.id,
    "slot": lambda connection, at: connection.worker.slot,
    "pid": lambda connection, at: os.getpid(),
    "remote": lambda connection, at: str(connection.remote),
    "path": lambda connection, at: connection.request.path[:MAX_CHARACTERS],
    "user": lambda connection, at: connection.user and connection.user[:MAX_CHARACTERS],
    "subprotocol": lambda connection, at: connection.subprotocol and connection.subprotocol[:MAX_CHARACTERS],
    "state": lambda connection, at: connection.state,
    "topics": lambda connection, at: sorted(connection.topics)[:MAX_TOPICS],
    "uptime": lambda connection, at: max(0.0, at.now - connection._opened_at),
    "idle": lambda connection, at: max(0, at.tick - connection._active_at) * TICK_SECONDS,
    "messages_in": lambda connection, at: connection._messages_in,
    "messages_out": lambda connection, at: connection._cork.messages_out,
    "bytes_in": lambda connection, at: connection._bytes_in,
    "bytes_out": lambda connection, at: connection._cork.bytes_out,
    "send_queue": lambda connection, at: connection.buffered,
    "ping": lambda connection, at: connection._round_trip,
}
"""What is shown of a connection, key by key: docs/json.md says what each means. One of them is what a list goes by."""


async def answer(order: Order, hub: Hub, channel: Channel) -> None:
    """Report the connections that the master wants to see, while somebody waits for them. order: one to list."""
    query = order.query
    assert query is not None, "decode_order sees to that"
    if time.monotonic() > order.until:
        # it lay in the channel while the loop was blocked
        return
    at = Moment(hub.loop.time(), hub.tick)
    for report in reports(hub.worker.connections.values(), query, order.token, at):
        if report is not None:
            channel.send(report)
            await channel.drained()
        await asyncio.sleep(0)
        if time.monotonic() > order.until:
            return


def reports(connections: Collection[Connection], query: Query, token: int, at: Moment) -> Iterator[Report | None]:
    """Yield the reports of one list, and None wherever else the loop may have a turn; it may after each report as well.

    connections may change meanwhile: those that have gone are shown as they ended.
    """
    value, fits = ROW[SORTS[query.sort]], _filter(query)
    found: list[tuple[Rank, Connection]] = []
    total = 0
    waiting = iter(tuple(connections))
    while some := [*islice(waiting, CONNECTIONS_PER_SLICE)]:
        fitting = [(rank(query, value(connection, at)), connection) for connection in some if fits(connection)]
        total += len(fitting)
        # stable: where the key says nothing, who came first stands first
        found = sorted(found + fitting, key=lambda pair: pair[0])[: query.limit]
        yield None
    rows: list[dict[str, Any]] = []
    size = 0
    for _, connection in found:
        row = {key: show(connection, at) for key, show in ROW.items()}
        # in ASCII, as which it is never shorter than as it is sent
        length = len(json.dumps(row))
        if size + length > LINE_BYTES and rows:
            yield Report("rows", token=token, total=total, rows=tuple(rows))
            rows, size = [], 0
        rows.append(row)
        size += length
    yield Report("rows", token=token, total=total, rows=tuple(rows), last=True)


def _filter(query: Query) -> Callable[[Connection], bool]:
    """Return what tells whether a connection fits."""
    tests: list[Callable[[Connection], bool]] = []
    network, path, user, topic = query.network, query.path, query.user, query.topic
    if network is not None:
        tests.append(lambda connection: within(connection.remote.host, network))
    if path is not None:
        tests.append(lambda connection: connection.request.path.startswith(path))
    if user is not None:
        tests.append(lambda connection: connection.user == user)
    if topic is not None:
        # not `topics`, which makes a set anew for each connection
        tests.append(lambda connection: topic in (connection._topics or ()))
    return lambda connection: all(test(connection) for test in tests)
