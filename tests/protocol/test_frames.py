"""Frames: what is built is what websockets would build, what is decoded is plain, and a header is judged early."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from itertools import pairwise
from random import Random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode

from wsworker.protocol import frames
from wsworker.protocol.frames import (
    DEFLATED_BYTES,
    MASKS_IN_C,
    Header,
    Shared,
    build,
    cut_reason,
    decode_run,
    defect,
    deflate,
    is_close_code,
    is_message,
    read_header,
    unmask,
)

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 65537]
LIMIT = 2**20
KEY = b"\x01\x02\xfe\xff"


def plain(message: str | bytes) -> bytes:
    """Return the frame in which a client sends a message."""
    opcode, payload = (Opcode.TEXT, message.encode()) if isinstance(message, str) else (Opcode.BINARY, message)
    return Frame(opcode, payload).serialize(mask=True)


def inflated(frame: bytes, window_bits: int) -> bytes:
    """Return the payload of a compressed frame of ours, inflated with a window of this size and not more."""
    header = read_header(frame)
    assert header is not None
    assert (header.rsv, header.fin, header.masked, header.minimal) == (4, True, False, True)
    assert header.length == len(frame) - header.size
    decompressor = zlib.decompressobj(-window_bits)
    data = decompressor.decompress(frame[header.size :] + b"\x00\x00\xff\xff")
    assert not decompressor.unused_data
    return data


def without_speedups(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a second frames module, as it is where websockets has no C extension."""
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert frames.__spec__ is not None
    assert frames.__file__ is not None
    spec = importlib.util.spec_from_file_location("frames_without_speedups", frames.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- runs ---


@given(st.lists(st.one_of(st.text(), st.binary())), st.integers(0, 5))
def test_decode_run(messages: list[str | bytes], most: int) -> None:
    """A run of plain frames gives their messages, str or bytes, and the place behind the last; never more than asked.

    It may start anywhere and be bytes or a bytearray.
    """
    sent = [plain(message) for message in messages]
    for data in (b"?" + b"".join(sent), bytearray(b"?" + b"".join(sent))):
        assert (messages, len(data)) == decode_run(data, 1, LIMIT, len(messages) + 1)
        assert (messages[:most], 1 + len(b"".join(sent[:most]))) == decode_run(data, 1, LIMIT, most)
        decoded = decode_run(data, 1, LIMIT, 1000)[0]
        assert [type(message) for message in messages] == [type(message) for message in decoded]


@pytest.mark.parametrize("length", LENGTHS)
def test_decode_run_at_every_border_of_the_length(length: int) -> None:
    """Frames of every encoding of the length are plain."""
    message = b"x" * length
    assert ([message, "é"], len(plain(message) + plain("é"))) == decode_run(plain(message) + plain("é"), 0, LIMIT, 9)


@pytest.mark.parametrize("message", ["", "a", "a" * 126, b"b" * 65536], ids=["empty", "short", "16 bits", "64 bits"])
def test_decode_run_leaves_what_is_not_complete(message: str | bytes) -> None:
    """The run ends before a frame of which bytes are missing, wherever it is cut."""
    first, frame = plain("first"), plain(message)
    for end in [*range(16), *range(16, len(frame), 997), len(frame) - 1]:
        if end < len(frame):
            assert (["first"], len(first)) == decode_run(first + frame[:end], 0, LIMIT, 9)


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
def test_decode_run_limit(size: int, fits: bool) -> None:
    """A frame over the limit ends the run, whole or not."""
    assert bool(decode_run(plain(b"x" * size), 0, 1000, 9)[0]) is fits


def test_decode_run_takes_nothing_but_plain_frames() -> None:
    """Of all first bytes 0x81 and 0x82 make a run, of all second ones those with a mask and a length in short."""
    for first in range(256):
        run = decode_run(bytes([first, 0x81]) + KEY + b"\x60", 0, LIMIT, 9)[0]
        assert run == {0x81: ["a"], 0x82: [b"a"]}.get(first, [])
    for second in range(256):
        data = bytes([0x82, second]) + KEY + bytes(125)
        assert bool(decode_run(data, 0, LIMIT, 9)[0]) is (0x80 <= second <= 0x80 + 125)


@pytest.mark.parametrize(
    ("second", "length", "least"), [(0xFE, 2, 126), (0xFF, 8, 0x10000)], ids=["16 bits", "64 bits"]
)
def test_decode_run_leaves_lengths_that_are_not_minimal(second: int, length: int, least: int) -> None:
    """A length that fits in fewer bytes ends the run, and so does one of which the top bit is set."""
    for size, taken in [(0, False), (least - 1, False), (least, True)]:
        data = bytes([0x82, second]) + size.to_bytes(length, "big") + KEY + bytes(size)
        assert bool(decode_run(data, 0, LIMIT, 9)[0]) is taken
    assert decode_run(b"\x82\xff" + b"\xff" * 8 + KEY + bytes(99), 0, LIMIT, 9) == ([], 0)


def test_decode_run_leaves_bad_text() -> None:
    """Text that is not UTF-8 ends the run; as binary the same bytes are a message."""
    bad = Frame(Opcode.TEXT, b"\xff").serialize(mask=True)
    good = plain("é")
    assert decode_run(good + bad + good, 0, LIMIT, 9) == (["é"], len(good))
    assert decode_run(plain(b"\xff"), 0, LIMIT, 9)[0] == [b"\xff"]


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 20), st.integers(0, 3))
def test_decode_run_takes_any_bytes(data: bytes, position: int, limit: int, most: int) -> None:
    """Never an exception, never a message over the limit, and every message stands for the bytes that it took."""
    messages, end = decode_run(data, position, limit, most)
    assert len(messages) <= most
    at = position
    for message in messages:
        content = message.encode() if isinstance(message, str) else message
        assert len(content) <= limit
        at += 6 + len(content)
    assert at == end


