"""Messages between processes: all survive the way over, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker import wire
from wsworker.errors import WireError
from wsworker.wire import (
    MAX_LINE_BYTES,
    Command,
    Lines,
    Message,
    Order,
    Reply,
    Report,
    decode_command,
    decode_order,
    decode_reply,
    decode_report,
    encode,
)

DECODE: dict[type, Callable[[bytes], Message]] = {
    Command: decode_command,
    Reply: decode_reply,
    Order: decode_order,
    Report: decode_report,
}

# characters() includes surrogates, which text() alone leaves out
TEXT = st.text(st.characters())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
COMMANDS = st.builds(Command, st.sampled_from(get_args(wire.CommandName)), st.booleans())
REPLIES = st.builds(Reply, st.booleans(), st.dictionaries(st.text(), VALUES, max_size=4))
ORDERS = st.builds(
    Order,
    st.sampled_from(get_args(wire.OrderName)),
    st.sampled_from(get_args(wire.DrainReason)),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)
REPORTS = st.builds(
    Report,
    st.sampled_from(get_args(wire.ReportName)),
    st.sampled_from(get_args(wire.FailureKind)),
    TEXT,
    TEXT,
)
MESSAGES: st.SearchStrategy[Message] = st.one_of(COMMANDS, REPLIES, ORDERS, REPORTS)


def paired(text: str) -> str:
    """Return the text with each two surrogates that make a pair joined to the character they stand for."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def arrived(message: Message) -> Message:
    """Return what must come out at the other end: the same, but for surrogates that were a character cut in two."""
    if isinstance(message, Report):
        return replace(message, error=paired(message.error), trace=paired(message.trace))
    return message


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at some places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(MESSAGES)
def test_every_message_survives(message: Message) -> None:
    """What was encoded is decoded to an equal message; the line holds no newline but its end, and is UTF-8."""
    line = encode(message)
    assert 1 == line.count(b"\n")
    assert line.decode().endswith("\n")
    assert arrived(message) == DECODE[type(message)](line)


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 2**16), max_size=8))
def test_lines_are_whole_in_any_split(messages: list[Message], cuts: list[int]) -> None:
    """However the bytes are split, the lines are the messages in their order, and none waits for more."""
    stream = b"".join(encode(message) for message in messages)
    lines = Lines()
    found = [line for part in parts(stream, cuts) for line in lines.feed(part)]
    assert [arrived(one) for one in messages] == [
        DECODE[type(one)](line) for one, line in zip(messages, found, strict=True)
    ]


def test_a_line_is_given_out_when_its_newline_comes() -> None:
    """Not before, and without it."""
    lines = Lines()
    assert [] == lines.feed(b"a")
    assert [] == lines.feed(b"")
    assert [b"ab", b"", b"c"] == lines.feed(b"b\n\nc\nd")
    assert [b"d"] == lines.feed(b"\n")


def test_a_character_of_two_bytes_may_be_split() -> None:
    """Lines cuts bytes, not text."""
    report = Report("failed", error="é")
    data = encode(report)
    lines = Lines()
    middle = data.index("é".encode()) + 1
    found = lines.feed(data[:middle]) + lines.feed(data[middle:])
    assert [report] == [decode_report(line) for line in found]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (b"", b"12345"),
        (b"123", b"45"),
        (b"", b"12345\n"),
        (b"", b"ok\n12345\n"),
        (b"", b"12345\nok\n"),
        (b"1", b"2345\n"),
    ],
)
def test_a_line_that_is_too_long_is_an_error(first: bytes, last: bytes) -> None:
    """As soon as that is known, whole or not, so that a peer cannot make us hold more than the limit."""
    lines = Lines(limit=4)
    assert [] == lines.feed(first)
    with pytest.raises(WireError, match="a line is longer than 4 bytes"):
        lines.feed(last)


def test_a_line_at_the_limit_is_taken() -> None:
    """The newline does not count."""
    lines = Lines(limit=4)
    assert [b"1234", b"5678"] == lines.feed(b"1234\n5678\n")
    assert [] == lines.feed(b"9012")
    assert [b"x" * MAX_LINE_BYTES] == Lines().feed(b"x" * MAX_LINE_BYTES + b"\n")


def test_the_lines_are_as_people_read_them() -> None:
    """One object with version, type and every field; plain text stands as it is."""
    assert b'{"v":1,"type":"command","name":"stop","quick":true}\n' == encode(Command("stop", True))
    assert b'{"v":1,"type":"order","name":"drain","why":"reload","slot":0,"fds":0}\n' == encode(
        Order("drain", "reload")
    )
    assert b'{"v":1,"type":"order","name":"lend","why":"","slot":3,"fds":2}\n' == encode(Order("lend", slot=3, fds=2))
    assert '{"v":1,"type":"reply","final":true,"body":{"говорит":1}}\n' == encode(Reply(True, {"говорит": 1})).decode()
    assert rb'{"v":1,"type":"report","name":"ready","kind":"","error":"\ud800","trace":"a\nb"}' + b"\n" == encode(
        Report("ready", error="\ud800", trace="a\nb")
    )


