"""Who is to deliver what while connections move: marks and logs by themselves, and a model over all interleavings."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsworker.bus.ledger import ENTRY_BYTES, Log, Marks, decode, encode
from wsworker.bus.losses import Gap, Losses
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin
from wsworker.errors import WireError

A, B, ANN = Key("topic", "a"), Key("topic", "b"), Key("user", "ann")
ONE, TWO = Origin("node", 1), Origin("node", 2)

origins = st.builds(Origin, st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 2**32 - 1))
keys = st.sampled_from([A, B, ANN, EVERYBODY, Key("topic", "é" * 127)])
changes = st.dictionaries(st.tuples(origins, keys), st.integers(0, 2**64 - 1), max_size=8)


def message(key: Key, number: int, body: bytes = b"") -> Envelope:
    """Return a message of this number."""
    return Envelope(key, body, number=number)


# Marks


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from([A, B]), st.integers(0, 9), st.booleans())))
def test_marks_and_their_copy_far_away(moves: list[tuple[Origin, Key, int, bool]]) -> None:
    """What was noted is within the marks, and so is all below it; the changes tell another worker the same."""
    marks, copy = Marks(), Marks()
    highest: dict[tuple[Origin, Key], int] = {}
    for publisher, key, number, tells in moves:
        marks.note(publisher, message(key, number))
        if number:
            # one without a number leaves no mark
            highest[publisher, key] = max(number, highest.get((publisher, key), 0))
        if tells:
            copy.apply(decode(encode(marks.take_changes())))
    copy.apply(marks.take_changes())
    assert {} == marks.take_changes()
    for each in (marks, copy):
        for at in ((publisher, key) for publisher in (ONE, TWO) for key in (A, B)):
            assert [number for number in range(11) if each.has(*at, number)] == [*range(highest.get(at, -1) + 1)]


def test_some_marks_are_taken_out() -> None:
    """They stay as they are, and know of no other key."""
    marks = Marks()
    marks.note(ONE, message(A, 1))
    marks.note(ONE, message(B, 1))
    taken = marks.of([A, EVERYBODY])
    marks.note(ONE, message(A, 2))
    found = [[number for number in range(4) if each.has(ONE, key, number)] for each in (taken, marks) for key in (A, B)]
    assert [[0, 1], [], [0, 1, 2], [0, 1]] == found
    assert {} == taken.take_changes()


def test_whether_there_are_any() -> None:
    """None is within what has none."""
    marks = Marks()
    assert not marks
    marks.apply({(ONE, A): 1})
    assert marks
    assert marks.of([A])
    assert not marks.of([EVERYBODY])


def test_what_has_no_number_leaves_no_mark() -> None:
    """Else all that follow it would be taken for received."""
    marks = Marks()
    marks.note(ONE, message(A, 0))
    assert not marks.has(ONE, A, 0)
    assert {} == marks.take_changes()


@given(changes)
def test_changes_come_back(some: dict[tuple[Origin, Key], int]) -> None:
    """As they were, whatever they name."""
    assert some == decode(encode(some))


def test_each_publisher_is_named_once() -> None:
    """Marks go with each batch of connections."""
    some = {(ONE, A): 1, (TWO, B): 2, (ONE, EVERYBODY): 3}
    assert [
        ["node", 1, [["topic", "a", 1], ["broadcast", "", 3]]],
        ["node", 2, [["topic", "b", 2]]],
    ] == encode(some)


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        [1],
        [["node", 1]],
        [["node", 1, [], 2]],
        [["node", 1, {}]],
        [["node", 1, [["topic", "a"]]]],
        [["node", 1, [["topic", "a", -1]]]],
        [["node", 1, [["topic", "a", 2**64]]]],
        [["node", 1, [["topic", "a", True]]]],
        [["node", 1, [["topic", "a", 1.0]]]],
        [["node", 1, [["topic", "", 1]]]],
        [["node", 1, [["topic", 5, 1]]]],
        [["node", 1, [["topic", "\ud800", 1]]]],
        [["node", 1, [["nobody", "a", 1]]]],
        [["node", 1, [["broadcast", "a", 1]]]],
        [["node", 1, [[["topic"], "a", 1]]]],
        [["node", -1, [["topic", "a", 1]]]],
        [["node", 2**32, [["topic", "a", 1]]]],
        [[b"node", 1, [["topic", "a", 1]]]],
        [["é" * 128, 1, [["topic", "a", 1]]]],
    ],
)
def test_what_are_no_changes(values: object) -> None:
    """Another worker may be of another version."""
    with pytest.raises(WireError):
        decode(values)


# The log


def test_what_is_covered_is_logged() -> None:
    """From then on, and what goes to everybody with it; in the order in which it came, over all keys."""
    log, marks = Log(10**6), Marks()
    log.note(ONE, message(A, 1))
    log.note(ONE, message(EVERYBODY, 2))
    log.cover([A, ANN])
    log.cover([A])
    several = [(ONE, message(A, 3)), (TWO, message(EVERYBODY, 1)), (ONE, message(ANN, 4)), (TWO, message(A, 2))]
    for each in several:
        log.note(*each)
    log.note(ONE, message(B, 5))
    assert several == log.missed(marks, [ANN, EVERYBODY, A, B])
    assert [several[0], several[3]] == log.missed(marks, [A])
    assert [] == log.missed(marks, [B])
    marks.apply({(ONE, A): 3, (TWO, A): 1, (ONE, EVERYBODY): 9})
    assert several[1:] == log.missed(marks, [A, ANN, EVERYBODY])
    assert not log.overflowed


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from([A, B, EVERYBODY]))), st.data())
def test_what_is_forgotten_nobody_has_missed(comes: list[tuple[Origin, Key]], data: Any) -> None:
    """With the marks by which it was forgotten, and all later ones, the log says what it said before."""
    log = Log(10**6)
    log.cover([A, B])
    for number, (publisher, key) in enumerate(comes, 1):
        log.note(publisher, message(key, number, bytes(number)))
    at = st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from([A, B, EVERYBODY]))
    marks, later = Marks(), Marks()
    marks.apply(data.draw(st.dictionaries(at, st.integers(0, 20))))
    later.apply(marks.take_changes())
    later.apply(data.draw(st.dictionaries(at, st.integers(0, 20))))
    before = [log.missed(each, [A, B, EVERYBODY]) for each in (marks, later)]
    log.forget(marks)
    assert before == [log.missed(each, [A, B, EVERYBODY]) for each in (marks, later)]
    assert before[0] == log.missed(Marks(), [A, B, EVERYBODY])
    assert log.size == sum(ENTRY_BYTES + len(envelope.body) for _, envelope in before[0])
    log.note(ONE, message(A, 99))
    assert [*before[0], (ONE, message(A, 99))] == log.missed(Marks(), [A, B, EVERYBODY])


def test_a_log_that_is_full() -> None:
    """The oldest go, and whose they were is told once."""
    log = Log(3 * (ENTRY_BYTES + 10))
    log.cover([A, B])
    for number, key in enumerate([A, B, A, EVERYBODY, A], 1):
        log.note(ONE, message(key, number, bytes(10)))
    assert bool(log.overflowed)
    assert [3, 4, 5] == [envelope.number for _, envelope in log.missed(Marks(), [A, B, EVERYBODY])]
    assert Gap(2, frozenset([A, B])) == log.take_gap()
    assert not log.overflowed
    log.note(ONE, message(B, 6, bytes(log.size * 2)))
    assert (0, []) == (log.size, log.missed(Marks(), [A, B, EVERYBODY]))


# The model: some workers with a channel from each to each, of which any may be slow

Move: TypeAlias = tuple[Any, ...]

GIVER, TAKER, NEXT, FIRST, SECOND = "giver", "taker", "next taker", "first", "second"
NUMBERS: Final = {GIVER: 1, TAKER: 2, NEXT: 3, FIRST: 4, SECOND: 5}
STEPS: Final = {
    "marks": "a publisher",
    "holds": "a topic that is left",
    "taker settles": "a publisher",
    "covers": "a topic that comes later",
    "giver settles": "a publisher",
    "shadows": "a publisher",
    "settles at last": "a publisher",
}
"""What can be left out, to see that it is needed; and the world that shows it."""


def origin(name: str) -> Origin:
    """Return as whom a worker of the model publishes."""
    return Origin("node", NUMBERS[name])


class Client:
    """A connection. at: the worker that has it, "" while it moves. kept: what came to the giver for it meanwhile.

    due: for each publisher and key, from which message on it must get all, None if that is not known yet; stale: up to
    which it must get none.
    """

    def __init__(self, *wants: Key) -> None:
        self.at = GIVER
        self.wants = set(wants)
        self.got: list[tuple[Origin, Envelope]] = []
        self.kept: list[tuple[Origin, Envelope]] = []
        self.marks: Marks | None = None
        self.due: dict[tuple[str, Key], int | None] = {}
        self.stale: dict[tuple[str, Key], int] = {}


class World:
    """Workers, clients and channels. One step is one thing that happens in one worker.

    publishes: how many messages each worker may publish still, by key; joins, leaves: who may subscribe to what, and
    unsubscribe; deaths: whether the taker may die; without: steps that are left out.
    """

    def __init__(
        self,
        clients: dict[str, Client],
        publishes: dict[tuple[str, Key], int],
        joins: tuple[tuple[str, Key], ...] = (),
        leaves: tuple[tuple[str, Key], ...] = (),
        deaths: bool = False,
        before: tuple[Key, ...] = (),
        without: str = "",
    ) -> None:
        self.clients = clients
        self.publishes = publishes
        self.joins, self.leaves, self.deaths, self.without = {*joins}, {*leaves}, deaths, without
        self.alive = {GIVER, TAKER} | {name for name, _ in publishes if name != NEXT}
        self.taker = TAKER
        self.count = dict.fromkeys(NUMBERS, 0)
        self.published: dict[tuple[str, Key], list[int]] = {}
        self.received: dict[tuple[str, Key], int] = {}  # by the giver
        self.channels: dict[tuple[str, str], deque[Move]] = {}
        # what each worker has asked all others for, and what each knows of the others
        self.wanted = {name: set[Key]() for name in NUMBERS}
        self.known = {(one, other): set[Key]() for one in NUMBERS for other in NUMBERS}
        for client in clients.values():
            self.wanted[GIVER] |= client.wants
            client.due = {(name, key): 0 for name in NUMBERS for key in client.wants}
        self.wanted[TAKER] |= {*before}
        for name in (GIVER, TAKER):
            for other in NUMBERS:
                self.known[other, name] |= self.wanted[name]
        self.settling: dict[Move, set[str]] = {}
        self.rounds = 0
        self.told: set[Key] = set()
        self.covered: set[Key] = set()
        self.marks, self.log, self.copy = Marks(), Log(10**6), Marks()
        self.begun = self.ended = self.over = False

    # What may happen

    def moves(self) -> Iterator[Move]:
        """Yield what may happen now, but for what nobody has to do."""
        for channel in sorted(self.channels):
            if self.channels[channel]:
                yield ("deliver", *channel)
        if not self.begun:
            yield ("begin",)
        for name, client in sorted(self.clients.items()):
            if self.begun and client.at == GIVER and client.wants <= self.covered:
                yield ("freeze", name)
        if self.begun and not self.ended and all(client.at not in (GIVER, "") for client in self.clients.values()):
            yield ("end",)

    def chances(self) -> Iterator[Move]:
        """Yield what may happen now, or not at all."""
        for (name, key), left in sorted(self.publishes.items()):
            if left and name in self.alive:
                yield ("publish", name, key)
        for name, key in sorted(self.joins):
            # one thing after the other, or a small world is none
            if self.clients[name].at == GIVER and not self.leaves:
                yield ("join", name, key)
        for name, key in sorted(self.leaves):
            if self.clients[name].at == GIVER and (not self.begun or key in self.covered):
                yield ("leave", name, key)
        if self.deaths and self.begun and not self.ended:
            yield ("die",)

    def is_idle(self, move: Move) -> bool:
        """Whether it makes no difference when this happens, so that no other move need be tried before it."""
        if move[0] != "deliver":
            return False
        name, other = move[1:]
        kind, *rest = self.channels[name, other][0]
        if kind == "answer":
            # another one is waited for, or nobody waits
            return len(self.settling.get((other, *rest[0]), ())) != 1
        # what is said to who publishes nothing more, and has no client that could leave or come
        publishes = any(left and publisher == other for (publisher, _), left in self.publishes.items())
        return kind in ("want", "probe") and not publishes and other not in (GIVER, self.taker)

    def step(self, move: Move) -> None:
        """Have it happen."""
        name, *rest = move
        getattr(self, f"_{name}")(*rest)

    # Publishing and channels

    def _publish(self, name: str, key: Key) -> None:
        self.publishes[name, key] -= 1
        self.count[name] += 1
        envelope = message(key, self.count[name])
        self.published.setdefault((name, key), []).append(envelope.number)
        for other in sorted(self.alive - {name}):
            if key in self.known[name, other]:
                self._send(name, other, "message", envelope)
        self._receive(name, name, envelope)

    def _send(self, name: str, other: str, *what: Any) -> None:
        self.channels.setdefault((name, other), deque()).append(what)

    def _deliver(self, name: str, other: str) -> None:
        kind, *rest = self.channels[name, other].popleft()
        getattr(self, f"_on_{kind}")(name, other, *rest)

    def _on_message(self, name: str, other: str, envelope: Envelope) -> None:
        self._receive(name, other, envelope)

    def _receive(self, name: str, at: str, envelope: Envelope) -> None:
        """Note and hand out what a worker has published, or received."""
        publisher = origin(name)
        if at == GIVER:
            self.received[name, envelope.key] = 1 + self.published[name, envelope.key].index(envelope.number)
            if self.begun and self.without != "marks":
                self.marks.note(publisher, envelope)
        elif at == self.taker:
            self.log.note(publisher, envelope)
        for client in self.clients.values():
            if envelope.key not in client.wants:
                continue
            if client.at == at:
                if client.marks is None or not client.marks.has(publisher, envelope.key, envelope.number):
                    client.got.append((publisher, envelope))
            elif client.at == "" and at == GIVER:
                client.kept.append((publisher, envelope))

    def _want(self, name: str, keys: set[Key]) -> None:
        for other in sorted(self.alive - {name}):
            self._send(name, other, "want", keys - self.wanted[name], set())
        self.wanted[name] |= keys

    def _on_want(self, name: str, other: str, keys: set[Key], dropped: set[Key]) -> None:
        self.known[other, name] = self.known[other, name] - dropped | keys
        for client in self.clients.values():
            for key in keys & client.wants if name == GIVER else ():
                if client.due[other, key] is None:
                    client.due[other, key] = len(self.published.get((other, key), ()))

    # Settling

    def _settle(self, name: str, *then: Any) -> None:
        """Wait for all others, and do then what follows."""
        self.settling[name, *then] = self.alive - {name}
        for other in sorted(self.alive - {name}):
            self._send(name, other, "probe", then)

    def _on_probe(self, name: str, other: str, then: Move) -> None:
        self._send(other, name, "answer", then)

    def _on_answer(self, name: str, other: str, then: Move) -> None:
        waits = self.settling.get((other, *then))
        if waits is not None:
            waits.discard(name)
            self._look((other, *then))

    def _look(self, settle: Move) -> None:
        if not self.settling[settle]:
            del self.settling[settle]
            getattr(self, f"_then_{settle[1]}")(*settle[2:])

    # The hand-over

    def _begin(self) -> None:
        self.begun = True
        self._tell(set().union(*(client.wants for client in self.clients.values())))

    def _tell(self, keys: set[Key]) -> None:
        """Tell the taker of keys that it is to cover."""
        self.told |= keys
        self.rounds += 1
        self._send("control", self.taker, "keys", self.rounds, keys)

    def _on_keys(self, _: str, taker: str, number: int, keys: set[Key]) -> None:
        self._want(taker, keys)
        if self.without == "covers":
            self.log.cover(keys)
        if self.without == "taker settles":
            self._then_cover(number, frozenset(keys))
        else:
            self._settle(taker, "cover", number, frozenset(keys))

    def _then_cover(self, number: int, keys: frozenset[Key]) -> None:
        self.log.cover(keys)
        self._send("control", GIVER, "ready", keys)

    def _on_ready(self, _: str, giver: str, keys: frozenset[Key]) -> None:
        if self.without == "giver settles":
            self._then_freeze(keys)
        else:
            self._settle(giver, "freeze", keys)

    def _then_freeze(self, keys: frozenset[Key]) -> None:
        self.covered |= keys

    def _freeze(self, name: str) -> None:
        self.clients[name].at = ""
        self._send("control", self.taker, "state", name, encode(self.marks.take_changes()))

    def _on_state(self, _: str, taker: str, name: str, changed: Any) -> None:
        client = self.clients[name]
        self.copy.apply(decode(changed))
        client.got += self.log.missed(self.copy, sorted(client.wants))
        client.kept.clear()
        client.at = taker
        client.marks = self.copy.of([EVERYBODY, *client.wants]) if self.without != "shadows" else None
        # all that froze before it have come
        self.log.forget(self.copy)

    def _end(self) -> None:
        self.ended = True
        self._send("control", self.taker, "end")

    def _on_end(self, _: str, taker: str) -> None:
        if self.without == "settles at last":
            self._then_end()
        else:
            self._settle(taker, "end")

    def _then_end(self) -> None:
        self.over = True
        for client in self.clients.values():
            client.marks = None

    # What else may happen

    def _join(self, name: str, key: Key) -> None:
        self.joins.discard((name, key))
        client = self.clients[name]
        if key in client.wants:
            return
        client.wants.add(key)
        for other in NUMBERS:
            has = len(self.published.get((other, key), ()))
            fresh = key not in self.wanted[GIVER]
            asks = [what[1] | what[2] for what in self.channels.get((GIVER, other), ()) if what[0] == "want"]
            is_known = key in self.known[other, GIVER] and not any(key in some for some in asks)
            client.due[other, key] = has if other == GIVER or (is_known and not fresh) else None
            # what is on its way to the giver is none of the past
            comes = [what[1].key for what in self.channels.get((other, GIVER), ()) if what[0] == "message"].count(key)
            client.stale[other, key] = has - comes if fresh else self.received.get((other, key), 0)
        if key not in self.wanted[GIVER]:
            self._want(GIVER, {key})
        if self.begun and key not in self.told:
            self._tell({key})

    def _leave(self, name: str, key: Key) -> None:
        self.leaves.discard((name, key))
        # what one has that comes again is more than the judge can tell
        self.joins.discard((name, key))
        client = self.clients[name]
        client.wants.discard(key)
        if not client.wants:
            # it closes, which makes the small world smaller
            client.at = "nowhere"
        is_held = self.begun and key in self.told and self.without != "holds"
        if not is_held and not any(key in each.wants for each in self.clients.values() if each.at in (GIVER, "")):
            self.wanted[GIVER].discard(key)
            for other in sorted(self.alive - {GIVER}):
                self._send(GIVER, other, "want", set(), {key})

    def _die(self) -> None:
        """Have the taker die: what it had is gone, what was on its way to it is the giver's again."""
        self.deaths = False
        self.alive.discard(TAKER)
        for channel in self.channels:
            if TAKER in channel or channel == ("control", GIVER):
                self.channels[channel].clear()
        for client in self.clients.values():
            if client.at == TAKER:
                client.at = "nowhere"
            elif client.at == "":
                client.at, client.got, client.kept = GIVER, client.got + client.kept, []
        for settle in [*self.settling]:
            if settle[0] == TAKER or settle[1] == "freeze":
                del self.settling[settle]
            else:
                self.settling[settle].discard(TAKER)
                self._look(settle)
        self.taker = NEXT
        self.alive.add(NEXT)
        # who starts hears of the others, and they of it
        self.known[NEXT, GIVER] = {*self.wanted[GIVER]}
        self.told, self.covered, self.begun = set(), set(), False
        self.marks, self.log, self.copy = Marks(), Log(10**6), Marks()

    def judge(self) -> None:
        """Fail unless each client got of each publisher all that it is to get, once and in order."""
        for name, client in self.clients.items():
            for (publisher, key), published in self.published.items():
                at = (origin(publisher), key)
                got = [envelope.number for publisher, envelope in client.got if (publisher, envelope.key) == at]
                assert got == sorted(set(got)), f"{name} got {got} of {publisher}"
                # what is on its way from who dies is lost, and is a gap
                if key not in client.wants or client.at == "nowhere" or publisher not in self.alive:
                    continue
                begin = len(published) - len(got)
                assert got == published[begin:], f"{name} got {got} of {published} of {publisher}"
                due, stale = client.due.get((publisher, key)), client.stale.get((publisher, key), 0)
                assert stale <= begin, f"{name} got {got} of {published}, which is older than it"
                assert due is None or begin <= due, f"{name} got {got} of {published}, and {due} on are its due"


