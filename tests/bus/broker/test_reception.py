"""Reception: what is handed on of what a broker brings, and what is dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bus.contract import Sink
from wsworker.bus.broker.payload import OUTSIDE, Writer
from wsworker.bus.broker.reception import Reception
from wsworker.bus.losses import Gap
from wsworker.bus.records import encode_close
from wsworker.bus.topics import EVERYBODY, Envelope, Key, Origin

NEWS, ADA = Key("topic", "news"), Key("user", "ada")
OURS, OTHERS = Writer(Origin("srv1.a", 1)), Writer(Origin("srv2.b", 1))
MOST = 100


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop for its clock."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def sink() -> Sink:
    """Return what writes down everything that is handed on."""
    return Sink()


@pytest.fixture
def reception(loop: asyncio.AbstractEventLoop, sink: Sink) -> Reception:
    """Return that of a worker of srv1."""
    return Reception(loop, "srv1.a", MOST, sink)


def test_messages_of_others(reception: Reception, sink: Sink) -> None:
    """Those of other machines and of programs outside are handed on, and so are the goodbyes to a user."""
    sent = [
        Envelope(NEWS, b"text"),
        Envelope(EVERYBODY, b"\xff", binary=True, number=2**64 - 1),
        Envelope(ADA, b"x" * MOST),
        Envelope(ADA, encode_close(4001, "bye"), closes=True),
    ]
    for envelope in sent:
        reception.message(envelope.key, OTHERS.envelope(envelope))
    reception.message(NEWS, Writer(OUTSIDE).envelope(Envelope(NEWS, b"from PHP")))
    assert [*sent, Envelope(NEWS, b"from PHP")] == sink.envelopes
    assert [Origin("srv2.b", 1)] * 4 + [OUTSIDE] == sink.publishers
    assert ([], 0) == (sink.gaps, reception.refused)


def test_a_gap_of_unknown_size(reception: Reception, sink: Sink) -> None:
    """It is told as one; a number would be made up."""
    reception.gap(OTHERS.gap(Gap(0, None)))
    reception.gap(OTHERS.gap(Gap(3, frozenset({NEWS}))))
    assert [(None, 0), (frozenset({NEWS}), 3)] == sink.gaps


def test_own_copies(reception: Reception, sink: Sink) -> None:
    """What any worker of this machine has published has come by another way, and so has its gap."""
    reception.message(NEWS, OURS.envelope(Envelope(NEWS, b"x")))
    reception.message(NEWS, OURS.envelope(Envelope(NEWS, b"x" * (MOST + 1))))
    reception.gap(OURS.gap(Gap(1, None)))
    assert ([], [], 0) == (sink.envelopes, sink.gaps, reception.refused)


def test_a_message_that_is_too_long(reception: Reception, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped and told as a gap: who wants the topic is to know; the log names the setting."""
    with caplog.at_level(logging.INFO):
        reception.message(NEWS, OTHERS.envelope(Envelope(NEWS, b"x" * (MOST + 1))))
    assert ([], [(frozenset([NEWS]), 1)]) == (sink.envelopes, sink.gaps)
    assert "a message of 101 bytes from another machine is over bus.max_message = 100; it is dropped" in caplog.text


def test_gaps(reception: Reception, sink: Sink) -> None:
    """What others could not publish may be missing here."""
    reception.gap(OTHERS.gap(Gap(3, frozenset([NEWS, ADA]))))
    reception.gap(OTHERS.gap(Gap(9, None)))
    assert [(frozenset([NEWS, ADA]), 3), (None, 9)] == sink.gaps


def test_probes(reception: Reception) -> None:
    """The clock of a probe is what was sent; one of somebody else is none."""
    assert 5 == reception.probe(OURS.probe(5))
    assert reception.probe(OTHERS.probe(5)) is None
    assert 1 == reception.refused


def test_what_is_malformed(reception: Reception, sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped and counted, and the log says once in a minute what it was."""
    with caplog.at_level(logging.INFO):
        reception.message(NEWS, b"hello")
        reception.message(None, OTHERS.envelope(Envelope(NEWS, b"x")))
        reception.message(NEWS, OTHERS.gap(Gap(1, None)))
        reception.gap(OTHERS.envelope(Envelope(NEWS, b"x")))
        assert reception.probe(b"") is None
    assert ([], [], 5) == (sink.envelopes, sink.gaps, reception.refused)
    text = "what somebody has sent by the broker is dropped: a payload of 5 bytes is too short"
    assert [text] == [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


@given(st.binary(max_size=60), st.sampled_from([NEWS, ADA, EVERYBODY, None]))
def test_any_bytes(loop: asyncio.AbstractEventLoop, data: bytes, key: Key | None) -> None:
    """Nothing that somebody writes into a channel ends a read loop."""
    sink = Sink()
    reception = Reception(loop, "srv1.a", MOST, sink)
    reception.message(key, data)
    reception.gap(data)
    reception.probe(data)
    assert 0 <= reception.refused <= 3