# --- masks ---


@given(st.binary(max_size=40), st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 40)))
def test_unmask(data: bytes, key: bytes, cuts: list[int]) -> None:
    """A payload unmasked in parts, each from its own place, is the payload unmasked at once, by hand."""
    expected = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert expected == b"".join(unmask(data[start:end], key, start) for start, end in pairwise(places))


def test_masks_in_c() -> None:
    """The C extension of websockets is used wherever it was built; its place is not documented."""
    built = importlib.util.find_spec("websockets.speedups") is not None
    assert MASKS_IN_C is built


def test_masks_without_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the C extension the same frames are decoded, and the module says that it does without."""
    module = without_speedups(monkeypatch)
    assert not module.MASKS_IN_C
    messages: list[str | bytes] = ["", "é" * 99, b"", b"\xff" * 70000]
    data = b"".join(plain(message) for message in messages)
    for form in (data, bytearray(data)):
        assert (messages, len(data)) == module.decode_run(form, 0, LIMIT, 9)
    assert [type(message) for message in module.decode_run(bytearray(data), 0, LIMIT, 9)[0]] == [str, str, bytes, bytes]


# --- frames that are built ---


def header_of(first: int, second: int, rest: bytes = b"") -> Header:
    """Return the header that these bytes begin."""
    header = read_header(bytes([first, second]) + rest)
    assert header is not None
    return header


@pytest.mark.parametrize("length", LENGTHS)
def test_build_binary(length: int) -> None:
    """A binary frame is byte for byte the one that websockets serialises, at every border of the length encoding."""
    payload = b"x" * length
    assert Frame(Opcode.BINARY, payload).serialize(mask=False) == build(payload)


@given(st.text())
def test_build_text(text: str) -> None:
    """A str becomes a text frame of its UTF-8, the empty one too."""
    assert Frame(Opcode.TEXT, text.encode()).serialize(mask=False) == build(text)


@pytest.mark.parametrize(
    "data", [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a.b.c")[::2]], ids=["bytearray", "view", "strided"]
)
def test_build_buffers(data: bytearray | memoryview) -> None:
    """The other buffer types give the same frame as bytes of the same content; a view with strides too."""
    assert build(b"abc") == build(data)


def test_build_items_wider_than_a_byte() -> None:
    """A view of wider items is counted in bytes, not in items."""
    assert build(b"abcd") == build(memoryview(b"abcd").cast("H"))


def test_build_refuses_other_types() -> None:
    """Any other type is a TypeError that names it, a lone surrogate a UnicodeEncodeError."""
    with pytest.raises(TypeError, match="not int"):
        build(5)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        build("\ud800")


@pytest.mark.parametrize("length", LENGTHS)
def test_build_text_at_every_border_of_the_length(length: int) -> None:
    """A text frame too, whose short headers come from a table."""
    assert Frame(Opcode.TEXT, b"x" * length).serialize(mask=False) == build("x" * length)


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_deflate(window_bits: int) -> None:
    """A compressed frame has RSV1 and inflates, with a window of the size that was asked for, to what was sent."""
    text = "".join(f"{number} of 70,000 bottles, " for number in range(3000))
    for data in (text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        frame = deflate(data, window_bits)
        assert frame is not None
        assert len(frame) < len(text) / 2
        assert frame[0] == (0xC1 if isinstance(data, str) else 0xC2)
        assert text.encode() == inflated(frame, window_bits)


@pytest.mark.parametrize(("size", "worth_it"), [(DEFLATED_BYTES - 1, False), (DEFLATED_BYTES, True)])
def test_deflate_only_what_is_worth_it(size: int, worth_it: bool) -> None:
    """Messages under 1 KiB go as they are; the size is that of the UTF-8."""
    assert (deflate(b"a" * size, 15) is not None) is worth_it
    assert (deflate("é" * (size // 2), 15) is not None) is (size // 2 * 2 >= DEFLATED_BYTES)


def test_deflate_only_what_gets_smaller() -> None:
    """Noise would grow, so it goes as it is."""
    noise = Random(1).randbytes(2048)
    assert len(zlib.compress(noise)) > len(noise)
    assert deflate(noise, 15) is None


def test_shared_variants_are_built_once() -> None:
    """A shared message has one frame per window, always the same object: nothing is compressed for a second client."""
    shared = Shared("a" * 5000)
    assert not shared.uniform
    variants = [shared.frame(window_bits) for window_bits in (0, *range(9, 16))]
    again = [shared.frame(window_bits) for window_bits in (0, *range(9, 16))]
    assert all(first is second for first, second in zip(variants, again, strict=True))
    assert build("a" * 5000) == variants[0]
    assert [b"a" * 5000] * 7 == [inflated(frame, bits) for bits, frame in zip(range(9, 16), variants[1:], strict=True)]


def test_shared_windows_differ() -> None:
    """A client with a small window gets a frame that it can inflate, and not the one of its neighbour."""
    period = Random(1).randbytes(2000)
    shared = Shared(period * 2)
    # what repeats after 2000 bytes is out of reach for a window of 512
    assert shared.frame(9) is shared.frame(0)
    assert period * 2 == inflated(shared.frame(15), 15)


def test_shared_is_plain_without_compression() -> None:
    """A client without compression gets the plain frame, and so does everybody if compression is not worth it."""
    shared = Shared(b"short")
    assert shared.uniform
    assert shared.plain == shared.frame(0)
    assert [build(b"short")] * 2 == [shared.frame(0), shared.frame(15)]
    assert shared.frame(0) is shared.frame(15)


def test_shared_is_the_message_as_it_was() -> None:
    """What is changed after the publish does not reach the variants that are built later."""
    data = bytearray(b"a" * 2000)
    shared, viewed = Shared(data), Shared(memoryview(data))
    data[:] = b"b" * 2000
    for message in (shared, viewed):
        assert build(b"a" * 2000) == message.frame(0)
        assert b"a" * 2000 == inflated(message.frame(15), 15)


def test_shared_refuses_what_build_refuses() -> None:
    """The errors come when the message is published, not when a client needs its variant."""
    with pytest.raises(TypeError, match="not int"):
        Shared(5)  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        Shared("\ud800")


def test_is_message() -> None:
    """Of what is put out, text and binary frames are messages, compressed or not; a 101 and control frames are not."""
    assert all(map(is_message, [build(""), build(b""), Shared("a" * 2000).frame(15), Shared(b"a" * 2000).frame(9)]))
    assert not any(map(is_message, [b"\x88\x00", b"\x89\x00", b"\x8a\x00", b"HTTP/1.1 101 "]))


# --- headers ---


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("mask", [True, False])
def test_read_header(length: int, mask: bool) -> None:
    """A header that websockets wrote is read back; its size and length add up to the frame."""
    data = Frame(Opcode.TEXT, b"x" * length, fin=False).serialize(mask=mask)
    header = read_header(data)
    assert header is not None
    assert Header(header.size, Opcode.TEXT, False, 0, mask, length, True) == header
    assert len(data) == header.size + length


@pytest.mark.parametrize("data", [b"", b"\x81"])
def test_read_header_too_short(data: bytes) -> None:
    """Below two bytes nothing is known."""
    assert read_header(data) is None


@pytest.mark.parametrize(("second", "extra", "size"), [(0xFE, 2, 8), (0xFF, 8, 14)])
def test_read_header_early(second: int, extra: int, size: int) -> None:
    """While a long length has not come, it is None; everything else is already there."""
    for count in range(extra):
        assert Header(size, 1, True, 0, True, None, True) == header_of(0x81, second, b"\xff" * count)
    assert header_of(0x81, second, b"\xff" * extra).length == 256**extra - 1


def test_read_header_bits() -> None:
    """FIN, the three RSV bits and the opcode are told apart for every first byte."""
    for first in range(256):
        header = header_of(first, 0x80)
        assert (bool(first & 0x80), first >> 4 & 7, first & 15) == (header.fin, header.rsv, header.opcode)


@pytest.mark.parametrize(
    ("first", "second", "rest", "code"),
    [
        (0x81, 0x85, b"", None),
        (0x00, 0x80, b"", None),
        (0x81, 0xFE, b"\x00\x7e", None),
        (0x81, 0xFF, b"\x00\x00\x00\x00\x00\x01\x00\x00", 1009),
        (0x81, 0xFF, b"\x80\x00\x00\x00\x00\x00\x00\x00", 1009),
        (0x81, 0xFE, b"\x01\x00", 1009),
        (0x81, 0xFE, b"\x00", None),
        (0x81, 0xFF, b"\x80", None),
        (0x89, 0xFD, b"", None),
        (0x83, 0x80, b"", 1002),
        (0x8B, 0x80, b"", 1002),
        (0x81, 0x05, b"", 1002),
        (0xC1, 0x80, b"", 1002),
        (0xA1, 0x80, b"", 1002),
        (0x91, 0x80, b"", 1002),
        (0x09, 0x80, b"", 1002),
        (0x89, 0xFE, b"", 1002),
        (0x88, 0xFF, b"", 1002),
        (0x89, 0xFE, b"\x00\x7e", 1002),
        (0x89, 0xFE, b"\x00\x05", 1002),
        (0x81, 0xFE, b"\x00\x7d", 1002),
        (0x82, 0xFF, b"\x00\x00\x00\x00\x00\x00\xff\xff", 1002),
    ],
)
def test_defect(first: int, second: int, rest: bytes, code: int | None) -> None:
    """Each rule of a header, with room for 255 bytes."""
    found = defect(header_of(first, second, rest), 255)
    assert code == (found and found[0])


def test_defect_in_every_byte_pair() -> None:
    """Of all first two bytes exactly those pass that a client may send: no RSV, known opcode, masked, sane control."""
    for first in range(256):
        for second in range(256):
            opcode, control = first & 15, first & 8
            legal = opcode in (0, 1, 2, 8, 9, 10) and not first & 0x70 and second & 0x80
            if control:
                legal = legal and first & 0x80 and second & 0x7F <= 125
            assert bool(legal) == (defect(header_of(first, second), 2**20) is None)


@given(st.binary(min_size=2, max_size=14), st.integers(0, 70000))
def test_defect_does_not_depend_on_how_much_has_come(data: bytes, room: int) -> None:
    """What is found with fewer bytes is still what is found with more."""
    found = [defect(header, room) for end in range(2, len(data) + 1) if (header := read_header(data[:end]))]
    known = [verdict for verdict in found if verdict is not None]
    assert known == known[:1] * len(known)
    assert found[len(found) - len(known) :] == known


def test_defect_with_deflate() -> None:
    """Where compression was agreed on, RSV1 may stand on the first frame of a message and nowhere else."""
    for first in range(256):
        for second in (0x80, 0x85):
            header = header_of(first, second)
            legal = defect(header, LIMIT) is None or (first & 0x7F in (0x41, 0x42))
            assert legal == (defect(header, LIMIT, True) is None)


def test_defect_ignores_room_for_control_frames() -> None:
    """A ping passes although the message that it interrupts may not grow by a byte."""
    assert defect(header_of(0x89, 0xFD), 0) is None


# --- closing ---


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
def test_cut_reason(character: str) -> None:
    """Reasons of 122 to 124 bytes: at most 123 bytes stay, and no character is cut in two."""
    for size in (122, 123, 124):
        text = character * (size // len(character.encode())) + "a" * (size % len(character.encode()))
        assert size == len(text.encode())
        cut = cut_reason(text)
        assert text.startswith(cut)
        assert (text if size <= 123 else text[: len(cut)]) == cut
        assert 123 - 4 < len(cut.encode()) <= 123


@given(st.text(st.characters(), max_size=200))
def test_cut_reason_never_fails(text: str) -> None:
    """Any text gives a reason that fits, lone surrogates included."""
    assert len(cut_reason(text).encode()) <= 123


def test_close_codes_are_those_of_websockets() -> None:
    """Of all 65536 codes we allow exactly those that ServerProtocol sends and accepts."""

    def allowed(code: int) -> bool:
        try:
            Close(code, "").check()
        except ProtocolError:
            return False
        return True

    assert [code for code in range(65536) if allowed(code)] == [code for code in range(65536) if is_close_code(code)]


def test_a_wrong_close_code_raises() -> None:
    """Before anything is done."""
    frames.check_close_code(1000)
    with pytest.raises(ValueError, match=r"^a Close carries 1000-1003, 1007-1014 or 3000-4999, not 1005$"):
        frames.check_close_code(1005)
