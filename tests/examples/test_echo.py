"""examples/echo."""

from __future__ import annotations

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end


def test_unchanged(make_example: MakeExample) -> None:
    """Text and binary come back as what they were, also when empty; one byte over max_size is 1009."""
    echo = make_example("echo").start()
    messages: list[str | bytes] = ["tom", "", b"", "äöü€😀", bytes(range(256)), "x" * 65536]
    with echo.connect(max_size=None) as client:
        for message in messages:
            client.send(message)
            assert message == client.recv(10)
        client.send(bytes(65537))
        assert 1009 == code_at_end(client)


def test_the_page(make_example: MakeExample, open_page: OpenPage) -> None:
    """The page shows its own message, as text and as binary, and the code of each end."""
    page = open_page(make_example("echo").start().site)

    def await_log(end: str) -> None:
        page.wait_for_function("end => document.getElementById('log').textContent.trimEnd().endsWith(end)", arg=end)

    await_log("opened")
    page.fill("#data", "<b>tom</b>")
    page.click("#text")
    await_log("> text <b>tom</b>\n< text <b>tom</b>")
    page.click("#binary")
    await_log("> binary 3c 62 3e 74 6f 6d 3c 2f 62 3e\n< binary 3c 62 3e 74 6f 6d 3c 2f 62 3e")
    page.click("#close")
    await_log("closed, code 1000")
    assert "closed, code 1000" == page.text_content("#state")
    page.click("#text")
    await_log("not connected")
    page.click("#connect")
    await_log("opened")
    page.click("#huge")
    await_log("closed, code 1009 the message is larger than websocket.max_size")
