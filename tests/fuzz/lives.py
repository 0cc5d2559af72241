"""Target: the life of a real Connection, over a wire that does what it is told.

A case is a list of steps: the client sends, leaves, or does not take what is sent to it; time passes; the application
and the worker act. Whatever comes together: nothing raises, the callbacks come in their order, the buffers keep within
their limits, what is written is right, and at the end nothing of the connection is left in its worker.

Where no time passes and nobody interferes, the same bytes give the same messages and the same output however they are
split: such a case is run three times, as it is, in one piece, and cut.
"""

from __future__ import annotations

import logging
from typing import Final

from hypothesis import strategies as st

from tests.frames import frame
from tests.fuzz import grammar
from tests.fuzz.application import ACTS, ENDING_WORDS, LARGEST, Meant
from tests.fuzz.mutation import cuts, split
from tests.fuzz.play import WEBSOCKET, WORLD, Life, Play, Step
from tests.fuzz.reading import timeless
from tests.fuzz.target import Target


class _Faults(logging.Handler):
    """Keeps what is logged as an error, but for what the application means to raise."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is None or record.exc_info[0] is not Meant:
            self.texts.append(self.format(record))


def check_life(case: Life) -> None:
    """One case of the target."""
    faults = _Faults()
    log = logging.getLogger("wsworker.worker")
    level = log.level
    log.addHandler(faults)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        _check_life(case)
    finally:
        log.removeHandler(faults)
        log.setLevel(level)
        log.propagate = True
    assert faults.texts == []


def _check_life(case: Life) -> None:
    play = Play(case)
    play.run(case.steps)
    # an async application may end it all while more comes: then it is a matter of time how much that was
    if not case.cuts or (case.awaits and ENDING_WORDS.intersection(play.journal.messages)):
        return
    for several in ((), case.cuts):
        again = Play(case)
        again.run(_recut(case, several))
        assert play.journal.messages == again.journal.messages
        assert play.journal.end == again.journal.end
        # an async answer may come before that to a ping or behind it; terminate() drops what is not written
        if not case.awaits and "end" not in play.journal.messages:
            assert timeless(bytes(play.wire.got)) == timeless(bytes(again.wire.got))


def _recut(case: Life, several: tuple[int, ...]) -> tuple[Step, ...]:
    """Return the steps with all that is sent cut anew."""
    data = b"".join(step[1] for step in case.steps if isinstance(step[1], bytes))
    return tuple(("send", piece) for piece in split(data, several))


_HEAD: Final = grammar.HEAD % grammar.OFFER
_heads: Final = st.one_of(st.just(_HEAD), st.just(grammar.HEAD % b"Sec-WebSocket-Protocol: chat\r\n"), grammar.heads)
_opening: Final = st.one_of(*[st.just(_HEAD)] * 3, _heads)
_sending: Final = st.tuples(st.just("send"), grammar.frames)
_others: Final = st.one_of(
    st.tuples(st.sampled_from(sorted(WORLD.keys() - {"wait", "take"})), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from((1, 1, 2, 5, 12, 30, 70))),
    st.tuples(st.just("take"), st.sampled_from((1, 100, 4000, 100_000))),
    st.tuples(st.sampled_from(sorted(ACTS.keys() - {"say"})), st.just(0)),
    st.tuples(st.just("say"), st.sampled_from((0, 10, 1500, 2000, LARGEST))),
    st.tuples(st.just("say"), st.sampled_from((1500, 2000))),
    st.tuples(st.sampled_from(("dam", "dam", "flow")), st.just(0)),
)
_settings: Final = st.sampled_from(sorted(WEBSOCKET))


@st.composite
def _calm(draw: st.DrawFn) -> Life:
    """Nothing but bytes, so that their splits must not matter."""
    steps = (("send", draw(_opening)), ("send", draw(grammar.frames)))
    splits = (0, *draw(cuts))
    return Life(steps, splits, draw(st.booleans()), draw(_settings), draw(st.booleans()))


@st.composite
def _eventful(draw: st.DrawFn) -> Life:
    steps: list[Step] = [("send", draw(_opening))]
    if draw(st.integers(0, 9)) == 9:
        steps.insert(0, draw(_others))
    steps += draw(st.lists(st.one_of(_sending, _others, _others), max_size=10))
    return Life(tuple(steps), (), draw(st.booleans()), draw(_settings), draw(st.booleans()))


_MESSAGES: Final = frame(0x81, b"pause") + frame(0x81, b"a") * 3
_KNOWN: Final = (
    Life(()),
    Life((("wait", 30),)),
    Life((("send", b"GET / HT"), ("wait", 30))),
    Life((("send", _HEAD + frame(0x81, b"a") * 600),), (5, 300)),
    Life((("send", _HEAD), ("dam", 0), ("send", frame(0x81, b"x" * 900) * 20), ("wait", 10), ("flow", 0))),
    Life((("send", _HEAD), ("dam", 0), ("send", frame(0x89, b"x" * 100) * 200), ("flow", 0))),
    Life((("send", _HEAD + frame(0x81, b"a") * 40),), (9,), awaits=True),
    Life((("send", _HEAD), ("close", 0), ("wait", 2), ("send", frame(0x89, b"still?")))),
    Life((("dam", 0), ("send", b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"), ("leave", 0), ("flow", 0))),
    # refused by websockets, after the rules have let it in
    Life((("send", grammar.HEAD % b'Sec-WebSocket-Protocol: "a"\r\n'),), settings="strict"),
    Life((("send", _HEAD), ("send", _MESSAGES)), (300,)),
    Life((("send", _HEAD), ("send", _MESSAGES)), (300,), settings="strict"),
)

CALM: Final = Target("calm lives", _calm(), check_life, ())
TARGET: Final = Target("lives", _eventful(), check_life, _KNOWN)
