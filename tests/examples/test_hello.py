"""examples/hello, which is what `make run` starts."""

from __future__ import annotations

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import EXAMPLES


def test_tom(make_example: MakeExample) -> None:
    """Four workers, "tom", "hello tom"; binary costs nobody the connection."""
    hello = make_example("hello").start()
    assert ("hello", 4) == (hello.status()["name"], hello.status()["workers_ready"])
    with hello.connect() as client:
        client.send(b"\xff")
        assert r"hello b'\xff'" == client.recv(10)
        client.send("tom")
        assert "hello tom" == client.recv(10)


def test_make_run() -> None:
    """`make run` starts it with its own config."""
    makefile = (EXAMPLES.parent / "Makefile").read_text()
    assert "\t$(BIN)/wsworker start -c examples/hello/config.yaml\n" in makefile


def test_the_page(make_example: MakeExample, open_page: OpenPage) -> None:
    """The page greets, and after a reload, of which it notices nothing, it is the new code that answers."""
    hello = make_example("hello").start()
    page = open_page(hello.site)
    page.wait_for_function("document.getElementById('state').textContent === 'open'")
    page.click("button")
    page.wait_for_function("document.getElementById('log').textContent === 'hello tom\\n'")

    hello.change('"hello {data}"', '"welcome {data}"')
    page.evaluate(
        """() => {
            globalThis.states = [];
            const state = document.getElementById("state");
            new MutationObserver(() => states.push(state.textContent)).observe(state, {childList: true});
        }"""
    )
    assert 0 == hello.cli("reload").code
    page.click("button")
    page.wait_for_function("document.getElementById('log').textContent.endsWith('welcome tom\\n')")
    assert [] == page.evaluate("states")
