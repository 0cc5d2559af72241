"""Who gets which message: subscribers here, other workers through the bus, and what is told of gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.bus.contract import Sink
from tests.worker.clock import Wire, arrive, on_the_clock, passes, state, turns
from tests.worker.service import head, make_app, make_hub
from wsworker.bus.bus import Loopback
from wsworker.bus.topics import EVERYBODY, Envelope, Key
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

ROOM = Key("topic", "room")
TEXT, BINARY, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE


class Here:
    """A hub with some clients, and another worker beside it."""

    def __init__(self, app: App, **settings: Any) -> None:
        self.hub: Hub = make_hub(app, **settings)
        self.circle: list[Loopback] = []
        self.elsewhere = Loopback(self.circle)
        self.sink = Sink()
        self.clients: list[Connection] = []
        self.wires: list[Wire] = []

    async def start(self, clients: int) -> None:
        """Join the two, and let some clients in."""
        await self.hub.post.exchange.join("mesh", Loopback(self.circle), "the other workers")
        await self.elsewhere.start(self.sink)
        for _ in range(clients):
            connection, wire = arrive(self.hub, head())
            await turns()
            wire.writes.clear()
            self.clients.append(connection)
            self.wires.append(wire)

    def sent(self) -> list[list[tuple[Opcode, bytes]]]:
        """Return what each client got since the last time."""
        sent = [wire.sent() for wire in self.wires]
        for wire in self.wires:
            wire.writes.clear()
        return sent

    def publish_elsewhere(self, *envelopes: Envelope) -> None:
        """Publish from the other worker."""
        for envelope in envelopes:
            self.elsewhere.publish(envelope)
        self.elsewhere.flush()


def test_subscribers_get_what_is_published() -> None:
    """Those of the topic, without the one that is left out; at once, and elsewhere at the end of the tick."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(3)
        one, two, _ = here.clients
        worker = here.hub.worker
        one.subscribe("room")
        two.subscribe("room")
        two.subscribe("room")
        here.elsewhere.subscribe([ROOM])
        assert (2, 0) == (worker.count("room"), worker.count("other"))
        worker.publish("room", "é", exclude=one)
        worker.publish("room", b"\xff")
        worker.publish("other", "nobody")
        assert 1 == two.buffered // 5
        await turns()
        assert [[(BINARY, b"\xff")], [(TEXT, "é".encode()), (BINARY, b"\xff")], []] == here.sent()
        assert [Envelope(ROOM, "é".encode()), Envelope(ROOM, b"\xff", binary=True)] == here.sink.envelopes
        assert 3 == here.hub.counters.bus_published
        two.unsubscribe("room")
        two.unsubscribe("room")
        assert frozenset() == two.topics
        worker.publish("room", bytearray(b"a"))
        worker.publish("room", memoryview(b"m"))
        await turns()
        assert [[(BINARY, b"a"), (BINARY, b"m")], [], []] == here.sent()

    on_the_clock(main)


