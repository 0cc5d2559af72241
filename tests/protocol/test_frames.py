"""Frames: what is built is what websockets would build, and a header is judged as early as it can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close, Frame, Opcode

from wsworker.protocol.frames import (
    Header,
    build,
    cut_reason,
    defect,
    is_close_code,
    payload_size,
    read_header,
)

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 65537]


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
    assert length == payload_size(build(payload))


@given(st.text())
def test_build_text(text: str) -> None:
    """A str becomes a text frame of its UTF-8, the empty one too."""
    assert Frame(Opcode.TEXT, text.encode()).serialize(mask=False) == build(text)
    assert len(text.encode()) == payload_size(build(text))


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


def test_defect_ignores_room_for_control_frames() -> None:
    """A ping passes although the message that it interrupts may not grow by a byte."""
    assert defect(header_of(0x89, 0xFD), 0) is None


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