def finish(world: World) -> None:
    """Have all happen that must, and judge it."""
    while move := next(world.moves(), None):
        world.step(move)
    assert world.over
    assert all(client.at == world.taker or client.at == "nowhere" for client in world.clients.values())
    world.judge()


def canonical(thing: Any) -> Hashable:
    """Return the same for all that is the same."""
    match thing:
        case dict():
            return frozenset((key, canonical(value)) for key, value in thing.items())
        case set() | frozenset():
            return frozenset(thing)
        case list() | tuple() | deque():
            return tuple(map(canonical, thing))
        case Marks() | Log() | Losses() | Client() | World():
            return canonical(vars(thing))
    assert isinstance(thing, Hashable)
    return thing


def explore(world: World) -> int:
    """Judge the end of every interleaving; return how many states there are."""
    seen = {canonical(world)}
    waiting = [pickle.dumps(world)]
    while waiting:
        data = waiting.pop()
        one: World = pickle.loads(data)
        moves = [*one.moves()]
        if not moves:
            assert one.over
            one.judge()
        idle = next(filter(one.is_idle, moves), None)
        for move in [*moves, *one.chances()] if idle is None else [idle]:
            after: World = pickle.loads(data)
            after.step(move)
            state = canonical(after)
            if state not in seen:
                seen.add(state)
                waiting.append(pickle.dumps(after))
    return len(seen)


