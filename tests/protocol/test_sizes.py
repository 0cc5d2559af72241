"""Sizes: every limit of a session, one below, at it and one above, in both lanes; and what it costs to find out.

No time is measured: what is linear shows in the number of calls, and what is bounded in the bytes that are held.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from websockets.frames import Opcode

from tests.frames import FIN, RSV1, deflated
from tests.frames import frame as raw
from tests.protocol.peer import LIMIT, both_lanes, in_fragments, masked, opened
from wsworker.protocol.events import Closed, Ping
from wsworker.protocol.fragments import most_fragments
from wsworker.protocol.frames import TOO_LARGE
from wsworker.protocol.session import TRAILING_BYTES, Session

TEXT, BINARY, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CONT
LARGE = Closed(1009, TOO_LARGE, failed=True)


def ways_to_send(data: bytes) -> dict[str, list[bytes]]:
    """Return the reads in which a message may come, with and without compression."""
    small, half = deflated(data), len(data) // 2
    return {
        "whole": [raw(FIN | BINARY, data)],
        "split": [bytes([byte]) for byte in raw(FIN | BINARY, data)],
        "cut in the header": [raw(FIN | BINARY, data)[:1], raw(FIN | BINARY, data)[1:]],
        "in fragments": in_fragments(BINARY, data[:half], data[half:]),
        "with an empty first one": in_fragments(BINARY, b"", data),
        "with an empty last one": in_fragments(BINARY, data, b""),
        "with a ping inside": [raw(BINARY, data[:-1]), raw(FIN | Opcode.PING, b"x" * 125), raw(FIN, data[-1:])],
        "compressed": [raw(FIN | RSV1 | BINARY, small)],
        "compressed and split": [bytes([byte]) for byte in raw(FIN | RSV1 | BINARY, small)],
        "compressed in fragments": in_fragments(RSV1 | BINARY, small[:5], small[5:]),
        "compressed with an empty first one": in_fragments(RSV1 | BINARY, b"", small),
        "compressed with an empty last one": in_fragments(RSV1 | BINARY, small, b""),
        # the end of each block is flushed, so all has been inflated before the last fragment, which adds nothing
        "compressed with a last one of an empty block": in_fragments(
            RSV1 | BINARY, small + b"\x00\x00\xff\xff", b"\x00"
        ),
        "compressed a byte at a time": in_fragments(RSV1 | BINARY, *(bytes([byte]) for byte in small)),
    }


@pytest.mark.parametrize("way", ways_to_send(b"xx"))
def test_limit(way: str) -> None:
    """Up to max_size a message passes, however it comes; one byte more is 1009."""
    for limit in (2, 125, 126, 1000, 70_000 if "split" not in way else 2000):
        for size in (limit - 1, limit, limit + 1):
            for peer in both_lanes(limit, deflate=True):
                # a small compressed message takes more bytes than it has, and the limit counts those that travel, too
                data = bytes(size) if limit > 125 else b"x" * size
                if limit == 2 and "compressed" in way:
                    continue
                peer.feed(*ways_to_send(data)[way])
                messages = [event for event in peer.events if not isinstance(event, Ping)]
                assert messages == ([data] if size <= limit else [LARGE]), (limit, size)


@pytest.mark.parametrize(
    "declared",
    [
        b"\xfe" + (LIMIT + 1).to_bytes(2, "big"),
        b"\xfe\xff\xff",
        b"\xff" + (2**16).to_bytes(8, "big"),
        b"\xff" + (2**32 + 5).to_bytes(8, "big"),
        b"\xff" + (2**63 - 1).to_bytes(8, "big"),
        b"\xff" + (2**63).to_bytes(8, "big"),
        b"\xff" + (2**64 - 1).to_bytes(8, "big"),
    ],
)
def test_too_big_fails_at_the_header(declared: bytes) -> None:
    """The declared length decides: not one byte of the payload is waited for, nor the masking key, nor kept."""
    for first in (0x81, 0x82, 0x01, 0x02, 0xC1, 0x42):
        for peer in both_lanes(deflate=True):
            peer.feed(bytes([first]) + declared[:-1])
            assert peer.events == []
            peer.feed(declared[-1:] + bytes(500))
            assert peer.events == [LARGE]
            assert peer.session.unread == b""


@pytest.mark.parametrize(("size", "fits"), [(399, True), (400, True), (401, False)])
def test_what_is_left_decides_over_a_fragment(size: int, fits: bool) -> None:
    """A fragment is judged by its header as well: by what the message may still grow."""
    for peer in both_lanes():
        peer.feed(raw(BINARY, bytes(600)), b"\x80\xfe" + size.to_bytes(2, "big"))
        assert peer.events == ([] if fits else [LARGE])


def held(act: Callable[[], object]) -> tuple[int, int]:
    """Return by how many bytes the memory has grown when act is done, and when it was largest."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = act()
        after, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return after - before, peak - before


BOMB = deflated(bytes(10 * 2**20))

