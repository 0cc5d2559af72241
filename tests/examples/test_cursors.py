"""examples/cursors."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack

import pytest

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end, send_until


def at(x: int, y: int) -> bytes:
    """Return a move as a client sends it."""
    return struct.pack("!HH", x, y)


def position(message: str | bytes) -> tuple[int, int]:
    """Return x and y of a move as a client is told it."""
    assert isinstance(message, bytes), message
    x, y = struct.unpack("!HH", message[:4])
    return x, y


def test_the_others_see_it(make_example: MakeExample) -> None:
    """In whatever worker they are, the others see a move and a goodbye; the mover sees neither."""
    cursors = make_example("cursors").start()
    with ExitStack() as stack:
        others = [stack.enter_context(cursors.connect()) for _ in range(6)]
        with cursors.connect() as mover:
            moves = {send_until(mover, at(1, 2), other) for other in others}
            assert [(1, 2)] == [position(move) for move in moves]
            # its own moves would have come first
            assert (3, 4) == position(send_until(others[0], at(3, 4), mover))
        (move,) = moves
        assert isinstance(move, bytes)
        for other in others:
            while isinstance(told := other.recv(10), bytes):
                assert position(told) in ((1, 2), (3, 4))
            assert move[4:].decode() == told
        others[0].send(b"12345")
        assert 4400 == code_at_end(others[0])


def test_thirty_a_second(make_example: MakeExample) -> None:
    """However fast somebody moves, the others get no more than 30 positions a second, and the last one always."""
    cursors = make_example("cursors").start()
    with cursors.connect() as other, cursors.connect() as mover:
        send_until(mover, at(0, 0), other)
        began_at = time.monotonic()
        for number in range(100):
            mover.send(at(1, number))
            # as fast as a good mouse; the mover hears nothing
            with pytest.raises(TimeoutError):
                mover.recv(0.005)
        seen = []
        while 99 not in seen:
            x, y = position(other.recv(10))
            # what was sent before may still come, more than once
            if x == 1:
                seen.append(y)
        seconds = time.monotonic() - began_at
        assert sorted(seen) == seen
        # one turn that was late may come close behind the next
        assert len(seen) <= 30 * seconds + 2


def test_the_pages(make_example: MakeExample, open_page: OpenPage) -> None:
    """A move on one page moves a dot on the other and none on its own; the dot goes with the page."""
    cursors = make_example("cursors").start()
    mover, other = (open_page(cursors.site) for _ in range(2))
    for page in (mover, other):
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
    box = mover.locator("#plane").bounding_box()
    assert box is not None
    mover.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    place = "(([dot]) => dot && [parseFloat(dot.style.left), parseFloat(dot.style.top)].map(Math.round))"
    other.wait_for_function(f"{place}(document.querySelectorAll('.cursor'))?.join() === '25,50'")
    assert 0 == mover.locator(".cursor").count()
    mover.close()
    other.wait_for_function("document.querySelectorAll('.cursor').length === 0")