def test_everybody_and_a_user() -> None:
    """A broadcast needs no subscription; a user is reached wherever they are, and a topic of that name is another."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        worker = here.hub.worker
        one.user = "ann"
        two.subscribe("ann")
        await turns()
        worker.broadcast("all")
        worker.send_to("ann", "psst")
        worker.send_to("bob", "nobody")
        here.publish_elsewhere(Envelope(Key("user", "ann"), b"from afar"), Envelope(EVERYBODY, b"!"))
        await turns()
        texts = [[payload for _, payload in frames] for frames in here.sent()]
        assert [[b"all", b"psst", b"from afar", b"!"], [b"all", b"!"]] == texts
        assert [EVERYBODY] == [envelope.key for envelope in here.sink.envelopes]
        assert 2 == here.hub.counters.bus_received["mesh"]
        one.user = None
        worker.send_to("ann", "psst")
        await passes(1)
        here.publish_elsewhere(Envelope(Key("user", "ann"), b"late"))
        await turns()
        assert [[], []] == here.sent()

    on_the_clock(main)


def test_a_user_is_closed_everywhere() -> None:
    """With code and reason, which is cut to what a Close holds."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(3)
        one, two, other = here.clients
        here.elsewhere.subscribe([Key("user", "ann")])
        for connection in (one, two):
            connection.user = "ann"
        here.hub.worker.close_user("ann", 4001, "é" * 100)
        await turns()
        closed = [(CLOSE, b"\x0f\xa1" + "é".encode() * 61)]
        assert [closed, closed, []] == here.sent()
        (envelope,) = here.sink.envelopes
        assert (True, b"\x0f\xa1" + "é".encode() * 61) == (envelope.closes, envelope.body)
        other.user = "bob"
        await turns()
        here.publish_elsewhere(Envelope(Key("user", "bob"), b"\x03\xe8bye", closes=True))
        await turns()
        assert [(CLOSE, b"\x03\xe8bye")] == here.sent()[2]

    on_the_clock(main)


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(ROOM, b"\xff"),
        Envelope(Key("user", "ann"), b"\x03", closes=True),
        Envelope(Key("user", "ann"), b"\x03\xec", closes=True),
        Envelope(Key("user", "ann"), b"\x03\xe8\xff", closes=True),
    ],
)
def test_what_cannot_be_delivered_is_dropped(envelope: Envelope, caplog: pytest.LogCaptureFixture) -> None:
    """A text that is none, a code that no Close carries: another worker may be of another version."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(1)
        here.clients[0].subscribe("room")
        here.clients[0].user = "ann"
        await turns()
        here.publish_elsewhere(envelope)
        await turns()
        assert [[]] == here.sent()
        # nobody can tell any more by which way it came, and a broker carries for whoever may write to it
        assert "a message from another worker, or from who can write to the broker, is dropped: " in caplog.text
        assert ("dropped: what should be text is not UTF-8" in caplog.text) == (envelope.key == ROOM)
        assert "codec" not in caplog.text

    on_the_clock(main)


def test_what_cannot_be_published() -> None:
    """Errors are those of names and of send; nothing is sent then, neither here nor elsewhere."""

    async def main() -> None:
        here = Here(make_app(), bus={"max_message": 4})
        await here.start(1)
        here.clients[0].subscribe("room")
        worker = here.hub.worker
        wrong: Any
        for wrong in (None, 1, ["a"]):
            for send in (lambda data: worker.publish("room", data), worker.broadcast, _to(worker.send_to, "ann")):
                with pytest.raises(TypeError, match="a message is str, bytes, bytearray or memoryview, not"):
                    send(wrong)
        with pytest.raises(UnicodeEncodeError):
            worker.publish("room", "\ud800")
        with pytest.raises(ValueError, match=r"a message of 5 bytes is over bus\.max_message = 4"):
            worker.publish("room", "12345")
        worker.publish("room", "é12")
        for name in ("", "a" * 256, "a\n"):
            for call in (worker.count, _to(worker.publish, name), _to(worker.send_to, name), worker.close_user):
                with pytest.raises(ValueError, match=r"a (topic|user) has"):
                    call(name)
        for code in (999, 1005, 2000, 5000):
            with pytest.raises(ValueError, match="a Close carries 1000-1003, 1007-1014 or 3000-4999, not"):
                worker.close_user("ann", code)
        await turns()
        assert [[(TEXT, "é12".encode())]] == here.sent()
        assert 1 == here.hub.counters.bus_published

    on_the_clock(main)


def _to(call: Callable[[str, Any], None], name: str) -> Callable[[Any], None]:
    return lambda data: call(name, data)


def test_who_is_closing_gets_nothing() -> None:
    """Neither by topic nor by user, nor in a broadcast; and it is counted no more."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        for connection in (one, two):
            connection.subscribe("room")
            connection.user = "ann"
        one.close()
        worker = here.hub.worker
        worker.publish("room", "1")
        worker.send_to("ann", "2")
        worker.broadcast("3")
        await turns()
        texts = [[payload for _, payload in frames] for frames in here.sent()]
        assert [[b"\x03\xe8"], [b"1", b"2", b"3"]] == texts
        assert (1, 0) == (worker.count("room"), here.hub.counters.refused)
        assert frozenset({"room"}) == one.topics
        one.subscribe("late")
        one.unsubscribe("room")
        assert (frozenset({"room"}), 0) == (one.topics, worker.count("late"))
        two.terminate()
        assert 0 == worker.count("room")
        await turns()

    on_the_clock(main)


def test_topics_are_there_in_on_close() -> None:
    """So a chat can tell the rooms that somebody has left."""
    seen: list[Any] = []

    def on_close(connection: Connection, code: int, reason: str) -> None:
        seen.append((connection.topics, connection.worker.count("room")))

    async def main() -> None:
        here = Here(make_app(on_close=on_close))
        await here.start(1)
        here.clients[0].subscribe("room")
        here.wires[0].abort()
        await turns()

    on_the_clock(main)
    assert [(frozenset({"room"}), 0)] == seen


