"""Subscriptions: what is asked of a server, whatever changes in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.redis.subscriptions import BATCH, MOST_UNCONFIRMED, Ask, Subscriptions

A, B = b"a", b"b"


class Fixture:
    """Subscriptions, what is wanted, and a server that does as it is asked and confirms when it is told to."""

    def __init__(self, each: bool = False) -> None:
        self.wanted: set[bytes] = set()
        self.has: set[bytes] = set()
        self.unconfirmed: list[Ask] = []
        self.subscriptions = Subscriptions(lambda channel: channel in self.wanted, each)

    def complete(self) -> bool:
        """Whether there is nothing to be done."""
        return self.subscriptions.complete

    def ready(self) -> bool:
        """Whether what was needed is done."""
        return self.subscriptions.ready

    def want(self, *channels: bytes) -> None:
        self.wanted.update(channels)
        self.subscriptions.touch(channels)

    def leave(self, *channels: bytes) -> None:
        self.wanted.difference_update(channels)
        self.subscriptions.touch(channels)

    def ask(self) -> list[Ask]:
        """Send the next part."""
        asks = self.subscriptions.take()
        self.unconfirmed += asks
        return asks

    def confirm(self) -> None:
        """Have the server answer all it was asked."""
        for ask in self.unconfirmed:
            for channel in ask.channels:
                (self.has.add if ask.verb == "subscribe" else self.has.discard)(channel)
                assert self.subscriptions.confirm(ask.verb, channel)
        self.unconfirmed.clear()


def test_it_asks_and_is_confirmed() -> None:
    """Each change once, in one command for each verb."""
    made = Fixture()
    assert made.complete()
    made.want(A, B)
    assert not made.complete()
    (ask,) = made.ask()
    assert ("subscribe", [A, B]) == (ask.verb, sorted(ask.channels))
    assert not made.complete()
    made.confirm()
    assert made.complete()
    made.leave(A)
    made.want(b"c")
    assert [Ask("subscribe", [b"c"]), Ask("unsubscribe", [A])] == made.ask()
    made.confirm()
    assert {B, b"c"} == made.has


def test_in_a_cluster_each_channel_is_asked_for_by_itself() -> None:
    """A command is for one slot."""
    made = Fixture(each=True)
    made.want(A, B)
    assert [Ask("subscribe", [A]), Ask("subscribe", [B])] == sorted(made.ask())
    made.confirm()
    assert made.complete()


def test_what_has_changed_back_is_not_asked() -> None:
    """Nor what was touched only."""
    made = Fixture()
    made.want(A)
    made.leave(A)
    assert [] == made.ask()
    assert made.complete()


def test_not_too_much_is_unconfirmed() -> None:
    """Parts of a bounded size, and so many at most."""
    made = Fixture()
    made.want(*(b"%d" % number for number in range(2 * MOST_UNCONFIRMED)))
    sizes = []
    while made.subscriptions.pending:
        sizes += [len(ask.channels) for ask in made.ask()]
    assert [BATCH] * (MOST_UNCONFIRMED // BATCH) == sizes
    made.confirm()
    assert made.subscriptions.pending


def test_a_new_connection_begins_anew() -> None:
    """Over it nothing was asked."""
    made = Fixture()
    made.want(A, B)
    made.ask()
    made.subscriptions.restart([A, B, b"c"])
    (ask,) = made.ask()
    assert [A, B] == sorted(ask.channels)


def test_what_was_needed_comes_first() -> None:
    """Whatever comes later is asked later, and not waited for."""
    made = Fixture()
    assert made.ready()
    many = [b"%d" % number for number in range(BATCH + 1)]
    made.wanted.update(many)
    made.subscriptions.restart(many)
    made.want(A)
    assert [Ask("subscribe", many[:BATCH])] == made.ask()
    made.confirm()
    assert not made.ready()
    assert [Ask("subscribe", [many[-1], A])] == made.ask()
    made.want(B)
    assert not made.ready()
    made.confirm()
    assert made.ready()
    assert not made.complete()
    # from now on that is needed too, be it in the queue or on its way
    made.subscriptions.need()
    assert not made.ready()
    made.ask()
    made.want(b"c")
    made.confirm()
    assert made.ready()
    made.ask()
    assert made.ready()
    made.subscriptions.need()
    assert not made.ready()
    made.confirm()
    assert made.ready()


def test_the_homeless_are_needed() -> None:
    """They are asked for once more, with nothing else, and not only after what comes later."""
    made = Fixture(each=True)
    made.subscriptions.touch_homeless()
    assert not made.subscriptions.pending
    made.want(A)
    made.ask()
    made.confirm()
    made.want(B)
    made.ask()
    assert [B] == made.subscriptions.refuse()
    made.unconfirmed.clear()
    assert not made.ready()
    made.subscriptions.touch_homeless()
    assert not made.ready()
    assert [Ask("subscribe", [B])] == made.ask()
    made.want(b"c")
    assert not made.ready()
    made.confirm()
    assert made.ready()


def test_what_the_server_ends_by_itself() -> None:
    """It is no answer, and the subscription is missing until the channel is touched."""
    made = Fixture(each=True)
    made.want(A, B)
    made.ask()
    made.confirm()
    assert not made.subscriptions.confirm("unsubscribe", A)
    assert not made.complete()
    made.want(A)
    assert [Ask("subscribe", [A])] == made.ask()
    made.confirm()
    assert made.complete()
    # what was never asked is none of ours; nor does it answer what is
    made.want(b"c")
    made.ask()
    assert not made.subscriptions.confirm("unsubscribe", b"d")
    made.confirm()
    assert made.complete()


def test_a_refusal() -> None:
    """It answers a whole command, the oldest."""
    made = Fixture()
    assert [] == made.subscriptions.refuse()
    made.want(A)
    made.ask()
    assert [A] == made.subscriptions.refuse()
    made.unconfirmed.clear()
    assert not made.complete()
    made.leave(A)
    assert [] == made.ask()
    assert made.complete()
    made.want(B)
    made.ask()
    made.confirm()
    made.leave(B)
    made.ask()
    # it cannot be known what that means; the next connection begins anew
    assert [B] == made.subscriptions.refuse()
    assert made.complete()


STEPS = st.sampled_from(["want", "leave", "ask", "confirm", "lose"])
CHANNELS = [b"%d" % number for number in range(5)]


@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["want", "leave", "ask", "confirm", "lose"]),
            st.lists(st.sampled_from(CHANNELS), max_size=3),
        ),
        max_size=50,
    ),
)
def test_it_ends_as_it_was_wanted_last(each: bool, steps: list[tuple[str, list[bytes]]]) -> None:
    """Whatever has happened in whatever order."""
    made = Fixture(each)
    for step, channels in steps:
        if step == "want":
            made.want(*channels)
        elif step == "leave":
            made.leave(*channels)
        elif step == "ask":
            made.ask()
        elif step == "confirm":
            made.confirm()
        else:
            made.has.clear()
            made.unconfirmed.clear()
            made.subscriptions.restart(made.wanted)
    while not made.complete():
        made.ask()
        made.confirm()
    assert made.wanted == made.has
    assert made.ready()


@pytest.mark.parametrize("each", [False, True])
def test_what_is_asked_again_is_a_question_by_itself(each: bool) -> None:
    """Behind all that is touched, and answered behind all of it; if nothing was asked there is nothing to ask."""
    made = Fixture(each)
    made.subscriptions.ask_again()
    assert not made.ready()
    assert [] == made.ask()
    assert made.ready()
    made.want(A)
    made.subscriptions.ask_again()
    made.want(B)
    made.subscriptions.ask_again()
    asked = [channel for ask in made.ask() for channel in ask.channels]
    assert [A, B] == asked[:2]
    assert asked[2] in (A, B)
    assert 3 == len(asked)
    for ask in made.unconfirmed[:-1]:
        for channel in ask.channels:
            assert made.subscriptions.confirm(ask.verb, channel)
            assert not made.ready()
    *others, last = made.unconfirmed[-1].channels
    for channel in others:
        assert made.subscriptions.confirm("subscribe", channel)
    assert not made.ready()
    assert made.subscriptions.confirm("subscribe", last)
    assert made.ready()
    assert made.complete()
    made.leave(A, B)
    made.subscriptions.ask_again()
    assert {"unsubscribe"} == {ask.verb for ask in made.ask()}
