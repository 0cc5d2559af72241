"""The PROXY protocol from end to end: the app sees the client's address, and only the proxy may say it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

import pytest

from tests.certificates import HOST, Authority
from tests.frames import TEXT
from tests.ports import free_port
from tests.system.clients import UPGRADE, ask_raw, await_upgrade, frame, raw, read_to_end
from tests.system.conftest import MakeDaemon

TELLS: Final = """
def on_message(connection, data):
    connection.send(str(connection.remote))
"""

V1: Final = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 2346\r\n"
SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V2: Final = (
    SIGNATURE
    + struct.pack("!BBH", 0x21, 0x11, 12)
    + bytes([192, 0, 2, 7, 127, 0, 0, 1])
    + struct.pack("!HH", 4711, 2346)
)
LOCAL: Final = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
HEADERS: Final = {"v1": V1, "v2": V2}


def remote(sock: socket.socket) -> str:
    """Complete a handshake and return what the app takes for the client's address."""
    sock.sendall(UPGRADE)
    await_upgrade(sock)
    sock.sendall(frame(TEXT, b"who"))
    length = sock.recv(2)[1]
    return sock.recv(length).decode()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_client_behind_the_proxy(make_daemon: MakeDaemon, loop: str, version: str) -> None:
    """The app sees its address, whether the header comes at once, in pieces, or after a while."""
    daemon = make_daemon(TELLS, loop=loop, proxy_protocol=version).start()
    header = HEADERS[version]
    with raw(daemon) as at_once, raw(daemon) as pieces, raw(daemon) as late:
        at_once.sendall(header)
        for at in range(len(header)):
            pieces.sendall(header[at : at + 1])
        assert ["192.0.2.7:4711"] * 2 == [remote(at_once), remote(pieces)]
        late.sendall(header)
        assert "192.0.2.7:4711" == remote(late)


def test_the_proxy_itself(make_daemon: MakeDaemon) -> None:
    """With LOCAL it speaks for itself."""
    daemon = make_daemon(TELLS, proxy_protocol="v2").start()
    with raw(daemon) as sock:
        sock.sendall(LOCAL)
        assert "{}:{}".format(*sock.getsockname()) == remote(sock)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_what_is_no_header(make_daemon: MakeDaemon, version: str) -> None:
    """A client without one, with one of another version or with one that is too large is closed without a word."""
    daemon = make_daemon(TELLS, proxy_protocol=version, websocket={"open_timeout": "2s"}).start()
    other = HEADERS["v2" if version == "v1" else "v1"]
    large = b"PROXY TCP4 " + b"1" * 200 if version == "v1" else SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65535)
    for sent in (UPGRADE, other + UPGRADE, large, HEADERS[version][:-1], b""):
        assert b"" == ask_raw(daemon, sent)
    with raw(daemon) as sock:
        sock.sendall(HEADERS[version])
        assert "192.0.2.7:4711" == remote(sock)
    # one line for all of them
    assert 1 == daemon.log.count("closed a connection from 127.0.0.1: ")
    assert "Traceback" not in daemon.log


def test_a_peer_that_is_not_trusted(make_daemon: MakeDaemon) -> None:
    """It is closed without a word, and the log names the setting to change."""
    daemon = make_daemon(TELLS, proxy_protocol="v1", forwarded_allow_ips=["10.0.0.0/8"]).start()
    for _ in range(5):
        assert b"" == ask_raw(daemon, V1 + UPGRADE)
    assert 1 == daemon.log.count("closed a connection from 127.0.0.1: it is no trusted proxy")
    assert "see forwarded_allow_ips" in daemon.log


def test_one_address_of_two(make_daemon: MakeDaemon) -> None:
    """Clients of the other address begin with their request, and a header there is a malformed one."""
    proxied = free_port()
    daemon = make_daemon(TELLS, workers=2)
    listen = [f"127.0.0.1:{daemon.port}", f"127.0.0.1:{proxied}"]
    daemon.write_config(listen=listen, proxy_protocol=[f"127.0.0.1:{proxied}=v2"])
    daemon.start()
    with raw(daemon) as sock:
        assert "{}:{}".format(*sock.getsockname()) == remote(sock)
    assert ask_raw(daemon, V2 + UPGRADE).startswith(b"HTTP/1.1 400 ")
    daemon.port = proxied
    with raw(daemon) as sock:
        sock.sendall(V2)
        assert "192.0.2.7:4711" == remote(sock)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tls_behind_it(make_daemon: MakeDaemon, tmp_path: Path, loop: str, version: str) -> None:
    """The header stands in plain before TLS, which begins with the byte behind it."""
    authority = Authority(tmp_path)
    tls = authority.issue("one").settings
    daemon = make_daemon(TELLS, loop=loop, proxy_protocol=version, tls=tls, websocket={"open_timeout": "2s"}).start()
    with raw(daemon) as sock:
        sock.sendall(HEADERS[version])
        with authority.client().wrap_socket(sock, server_hostname=HOST) as secure:
            assert "192.0.2.7:4711" == remote(secure)
    with raw(daemon) as sock, pytest.raises(OSError, match=r"(?i)ssl|reset|eof"):
        authority.client().wrap_socket(sock, server_hostname=HOST)
    with raw(daemon) as silent:
        silent.sendall(HEADERS[version])
        assert b"" == read_to_end(silent)
