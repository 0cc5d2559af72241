"""Ends that wsworker never makes, and what Chromium makes of them: why wsworker must not.

A raw server stands in. If one of these tests fails, Chromium has changed, and what wsworker's rules rest on as well.
Left out: a server that never answers a Close, which Chromium bears for 60 s before it reports 1006.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.wire import Peer, RawServer, build, close_frame
from tests.frames import CLOSE, FIN, TEXT, Frame

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROKEN = [["open", 1], ["error", 3], ["close", 3, 1006, "", False]]


def end_of(page: Page, script: Callable[[Peer], None], *close: object) -> Any:
    """Return the events of a page whose server runs a script behind the 101; close: what the page calls close() with.

    Without it, the page does not call close().
    """

    def accepted(peer: Peer) -> None:
        peer.accept()
        script(peer)

    with RawServer(accepted) as server:
        events = page.evaluate(
            """async ([url, close]) => {
                const watched = await opened(url);
                if (close.length > 0) {
                    watched.ws.close(...close);
                }
                return await watched.end();
            }""",
            [server.url(), close],
        )
        server.wait()
    return events


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (close_frame(4001, "cli"), 4001, "cli"),
        (close_frame(4002, "srv"), 4002, "srv"),
        (build(CLOSE), 1005, ""),
        (close_frame(1000), 1000, ""),
    ],
)
def test_row_38_the_answer_counts(page: Page, answer: bytes, code: int, reason: str) -> None:
    """The event of a page that has closed carries what the server answers, not what the page has said."""

    def script(peer: Peer) -> None:
        peer.read_frame()
        peer.send(answer)

    assert [["open", 1], ["close", 3, code, reason, True]] == end_of(page, script, 4001, "cli")


def test_row_40_no_answer(page: Page) -> None:
    """A server that drops TCP instead of answering a Close makes it unclean, without an error event."""

    def script(peer: Peer) -> None:
        peer.read_frame()

    assert [["open", 1], ["close", 3, 1006, "", False]] == end_of(page, script, 1000)


def test_row_42_tcp_left_open(page: Page) -> None:
    """A server that does not end TCP after the echo: the page ends it in the end, and cleanly all the same."""

    def script(peer: Peer) -> None:
        peer.send(close_frame(4000))
        echo = peer.read_frame()
        assert echo is not None
        assert b"\x0f\xa0" == echo.payload
        assert [] == peer.read_rest()

    assert [["open", 1], ["close", 3, 4000, "", True]] == end_of(page, script)


def test_row_43_fin_at_once(page: Page) -> None:
    """A server that does not wait for the echo, but ends TCP right behind its Close, makes a clean end."""

    def script(peer: Peer) -> None:
        peer.send(close_frame(4000, "gone"))
        peer.finish()
        peer.read_rest()

    events = end_of(page, script)
    assert [["open", 1], ["close", 3, 4000, "gone", True]] == events


def test_row_44_an_empty_close(page: Page) -> None:
    """An empty Close is 1005 and clean, and the echo is empty as well."""
    echoes: list[Frame | None] = []

    def script(peer: Peer) -> None:
        peer.send(build(CLOSE))
        echoes.append(peer.read_frame())

    assert [["open", 1], ["close", 3, 1005, "", True]] == end_of(page, script)
    assert [(FIN | CLOSE, True, b"")] == echoes


CODES_PASSED_ON = [0, 999, 1004, 1016, 1100, 2000, 2999, 5000, 65535]


def test_row_46_codes_that_no_server_may_send(page: Page) -> None:
    """Chromium passes them on, clean: the server has to refuse them itself."""

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(close_frame(int(peer.path.lstrip("/"))))
        peer.read_frame()

    with RawServer(script) as server:
        urls = [server.url(f"/{code}") for code in CODES_PASSED_ON]
        ends = page.evaluate("urls => Promise.all(urls.map(url => watch(url).end()))", urls)
    assert [[["open", 1], ["close", 3, code, "", True]] for code in CODES_PASSED_ON] == ends


@pytest.mark.parametrize("code", [1005, 1006, 1015])
def test_row_47_codes_that_are_never_sent(page: Page, code: int) -> None:
    """Codes that only stand for the lack of one are a broken frame: an error, 1006, and 1002 to the server."""
    answers: list[Frame | None] = []

    def script(peer: Peer) -> None:
        peer.send(close_frame(code))
        answers.append(peer.read_frame())

    assert BROKEN == end_of(page, script)
    assert 1002 == code_of(answers)


def code_of(answers: list[Frame | None]) -> int:
    """Return the code of the one Close that came."""
    [answer] = answers
    assert answer is not None
    assert (FIN | CLOSE, True) == (answer.first, answer.masked)
    return int.from_bytes(answer.payload[:2])


def test_row_48_a_byte_order_mark(page: Page) -> None:
    """A byte order mark at the beginning of a reason is kept."""

    def script(peer: Peer) -> None:
        peer.send(close_frame(4000, "\ufeffx"))
        peer.read_frame()

    assert [["open", 1], ["close", 3, 4000, "\ufeffx", True]] == end_of(page, script)


@pytest.mark.parametrize(
    "sent",
    [build(CLOSE, b"\x0f\xa0\xff"), build(CLOSE, b"\x0f"), build(CLOSE, b"\x0f\xa0" + b"x" * 124)],
    ids=["bad-utf-8", "one-byte", "126-bytes"],
)
def test_row_48_a_broken_close(page: Page, sent: bytes) -> None:
    """A reason that is no UTF-8, a body of one byte, a Close over 125 bytes: an error, 1006, and 1002 to the server."""
    answers: list[Frame | None] = []

    def script(peer: Peer) -> None:
        peer.send(sent)
        answers.append(peer.read_frame())

    assert BROKEN == end_of(page, script)
    assert 1002 == code_of(answers)


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_row_49_dropped(page: Page, how: str) -> None:
    """A connection that ends without any Close is 1006 and unclean, without an error event."""

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(build(TEXT, b"last words"))
        # the page has read it
        peer.read_frame()
        if how == "reset":
            peer.reset()

    with RawServer(script) as server:
        events = page.evaluate(
            """async url => {
                const watched = await watch(url).until("message");
                watched.ws.send("now");
                return await watched.end();
            }""",
            server.url(),
        )
    assert [["open", 1], ["message", 1, "last words"], ["close", 3, 1006, "", False]] == events
