"""Target: the request head, through the session and admission.check to the answer.

Any bytes end in a request that waits for more, a 101, or a refusal with one of the statuses that are documented; the
same for every split. What the application may read of a request never raises, and gives back what stood on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from tests.fuzz import grammar
from tests.fuzz.mutation import cuts, split
from tests.fuzz.reading import read_response, timeless
from tests.fuzz.target import Target
from tests.fuzz.weight import weight
from wsworker.protocol.admission import Admitted, Facts, Plain, Policy, check
from wsworker.protocol.events import Closed, Handshake, Refused
from wsworker.protocol.handshake import MAX_HEAD_BYTES, MAX_LINE_BYTES
from wsworker.protocol.request import Address, Request
from wsworker.protocol.session import Session

POLICIES: Final = (
    Policy("same-origin", ()),
    Policy("*", ("chat", "b"), health="/health"),
    Policy(("https://a.example", "null"), ("b", "chat"), ("localhost",), "/health", has_site=True),
)
FACTS: Final = (
    Facts(full=False, draining=False, crowded=False, retry_after=1),
    Facts(full=True, draining=False, crowded=True, retry_after=2),
)
MALFORMED: Final = frozenset({400, 414, 431, 505})
REFUSED: Final = frozenset({400, 403, 405, 426, 429, 503, 505})
PARSED_BYTES: Final = 64 * 1024
"""What a parsed head may weigh beyond its bytes, most of it header by header."""


@dataclass(frozen=True)
class Head:
    """One client. data: all that it sends; cuts: how it is split; policy, facts: indices; deflate: as the session's."""

    data: bytes
    cuts: tuple[int, ...] = ()
    policy: int = 0
    facts: int = 0
    deflate: bool = False


@dataclass(frozen=True)
class Outcome:
    """How it ended. verdict: in words; output: what was written; left: how the session stands."""

    verdict: str
    output: bytes
    left: str


def outcome(case: Head, pieces: list[bytes]) -> Outcome:
    """Let the pieces arrive, then the end of the stream."""
    session = Session(1000, deflate=case.deflate)
    verdicts: list[str] = []
    for piece in pieces:
        session.receive(piece)
        _pump(session, case, verdicts)
    assert weight(session) < 3 * MAX_HEAD_BYTES + PARSED_BYTES + 2 * len(case.data) * (session.state == "open")
    left = f"{session.state}, {session.finished}, {session.head_started}"
    session.receive_eof()
    _pump(session, case, verdicts)
    assert session.state == "closed"
    return Outcome("; ".join(verdicts), timeless(b"".join(session.output)), left)


def _pump(session: Session, case: Head, verdicts: list[str]) -> None:
    while (event := session.next_event()) is not None:
        if isinstance(event, Handshake):
            verdicts.append(_answer(session, event, case))
        elif isinstance(event, Refused):
            assert event.status in MALFORMED, event
            verdicts.append(f"refused {event}")
        elif isinstance(event, Closed):
            verdicts.append(f"closed {event}")
        # what stands behind the head is the target frames


def _answer(session: Session, event: Handshake, case: Head) -> str:
    read = read_all(Request(event.head, Address("127.0.0.1", 1)))
    policy = POLICIES[case.policy]
    verdict = check(event.request, policy, FACTS[case.facts])
    if isinstance(verdict, Admitted):
        assert verdict.subprotocol is None or verdict.subprotocol in policy.subprotocols
        accepted = session.accept(verdict.subprotocol)
        return f"{verdict} {accepted} {read}"
    if isinstance(verdict, Plain):
        session.step_aside()
        return f"{verdict} {read}"
    assert verdict.status in REFUSED, verdict
    session.reject(verdict.status, verdict.headers, verdict.body)
    assert verdict.log.isascii()
    assert verdict.log.isprintable()
    return f"{verdict} {read}"


def read_all(request: Request) -> str:
    """Return all that an application may read, of the request as it is and without its cookies."""
    read = f"{request!r} {request.path} {request.query} {request.headers!r} {request.cookies} {request.subprotocols}"
    request._hide_cookies()
    return read


def asks_for_head(data: bytes) -> bool:
    """Return whether a request line is there that asks for an answer without a body."""
    line, end, _ = data.partition(b"\n")
    return line.startswith(b"HEAD ") and len(line + end) <= MAX_LINE_BYTES and end != b""


def check_head(case: Head) -> None:
    """One case of the target."""
    whole = outcome(case, [case.data] if case.data else [])
    assert whole == outcome(case, split(case.data, case.cuts))
    if len(case.data) < 600:
        assert whole == outcome(case, [case.data[at : at + 1] for at in range(len(case.data))])
    if whole.output:
        response = read_response(whole.output, asks_for_head(case.data))
        assert response.status == 101 or response.status in MALFORMED | REFUSED
        assert response.status == 101 or response.size == len(whole.output)
        if response.status == 101:
            assert "sec-websocket-extensions" not in response.headers or case.deflate


_cases: Final = st.builds(
    Head,
    data=grammar.heads,
    cuts=cuts,
    policy=st.sampled_from(range(len(POLICIES))),
    facts=st.sampled_from((0, 0, 0, 1)),
    deflate=st.booleans(),
)

_HEAD: Final = grammar.HEAD % b""
_KNOWN: Final = (
    Head(b""),
    Head(b"\r\n"),
    Head(_HEAD, (1, 2, 3)),
    Head(_HEAD + _HEAD),
    Head(_HEAD.replace(b"GET", b"HEAD"), policy=2),
    Head(grammar.HEAD % grammar.OFFER, deflate=True),
    Head(grammar.HEAD % (b"X: y\r\n" * 94), (1000,)),
    Head(grammar.HEAD % (b"X: y\r\n" * 96), (1000,)),
    Head(b"x" * 8193, (8192,)),
    Head(b"GET / HTTP/1.1\r\nX: " + b"x" * 8192, (8192,)),
)

TARGET: Final = Target("handshakes", _cases, check_head, _KNOWN)
