"""The watch: each clock alone, all together, and when the next check is due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.sections import WebSocketConfig
from wsworker.worker.watch import Facts, Spans, Verdict, Watch

MIDDLE = 0.5  # no jitter
NEVER = Spans(ping_interval=0, ping_timeout=1, write=1000, message=0, auth=0, idle=0)
QUIET = Facts(reading=True, heard=False, waits=False, progress=False, signed=False, active_at=0)
WAITS = replace(QUIET, waits=True)


def test_the_spans_are_those_of_the_configuration() -> None:
    """In ticks of a quarter of a second; what is off is 0."""
    settings = WebSocketConfig(
        ping_interval=20, ping_timeout=10, write_timeout=30, message_timeout=60, auth_timeout=5, idle_timeout=0
    )
    assert Spans(ping_interval=80, ping_timeout=40, write=120, message=240, auth=20, idle=0) == Spans.of(settings)


def test_with_everything_off_it_only_looks_at_what_waits() -> None:
    """There is no pulse, and the next check is a write_timeout ahead, from wherever one asks."""
    watch = Watch(NEVER, 0, MIDDLE)
    assert watch.pulse is None
    assert 1000 == watch.ticks_left(0, 0)
    assert 400 == watch.ticks_left(600, 0)
    assert "wait" == watch.check(1000, MIDDLE, QUIET)
    assert 1000 == watch.ticks_left(1000, 0)


# silent


def test_silence_behind_a_ping_is_the_end() -> None:
    """Nothing was heard for ping_timeout behind a ping; before that, pings go on."""
    watch = Watch(replace(NEVER, ping_interval=10, ping_timeout=15), 0, MIDDLE)
    assert 10 == watch.ticks_left(0, 0)
    assert "ping" == watch.check(10, MIDDLE, QUIET)
    assert "ping" == watch.check(20, MIDDLE, QUIET)
    assert 5 == watch.ticks_left(20, 0)
    assert "wait" == watch.check(24, MIDDLE, QUIET)
    assert "silent" == watch.check(25, MIDDLE, QUIET)


def test_any_byte_is_a_sign_of_life() -> None:
    """What was heard since the last check ends the wait that the ping began."""
    watch = Watch(replace(NEVER, ping_interval=10, ping_timeout=5), 0, MIDDLE)
    for now in (10, 20, 30):
        assert "ping" == watch.check(now, MIDDLE, QUIET)
        assert "wait" == watch.check(now + 5, MIDDLE, replace(QUIET, heard=True))


def test_silence_is_not_counted_while_we_do_not_read() -> None:
    """The wait begins anew at each check meanwhile, and when reading goes on."""
    watch = Watch(replace(NEVER, ping_interval=100, ping_timeout=5), 0, MIDDLE)
    assert "ping" == watch.check(100, MIDDLE, QUIET)
    assert "wait" == watch.check(105, MIDDLE, replace(QUIET, reading=False))
    assert "wait" == watch.check(110, MIDDLE, replace(QUIET, reading=False))
    watch.resumed(113)
    assert "wait" == watch.check(115, MIDDLE, QUIET)
    assert 3 == watch.ticks_left(115, 0)
    assert "silent" == watch.check(118, MIDDLE, QUIET)


def test_who_takes_a_long_answer_is_not_silent() -> None:
    """The ping may stand behind it; who takes nothing of it, or has taken all, owes the pong."""
    for end in (WAITS, replace(QUIET, progress=True)):
        watch = Watch(replace(NEVER, ping_interval=100, ping_timeout=5), 0, MIDDLE)
        assert "ping" == watch.check(100, MIDDLE, WAITS)
        assert "wait" == watch.check(105, MIDDLE, replace(WAITS, progress=True))
        assert "wait" == watch.check(110, MIDDLE, replace(WAITS, progress=True))
        assert "silent" == watch.check(115, MIDDLE, end)


# stuck


def test_who_takes_nothing_of_what_waits_is_stuck() -> None:
    """The time runs from the check that has found it, and the next check is when it is over."""
    watch = Watch(replace(NEVER, write=30), 7, MIDDLE)
    assert "wait" == watch.check(20, MIDDLE, WAITS)
    assert 30 == watch.ticks_left(20, 0)
    assert "wait" == watch.check(40, MIDDLE, WAITS)
    assert 10 == watch.ticks_left(40, 0)
    assert "wait" == watch.check(49, MIDDLE, WAITS)
    assert "stuck" == watch.check(50, MIDDLE, WAITS)


def test_who_takes_a_little_all_the_time_stays() -> None:
    """Any progress begins the time anew, also when all seemed lost."""
    watch = Watch(replace(NEVER, write=30), 0, MIDDLE)
    for now in range(30, 3000, 30):
        assert "wait" == watch.check(now, MIDDLE, replace(WAITS, progress=now % 60 == 0))
        assert "wait" == watch.check(now + 29, MIDDLE, replace(WAITS, progress=True))


def test_an_empty_buffer_ends_it() -> None:
    """What waits later has its own time."""
    watch = Watch(replace(NEVER, write=30), 0, MIDDLE)
    assert "wait" == watch.check(10, MIDDLE, WAITS)
    assert "wait" == watch.check(39, MIDDLE, QUIET)
    assert "wait" == watch.check(40, MIDDLE, WAITS)
    assert "stuck" == watch.check(70, MIDDLE, WAITS)


def test_what_waits_is_counted_while_we_do_not_read_too() -> None:
    """That is when it matters most: a client that takes nothing is not read from."""
    watch = Watch(replace(NEVER, write=30), 0, MIDDLE)
    assert "wait" == watch.check(10, MIDDLE, replace(WAITS, reading=False))
    assert "stuck" == watch.check(40, MIDDLE, replace(WAITS, reading=False))


# unfinished


def test_a_message_must_end_in_time() -> None:
    """Its time runs from its first fragment, whatever else the client sends, and pulls the next check in."""
    watch = Watch(replace(NEVER, message=60), 0, MIDDLE)
    assert watch.message_began(10)
    assert not watch.message_began(20)
    assert 50 == watch.ticks_left(20, 0)
    assert "wait" == watch.check(69, MIDDLE, replace(QUIET, heard=True))
    assert "unfinished" == watch.check(70, MIDDLE, replace(QUIET, heard=True))


def test_the_first_tick_is_as_good_as_any() -> None:
    """A message that begins at tick 0 is known from then on."""
    watch = Watch(replace(NEVER, message=60, write=30), 0, MIDDLE)
    assert watch.message_began(0)
    assert not watch.message_began(5)
    assert "wait" == watch.check(0, MIDDLE, WAITS)
    assert "stuck" == watch.check(30, MIDDLE, WAITS)
    assert "unfinished" == watch.check(60, MIDDLE, QUIET)


def test_each_message_has_its_own_time() -> None:
    """One that has ended is forgotten, and the next one counts from its own begin."""
    watch = Watch(replace(NEVER, message=60), 0, MIDDLE)
    assert watch.message_began(10)
    watch.message_ended()
    assert "wait" == watch.check(70, MIDDLE, QUIET)
    assert watch.message_began(80)
    assert "wait" == watch.check(139, MIDDLE, QUIET)
    assert "unfinished" == watch.check(140, MIDDLE, QUIET)


def test_the_time_of_a_message_stands_still_while_we_do_not_read() -> None:
    """It begins anew when reading goes on, known by a check or by word; no message gets one by that."""
    watch = Watch(replace(NEVER, message=60), 0, MIDDLE)
    watch.resumed(5)
    assert watch.message_began(10)
    assert "wait" == watch.check(70, MIDDLE, replace(QUIET, reading=False))
    assert 60 == watch.ticks_left(70, 70)
    watch.resumed(100)
    assert "wait" == watch.check(159, MIDDLE, QUIET)
    assert "unfinished" == watch.check(160, MIDDLE, QUIET)


def test_without_a_message_timeout_a_message_may_take_for_ever() -> None:
    """Its begin is of no interest."""
    watch = Watch(NEVER, 0, MIDDLE)
    assert not watch.message_began(1)
    assert "wait" == watch.check(10**6, MIDDLE, QUIET)


# unsigned


def test_who_has_not_signed_in_by_then_goes() -> None:
    """However much they say."""
    watch = Watch(replace(NEVER, auth=40), 7, MIDDLE)
    assert 40 == watch.ticks_left(7, 7)
    assert "wait" == watch.check(46, MIDDLE, replace(QUIET, heard=True, active_at=46))
    assert "unsigned" == watch.check(47, MIDDLE, replace(QUIET, heard=True, active_at=47))


def test_it_is_asked_once_who_this_is() -> None:
    """Who signs out later may stay: that is the application's affair."""
    watch = Watch(replace(NEVER, auth=40), 0, MIDDLE)
    assert "wait" == watch.check(40, MIDDLE, replace(QUIET, signed=True))
    assert "wait" == watch.check(41, MIDDLE, QUIET)
    assert 1000 == watch.ticks_left(41, 0)


