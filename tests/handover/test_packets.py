"""What giver and taker tell each other: all of it comes over, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.bus.topics import EVERYBODY, Key
from wsworker.counters import UNMOVED
from wsworker.errors import WireError
from wsworker.handover.packets import (
    MOST_BYTES,
    PACKET_BYTES,
    VERSION,
    Ack,
    Bye,
    Done,
    Go,
    Hello,
    Keys,
    Marks,
    Message,
    Reader,
    Ready,
    Refused,
    Side,
    State,
    Tail,
    Type,
    VersionError,
    encode,
    key_messages,
)

HEAD = struct.Struct("!BIHH")
PART = PACKET_BYTES - HEAD.size
MOST_PARTS = -(-MOST_BYTES // PART)
HELLO = Hello("0.1")

numbers = st.integers(0, 2**32 - 1)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
keys = st.builds(Key, st.sampled_from(["topic", "user"]), names) | st.just(EVERYBODY)
# of more than one packet, at times exactly full
bodies = st.binary(max_size=40) | st.sampled_from([PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7]).map(bytes)
values = st.recursive(
    st.none() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
from_giver = st.one_of(
    st.builds(Keys, numbers, st.lists(keys, max_size=5).map(tuple), st.booleans()),
    st.builds(Marks, st.lists(values, max_size=4)),
    st.builds(State, numbers, bodies),
    st.builds(Go, numbers),
    st.builds(Tail, numbers, bodies),
)
from_taker = st.one_of(
    st.builds(Ready, numbers),
    st.builds(Ack, st.lists(numbers, min_size=1, max_size=40).map(tuple)),
    st.builds(Refused, numbers, st.sampled_from(UNMOVED)),
)


def packet(kind: int, number: int = 0, body: bytes = b"", part: int = 0, total: int = 1) -> bytes:
    """Return a packet that says this."""
    return HEAD.pack(kind, number, part, total) + body


def greeted(side: Side) -> Reader:
    """Return a reader that has had the HELLO of a side."""
    reader = Reader(side)
    assert read(reader, HELLO) == [HELLO]
    return reader


def read(reader: Reader, *messages: Message) -> list[Message]:
    """Return what a reader makes of messages."""
    found = [reader.feed(packet) for message in messages for packet in encode(message)]
    return [message for message in found if message is not None]


def fault(reader: Reader, *packets: bytes) -> str:
    """Return why a reader refuses the last of these packets."""
    *before, last = packets
    for good in before:
        reader.feed(good)
    with pytest.raises(WireError) as caught:
        reader.feed(last)
    return caught.value.reason


def in_order(said: list[Message]) -> list[Message]:
    """Return what a giver may say of this: each connection once, and tails of those that have come."""
    moved: set[int] = set()
    right: list[Message] = []
    for message in said:
        if isinstance(message, State) and message.number not in moved:
            moved.add(message.number)
            right.append(message)
        elif isinstance(message, Tail) and moved:
            right.append(Tail(min(moved), message.wish))
        elif isinstance(message, Go) and moved:
            right.append(Go((max(moved), min(moved))))
        elif isinstance(message, (Keys, Marks)):
            right.append(message)
    return [*right, Done(len(moved), True), *(Tail(number, b"late") for number in moved)]


@given(st.lists(from_giver, max_size=8))
def test_all_that_a_giver_says_comes_over(said: list[Message]) -> None:
    """Whatever it is, in however many packets, none of which is too long."""
    right = in_order(said)
    assert right == read(greeted("giver"), *right)
    assert all(HEAD.size <= len(item) <= PACKET_BYTES for message in right for item in encode(message))


@given(st.lists(from_taker, max_size=8))
def test_all_that_a_taker_says_comes_over(said: list[Message]) -> None:
    """In a packet each."""
    assert [*said, Bye()] == read(greeted("taker"), *said, Bye())
    assert all(len(encode(message)) == 1 for message in said)


packets = st.one_of(
    st.binary(max_size=40),
    st.builds(
        packet,
        st.integers(0, 12),
        st.integers(0, 3),
        st.one_of(
            st.binary(max_size=12),
            st.sampled_from(
                [b"", b"\0[]", b'\1[["topic","a"]]', b"[]", b"[1]", b"{}", b'{"version":1,"wsworker":"1"}']
            ),
            st.just(bytes(PART)),
        ),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
)


@given(st.sampled_from(get_args(Side)), st.booleans(), st.lists(packets, max_size=8))
def test_any_packets_are_messages_or_faults(side: Side, begun: bool, packets: list[bytes]) -> None:
    """Never anything but a WireError; and what is a message can be said again."""
    reader = greeted(side) if begun else Reader(side)
    for item in packets:
        try:
            message = reader.feed(item)
        except WireError:
            return
        assert message is None or encode(message)


@given(st.lists(from_giver, min_size=1, max_size=4), st.data())
def test_a_byte_that_is_wrong(said: list[Message], data: st.DataObject) -> None:
    """It is a fault, or something else was said; never anything but a WireError."""
    said_packets = [item for message in [HELLO, *in_order(said)] for item in encode(message)]
    place = data.draw(st.integers(0, len(said_packets) - 1))
    item = bytearray(said_packets[place])
    item[data.draw(st.integers(0, len(item) - 1) | st.integers(0, min(len(item), 40) - 1))] ^= data.draw(
        st.integers(1, 255)
    )
    said_packets[place] = bytes(item)
    reader = Reader("giver")
    with contextlib.suppress(WireError):
        for item_said in said_packets:
            reader.feed(item_said)


# parts


def test_a_message_of_many_packets() -> None:
    """It is there with its last one; meanwhile it is known that one is under way."""
    reader = greeted("giver")
    first, second, third = encode(State(7, bytes(2 * PART) + b"x"))
    assert [PACKET_BYTES, PACKET_BYTES, HEAD.size + 1] == list(map(len, (first, second, third)))
    assert [None, None] == [reader.feed(first), reader.feed(second)]
    assert State(7, bytes(2 * PART) + b"x") == reader.feed(third)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (0, "type 4, 7, part 0 of 3, and not part 1 of 3 of STATE 7"),
        (2, "type 4, 7, part 2 of 3, and not part 1 of 3 of STATE 7"),
        (3, "type 4, 8, part 1 of 3, and not part 1 of 3 of STATE 7"),
        (4, "type 3, 0, part 0 of 1, and not part 1 of 3 of STATE 7"),
        (5, "type 4, 7, part 1 of 4, and not part 1 of 3 of STATE 7"),
    ],
)
def test_parts_come_in_order_and_nothing_between(place: int, why: str) -> None:
    """A part twice, one left out, one of another connection, another message, another number of parts."""
    parts = encode(State(7, bytes(3 * PART)))
    wrong = [*parts, *encode(State(8, bytes(3 * PART)))[1:2], *encode(Marks([])), packet(4, 7, bytes(PART), 1, 4)]
    assert why == fault(greeted("giver"), parts[0], wrong[place])


def test_a_message_begins_with_its_first_part() -> None:
    """And with no other one."""
    assert "type 4, 7, part 1 of 2, and not part 0 of 2 of STATE 7" == fault(greeted("giver"), packet(4, 7, b"", 1, 2))


def test_all_parts_but_the_last_are_full() -> None:
    """So that the number of parts bounds the size, from both sides."""
    assert "a part that is not full, and not the last" == fault(greeted("giver"), packet(4, 7, b"abc", 0, 2))


@pytest.mark.parametrize("total", [0, MOST_PARTS + 1, 2**16 - 1])
def test_how_many_parts_is_judged_before_anything_is_kept(total: int) -> None:
    """A message has one at least, and not more than make the longest one."""
    reader = greeted("giver")
    assert f"STATE in {total} parts" == fault(reader, packet(4, 7, bytes(PART), 0, total))


@pytest.mark.parametrize("kind", [Type.KEYS, Type.GO, Type.DONE, Type.READY, Type.ACK, Type.REFUSED, Type.BYE])
def test_what_is_short_comes_in_one_packet(kind: Type) -> None:
    """Only marks, states and tails may be long."""
    side: Side = "giver" if kind in (Type.KEYS, Type.GO, Type.DONE) else "taker"
    assert f"{kind.name} in 2 parts" == fault(greeted(side), packet(kind, 0, bytes(PART), 0, 2))


def test_the_longest_message() -> None:
    """It comes over; one that is longer by a byte cannot be said."""
    message = State(1, bytes(MOST_BYTES))
    assert [message] == read(greeted("giver"), message)
    with pytest.raises(ValueError, match=f"^STATE of {MOST_BYTES + 1} bytes, and at most {MOST_BYTES} can be sent$"):
        encode(State(1, bytes(MOST_BYTES + 1)))


@pytest.mark.parametrize("size", [0, HEAD.size - 1, PACKET_BYTES + 1])
def test_a_packet_of_a_wrong_size(size: int) -> None:
    """Shorter than its head, or longer than any."""
    assert f"a packet of {size} bytes, and not {HEAD.size} to {PACKET_BYTES}" == fault(Reader("giver"), bytes(size))


# who may say what, and when


@pytest.mark.parametrize(
    ("side", "wanted"), [("giver", "KEYS, MARKS, STATE, TAIL, DONE, GO"), ("taker", "READY, ACK, REFUSED, BYE")]
)
def test_each_side_has_its_words(side: Side, wanted: str) -> None:
    """The HELLO is first, once; then come those of its own, and none of the other side or of nobody."""
    own = {Type[word] for word in wanted.split(", ")}
    for kind in range(13):
        if kind != Type.HELLO:
            assert f"type {kind} from the {side}, where HELLO is expected" == fault(Reader(side), packet(kind))
        if kind not in own:
            assert f"type {kind} from the {side}, where {wanted} is expected" == fault(greeted(side), packet(kind))


def test_behind_the_end() -> None:
    """Behind DONE the old code may still want something of its connections; behind BYE nothing comes."""
    giver, taker = greeted("giver"), greeted("taker")
    read(giver, State(3, b""), Done(1, True), Tail(3, b"a"))
    read(taker, Bye())
    for message in (Keys(1, (), True), Marks([]), State(4, b""), Done(1, True)):
        kind = Type[type(message).__name__.upper()]
        assert f"type {kind} from the giver, where TAIL is expected" == fault(giver, *encode(message))
    for late in (Ready(1), Ack((1,)), Refused(1, "busy"), Bye()):
        kind = Type[type(late).__name__.upper()]
        assert f"type {kind} from the taker, where nothing is expected" == fault(taker, *encode(late))


def test_each_connection_comes_once() -> None:
    """A number that was used is not used again; GO and TAIL are of one that has come; and all are counted."""
    reader = greeted("giver")
    read(reader, State(3, b"a"), State(4, b"b"))
    assert "connection 3 twice" == fault(reader, *encode(State(3, b"c")))
    assert "TAIL of connection 5, which has not come" == fault(reader, *encode(Tail(5, b"c")))
    assert "GO of connection 5, which has not come" == fault(reader, *encode(Go((5,))))
    assert "2 connections have come, and not 3" == fault(reader, *encode(Done(3, True)))
    assert [Done(0, True)] == read(greeted("giver"), Done(0, True))


# what they hold


@pytest.mark.parametrize("version", [0, VERSION + 1, 10**30])
def test_another_version(version: int) -> None:
    """It is told apart from a fault, by whatever else its HELLO says."""
    with pytest.raises(VersionError) as caught:
        Reader("giver").feed(packet(1, body=json.dumps({"version": version, "wsworker": "9.9", "new": []}).encode()))
    assert f"version {version} of the hand-over, that of wsworker 9.9, and not {VERSION}" == caught.value.reason


def test_a_newer_one_may_say_more() -> None:
    """As long as its version is ours."""
    body = json.dumps({"version": VERSION, "wsworker": "9.9", "new": []}).encode()
    assert Hello("9.9") == Reader("taker").feed(packet(1, body=body))


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"version":true,"wsworker":"1"}', b'{"version":1}', b'{"version":1,"wsworker":1}']
)
def test_what_is_no_hello(body: bytes) -> None:
    """Nor is it another version, about which nothing is known."""
    with pytest.raises(WireError, match="a HELLO says which version it speaks") as caught:
        Reader("giver").feed(packet(1, body=body))
    assert type(caught.value) is WireError


@pytest.mark.parametrize(
    ("side", "item", "why"),
    [
        ("giver", packet(2, 1, b""), "not JSON"),
        ("giver", packet(2, 1, b"\2[]"), "a flag is 0 or 1"),
        ("giver", packet(2, 1, b"\1{}"), "not a list"),
        ("giver", packet(2, 1, b"\1[1]"), "a key is a kind and a name"),
        ("giver", packet(2, 1, b'\1["ab"]'), "a key is a kind and a name"),
        ("giver", packet(2, 1, b'\1[["topic"]]'), "a key is a kind and a name"),
        ("giver", packet(2, 1, b'\1[["room","a"]]'), "a key is a kind and a name"),
        ("giver", packet(2, 1, b'\1[[[],"a"]]'), "a key is a kind and a name"),
        ("giver", packet(2, 1, b'\1[["broadcast","a"]]'), "a broadcast has a name"),
        ("giver", packet(2, 1, b'\1[["topic",1]]'), "a topic is a str, not int"),
        ("giver", packet(2, 1, b'\1[["user",""]]'), "a user has 1 to 255 bytes of UTF-8, not 0: ''"),
        ("giver", packet(3, 0, b"{}"), "not a list"),
        ("giver", packet(3, 0, b"["), "not JSON"),
        ("giver", packet(3, 0, b"\xff"), "not JSON"),
        ("giver", packet(3, 0, b"[" * 100_000), "not JSON"),
        ("giver", packet(6, 0, b""), "a DONE has a flag"),
        ("taker", packet(7, 0, b"x"), "READY with a body"),
        ("taker", packet(10, 0, b"x"), "BYE with a body"),
        ("taker", packet(8, 0, b""), "0 bytes are no list of numbers"),
        ("taker", packet(8, 0, b"xxxxx"), "5 bytes are no list of numbers"),
        ("giver", packet(11, 0, b"xxx"), "3 bytes are no list of numbers"),
    ],
)
def test_what_is_no_body(side: Side, item: bytes, why: str) -> None:
    """It is named."""
    assert why == fault(greeted(side), item)


@pytest.mark.parametrize("word", [b"moonshine", b"", b"\xff", b"Busy"])
def test_a_reason_that_is_not_known(word: bytes) -> None:
    """A newer taker may have more of them: the connection stays all the same."""
    assert Refused(3, "error") == greeted("taker").feed(packet(9, 3, word))


@given(
    st.lists(st.builds(Key, st.just("topic"), st.text('"\\aé', min_size=1, max_size=100)), max_size=3),
    st.integers(0, 2000),
)
def test_long_lists_of_keys_go_in_pieces(some: list[Key], count: int) -> None:
    """All of them in order, the last piece marked, each in a packet, even if every character needs a backslash."""
    all_keys = some + [Key("user", '"' * 250 + str(number)) for number in range(count)]
    pieces = key_messages(5, iter(all_keys))
    assert [False] * (len(pieces) - 1) + [True] == [piece.last for piece in pieces]
    assert {5} == {piece.number for piece in pieces}
    assert all_keys == [key for piece in pieces for key in piece.keys]
    assert list(pieces) == read(greeted("giver"), *pieces)
    assert not count or all(piece.keys for piece in pieces)