def test_a_publish_within_a_delivery_does_not_run_in_circles() -> None:
    """on_buffer_full may publish, and close others, while a message is being handed to many."""
    calls: list[int] = []

    def on_buffer_full(connection: Connection) -> None:
        calls.append(1)
        connection.worker.publish("room", "full")
        for other in [*connection.worker.connections.values()]:
            if other is not connection:
                other.terminate()

    async def main() -> None:
        here = Here(make_app(on_buffer_full=on_buffer_full), send_buffer=1000)
        await here.start(3)
        for connection, wire in zip(here.clients, here.wires, strict=True):
            connection.subscribe("room")
            wire.takes = False
        here.hub.worker.publish("room", "x" * 2000)
        await turns()
        assert 1 == here.hub.worker.count("room")

    on_the_clock(main)
    assert [1] == calls


@pytest.mark.parametrize("comes_from", ["here", "elsewhere"])
def test_a_publish_within_a_delivery_comes_behind_it(comes_from: str) -> None:
    """For everybody, here and elsewhere: on_buffer_full of the first one may publish before the last one was served."""

    def on_buffer_full(connection: Connection) -> None:
        note = bytearray(b"full")
        connection.worker.publish("room", note)
        note[:] = b"else"

    async def main() -> None:
        here = Here(make_app(on_buffer_full=on_buffer_full), send_buffer=1000)
        await here.start(3)
        for connection in here.clients:
            connection.subscribe("room")
        here.elsewhere.subscribe([ROOM])
        here.wires[0].takes = False
        if comes_from == "here":
            here.hub.worker.publish("room", "x" * 2000)
        else:
            here.publish_elsewhere(Envelope(ROOM, b"x" * 2000))
        await turns()
        await turns()
        for frames in here.sent()[1:]:
            assert [b"x" * 2000, b"full"] == [payload for _, payload in frames]
        first = [b"x" * 2000] if comes_from == "here" else []
        assert [*first, b"full"] == here.sink.bodies
        here.hub.worker.publish("room", "later")
        await turns()
        assert [b"later"] == [payload for _, payload in here.sent()[1]]

    on_the_clock(main)


def test_what_is_asked_for_within_a_delivery_keeps_its_order() -> None:
    """A last word and then the close of its user, here and elsewhere: both come behind what is handed out."""

    def on_buffer_full(connection: Connection) -> None:
        if connection.user is None:
            connection.worker.send_to("ann", "bye")
            connection.worker.close_user("ann", 4001, "out")

    async def main() -> None:
        here = Here(make_app(on_buffer_full=on_buffer_full), send_buffer=1000)
        await here.start(3)
        anns = here.clients[1:]
        here.wires[0].takes = False
        for connection in anns:
            connection.user = "ann"
        for connection in here.clients:
            connection.subscribe("room")
        here.elsewhere.subscribe([ROOM, Key("user", "ann")])
        here.hub.worker.publish("room", "x" * 2000)
        assert ["closing"] * 2 == [state(connection) for connection in anns]
        await turns()
        last = [(TEXT, b"x" * 2000), (TEXT, b"bye"), (CLOSE, b"\x0f\xa1out")]
        assert [last, last] == here.sent()[1:]
        assert [b"x" * 2000, b"bye", b"\x0f\xa1out"] == here.sink.bodies

    on_the_clock(main)


# Gaps


def test_a_gap_names_the_topics_that_somebody_wants() -> None:
    """All of them if nobody knows which; none if it is about users only, or about everybody."""
    told: list[tuple[int, frozenset[str]]] = []

    async def main() -> None:
        here = Here(make_app(on_bus_gap=lambda worker, topics: told.append((worker.slot, topics))))
        await here.start(1)
        here.clients[0].subscribe("room")
        here.clients[0].subscribe("other")
        here.clients[0].user = "ann"
        nobody = {Key("topic", "of nobody"), Key("user", "of nobody")}
        for keys in (None, {ROOM} | nobody, {Key("user", "ann")}, {EVERYBODY}, nobody):
            here.hub.post.exchange.missed("mesh", None if keys is None else frozenset(keys), 1)
            await passes(1)

    on_the_clock(main)
    assert [(2, frozenset(topics)) for topics in (("room", "other"), ("room",), (), ())] == told


def test_a_gap_without_a_callback_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is lost is hidden."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(0)
        here.hub.post.exchange.missed("mesh", None, 3)
        await passes(1)
        assert 1 == here.hub.counters.bus_gaps["mesh"]

    on_the_clock(main)
    why = "3 were dropped on their way to this worker (on_bus_gap tells the app)"
    assert f"messages of any topic may be missing: {why}" in caplog.messages