# idle


def test_who_has_no_message_for_long_is_idle() -> None:
    """Pings and other bytes do not count."""
    watch = Watch(replace(NEVER, idle=50), 0, MIDDLE)
    assert 50 == watch.ticks_left(0, 0)
    assert "wait" == watch.check(50, MIDDLE, replace(QUIET, active_at=20))
    assert 20 == watch.ticks_left(50, 20)
    assert "wait" == watch.check(69, MIDDLE, replace(QUIET, heard=True, active_at=20))
    assert "idle" == watch.check(70, MIDDLE, replace(QUIET, heard=True, active_at=20))


def test_nobody_is_idle_while_we_do_not_read() -> None:
    """Their messages may wait in the kernel; the next check is a span ahead, and not in each tick."""
    watch = Watch(replace(NEVER, idle=50), 0, MIDDLE)
    assert "wait" == watch.check(50, MIDDLE, replace(QUIET, reading=False))
    assert 50 == watch.ticks_left(50, 50)


# together


def test_the_end_goes_before_a_ping() -> None:
    """Nobody is pinged who is being closed, and what is cut is not closed first."""
    watch = Watch(Spans(ping_interval=10, ping_timeout=10, write=10, message=10, auth=10, idle=10), 0, MIDDLE)
    assert "ping" == watch.check(10, MIDDLE, replace(WAITS, signed=True, active_at=10))
    assert watch.message_began(10)
    assert "stuck" == watch.check(20, MIDDLE, WAITS)
    assert "unfinished" == watch.check(20, MIDDLE, QUIET)
    watch.message_ended()
    assert "idle" == watch.check(20, MIDDLE, QUIET)
    assert "silent" == watch.check(20, MIDDLE, replace(QUIET, active_at=20))


