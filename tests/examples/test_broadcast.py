"""examples/broadcast."""

from __future__ import annotations

from contextlib import ExitStack

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end


def test_eight_users_over_four_workers(make_example: MakeExample) -> None:
    """All users hear what the publisher sends, whichever worker they are in; a user who speaks is told not to."""
    example = make_example("broadcast").start()
    with ExitStack() as stack:
        users = [stack.enter_context(example.connect()) for _ in range(8)]
        # the kernel may have given a worker none of eight: go on until each has one
        while not all(row["connections"] for row in example.status()["workers"]):
            users.append(stack.enter_context(example.connect()))
            assert len(users) < 200
        publisher = stack.enter_context(example.connect("/broadcast"))
        for message in ("dinner is ready", b"\x00\xff"):
            publisher.send(message)
            assert [message] * len(users) == [user.recv(10) for user in users]
            assert message == publisher.recv(10)
        users[0].send("so what")
        assert 4403 == code_at_end(users[0])


def test_the_pages(make_example: MakeExample, open_page: OpenPage) -> None:
    """What is written on the publisher's page is on the pages of two users, as text."""
    example = make_example("broadcast").start()
    users = [open_page(f"{example.site}/websocket.html") for _ in range(2)]
    publisher = open_page(f"{example.site}/broadcast.html")
    for page in (*users, publisher):
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
    publisher.fill("#data", "<i>dinner</i>")
    publisher.click("button")
    for page in (*users, publisher):
        page.wait_for_function("document.getElementById('log').textContent === '<i>dinner</i>\\n'")
    front = open_page(example.site)
    links = front.evaluate("[...document.links].map(link => link.href)")
    assert [f"{example.site}/websocket.html", f"{example.site}/broadcast.html"] == links
