"""TLS from end to end: who is served, who is not, and what becomes of certificates at a start and at a reload."""

from __future__ import annotations

import os
import pwd
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from tests.certificates import HOST, Authority, name_of
from tests.system.clients import UPGRADE, ask_raw, raw, read_to_end
from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, WHO, Daemon, eventually, finish
from tests.system.faults.world import GATED, Gate

LEAVES_AT_THE_GATE = f"{WHO}{GATED}\nasync def on_worker_reload(worker):\n    await pass_gate()\n"
"""Old workers go on serving while the gate is closed."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that writes its certificates into tmp_path."""
    return Authority(tmp_path)


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """Return the setting `loop`, for both event loops."""
    return str(request.param)


def connect_securely(daemon: Daemon, context: ssl.SSLContext, **options: Any) -> ClientConnection:
    """Return a new client that speaks TLS; use it in a `with`."""
    options = {"open_timeout": 10, "close_timeout": 10, "proxy": None, **options}
    client: ClientConnection = connect(f"wss://{HOST}:{daemon.port}/", ssl=context, **options)
    return client


def certificate_of(client: ClientConnection) -> str:
    """Return the common name in the certificate that the server has shown."""
    assert isinstance(client.socket, ssl.SSLSocket)
    return name_of(client.socket.getpeercert())


def is_served(daemon: Daemon, context: ssl.SSLContext) -> bool:
    """Whether a client comes as far as the end of the handshake."""
    try:
        with connect_securely(daemon, context) as client:
            return client.protocol.state is State.OPEN
    except (OSError, WebSocketException):
        # with TLS 1.3 a client learns that its certificate is missing when it reads
        return False


def certificate(daemon: Daemon, authority: Authority) -> str:
    """Return the common name in the certificate that a new client is shown."""
    with connect_securely(daemon, authority.client()) as client:
        return certificate_of(client)


# Serving