off_or_span = st.just(0) | st.integers(1, 60)
spans = st.builds(
    Spans,
    ping_interval=off_or_span,
    ping_timeout=st.integers(1, 60),
    write=st.integers(1, 60),
    message=off_or_span,
    auth=off_or_span,
    idle=off_or_span,
)
moments = st.lists(
    st.tuples(
        st.integers(1, 40),  # ticks until then
        st.sampled_from(["took", "sent", "began", "ended", "stopped", "resumed", "message", "filled", "signed in"]),
    ),
    max_size=20,
)


class Line:
    """A connection in time, watched as a connection does it: checked when it is due and never else."""

    def __init__(self, spans: Spans, chance: float) -> None:
        self.now = 0
        self.spans = spans
        self.chance = chance
        self.watch = Watch(spans, 0, chance)
        self.facts = QUIET
        self.checks = 0
        self.verdict: Verdict = "wait"
        self.due = self.schedule()
        # what really is: when it was last read again, began a message, was stuck, gave a sign of life
        self.read_at = 0
        self.began_at: int | None = None
        self.waits_at: int | None = None
        self.alive_at = 0

    def schedule(self) -> int:
        left = self.watch.ticks_left(self.now, self.facts.active_at if self.facts.reading else self.now)
        assert left >= 1
        return self.now + left

    def tick(self) -> None:
        self.now += 1
        if self.now < self.due or self.over:
            return
        self.checks += 1
        self.verdict = self.watch.check(self.now, self.chance, self.facts)
        self.facts = replace(self.facts, heard=False, progress=False)
        self.due = self.schedule()

    @property
    def over(self) -> bool:
        return self.verdict not in ("wait", "ping")

    def happen(self, what: str) -> None:
        facts, now = self.facts, self.now
        if what == "took" and facts.waits:
            self.facts = replace(facts, progress=True)
            self.waits_at = self.alive_at = now
        elif what == "filled" and not facts.waits:
            self.facts = replace(facts, waits=True)
            self.waits_at = now
        elif what == "sent" and facts.reading:
            self.facts = replace(facts, heard=True)
            self.alive_at = now
        elif what == "message" and facts.reading:
            self.facts = replace(facts, heard=True, active_at=now)
            self.alive_at = now
        elif what == "began" and facts.reading and self.began_at is None:
            self.began_at = now
            if self.watch.message_began(now):
                self.due = self.schedule()
        elif what == "ended" and facts.reading:
            self.began_at = None
            self.watch.message_ended()
        elif what == "signed in":
            self.facts = replace(facts, signed=True)
        elif what == "stopped":
            self.facts = replace(facts, reading=False)
        elif what == "resumed" and not facts.reading:
            self.facts = replace(facts, reading=True, active_at=now)
            self.watch.resumed(now)
            self.read_at = now

    def late(self, since: int | None, span: int) -> int:
        """Return how far a time is over, below 0 if it is not."""
        return -1 if since is None or not span else self.now - max(since, self.read_at) - span