# What is no message

SAMPLES: list[Message] = [Command("stop", True), Reply(False, {"a": 1}), Order("drain", "quick"), Report("ready")]
by_kind = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)


def refusal(message: Message, **changes: Any) -> str:
    """Return why a message is refused when some of its fields are changed; None takes a field out."""
    fields = {name: value for name, value in (json.loads(encode(message)) | changes).items() if value is not None}
    with pytest.raises(WireError) as caught:
        DECODE[type(message)](json.dumps(fields).encode())
    return caught.value.reason


@given(st.binary())
def test_any_bytes_are_refused_or_a_message(line: bytes) -> None:
    """Nothing but WireError comes of them."""
    for kind, decode in DECODE.items():
        with contextlib.suppress(WireError):
            assert isinstance(decode(line), kind)


@given(MESSAGES, st.sampled_from([*DECODE]), st.data())
def test_any_change_is_refused_or_a_message(message: Message, kind: type, data: st.DataObject) -> None:
    """A field with another value, one too many or one too few: WireError, or a message that encodes to just that."""
    fields = json.loads(encode(message))
    name = data.draw(st.sampled_from([*fields, "more"]))
    if data.draw(st.booleans()):
        fields[name] = data.draw(VALUES)
    else:
        fields.pop(name, None)
    try:
        taken = DECODE[kind](json.dumps(fields).encode())
    except WireError:
        return
    # as text, since 1 == True == 1.0 in Python
    assert json.dumps(fields, sort_keys=True) == json.dumps(json.loads(encode(taken)), sort_keys=True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (b"9" * 5_000, "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"v"', "not an object"),
        (b"{}", "version is not 1"),
    ],
)
@by_kind
def test_what_is_no_object_is_refused(message: Message, line: bytes, reason: str) -> None:
    """Broken JSON, JSON that is too deep or too big a number, and JSON of another shape."""
    with pytest.raises(WireError) as caught:
        DECODE[type(message)](line)
    assert reason == caught.value.reason


@pytest.mark.parametrize("version", [None, 0, 2, "1", True, 1.0, [1]])
@by_kind
def test_another_version_is_refused(message: Message, version: object) -> None:
    """Also by a number that Python takes for 1."""
    assert "version is not 1" == refusal(message, v=version)


@pytest.mark.parametrize("kind", [None, "", "Command", 1, ["reply"], "message"])
@by_kind
def test_another_type_is_refused(message: Message, kind: object) -> None:
    """Each decode function takes its own type only."""
    assert f"not a {type(message).__name__.lower()}" == refusal(message, type=kind)


def test_a_message_of_another_type_is_refused() -> None:
    """An order is no command, though the names of their fields may be the same."""
    for message in SAMPLES:
        for kind, decode in DECODE.items():
            if kind is not type(message):
                with pytest.raises(WireError, match=f"not a {kind.__name__.lower()}"):
                    decode(encode(message))


@by_kind
def test_fields_are_neither_missing_nor_extra(message: Message) -> None:
    """The reason lists those that belong there."""
    names = list(vars(message))
    reason = f"a {type(message).__name__.lower()} has the fields {', '.join(names)}"
    assert reason == refusal(message, more=1)
    for name in names:
        assert reason == refusal(message, **{name: None})


WRONG: list[Any] = [0, 1, True, 1.5, "", "x", [], {}]


@by_kind
def test_fields_have_their_type(message: Message) -> None:
    """Exactly: True is no 1, and 1 is no 1.0."""
    for name, value in vars(message).items():
        wanted = type(value)
        for wrong in WRONG:
            if type(wrong) is not wanted:
                assert f"{name} is not a {wanted.__name__}" == refusal(message, **{name: wrong})


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        (Command("stop"), "name", "'nonsense' is none of status, reload, stop, reopen"),
        (Order("go"), "name", "'nonsense' is none of go, drain, lend, recall, reopen"),
        (Order("go"), "why", "'nonsense' is none of reload, replace, scale, stop, quick"),
        (Report("ready"), "name", "'nonsense' is none of ready, failed, leaving"),
        (Report("ready"), "kind", "'nonsense' is none of app, boot, crash"),
    ],
)
def test_words_are_of_their_lists(message: Message, field: str, reason: str) -> None:
    """Another word is refused by name, with those that there are."""
    assert reason == refusal(message, **{field: "nonsense"})


@pytest.mark.parametrize("field", ["slot", "fds"])
def test_orders_count_from_zero(field: str) -> None:
    """A slot or a number of descriptors below that is a fault of the sender, found before anyone waits for them."""
    assert f"{field} is negative" == refusal(Order("lend", slot=1, fds=1), **{field: -1})