def test_a_service_with_tls(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """Messages of all sizes go both ways, goodbyes are said, and the address is shown as wss."""
    daemon = make_daemon(HELLO, loop=loop, tls=authority.issue("one").settings).start()
    with connect_securely(daemon, authority.client()) as client:
        for text in ("tom", "x" * 300_000):
            client.send(text)
            assert f"hello {text}" == client.recv(10)
        assert "one" == certificate_of(client)
        client.close(1000)
        assert 1000 == client.close_code
    assert [f"wss://127.0.0.1:{daemon.port}"] == daemon.status()["listen"]
    assert f": listening on wss://127.0.0.1:{daemon.port}, " in daemon.log
    with connect_securely(daemon, authority.client()) as client:
        assert 0 == daemon.cli("stop").code
        with pytest.raises(ConnectionClosed):
            client.recv(10)
        assert 1001 == client.close_code
    assert 0 == daemon.wait_exit()
    assert "Traceback" not in daemon.log


def test_a_refusal_arrives(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """What is no handshake gets its answer over TLS, and the connection ends."""
    daemon = make_daemon(HELLO, loop=loop, tls=authority.issue("one").settings).start()
    with authority.client().wrap_socket(raw(daemon), server_hostname=HOST) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_to_end(client).startswith(b"HTTP/1.1 426 ")


def test_plain_text_gets_no_answer(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """Whoever does not speak TLS is closed without a byte that is none of TLS, and nobody is harmed."""
    settings = authority.issue("one").settings
    daemon = make_daemon(HELLO, loop=loop, tls=settings, websocket={"open_timeout": "2s"}).start()
    for sent in (UPGRADE, b"\r\n\r\n", b"\0" * 1000):
        answer = ask_raw(daemon, sent)
        # RFC 8446 section 5.1: an alert is a record of type 21
        assert not answer or answer[0] == 21
    with connect_securely(daemon, authority.client()) as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
    daemon.wait_log("the TLS handshake has failed")
    assert "Traceback" not in daemon.log


def test_old_versions_are_refused(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """TLS 1.1 is never spoken, and 1.2 only if it may be."""
    tls = {**authority.issue("one").settings, "min_version": "1.3"}
    daemon = make_daemon(HELLO, loop=loop, tls=tls).start()
    old, new = authority.client(), authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not is_served(daemon, old)
    assert is_served(daemon, new)

    daemon.write_config(tls=authority.issue("two").settings)
    assert 0 == daemon.cli("reload").code
    eventually(lambda: certificate(daemon, authority) == "two", "the new certificate")
    assert is_served(daemon, old)
    very_old = authority.client()
    very_old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        very_old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        very_old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert not is_served(daemon, very_old)


def test_a_handshake_that_stalls(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """Silence in TLS and silence behind it are cut by the same deadline, which begins at accept."""
    settings = authority.issue("one").settings
    daemon = make_daemon(HELLO, loop=loop, tls=settings, websocket={"open_timeout": "2s"}).start()
    with raw(daemon) as silent:
        assert b"" == read_to_end(silent)
    with authority.client().wrap_socket(raw(daemon), server_hostname=HOST, suppress_ragged_eofs=True) as secure:
        assert b"" == read_to_end(secure)
    assert is_served(daemon, authority.client())


def test_client_certificates(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """With ca_certs nobody comes in without a certificate of that authority, and its request is not answered."""
    tls = {**authority.issue("one").settings, "ca_certs": str(authority.file)}
    daemon = make_daemon(HELLO, loop=loop, tls=tls).start()
    with connect_securely(daemon, authority.client(authority.issue("tom"))) as client:
        client.send("tom")
        assert "hello tom" == client.recv(10)
    assert not is_served(daemon, authority.client())
    eventually(lambda: "peer did not return a certificate" in daemon.log, "the refusal in the log")


# The files


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_a_key_that_only_root_may_read(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """Workers of another user have it all the same, the next ones after a death and a reload too."""
    pair = authority.issue("one")
    pair.keyfile.chmod(0o600)
    nobody = pwd.getpwnam("nobody").pw_name
    daemon = make_daemon(WHO, loop=loop, user=nobody, tls=pair.settings).start()
    assert "one" == certificate(daemon, authority)
    assert 0 == daemon.cli("reload").code
    eventually(lambda: len(daemon.workers) == 1, "the old worker's end")
    (before,) = daemon.workers
    os.kill(before, 9)
    daemon.wait_status(lambda status: [row["pid"] for row in status["workers"] if row["state"] == "ready"] != [before])
    assert "one" == eventually(lambda: certificate(daemon, authority), "the next worker")


def test_a_new_certificate(make_daemon: MakeDaemon, authority: Authority, loop: str) -> None:
    """After a reload new clients are shown the new one; those who were there go on until their worker leaves."""
    daemon = make_daemon(LEAVES_AT_THE_GATE, loop=loop, tls=authority.issue("one").settings).start()
    gate = Gate(daemon)
    with connect_securely(daemon, authority.client()) as client:
        gate.close()
        daemon.write_config(tls=authority.issue("two").settings)
        began = daemon.cli_begin("reload")
        eventually(lambda: certificate(daemon, authority) == "two", "the new certificate")
        client.send("on")
        assert str(client.recv(10)).endswith(" on")
        assert "one" == certificate_of(client)
        gate.open()
        with pytest.raises(ConnectionClosed):
            client.recv(10)
        assert 1012 == client.close_code
    assert 0 == finish(began).code
    assert "two" == certificate(daemon, authority)


def test_tls_is_switched_on_by_a_reload(make_daemon: MakeDaemon, authority: Authority) -> None:
    """Whoever comes after it speaks TLS, and the address is shown so; off again is the same."""
    daemon = make_daemon(HELLO).start()
    assert "hello tom" == daemon.echo("tom")
    daemon.write_config(tls=authority.issue("one").settings)
    assert 0 == daemon.cli("reload").code
    eventually(lambda: is_served(daemon, authority.client()), "TLS")
    daemon.wait_status(lambda status: status["listen"] == [f"wss://127.0.0.1:{daemon.port}"])
    daemon.write_config(tls={"certfile": None})
    assert 0 == daemon.cli("reload").code
    daemon.wait_status(lambda status: status["listen"] == [f"ws://127.0.0.1:{daemon.port}"])
    eventually(lambda: not is_served(daemon, authority.client()), "no TLS")
    assert "hello tom" == daemon.echo("tom")


def test_a_certificate_out_of_its_dates(make_daemon: MakeDaemon, authority: Authority) -> None:
    """It is served, as a reload for another reason must not fail by it; the log and `check` say what clients do."""
    pair = authority.issue("one")
    daemon = make_daemon(HELLO, tls=pair.settings).start()
    assert "clients will not take" not in daemon.log
    old = authority.expired("one")
    daemon.write_app(HELLO.replace("hello", "welcome"))
    assert 0 == daemon.cli("reload").code
    sentence = (
        f"clients will not take the certificate in {pair.certfile}: certificate has expired; replace it and reload"
    )
    line = next(line for line in daemon.log.splitlines() if sentence in line)
    assert f" config.yaml:{[*daemon.settings].index('tls') + 1}:" in line
    assert 1 == daemon.log.count(sentence)
    checked = daemon.cli("check")
    assert (0, True) == (checked.code, sentence in checked.out)
    with pytest.raises(ssl.SSLCertVerificationError):
        certificate(daemon, authority)
    careless = authority.client()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with connect_securely(daemon, careless) as client:
        client.send("tom")
        assert "welcome tom" == client.recv(10)
    assert old == pair
    authority.issue("one", timedelta(days=2))
    assert 0 == daemon.cli("reload").code
    daemon.wait_log("certificate is not yet valid")


def test_check_looks_at_the_files(make_daemon: MakeDaemon, authority: Authority) -> None:
    """What is right is a row; what is wrong is a sentence with its place: 78."""
    pair = authority.issue("one")
    daemon = make_daemon(HELLO, tls=pair.settings)
    checked = daemon.cli("check")
    assert 0 == checked.code
    assert ["tls", "ok", f"{pair.certfile},"] == next(
        line.split()[:3] for line in checked.out.splitlines() if line.startswith("tls")
    )
    other = authority.issue("two")
    daemon.write_config(tls={"certfile": str(pair.certfile), "keyfile": str(other.keyfile)})
    checked = daemon.cli("check")
    assert 78 == checked.code
    assert f": tls.keyfile: the key in {other.keyfile} does not belong to " in checked.out
    checked.check_tone()