def small(without: str = "", is_covered: bool = False, **facts: Any) -> World:
    """Return one publisher, one topic and one client. is_covered: whether the topic is, before anything happens."""
    usual: dict[str, Any] = {"clients": {"ann": Client(A)}, "publishes": {(FIRST, A): 2}}
    world = World(**usual | facts, without=without)
    while is_covered and A not in world.covered:
        world.step(next(world.moves()))
    return world


WORLDS: Final[dict[str, dict[str, Any]]] = {
    "a publisher": {},
    "the giver and the taker publish": {"publishes": {(GIVER, A): 1, (TAKER, A): 1}},
    "two clients": {"publishes": {(FIRST, A): 1}, "clients": {"ann": Client(A), "bob": Client(A)}},
    "a topic that comes later": {"publishes": {(FIRST, B): 1}, "joins": (("ann", B),), "before": (B,)},
    "a topic that is left": {
        "publishes": {(FIRST, A): 1},
        "clients": {"ann": Client(A), "bob": Client()},
        "leaves": (("ann", A),),
        "joins": (("bob", A),),
        "is_covered": True,
    },
    "the taker dies": {"publishes": {(FIRST, A): 1}, "deaths": True},
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_interleaving_of_a_small_world(name: str) -> None:
    """Each client gets of each publisher what it is to get, once and in order, whoever is slow."""
    assert explore(small(**WORLDS[name])) > 80


@pytest.mark.parametrize("without", STEPS)
def test_every_step_is_needed(without: str) -> None:
    """Left out, there is an interleaving in which a client gets something twice or never; so the model can tell."""
    with pytest.raises(AssertionError, match=" got "):
        explore(small(without, **WORLDS[STEPS[without]]))


topics = st.sampled_from([A, B])
names = st.sampled_from(["ann", "bob", "eve"])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any world."""
    wants = st.sets(topics).map(lambda some: Client(*some))
    publishers = st.sampled_from([GIVER, TAKER, NEXT, FIRST, SECOND])
    return World(
        draw(st.fixed_dictionaries(dict.fromkeys(["ann", "bob", "eve"], wants))),
        draw(st.dictionaries(st.tuples(publishers, topics), st.integers(1, 6), max_size=8)),
        joins=tuple(draw(st.sets(st.tuples(names, topics), max_size=3))),
        leaves=tuple(draw(st.sets(st.tuples(names, topics), max_size=2))),
        deaths=draw(st.booleans()),
        before=tuple(draw(st.sets(topics))),
    )


@settings(max_examples=400)
@given(worlds(), st.lists(st.integers(0, 10**6), max_size=200))
def test_any_world(world: World, choices: list[int]) -> None:
    """Larger ones, along one way each."""
    for choice in choices:
        moves = [*world.moves(), *world.chances()]
        if moves:
            world.step(moves[choice % len(moves)])
    finish(world)
