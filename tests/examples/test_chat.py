"""examples/chat, and its tickets: row 20 of docs/security.md."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import Example, code_at_end
from tests.system.daemon import eventually


class Told(NamedTuple):
    """What a client is told: what happens, by whom, in which room, and the text."""

    what: str
    name: str
    room: str
    text: str


def make_ticket(chat: Example, *arguments: str) -> str:
    """Return a ticket that the example's own script or function has made."""
    code = f"import ticket; print(ticket.make({', '.join(arguments)}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=chat.folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def enter(chat: Example, ticket: str) -> ClientConnection:
    """Return a client that shows a ticket."""
    return chat.connect(additional_headers={"Cookie": f"ticket={ticket}"})


def say(client: ClientConnection, **message: str) -> None:
    """Send one message."""
    client.send(json.dumps(message))


def hear(client: ClientConnection, seconds: float = 10) -> Told:
    """Return what a client is told next."""
    told = json.loads(client.recv(seconds))
    return Told(told["what"], told["from"], told["in"], told["text"])


def hear_until(client: ClientConnection, wanted: Told, seconds: float = 10) -> set[Told]:
    """Return what a client is told before something else; each wait may take some seconds, or it is a TimeoutError."""
    before = set()
    while (told := hear(client, seconds)) != wanted:
        before.add(told)
    return before


def say_until(
    speaker: ClientConnection, message: Mapping[str, str], client: ClientConnection, wanted: Told
) -> set[Told]:
    """Say a thing again and again until a client is told of it, and return what it was told before.

    A subscription takes effect in other workers a moment later than in its own.
    """
    for _ in range(100):
        say(speaker, **message)
        with suppress(TimeoutError):
            return hear_until(client, wanted, 0.1)
    raise AssertionError(f"not told in 10 s: {wanted}")


def refusal(chat: Example, ticket: str) -> tuple[int, bytes]:
    """Return status and text with which a ticket is refused."""
    with pytest.raises(InvalidStatus) as refused, enter(chat, ticket):
        pass
    return refused.value.response.status_code, bytes(refused.value.response.body)


def test_rooms_and_private_lines(make_example: MakeExample) -> None:
    """Two rooms do not hear each other; a private line finds all tabs of one person; a room hears who leaves."""
    chat = make_example("chat")
    # a test may have to say more in a second than a person
    chat.change("rate_messages: 10 ", "rate_messages: 10000 ", "config.yaml")
    chat.start()
    tom, ada, eve = (make_ticket(chat, repr(name)) for name in ("tom", "ada", "eve"))
    hello, secret = Told("says", "ada", "lobby", "hello"), Told("whispers", "ada", "", "a secret")
    with enter(chat, tom) as tom_1, enter(chat, tom) as tom_2, enter(chat, eve) as eve_1:
        with enter(chat, ada) as ada_1:
            for client, room in ((tom_1, "lobby"), (ada_1, "lobby"), (eve_1, "garden")):
                say(client, join=room)
            before = say_until(ada_1, {"say": "hello"}, tom_1, hello)
            assert before <= {Told("joined", name, "lobby", "") for name in ("tom", "ada")}
            whisper = {"say": "a secret", "to": "tom"}
            assert say_until(ada_1, whisper, tom_1, secret) <= {hello}
            # it is in no room
            assert set() == say_until(ada_1, whisper, tom_2, secret)
            say(eve_1, say="nobody here")
            before = hear_until(eve_1, Told("says", "eve", "garden", "nobody here"))
            assert {Told("joined", "eve", "garden", "")} == before
        assert hear_until(tom_1, Told("left", "ada", "lobby", "")) <= {hello, secret}


def test_what_is_no_message(make_example: MakeExample) -> None:
    """A client that does not speak as the page does is closed with a code of the app, and is no error of ours."""
    chat = make_example("chat").start()
    ticket = make_ticket(chat, "'tom'")
    for message in ("", "[", "[" * 4000, b"\xff", '{"join": "a b"}', '{"join": 1}', '{"say": "in no room"}'):
        with enter(chat, ticket) as client:
            client.send(message)
            assert 4400 == code_at_end(client), message
    assert "ERROR" not in chat.log


