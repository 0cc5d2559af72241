"""What a broker says is shown as it is, and steers no terminal."""

from __future__ import annotations

from wsworker.brokers import parse
from wsworker.remote.link import no_entry, refusal


def test_what_a_broker_says() -> None:
    """The URL stands there without its secrets."""
    url = parse("redis://ada:secret@h")
    assert r"redis://h:6379 does not take the message: NOPERM \x1b[2J" == str(refusal(url, "NOPERM \x1b[2J"))
    error = no_entry(url, "WRONGPASS")
    assert "redis://h:6379 does not let this program in (WRONGPASS); see who the URL says it is" == str(error)
    assert "refused" == error.code
