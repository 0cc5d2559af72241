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
from wsworker.bus.ledger import Log, Marks
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin
from wsworker.worker.app import App
from wsworker.worker.connection import Connection
from wsworker.worker.hub import Hub

ROOM, ANN = Key("topic", "room"), Key("user", "ann")
FAR = Origin("node", 2)
TEXT, BINARY, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE


class Here:
    """A hub with some clients, and another worker beside it."""

    def __init__(self, app: App, **settings: Any) -> None:
        self.hub: Hub = make_hub(app, **settings)
        self.circle: list[Loopback] = []
        self.elsewhere = Loopback(self.circle, FAR)
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
        expected = [Envelope(ROOM, "é".encode(), number=1), Envelope(ROOM, b"\xff", binary=True, number=2)]
        assert expected == here.sink.envelopes
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


# A hand-over


def marks(*highest: tuple[Key, int]) -> Marks:
    """Return marks of the other worker."""
    made = Marks()
    made.apply({(FAR, key): number for key, number in highest})
    return made


def test_what_is_held_comes_here() -> None:
    """Though nobody wants it; each hand-over holds for itself, and what is wanted all the same stays."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        post = here.hub.post
        adapter = here.circle[0]
        log = Log(10**6)
        log.cover([ROOM, ANN])
        post.exchange.note(log)
        one.subscribe("room")
        post.hold([ROOM, ANN, EVERYBODY])
        post.hold([ANN])
        two.user = "ann"
        assert {ROOM, ANN} == adapter._keys
        one.unsubscribe("room")
        two.user = None
        await passes(1)
        assert {ROOM, ANN} == adapter._keys
        post.exchange.missed("mesh", frozenset([ROOM, Key("topic", "other")]), 1)
        sent = [Envelope(ROOM, b"1", number=1), Envelope(ANN, b"2", number=2), Envelope(EVERYBODY, b"3", number=3)]
        here.publish_elsewhere(*sent)
        await turns()
        assert [[(TEXT, b"3")], [(TEXT, b"3")]] == here.sent()
        assert [(FAR, envelope) for envelope in sent] == log.missed(Marks(), [ROOM, ANN, EVERYBODY])
        two.subscribe("room")
        post.release([ROOM, ANN, EVERYBODY])
        await passes(1)
        assert {ROOM, ANN} == adapter._keys
        post.release([ANN])
        await passes(1)
        assert {ROOM} == adapter._keys
        two.unsubscribe("room")
        await passes(1)
        assert set() == adapter._keys
        assert 1 == here.hub.counters.bus_gaps["mesh"]

    on_the_clock(main)


def test_a_shadow() -> None:
    """What another worker has delivered to a connection is left out for it alone, of each kind of key, and closes."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        post = here.hub.post
        for connection in (one, two):
            connection.subscribe("room")
        one.user, two.user = "ann", "bob"
        post.shadow(one, marks((ROOM, 5), (EVERYBODY, 6), (ANN, 8)))
        here.publish_elsewhere(
            Envelope(ROOM, b"5", number=5),
            Envelope(EVERYBODY, b"6", number=6),
            Envelope(ANN, b"7", number=7),
            Envelope(ANN, b"\x0f\xa0", closes=True, number=8),
            Envelope(EVERYBODY, b"9", number=9),
            Envelope(ROOM, b"10", number=10),
            Envelope(ANN, b"11", number=11),
        )
        await turns()
        first, second = [[payload for _, payload in frames] for frames in here.sent()]
        assert [b"9", b"10", b"11"] == first
        assert [b"5", b"6", b"9", b"10"] == second
        # what this worker publishes no other has delivered
        here.hub.worker.publish("room", "own")
        post.unshadow(one)
        post.unshadow(two)
        here.publish_elsewhere(Envelope(ROOM, b"5", number=5))
        await turns()
        assert [[(TEXT, b"own"), (TEXT, b"5")]] * 2 == here.sent()

    on_the_clock(main)


def test_a_replay() -> None:
    """To one connection; not what its shadow has, nothing if it is not open, and what is malformed is left out."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        post = here.hub.post
        one.user = two.user = "ann"
        post.shadow(one, marks((ROOM, 5)))
        for envelope in (
            Envelope(ROOM, b"old", number=5),
            Envelope(ROOM, b"text", number=6),
            Envelope(ROOM, b"\xff", number=7),
            Envelope(ROOM, b"\xff", binary=True, number=8),
            Envelope(ANN, b"\x03", closes=True, number=9),
            Envelope(ANN, b"\x0f\xa1bye", closes=True, number=10),
            Envelope(ROOM, b"late", number=11),
        ):
            post.replay(one, FAR, envelope)
        await turns()
        assert [[(TEXT, b"text"), (BINARY, b"\xff"), (CLOSE, b"\x0f\xa1bye")], []] == here.sent()
        assert ("closing", "open") == (state(one), state(two))

    on_the_clock(main)


def test_nothing_is_lost_or_doubled_in_a_move() -> None:
    """The pieces together: one connection leaves with its marks, and is here what it was there."""

    async def main() -> None:
        here = Here(make_app())
        await here.start(2)
        one, two = here.clients
        post = here.hub.post
        log = Log(10**6)
        post.exchange.origin = Origin("node", 1)
        post.hold([ROOM])
        assert await post.exchange.settle(5)
        log.cover([ROOM])
        post.exchange.note(log)
        here.publish_elsewhere(*(Envelope(ROOM, b"%d" % number, number=number) for number in (1, 2, 3)))
        await turns()
        here.hub.worker.publish("room", "own 1")
        # the other worker has had two of three, and nothing of ours yet
        its = marks((ROOM, 2))
        one.subscribe("room")
        for publisher, envelope in log.missed(its, [ROOM, EVERYBODY]):
            post.replay(one, publisher, envelope)
        # this one was quicker there
        its = marks((ROOM, 5))
        its.apply({(Origin("node", 1), ROOM): 1})
        two.subscribe("room")
        for publisher, envelope in log.missed(its, [ROOM, EVERYBODY]):
            post.replay(two, publisher, envelope)
        post.shadow(two, its)
        here.publish_elsewhere(*(Envelope(ROOM, b"%d" % number, number=number) for number in (4, 5, 6)))
        await turns()
        here.hub.worker.publish("room", "own 2")
        assert await post.exchange.settle(5)
        post.unshadow(two)
        post.exchange.unnote(log)
        post.release([ROOM])
        await turns()
        first, second = [[payload for _, payload in frames] for frames in here.sent()]
        assert [b"3", b"own 1", b"4", b"5", b"6", b"own 2"] == first
        assert [b"6", b"own 2"] == second

    on_the_clock(main)