BOMBS = {
    "whole": [raw(FIN | RSV1 | BINARY, BOMB)],
    "text": [raw(FIN | RSV1 | TEXT, BOMB)],
    "in the first fragment": [raw(RSV1 | BINARY, BOMB)],
    "in the last fragment": in_fragments(RSV1 | BINARY, BOMB[:20], BOMB[20:]),
    "behind an exact limit": in_fragments(RSV1 | BINARY, deflated(bytes(2**16)) + b"\x00\x00\xff\xff", BOMB),
    "a byte at a time": in_fragments(RSV1 | BINARY, *(bytes([byte]) for byte in BOMB[:1000])),
    "behind our Close": [raw(FIN | RSV1 | BINARY, BOMB)],
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    """Ten MiB of zeros are never inflated over a limit of 64 KiB, wherever they stand."""
    for peer in both_lanes(2**16, deflate=True):
        if name == "behind our Close":
            peer.session.close()
            peer.take_output()
        _, peak = held(partial(peer.feed, *BOMBS[name]))
        assert peer.events == [LARGE]
        assert peak < 10 * 2**16


@pytest.mark.parametrize("closing", [False, True])
def test_bytes_that_inflate_to_nothing(closing: bool) -> None:
    """What stands behind the last block is kept by zlib and copied again for each fragment, so it is refused."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = compressor.compress(b"a") + compressor.flush(zlib.Z_FINISH)
    for peer in both_lanes(deflate=True):
        if closing:
            peer.session.close()
            peer.take_output()
        peer.feed(raw(RSV1 | BINARY, ended), raw(CONT, bytes(TRAILING_BYTES)))
        assert peer.events == []
        peer.feed(raw(CONT, b"x"))
        assert peer.events == [Closed(1002, "data behind the end of the compressed message", failed=True)]


def test_a_block_that_ends_the_stream() -> None:
    """RFC 7692 section 7.2.3.4: a message may end in a block with BFINAL, with an empty one behind it."""
    for peer in both_lanes(deflate=True):
        peer.feed(raw(FIN | RSV1 | TEXT, bytes.fromhex("f348cdc9c9070000")) * 2)
        assert peer.events == ["Hello", "Hello"]


@pytest.mark.parametrize(("count", "fits"), [(-1, True), (0, True), (1, False)])
def test_fragment_count(count: int, fits: bool) -> None:
    """A message has at most so many fragments, the empty ones counted: one more is 1008."""
    count += most_fragments(LIMIT)
    for first in (TEXT, RSV1 | BINARY):
        for peer in both_lanes(deflate=True):
            pieces = [b""] * (count - 1) + [b"" if first == TEXT else b"\x00"]
            peer.feed(b"".join(in_fragments(first, *pieces)))
            many = Closed(1008, f"the message has more than {most_fragments(LIMIT)} fragments", failed=True)
            assert peer.events == [("" if first == TEXT else b"") if fits else many]


def test_memory_of_fragments_is_flat() -> None:
    """A thousand fragments of one byte are kept as a thousand bytes, and a stream of them leaves nothing behind."""
    for peer in both_lanes(2**20):
        frames = raw(BINARY, b"a") + raw(CONT, b"a") * 3999
        peer.feed(frames[:70])
        after, _ = held(partial(peer.feed, frames[70:]))
        assert after < 3 * 4000
        peer.feed(raw(FIN, b""))
        assert peer.events == [b"a" * 4000]


def test_the_inbox_grows_with_what_comes() -> None:
    """A header that announces a lot takes no memory, and neither do the bytes of a frame that fails."""
    for peer in both_lanes(2**30):
        _, peak = held(partial(peer.feed, b"\x82\xff" + (2**30).to_bytes(8, "big") + bytes(4)))
        assert peak < 20_000
        peer.feed(bytes(10_000))
        assert 10_014 == len(peer.session.unread)


def calls(act: Callable[[], object]) -> Counter[str]:
    """Return how often each function was called, those in C included, until act is done."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            seen[frame.f_code.co_name] += 1
        elif event == "c_call":
            seen[function.__name__] += 1

    # a collection in between would count what Hypothesis has hooked into it, and finalizers of other tests
    gc.disable()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return seen


@pytest.mark.parametrize("first", [FIN | TEXT, FIN | BINARY, FIN | RSV1 | TEXT, TEXT])
def test_a_frame_in_single_bytes_is_linear(first: int) -> None:
    """Each byte of a slow frame costs the same few calls, and its header is read once: nothing is scanned again."""
    for fast in (True, False):
        seen = []
        for size in (1000, 2000, 3000):
            session = opened(10_000, deflate=True, fast=fast).session
            reads = [bytes([byte]) for byte in raw(first, bytes(size))]

            def drip(session: Session = session, reads: list[bytes] = reads) -> None:
                for read in reads[:-1]:
                    session.receive(read)
                    assert not session.next_run(9)
                    assert session.next_event() is None

            seen.append(calls(drip))
            session.receive(reads[-1])
            assert session.next_run(9) or session.next_event()
        assert seen[1] - seen[0] == seen[2] - seen[1]
        assert sum((seen[1] - seen[0]).values()) <= 25 * 1000
        assert seen[2]["read_header"] == seen[0]["read_header"] <= 14
        assert seen[2]["decode_run"] == seen[0]["decode_run"] <= 14


def test_a_large_frame_in_single_bytes_is_copied_once() -> None:
    """The inbox stays the same object while a frame of 1 MiB comes in single bytes: it grows in place."""
    session = opened(2**20).session
    data = raw(FIN | BINARY, bytes(2**20))
    session.receive(data[:2])
    assert session.next_event() is None
    inbox = session.unread
    for place in range(2, len(data) - 1):
        session.receive(data[place : place + 1])
        assert not session.next_run(9)
        assert session.next_event() is None
    assert inbox is session.unread
    session.receive(data[-1:])
    assert session.next_run(9) == [bytes(2**20)]
    assert session.unread == b""


def test_control_frames_do_not_count_against_the_limit() -> None:
    """A ping inside a message that may not grow by a byte is a ping, and a limit below 125 does not touch it."""
    for peer in both_lanes(1):
        peer.feed(masked(BINARY, b"x", fin=False), masked(Opcode.PING, b"p" * 125), masked(CONT, b""))
        assert peer.events == [Ping(b"p" * 125), b"x"]