def test_tickets(make_example: MakeExample) -> None:
    """No ticket, one with another key, of another name, without an algorithm, expired or cut is 401; no log has it."""
    chat = make_example("chat")
    chat.change("app: app\n", "app: app\nlog: {level: debug, access: true}\n", "config.yaml")
    chat.start()
    good = make_ticket(chat, "'tom'")
    name, expires, signature = good.split(".")
    with enter(chat, good):
        pass
    later = str(int(time.time()) + 3600)
    other_key = hmac.new(b"another key", f"chat ticket tom.{later}".encode(), hashlib.sha256).hexdigest()
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none", "typ": "JWT"}, {"sub": "tom", "exp": int(later)})
    )
    forged = [
        "",
        f"tom.{later}",
        f"tom.{later}.",
        f"tom.{later}.{other_key}",
        f"ada.{expires}.{signature}",
        f"{name}.{later}0.{signature}",
        f"{name}.{expires}.{signature[:-1]}",
        f"{name}.{expires}.{signature.upper()}",
        f"{name}.{expires}.{signature}.{signature}",
        f"{header}.{claims}.",
        "." * 200,
        "ä.ö.ü",
    ]
    for ticket in forged:
        assert (401, b"sign in first\n") == refusal(chat, ticket), ticket
    assert (401, b"the ticket has expired, sign in again\n") == refusal(chat, make_ticket(chat, "'tom'", "0"))
    log = chat.log
    assert signature not in log
    assert expires not in log
    assert "Traceback" not in log


def test_the_key(make_example: MakeExample) -> None:
    """The key is made once, by whoever comes first; only its owner can read it; a name that is none gets no ticket."""
    chat = make_example("chat")
    script = [sys.executable, "ticket.py"]
    made = [subprocess.Popen([*script, "tom"], cwd=chat.folder, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    addresses = [process.communicate(timeout=30)[0].strip() for process in made]
    assert 0o600 == (chat.folder / "ticket.key").stat().st_mode & 0o777
    assert ["ticket.key"] == [path.name for path in chat.folder.glob("*.key")]
    assert [] == [*chat.folder.glob(".*.key")]
    chat.start()
    for address in addresses:
        start, _, ticket = address.partition("#")
        assert "http://127.0.0.1:2346/" == start
        with enter(chat, ticket):
            pass
    refused = subprocess.run([*script, "a b"], cwd=chat.folder, capture_output=True, text=True, check=False)
    assert (1, "") == (refused.returncode, refused.stdout)
    assert refused.stderr.startswith("usage: python ticket.py NAME")


def test_the_pages(make_example: MakeExample, open_page: OpenPage) -> None:
    """Signed in by its address, a page talks in a room and in private; the ticket leaves the address."""
    chat = make_example("chat").start()
    page = open_page(f"{chat.site}/#{make_ticket(chat, repr('tom'))}")
    assert f"{chat.site}/" == page.url

    def await_line(line: str) -> None:
        page.wait_for_function(
            "line => document.getElementById('log').textContent.split('\\n').includes(line)", arg=line
        )

    with enter(chat, make_ticket(chat, "'ada'")) as ada:
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
        page.click("text=Join")
        await_line("[lobby] tom has joined")
        say(ada, join="lobby")
        assert Told("joined", "ada", "lobby", "") == hear(ada)

        def arrives() -> bool:
            page.fill("#text", "<b>hello</b>")
            page.click("text=Send")
            with suppress(TimeoutError):
                return hear(ada, 0.5) == Told("says", "tom", "lobby", "<b>hello</b>")
            return False

        eventually(arrives, "what the page says")
        await_line("[lobby] tom says: <b>hello</b>")
        page.fill("#text", "/msg ada psst")
        page.click("text=Send")
        await_line("to ada: psst")
        hear_until(ada, Told("whispers", "tom", "", "psst"))
    await_line("[lobby] ada has left")


def test_a_page_without_a_ticket(make_example: MakeExample, open_page: OpenPage) -> None:
    """It is not let in, and says how to sign in."""
    page = open_page(make_example("chat").start().site)
    page.wait_for_function("document.getElementById('log').textContent.startsWith('Not let in. Run `python ticket.py')")
