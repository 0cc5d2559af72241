"""The exception tree: every class makes one sentence of its fields, and a Reject that can be made can be sent."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker import errors
from wsworker.errors import ConfigError, Problem, Reject, WsworkerError
from wsworker.protocol.handshake import Opening

SENTENCES = [
    (
        errors.TlsError("tls.certfile", "there is no file /x.pem", "create it"),
        "tls.certfile: there is no file /x.pem; create it",
    ),
    (errors.AppError("cannot import app 'hello'"), "cannot import app 'hello'"),
    (errors.AppError("app.py:3 raised", "Traceback\n  line\n"), "app.py:3 raised\nTraceback\n  line"),
    (errors.PlatformError("wsworker needs Linux"), "wsworker needs Linux"),
    (
        errors.AlreadyRunning("chat", 812),
        "chat is already running (pid 812); use `wsworker reload` or `wsworker restart`",
    ),
    (
        errors.AlreadyRunning("chat", 812, "/srv/old/config.yaml"),
        "another chat runs with /srv/old/config.yaml (pid 812); give this one its own `name` and `listen`",
    ),
    (errors.AlreadyRunning("chat", None), "chat is already running; use `wsworker reload` or `wsworker restart`"),
    (
        errors.RunDirError("/run/chat", "belongs to uid 7", "set control_socket"),
        "run directory /run/chat: belongs to uid 7; set control_socket",
    ),
    (
        errors.BindError("0.0.0.0:80", "address in use", "pid 812 (nginx)", "config.yaml:3:9"),
        "cannot listen on 0.0.0.0:80: address in use by pid 812 (nginx); change `listen` (config.yaml:3:9)",
    ),
    (
        errors.BindError("[::1]:9464", "address in use", place="config.yaml:3:9", key="admin.listen"),
        "cannot listen on [::1]:9464: address in use; change `admin.listen` (config.yaml:3:9)",
    ),
    (errors.BindError("[::]:80", "address in use"), "cannot listen on [::]:80: address in use; change `listen`"),
    (
        errors.ActivationError("[::]:80", "which is not in `listen` (config.yaml:3:9)", "add it there"),
        "systemd passed [::]:80, which is not in `listen` (config.yaml:3:9); add it there",
    ),
    (
        errors.PrivilegeError("setresuid", "not permitted"),
        "cannot drop privileges: setresuid failed (not permitted); start as root or remove `user` and `group`",
    ),
    (
        errors.NotRunning("chat", "/run/chat.sock"),
        "chat is not running (no socket at /run/chat.sock); start it with `wsworker start`",
    ),
    (errors.ControlError("timeout", "the master did not answer in 2 s"), "the master did not answer in 2 s"),
    (errors.PublishError("too_large", "a message is too large"), "a message is too large"),
    (errors.WireError("not JSON"), "malformed message: not JSON"),
    (errors.InternalError("slot 0"), "slot 0"),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES, ids=lambda value: type(value).__name__)
def test_each_error_is_a_sentence(error: WsworkerError, sentence: str) -> None:
    """What a person reads names the thing, the place and the next step; a field that is empty leaves no trace."""
    assert sentence == str(error)


def test_every_class_has_its_sentence() -> None:
    """No class of the tree is missing above, and all of them are of the tree."""
    told = {type(error) for error, _ in SENTENCES} | {ConfigError}
    assert told == set(WsworkerError.__subclasses__())
    assert not issubclass(Reject, WsworkerError)


def test_errors_are_raised_and_compared_by_fields() -> None:
    """The fields survive the raise, and two errors with the same fields are still two: an exception has a traceback."""
    with pytest.raises(errors.AlreadyRunning) as caught:
        raise errors.AlreadyRunning("chat", 812)
    assert ("chat", 812) == (caught.value.name, caught.value.pid)
    assert errors.WireError("x") != errors.WireError("x")


def test_a_problem_is_shown_in_its_line() -> None:
    """Place, message, the line as written, and carets under what is wrong."""
    problem = Problem("config.yaml", 3, 11, "workers must be a number", "workers:  many", 4)
    assert [
        "config.yaml:3:11: error: workers must be a number",
        "  workers:  many",
        "            ^^^^",
    ] == str(problem).splitlines()
    shown = str(problem).splitlines()
    assert "many" == shown[1][shown[2].index("^") : shown[2].rindex("^") + 1]


def test_a_tab_stays_a_tab_before_the_caret() -> None:
    """Whatever a terminal makes of a tab, it does so in both lines, so the caret stands under its character."""
    shown = str(Problem("config.yaml", 1, 4, "wrong", "a\t\tb", 1)).splitlines()
    assert ["  a\t\tb", "   \t\t^"] == shown[1:]


@pytest.mark.parametrize(
    ("line", "column", "width", "below"),
    [
        ("\u5de5\u4eba: 4", 1, 2, "^^^^"),  # wide
        ("\u5de5: \uff14", 4, 1, "    ^^"),  # wide, then fullwidth
        ("u\u0308: x", 5, 1, "   ^"),  # a mark on its letter
        ("\xfc: x", 4, 1, "   ^"),
        ("x: \u0308", 4, 1, "   ^"),  # a mark alone still has its caret
    ],
)
def test_carets_count_cells(line: str, column: int, width: int, below: str) -> None:
    """They stand where a terminal shows the characters; the number of the column is that of the characters."""
    shown = str(Problem("config.yaml", 1, column, "wrong", line, width)).splitlines()
    assert [f"config.yaml:1:{column}: error: wrong", f"  {line}", f"  {below}"] == shown


@pytest.mark.parametrize(("width", "carets"), [(0, "^"), (1, "^"), (3, "^^^")])
def test_there_is_always_a_caret(width: int, carets: str) -> None:
    """Nothing, as where a value is missing, is pointed at as well."""
    assert str(Problem("config.yaml", 1, 1, "wrong", "abc", width)).endswith(f"\n  {carets}")


def test_a_problem_without_a_line_has_no_numbers() -> None:
    """The environment and flags have neither lines nor an excerpt."""
    problem = Problem("environment WSWORKER_LISTEN", 0, 0, "listen must be an address")
    assert "environment WSWORKER_LISTEN: error: listen must be an address" == str(problem)


def test_a_config_error_shows_all_problems_and_their_number() -> None:
    """One block each, in their order, then the count; one is not plural."""
    first, second = Problem("a.yaml", 1, 1, "wrong", "x"), Problem("flag -b", 0, 0, "odd")
    expected = "a.yaml:1:1: error: wrong\n  x\n  ^\nflag -b: error: odd\nwsworker: 2 errors in conf/a.yaml"
    assert expected == str(ConfigError("conf/a.yaml", (first, second)))


def test_a_config_error_counts_where_the_problems_are() -> None:
    """A flag is no part of the file, which may be good; a file that is not there has no lines and is meant."""
    flag, missing = Problem("flag -b", 0, 0, "odd"), Problem("a.yaml", 0, 0, "no such file")
    assert "flag -b: error: odd\nwsworker: 1 error in the settings" == str(ConfigError("a.yaml", (flag,)))
    assert "a.yaml: error: no such file\nwsworker: 1 error in a.yaml" == str(ConfigError("a.yaml", (missing,)))


# Reject


def sent(reject: Reject) -> bytes:
    """Return what the client gets for it."""
    return Opening().reject(reject.status, reject.headers or {}, reject.body).serialize()


def test_a_reject_says_no_more_than_its_status() -> None:
    """It is 403 without a body unless told otherwise; its text is for the log."""
    assert "handshake refused with 403" == str(Reject())
    response = sent(Reject())
    assert response.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [200, 101, 299, 600, -1, 403.5, "403", True])
def test_a_reject_takes_statuses_that_refuse(status: Any) -> None:
    """A number from 300 to 599 and nothing else."""
    with pytest.raises(ValueError, match="from 300 to 599, not "):
        Reject(status)


@pytest.mark.parametrize("status", [300, 401, 599])
def test_a_reject_takes_any_status_that_refuses(status: int) -> None:
    """Also one that no registry knows."""
    assert sent(Reject(status)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "UPGRADE", "content-length", "Transfer-Encoding"),
        *("Sec-WebSocket-Accept", "sec-websocket-protocol"),
    ],
)
def test_a_reject_cannot_touch_the_handshake(name: str) -> None:
    """What frames the response or makes it a handshake is not the user's, in any case of letters."""
    with pytest.raises(ValueError, match=f"header '{name}' belongs to the handshake"):
        Reject(headers={name: "x"})


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nSet-Cookie", "Zoë", "X\0", "(x)"])
def test_a_header_name_is_a_token(name: str) -> None:
    """RFC 9110 section 5.6.2; anything else could end the header."""
    with pytest.raises(ValueError, match="is no name; use letters"):
        Reject(headers={name: "x"})


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\0", "a\tb", "\x7f", "Zoë", "\ud800", "a\n"])
def test_a_header_value_is_printable_ascii(value: str) -> None:
    """No line end, no control character, nothing that a browser and a proxy may read differently."""
    with pytest.raises(ValueError, match="the value of header 'X-Why' must be printable ASCII"):
        Reject(headers={"X-Why": value})