def _run(spans: Spans, chance: float, moments: list[tuple[int, str]]) -> Line:
    """Let it all happen, and check in each tick what must be and what must not."""
    line = Line(spans, chance)
    for ticks, what in [*moments, (200, "nothing")]:
        for _ in range(ticks):
            line.tick()
            if line.over:
                return line
            reading = line.facts.reading
            assert not (reading and line.late(line.began_at, spans.message) >= 0)
            assert not (reading and line.late(line.facts.active_at, spans.idle) >= 0)
            assert not (spans.auth and line.now >= spans.auth and not line.facts.signed)
            assert not (line.waits_at is not None and line.now - line.waits_at >= 2 * spans.write)
            assert line.due > line.now
        line.happen(what)
    return line


@given(spans, st.floats(0, 1, exclude_max=True), moments)
def test_no_time_passes_unseen_and_nobody_ends_before_their_time(
    spans: Spans, chance: float, moments: list[tuple[int, str]]
) -> None:
    """Checked only when it is due, each clock still ends a connection in its tick, and none before it."""
    line = _run(spans, chance, moments)
    ends = {
        "stuck": line.waits_at is not None and line.now - line.waits_at >= spans.write,
        "unfinished": line.late(line.began_at, spans.message) == 0,
        "unsigned": spans.auth == line.now,
        "idle": line.late(line.facts.active_at, spans.idle) == 0,
        "silent": line.now - max(line.alive_at, line.read_at) >= spans.ping_timeout,
    }
    assert ends.get(line.verdict, True), line.verdict


