"""Messages between processes: all survive the way over, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker import wire
from wsworker.errors import WireError
from wsworker.query import LONGEST, MAX_LIMIT, SORTS, Query
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
NAMES = st.none() | st.text()
QUERIES = st.builds(
    Query,
    slot=st.none() | st.integers(),
    ip=st.sampled_from([None, "192.0.2.7", "2001:db8::/32"]),
    path=NAMES,
    user=NAMES,
    topic=NAMES,
    sort=st.sampled_from([*SORTS]),
    limit=st.integers(1, MAX_LIMIT),
)


def others(names: Any, one: str) -> st.SearchStrategy[str]:
    """Give all words of a list but one."""
    return st.sampled_from([name for name in get_args(names) if name != one])


COMMANDS = st.builds(Command, others(wire.CommandName, "connections"), st.booleans()) | st.builds(
    Command, st.just("connections"), query=QUERIES, config=TEXT
)
REPLIES = st.builds(Reply, st.booleans(), st.dictionaries(st.text(), VALUES, max_size=4))
ORDERS = st.builds(
    Order,
    others(wire.OrderName, "list"),
    st.sampled_from(get_args(wire.DrainReason)),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    shares=st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
) | st.builds(
    Order, st.just("list"), token=st.integers(), until=st.floats(allow_nan=False, allow_infinity=False), query=QUERIES
)
REPORTS = st.builds(
    Report,
    st.sampled_from(get_args(wire.ReportName)),
    st.sampled_from(get_args(wire.FailureKind)),
    TEXT,
    TEXT,
    st.integers(),
    st.integers(),
    st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=3).map(tuple),
    st.booleans(),
    TEXT,
    st.dictionaries(st.text(), st.integers(0, 2**40), max_size=3),
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.integers(0, 2**40),
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


@given(st.lists(MESSAGES, max_size=3), st.integers(0, 2**16), st.integers(0, 2**16))
def test_another_reader_goes_on_with_the_rest(messages: list[Message], first: int, second: int) -> None:
    """Wherever the stream is cut: what was fed and is no whole line yet is all that it needs."""
    stream = b"".join(encode(message) for message in messages)
    before, between, after = [*parts(stream, [first, second]), b"", b""][:3]
    one, other = Lines(), Lines()
    found = one.feed(before) + one.feed(between)
    assert [] == other.feed(one.rest)
    found += other.feed(after)
    assert [line + b"\n" for line in found] == [encode(message) for message in messages]
    assert b"" == other.rest


def test_the_vocabulary_has_a_name_of_its_own() -> None:
    """It is another one as soon as a word or a field of an order or a report is, and the same in each process."""
    code = "import wsworker.wire; print(wsworker.wire.CHANNEL)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert wire.CHANNEL == told.strip()
    changes = {
        "a word": ('"reopen", "list"]', '"reopen", "list", "dance"]'),
        "a reason": ('"stop", "quick"]', '"stop", "slow"]'),
        "a report": ('"changed", "moved"]', '"changed", "moved", "lost"]'),
        "a field of an order": ("    fds: int = 0", "    files: int = 0"),
        "a field of a report": ("    total: int = 0", "    total: float = 0"),
    }
    source = Path(wire.__file__).read_text()
    names = {wire.CHANNEL}
    for what, (old, new) in changes.items():
        assert 1 == source.count(old), what
        module = types.ModuleType("wsworker.changed")
        sys.modules[module.__name__] = module
        exec(compile(source.replace(old, new), "wire.py", "exec"), module.__dict__)
        del sys.modules[module.__name__]
        names.add(module.CHANNEL)
    assert 1 + len(changes) == len(names)


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


@pytest.mark.parametrize("character", ["\x00", "\x7f", '"', "\\", "é", "\u2028", "😀", "\ud800"])
def test_the_order_of_any_command_fits_a_line(character: str) -> None:
    """Whatever query a command has brought, its order is no longer than a worker reads: too long a one would end it."""
    texts = {name: character * longest for name, longest in LONGEST.items()} | {"ip": "::1/128"}
    # as many digits as json.loads takes for an integer
    query = Query(**texts, slot=int("9" * 4300), sort="remote", limit=MAX_LIMIT)
    line = encode(Command("connections", query=query)).removesuffix(b"\n")
    taken = decode_command(line).query
    assert query == taken
    order = encode(Order("list", token=2**63, until=1e17 / 3, query=taken)).removesuffix(b"\n")
    assert len(order) < MAX_LINE_BYTES // 2
    for name, longest in LONGEST.items():
        values: dict[str, Any] = {name: character * (longest + 1)}
        longer = Command("connections", query=replace(query, **values))
        with pytest.raises(WireError, match=f"{name} is longer than {longest} characters"):
            decode_command(encode(longer).removesuffix(b"\n"))


def test_the_lines_are_as_people_read_them() -> None:
    """One object with version, type and every field; plain text stands as it is."""
    assert b'{"v":1,"type":"command","name":"stop","quick":true,"query":null,"config":""}\n' == encode(
        Command("stop", True)
    )
    query = b'{"slot":3,"ip":null,"path":"/a","user":null,"topic":null,"sort":"since","limit":9}'
    assert b'{"v":1,"type":"command","name":"connections","quick":false,"query":%b,"config":"/c"}\n' % query == encode(
        Command("connections", query=Query(slot=3, path="/a", sort="since", limit=9), config="/c")
    )
    nothing = b'"token":0,"until":0.0,"query":null,"shares":[]}\n'
    assert b'{"v":1,"type":"order","name":"drain","why":"reload","slot":0,"fds":0,' + nothing == encode(
        Order("drain", "reload")
    )
    assert b'{"v":1,"type":"order","name":"lend","why":"","slot":3,"fds":2,' + nothing == encode(
        Order("lend", slot=3, fds=2)
    )
    assert nothing.replace(b"[]", b"[3,1]") in encode(Order("give", fds=2, shares=(3, 1)))
    assert '{"v":1,"type":"reply","final":true,"body":{"говорит":1}}\n' == encode(Reply(True, {"говорит": 1})).decode()
    rest = b'"token":0,"total":0,"rows":[],"last":false,"mark":"","left":{},"pause":0.0,"waits":0}\n'
    assert rb'{"v":1,"type":"report","name":"ready","kind":"","error":"\ud800","trace":"a\nb",' + rest == encode(
        Report("ready", error="\ud800", trace="a\nb")
    )


# What is no message

SAMPLES: list[Message] = [Command("stop", True), Reply(False, {"a": 1}), Order("drain", "quick"), Report("ready")]
by_kind = pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)


def refusal(message: Message, **changes: Any) -> str:
    """Return why a message is refused when some of its fields are changed; None takes a field out."""
    fields = json.loads(encode(message)) | changes
    fields = {name: value for name, value in fields.items() if value is not None or name not in changes}
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
    for name, value in json.loads(encode(message)).items():
        wanted = type(value)
        for wrong in WRONG:
            if name in vars(message) and name != "query" and type(wrong) is not wanted:
                assert f"{name} is not a {wanted.__name__}" == refusal(message, **{name: wrong})


@pytest.mark.parametrize(
    ("message", "field", "reason"),
    [
        (
            Command("stop"),
            "name",
            "'nonsense' is none of status, reload, rebalance, upgrade, stop, reopen, connections, bus",
        ),
        (Order("go"), "name", "'nonsense' is none of go, drain, take, give, lend, recall, reopen, list"),
        (Order("go"), "why", "'nonsense' is none of reload, replace, scale, stop, quick"),
        (Report("ready"), "name", "'nonsense' is none of ready, failed, leaving, rows, changed, moved"),
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


@pytest.mark.parametrize("shares", [[-1], [1.0], [True], ["1"], [1, None]])
def test_a_share_is_a_number_from_zero(shares: list[Any]) -> None:
    """A worker divides by their sum."""
    assert "a share is not a number from 0" == refusal(Order("give", fds=1), shares=shares)


@pytest.mark.parametrize(
    "changes", [{"left": {"busy": -1}}, {"left": {"busy": 1.0}}, {"left": {"busy": True}}, {"waits": -1}]
)
def test_what_could_not_move_is_counted(changes: dict[str, Any]) -> None:
    """The master adds these up, and `status` shows them."""
    assert "a count is not a number from 0" == refusal(Report("moved"), **changes)


@pytest.mark.parametrize("pause", [-0.5, float("inf"), float("nan")])
def test_a_pause_is_a_time(pause: float) -> None:
    """JSON of a master has no NaN."""
    assert "a pause is not a number from 0" == refusal(Report("moved"), pause=pause)


QUERY: dict[str, Any] = vars(Query())


@pytest.mark.parametrize("message", [Command("status"), Order("go")])
def test_a_query_belongs_to_connections_alone(message: Any) -> None:
    """Where none belongs there must be none, and where one belongs it must be one."""
    reason = "a query is an object, and only to ask for connections"
    assert reason == refusal(message, query=QUERY)
    name = "connections" if isinstance(message, Command) else "list"
    asking = replace(message, name=name, query=Query())
    assert asking == DECODE[type(message)](encode(asking))
    wrongs: list[Any] = [[], 1, "x", False]
    for wrong in wrongs:
        assert reason == refusal(asking, query=wrong)
    with pytest.raises(WireError, match=reason):
        DECODE[type(message)](encode(replace(message, name=name)))


def test_a_query_is_judged_as_it_comes() -> None:
    """What the master hands on to workers is right."""
    message = Command("connections", query=Query())
    assert "limit is not from 1 to 10000" == refusal(message, query=QUERY | {"limit": 0})
    assert refusal(message, query={}).startswith("a query has the fields slot, ip, ")


def test_rows_are_objects() -> None:
    """The master looks into them."""
    assert "a row is not an object" == refusal(Report("rows"), rows=[{}, []])
