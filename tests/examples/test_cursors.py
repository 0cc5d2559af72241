"""examples/cursors."""

from __future__ import annotations

import itertools
import json
import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import pytest

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end, send_until

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

WATCH: Final = """
    globalThis.opened = 0;
    globalThis.sent = 0; // lines
    globalThis.numbers = []; // of the lines that have come
    globalThis.closes = [];
    globalThis.WebSocket = class extends WebSocket {
        constructor(...given) {
            super(...given);
            opened += 1;
            this.addEventListener("close", ({ code, reason }) => closes.push([code, reason]));
            this.addEventListener("message", ({ data }) => {
                if (typeof data !== "string") {
                    const view = new DataView(data);
                    const begin = 1 + view.getUint8(0);
                    if (view.byteLength > begin + 4) {
                        numbers.push(view.getUint32(begin));
                    }
                }
            });
        }
        send(data) {
            super.send(data);
            sent += data.byteLength > 4 ? 1 : 0;
        }
    };
"""
"""Notes what the sockets of a page see, without its help."""

DRAW: Final = """() => {
    const { left, top, width, height } = plane.getBoundingClientRect();
    let number = 0;
    const point = (type) => {
        const clientX = left + width * (0.1 + (0.8 * (number % 40)) / 40);
        const clientY = top + height * (0.2 + 0.6 * (number % 2));
        number += 1;
        plane.dispatchEvent(new PointerEvent(type, { bubbles: true, buttons: 1, clientX, clientY }));
    };
    point("pointerdown");
    globalThis.hand = setInterval(point, 10, "pointermove");
}"""
"""Draws without end, in zigzags: in the page, as the mouse of a test on a slow machine is slow."""

REST: Final = "() => { clearInterval(hand); plane.dispatchEvent(new PointerEvent('pointerup')); }"


def at(x: int, y: int) -> bytes:
    """Return a move as a client sends it."""
    return struct.pack("!HH", x, y)


def rest(message: str | bytes) -> bytes:
    """Return what a client is told, without who it is from."""
    assert isinstance(message, bytes), message
    return message[1 + message[0] :]


def position(message: str | bytes) -> tuple[int, int]:
    """Return x and y of a move as a client is told it."""
    x, y = struct.unpack("!HH", rest(message))
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
            assert move[1:-4].decode() == told
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


def test_a_reload_while_they_draw(make_example: MakeExample, context: BrowserContext, open_page: OpenPage) -> None:
    """Two pages draw during three reloads: no close, every line of the other one once and in order, the newest code."""
    cursors = make_example("cursors").start()
    context.add_init_script(WATCH)
    pages = [open_page(cursors.site) for _ in range(2)]
    for page in pages:
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
    # each knows of the other: subscriptions have come everywhere
    for place in itertools.count(1):
        assert place < 500
        for page in pages:
            page.mouse.move(200 + place % 100, 300)
        if all(page.locator(".cursor").count() for page in pages):
            break
    for page in pages:
        page.evaluate(DRAW)
    for _ in range(3):
        for page in pages:
            page.evaluate("globalThis.before = sent")
            page.wait_for_function("sent > before + 3")
        # longer than before: Python takes a file of the same size and second for the same
        path = cursors.folder / "app.py"
        path.write_text(path.read_text().replace("no points", "no points!"))
        done = cursors.cli("reload", "--json")
        assert 0 == done.code, done.err
        document = json.loads(done.out)
        assert (2, 0, {}) == (document["moved"], document["asked"], document["drained"])
    for page, other in zip(pages, reversed(pages), strict=True):
        page.evaluate("globalThis.before = sent")
        page.wait_for_function("sent > before + 3")
        page.evaluate(REST)
        sent = page.evaluate("sent")
        other.wait_for_function(f"numbers.length >= {sent}")
        assert [*range(1, sent + 1)] == other.evaluate("numbers")
        assert "0 missed" == other.locator("#missed").text_content()
    for page in pages:
        assert (1, []) == (page.evaluate("opened"), page.evaluate("closes"))
        page.evaluate("socket.send('text')")
        page.wait_for_function("closes.length")
        assert [[4400, "no points!!!"]] == page.evaluate("closes")


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