@given(spans, st.floats(0, 1, exclude_max=True), moments)
def test_checks_are_no_more_than_the_shortest_span_asks_for(
    spans: Spans, chance: float, moments: list[tuple[int, str]]
) -> None:
    """A check that changes nothing is never due again at once: each has a span behind it, or something that began."""
    line = _run(spans, chance, moments)
    clocks = [spans.write, spans.message, spans.auth, spans.idle, spans.ping_interval, spans.ping_timeout]
    most = sum(line.now // max(1, round(span * 0.9)) + 1 for span in clocks if span)
    assert line.checks <= most + len(moments)


@pytest.mark.parametrize("reading", [True, False])
def test_a_late_check_is_due_at_once(reading: bool) -> None:
    """However late it is, ticks_left is 1 and not less, and the check behind it sets things right."""
    watch = Watch(Spans(ping_interval=10, ping_timeout=10, write=10, message=10, auth=10, idle=10), 0, MIDDLE)
    assert watch.message_began(3)
    assert 1 == watch.ticks_left(500, 0)
    facts = replace(QUIET, reading=reading, signed=True, active_at=500)
    assert ("unfinished" if reading else "ping") == watch.check(500, MIDDLE, facts)


# moved to another worker

acts = st.lists(
    st.tuples(
        st.integers(0, 40),  # ticks until then
        st.sampled_from(["check", "check", "check", "began", "ended", "resumed", "moves"]),
        st.floats(0, 1, exclude_max=True),
        st.builds(
            Facts,
            reading=st.booleans(),
            heard=st.booleans(),
            waits=st.booleans(),
            progress=st.booleans(),
            signed=st.booleans(),
            active_at=st.integers(0, 100),  # ticks ago
        ),
        st.integers(-200, 200),  # ticks that the other one is ahead
    ),
    max_size=40,
)


@given(spans, acts)
def test_moved_it_gives_the_same_verdicts(spans: Spans, acts: list[tuple[int, str, float, Facts, int]]) -> None:
    """However often, and to ticks that begin with the worker."""
    stays, moves = Watch(spans, 100, MIDDLE), Watch(spans, 100, MIDDLE)
    now, shift = 100, 0
    for ticks, act, chance, facts, other in acts:
        now += ticks
        active_at = now - facts.active_at
        here, there = replace(facts, active_at=active_at), replace(facts, active_at=active_at + shift)
        if act == "check":
            assert stays.check(now, chance, here) == moves.check(now + shift, chance, there)
        elif act == "began":
            assert stays.message_began(now) == moves.message_began(now + shift)
        elif act == "ended":
            stays.message_ended()
            moves.message_ended()
        elif act == "resumed":
            stays.resumed(now)
            moves.resumed(now + shift)
        else:
            moves = Watch.thaw(moves.freeze(now + shift), spans, now + other, chance)
            shift = other
        assert stays.ticks_left(now, active_at) == moves.ticks_left(now + shift, active_at + shift)


ALL = Spans(ping_interval=100, ping_timeout=50, write=30, message=60, auth=40, idle=0)


def test_what_has_no_span_now_is_watched_no_more() -> None:
    """A message that has begun may take for ever then, nobody need say who they are, and there are no pings."""
    watch = Watch(ALL, 0, MIDDLE)
    assert watch.message_began(5)
    moved = Watch.thaw(watch.freeze(10), NEVER, 7, MIDDLE)
    assert moved.pulse is None
    assert 1000 - 10 == moved.ticks_left(7, 7)
    assert "wait" == moved.check(10**6, MIDDLE, replace(QUIET, active_at=10**6))


def test_what_had_no_span_begins_now() -> None:
    """However long the connection has been open: who it is, and pings."""
    moved = Watch.thaw(Watch(NEVER, 0, MIDDLE).freeze(5000), ALL, 7, MIDDLE)
    assert moved.pulse is not None
    assert 100 == moved.pulse.ticks_left(7)
    assert "wait" == moved.check(46, MIDDLE, QUIET)
    assert "unsigned" == moved.check(47, MIDDLE, QUIET)


def test_other_spans_judge_what_was_before() -> None:
    """A message that has been under way for 20 ticks has as much less of the new time; so has who is not signed in."""
    watch = Watch(ALL, 0, MIDDLE)
    assert watch.message_began(10)
    state = watch.freeze(30)
    assert (30, 30, 20) == (state.checked, state.unsigned, state.message)
    moved = Watch.thaw(state, replace(ALL, ping_interval=0, message=25, auth=300, write=1000), 7, MIDDLE)
    assert 5 == moved.ticks_left(7, 7)
    assert "unfinished" == moved.check(12, MIDDLE, QUIET)
    moved.message_ended()
    assert "wait" == moved.check(276, MIDDLE, replace(QUIET, heard=True))
    assert "unsigned" == moved.check(277, MIDDLE, replace(QUIET, heard=True))


def test_who_was_asked_who_this_is_is_not_asked_again() -> None:
    """Not even when the time for it is longer now."""
    watch = Watch(ALL, 0, MIDDLE)
    assert "wait" == watch.check(40, MIDDLE, replace(QUIET, signed=True))
    moved = Watch.thaw(watch.freeze(41), replace(ALL, auth=500, ping_interval=0), 41, MIDDLE)
    assert "wait" == moved.check(600, MIDDLE, QUIET)
