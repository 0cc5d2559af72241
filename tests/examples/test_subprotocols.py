"""examples/subprotocols."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

from tests.examples.conftest import MakeExample, OpenPage
from tests.examples.example import code_at_end

OFFERS: tuple[tuple[list[str], str], ...] = (
    (["soap"], "soap"),
    (["xmpp"], "xmpp"),
    (["xmpp", "soap"], "soap"),
    (["soap", "xmpp"], "soap"),
    (["mqtt", "xmpp"], "xmpp"),
    (["mqtt"], ""),
    (["SOAP"], ""),
    ([], ""),
)
"""What a client offers, and what the server chooses; "": it refuses."""

ANSWERS = {
    "soap": "<Envelope><Body>&lt;tom&gt;</Body></Envelope>",
    "xmpp": "<message><body>&lt;tom&gt;</body></message>",
}


def test_offers(make_example: MakeExample) -> None:
    """The server's order decides; without a common one it is 400 with a text that says what there is."""
    example = make_example("subprotocols").start()
    for offer, chosen in OFFERS:
        if chosen:
            with example.connect(subprotocols=offer) as client:
                assert chosen == client.subprotocol
                client.send("<tom>")
                assert ANSWERS[chosen] == client.recv(10)
                client.send(b"")
                assert 1003 == code_at_end(client)
        else:
            with pytest.raises(InvalidStatus) as refused, example.connect(subprotocols=offer or None):
                pass
            assert 400 == refused.value.response.status_code
            assert b"offer one of soap, xmpp\n" == refused.value.response.body


def test_the_page(make_example: MakeExample, open_page: OpenPage) -> None:
    """The page offers what its buttons say; of a refusal it learns 1006 and no more."""
    page = open_page(make_example("subprotocols").start().site)
    rows = page.evaluate(
        """async () => {
            const rows = [...document.querySelectorAll("#offers tr")];
            rows.forEach(row => row.querySelector("button").click());
            const done = row => /^refused|>$/.test(row.cells[1].textContent + row.cells[2].textContent);
            while (!rows.every(done)) await new Promise(resolve => setTimeout(resolve, 20));
            return rows.map(row => [...row.cells].map(cell => cell.textContent));
        }"""
    )
    expected = [
        [", ".join(offer) or "nothing", chosen or "refused, code 1006", ANSWERS.get(chosen, "")]
        for offer, chosen in OFFERS
        if offer != ["soap", "xmpp"]
    ]
    assert expected == rows