@pytest.mark.parametrize("fields", [{"headers": {"Retry-After": 5}}, {"headers": {b"X": "5"}}, {"body": b"no"}])
def test_a_reject_is_made_of_text(fields: dict[str, Any]) -> None:
    """Numbers and bytes are refused where they are given, not when the response is made."""
    with pytest.raises(TypeError):
        Reject(**fields)


def test_a_body_has_utf_8() -> None:
    """A lone surrogate has none."""
    with pytest.raises(ValueError, match="surrogates"):
        Reject(body="\ud800")


TOKENS = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1)
HEADERS = st.one_of(
    st.none(),
    st.dictionaries(
        st.one_of(TOKENS, st.text(max_size=4), st.sampled_from(["Content-Type", "date", "Content-Length", "Host"])),
        st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.text(st.characters(), max_size=3)),
        max_size=3,
    ),
)


@given(st.integers(290, 610), HEADERS, st.text(st.characters()))
def test_a_reject_that_can_be_made_can_be_sent(status: int, headers: dict[str, str] | None, body: str) -> None:
    """Either it is refused with ValueError at once, or the response has its status, headers and body."""
    try:
        reject = Reject(status, headers, body)
    except ValueError:
        return
    response = sent(reject)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    if status == 304:
        body = ""  # which has none, whatever it is given; RFC 9110 section 15.4.5
    assert response.endswith(b"\r\n\r\n" + body.encode())
    lines = response.removesuffix(body.encode()).decode("ascii").split("\r\n")
    last = {name.lower(): name for name in headers or {}}  # of names that differ in case only, the last one counts
    assert all(f"{name}: {(headers or {})[name]}" in lines for name in last.values())


def test_a_dead_master_is_told_from_one_that_never_ran() -> None:
    """Its leftovers are named, and that the next start removes them."""
    error = errors.NotRunning("hello", "/run/hello.sock", ("/run/hello.sock", "/run/hello.pid"))
    left = "start it again with `wsworker start`, which removes /run/hello.sock and /run/hello.pid"
    assert f"hello is not running (its master died); {left}" == str(error)
    assert f"its master died; {left}" == error.reason