def test_what_on_bus_gap_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Sync or async; it costs nothing else."""

    def sync(worker: object, topics: object) -> None:
        raise RuntimeError("sync")

    async def later(worker: object, topics: object) -> None:
        raise RuntimeError("async")

    async def main() -> None:
        for callback in (sync, later):
            here = Here(make_app(on_bus_gap=callback))
            await here.start(0)
            here.hub.post.exchange.missed("mesh", None, None)
            await turns()
            assert 1 == here.hub.counters.errors

    on_the_clock(main)
    assert 2 == caplog.text.count("on_bus_gap raised RuntimeError")


def test_calls_of_an_async_on_bus_gap_do_not_overlap() -> None:
    """One that takes long is finished first."""
    steps: list[str] = []
    gate = asyncio.Event()

    async def on_bus_gap(worker: object, topics: object) -> None:
        steps.append("begin")
        await gate.wait()
        steps.append("end")

    async def main() -> None:
        here = Here(make_app(on_bus_gap=on_bus_gap))
        await here.start(0)
        for _ in range(2):
            here.hub.post.exchange.missed("mesh", None, None)
            await passes(1)
        assert ["begin"] == steps
        gate.set()
        await turns()
        await turns()
        assert ["begin", "end"] * 2 == steps

    on_the_clock(main)


def test_gaps_during_a_slow_call_are_told_as_one() -> None:
    """However many they are, nothing piles up; it names what any of them has named, and all once one has named none."""
    told: list[frozenset[str]] = []
    gate = asyncio.Event()

    async def on_bus_gap(worker: object, topics: frozenset[str]) -> None:
        told.append(topics)
        await gate.wait()
        gate.clear()

    async def main() -> None:
        here = Here(make_app(on_bus_gap=on_bus_gap))
        await here.start(1)
        for topic in ("a", "b", "c", "d"):
            here.clients[0].subscribe(topic)
        before = len(asyncio.all_tasks())

        async def miss(*topics: str) -> None:
            keys = frozenset(Key("topic", topic) for topic in topics) or None
            here.hub.post.exchange.missed("mesh", keys, 1)
            await passes(1)
            assert before + 1 == len(asyncio.all_tasks())

        for topic in "abac":
            await miss(topic)
        assert [{"a"}] == told
        gate.set()
        await turns()
        assert [{"a"}, {"a", "b", "c"}] == told
        await miss("a")
        await miss()
        await miss("b")
        gate.set()
        await turns()
        assert [{"a", "b", "c", "d"}] == told[2:]
        gate.set()
        await turns()
        assert (3, before) == (len(told), len(asyncio.all_tasks()))
        await miss("d")
        assert [{"d"}] == told[3:]

    on_the_clock(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_on_bus_gap_sets_in_the_context_is_seen_nowhere_else(is_async: bool) -> None:
    """It is a round of the worker's, as others are that serve connections."""
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    seen: list[str] = []

    def on_bus_gap(worker: object, topics: object) -> None:
        seen.append(tenant.get())
        tenant.set("everybody's")

    async def later(worker: object, topics: object) -> None:
        on_bus_gap(worker, topics)

    async def main() -> None:
        here = Here(make_app(on_bus_gap=later if is_async else on_bus_gap))
        await here.start(0)
        for _ in range(2):
            here.hub.post.exchange.missed("mesh", None, None)
            await passes(1)
        seen.append(here.hub.context.run(tenant.get))

    on_the_clock(main)
    assert ["", "", ""] == seen


# From outside


def test_what_a_program_outside_publishes() -> None:
    """It goes to subscribers here and elsewhere, as if a callback had published it; what cannot be is refused."""

    async def main() -> None:
        here = Here(make_app(), bus={"max_message": 4})
        await here.start(1)
        here.clients[0].subscribe("room")
        here.elsewhere.subscribe([ROOM])
        exchange = here.hub.post.exchange
        assert exchange.handed_in(Envelope(ROOM, b"text"))
        assert exchange.handed_in(Envelope(ROOM, b"\xff", binary=True))
        assert not exchange.handed_in(Envelope(ROOM, b"\xff"))
        assert not exchange.handed_in(Envelope(ROOM, b"12345"))
        await turns()
        assert [[(TEXT, b"text"), (BINARY, b"\xff")]] == here.sent()
        assert [b"text", b"\xff"] == here.sink.bodies

    on_the_clock(main)
