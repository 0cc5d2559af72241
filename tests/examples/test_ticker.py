"""examples/ticker."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack

from websockets.sync.client import ClientConnection, connect

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import Example


def tick(client: ClientConnection) -> tuple[int, float]:
    """Return the next number and price that a client is told."""
    told = json.loads(client.recv(10))
    return told["number"], told["price"]


def test_one_sequence(make_example: MakeExample) -> None:
    """Clients of all workers see the same prices under the same numbers, without a hole; a reload never counts back."""
    ticker = make_example("ticker").start()
    with ExitStack() as stack:
        clients = [stack.enter_context(ticker.connect()) for _ in range(8)]
        seen = [[tick(client) for _ in range(10)] for client in clients]
    for ticks in seen:
        numbers = [number for number, _ in ticks]
        assert [*range(numbers[0], numbers[0] + 10)] == numbers
    together: dict[int, float] = {}
    for number, price in (pair for ticks in seen for pair in ticks):
        assert price == together.setdefault(number, price), number
    assert 0 == ticker.cli("reload").code
    with ticker.connect() as client:
        assert max(together) < tick(client)[0]


def test_a_slow_reader(make_example: MakeExample) -> None:
    """Who does not read loses old prices and stays connected; the others miss nothing."""
    ticker = make_example("ticker")
    # slow enough that the other one loses nothing while the machine lets it wait for two seconds
    ticker.change("SECONDS = 0.1\n", "SECONDS = 0.02\n")
    ticker.change("round(self.price, 2)}", 'round(self.price, 2), "more": "x" * 20000}')
    ticker.start()
    with slow(ticker) as reader, ticker.connect() as other:
        first = tick(reader)[0]
        # more than what fits in the buffers of both ends
        numbers = [tick(other)[0] for _ in range(300)]
        assert [*range(numbers[0], numbers[0] + 300)] == numbers
        read = [first]
        while read[-1] < numbers[-1]:
            read.append(tick(reader)[0])
        assert sorted({*read}) == read
        assert len(read) < read[-1] - first + 1, "nothing was lost"


def slow(ticker: Example) -> ClientConnection:
    """Return a client for which the kernel keeps little, and which itself reads no more than it is asked for."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.connect(("127.0.0.1", ticker.port))
    return connect(f"ws://127.0.0.1:{ticker.port}/", sock=sock, proxy=None, max_queue=1, close_timeout=0.1)


def test_the_page(make_example: MakeExample, open_page: OpenPage) -> None:
    """Two pages show the same tick."""
    ticker = make_example("ticker").start()
    pages = [open_page(ticker.site) for _ in range(2)]
    wanted = ""
    for page in pages:
        page.evaluate(
            """() => {
                globalThis.shown = {};
                const [number, price] = ["number", "price"].map(id => document.getElementById(id));
                new MutationObserver(() => shown[number.textContent] = price.textContent)
                    .observe(number, {childList: true});
            }"""
        )
    for page in pages:
        page.wait_for_function("Object.keys(shown).length > 5")
    wanted = pages[0].evaluate("shown")
    shown = pages[1].evaluate("shown")
    common = wanted.keys() & shown.keys()
    assert common
    assert {number: wanted[number] for number in common} == {number: shown[number] for number in common}
    assert "0" == pages[0].text_content("#lost")
