"""Rows 2 and 21: handshakes that are never complete, and headers that lie about who the client is."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, closing

import pytest

from tests.frames import TEXT
from tests.system.clients import UPGRADE, ask_raw, await_upgrade, raw
from tests.system.conftest import MakeDaemon
from tests.system.daemon import Daemon, eventually
from tests.system.security.hostile import ECHO, Client, framed, open_sockets, steadfast

TELLS = """
def on_message(connection, data):
    assert connection.remote == connection.request.remote
    connection.send(str(connection.remote))
"""

# Row 2


def test_row_2_a_byte_now_and_then(make_daemon: MakeDaemon) -> None:
    """The deadline is one for the whole handshake: no byte makes it longer. The answer is 408, and then the end."""
    with steadfast(make_daemon(ECHO, websocket={"open_timeout": "2s"})) as daemon, raw(daemon) as sock:
        sent = 0
        # all of it would take four times as long as the deadline is
        while sent < len(UPGRADE) and not select.select([sock], [], [], 0.05)[0]:
            sock.sendall(UPGRADE[sent : sent + 1])
            sent += 1
        assert 0 < sent < len(UPGRADE)
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")


def test_row_2_half_a_request_and_no_more(make_daemon: MakeDaemon) -> None:
    """Every beginning of a request is cut at the deadline, and its socket is gone soon after."""
    with steadfast(make_daemon(ECHO, websocket={"open_timeout": "3s"})) as daemon, ExitStack() as stack:
        socks = [stack.enter_context(raw(daemon)) for _ in range(len(UPGRADE))]
        for size, sock in enumerate(socks):
            sock.sendall(UPGRADE[:size])
        for size, sock in enumerate(socks):
            answer = sock.recv(65536)
            assert (b"HTTP/1.1 408 " if size else b"") == answer[:13]
        eventually(lambda: open_sockets(daemon) == 0, "closed sockets, though no client has closed")


def test_row_2_silence_keeps_nobody_out(make_daemon: MakeDaemon) -> None:
    """Silent clients take the places of max_handshakes for one deadline; a good one is then served before the rest."""
    settings = {"open_timeout": "2s", "max_handshakes": 10}
    with steadfast(make_daemon(ECHO, websocket=settings)) as daemon, ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(raw(daemon))
        with Client(daemon) as client:
            client.send(framed(TEXT, b"on"))
            assert b"on" == client.message()
        daemon.wait_log("10 handshakes are under way, as many as websocket.max_handshakes allows")


# Row 21


def told(daemon: Daemon, *lines: str) -> str:
    """Return whom the app takes a client for that sends some header lines."""
    with Client(daemon, *lines) as client:
        client.send(framed(TEXT, b"who am I?"))
        return client.message().decode()


LIES = [
    # one hop, which the proxy itself has written
    (["X-Forwarded-For: 192.0.2.7"], "192.0.2.7:0"),
    (["X-Forwarded-For: 192.0.2.7:4711"], "192.0.2.7:4711"),
    (["X-Forwarded-For: 2001:db8::7"], "[2001:db8::7]:0"),
    (["X-Forwarded-For: [2001:db8::7]:4711"], "[2001:db8::7]:4711"),
    (["X-Forwarded-For: ::ffff:192.0.2.7"], "192.0.2.7:0"),
    # what stands left of it is the client's word
    (["X-Forwarded-For: 127.0.0.1, 192.0.2.7"], "192.0.2.7:0"),
    (["X-Forwarded-For: 198.51.100.1, 10.0.0.1, 192.0.2.7"], "192.0.2.7:0"),
    (["X-Forwarded-For: " + "127.0.0.1, " * 500 + "192.0.2.7"], "192.0.2.7:0"),
    # the proxy has added a line of its own
    (["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 192.0.2.7"], "192.0.2.7:0"),
    (["x-forwarded-for: 198.51.100.1, 127.0.0.1", "X-FORWARDED-FOR: 192.0.2.7, 127.0.0.1"], "192.0.2.7:0"),
    # a trusted hop, an untrusted one, and then a lie
    (["X-Forwarded-For: 127.0.0.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7:0"),
    # nobody's header
    (["Forwarded: for=192.0.2.7", "X-Real-IP: 192.0.2.7", "X-X-Forwarded-For: 192.0.2.7"], ""),
    # no address at all
    (["X-Forwarded-For: unknown"], ""),
    (["X-Forwarded-For: 192.0.2.7,"], ""),
    (["X-Forwarded-For: 192.0.2.7, 999.1.1.1"], ""),
    (["X-Forwarded-For: 192.0.2.7 , \"unix\""], ""),
    (["X-Forwarded-For: 192.0.2.7, unix"], ""),
]  # fmt: skip


def test_row_21_forged_chains(make_daemon: MakeDaemon) -> None:
    """Each hop is believed as far as trusted proxies reach, from the right; a chain without an address is none."""
    trusted = ["127.0.0.1", "10.0.0.0/8"]
    with steadfast(make_daemon(TELLS, forwarded_allow_ips=trusted)) as daemon:
        for lines, client in LIES:
            found = told(daemon, *lines)
            assert found.startswith(client or "127.0.0.1:"), lines
            assert not found.endswith(":0") or client, lines


def test_row_21_only_loopback_is_trusted_by_default(make_daemon: MakeDaemon) -> None:
    """Hops of private networks are strangers unless they are listed."""
    with steadfast(make_daemon(TELLS)) as daemon:
        assert "10.9.9.9:0" == told(daemon, "X-Forwarded-For: 192.0.2.7, 10.9.9.9")
        assert "192.0.2.7:0" == told(daemon, "X-Forwarded-For: 192.0.2.7, ::1")


def test_row_21_the_other_header(make_daemon: MakeDaemon) -> None:
    """Only the header that is configured counts, in its own spelling."""
    with steadfast(make_daemon(TELLS, forwarded_header="forwarded")) as daemon:
        assert "192.0.2.7:0" == told(daemon, "Forwarded: for=198.51.100.1, for=192.0.2.7;proto=https")
        assert "[2001:db8::7]:4711" == told(daemon, 'Forwarded: for=198.51.100.1, for="[2001:db8::7]:4711"')
        # a quote that a client has left open does not swallow what the proxy appends
        assert "192.0.2.7:0" == told(daemon, 'Forwarded: for="198.51.100.1, for=192.0.2.7')
        assert told(daemon, "X-Forwarded-For: 192.0.2.7").startswith("127.0.0.1:")
        assert told(daemon, "Forwarded: for=_hidden").startswith("127.0.0.1:")


@pytest.mark.parametrize(("trusted", "client"), [(["127.0.0.1", "::1"], b"unix"), (["unix"], b"192.0.2.7:0")])
def test_row_21_the_peer_of_a_unix_socket(make_daemon: MakeDaemon, trusted: list[str], client: bytes) -> None:
    """It is believed only where `unix` is listed."""
    daemon = make_daemon(TELLS, listen="unix:ws", forwarded_allow_ips=trusted)
    with steadfast(daemon), closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(10)
        sock.connect(str(daemon.folder / "ws"))
        sock.sendall(UPGRADE[:-2] + b"X-Forwarded-For: 192.0.2.7\r\n\r\n" + framed(TEXT, b"who am I?"))
        await_upgrade(sock)
        assert bytes([0x81, len(client)]) + client == sock.recv(100)


def test_row_21_limits_count_the_client_and_not_the_proxy(make_daemon: MakeDaemon) -> None:
    """max_per_address holds for whoever stands behind a trusted proxy, and a forged hop wins no place."""
    with steadfast(make_daemon(TELLS, websocket={"max_per_address": 1})) as daemon:
        forged = [f"X-Forwarded-For: 198.51.100.{number}, 192.0.2.7" for number in range(10)]
        with Client(daemon, "X-Forwarded-For: 192.0.2.7"):
            for line in forged:
                answer = ask_raw(daemon, UPGRADE[:-2] + line.encode() + b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 429 ")
            with Client(daemon, "X-Forwarded-For: 192.0.2.8"):
                pass
