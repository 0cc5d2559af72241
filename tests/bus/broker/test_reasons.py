"""Why a broker cannot be reached: one clause for each error, with nothing in it that is for programmers."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from wsworker.bus.broker.reasons import reason

JOINED = (
    "Multiple exceptions: [Errno 101] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call failed ('a', 1)"
)


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 4222)"), "Connection refused"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/ca.pem"), "/ca.pem: No such file or directory"),
        (OSError("no name server answers"), "no name server answers"),
        (OSError(), "OSError"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "no answer came in time"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "no answer came in time"),
        (UnicodeError("encoding with 'idna' codec failed"), "its name is no host name"),
        (ssl.SSLError(), "TLS fails: no reason is given"),
    ],
    ids=repr,
)
def test_clauses(error: Exception, clause: str) -> None:
    """They are the system's own words, without numbers and addresses."""
    assert clause == reason(error)


def test_tls() -> None:
    """The words of OpenSSL for people, and what is wrong with a certificate."""
    mine, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    mine.write(b"hello, this is no TLS")
    with pytest.raises(ssl.SSLError) as raised:
        ssl.create_default_context().wrap_bio(mine, theirs, server_hostname="a").do_handshake()
    assert "TLS fails: wrong version number" == reason(raised.value)
    unknown = ssl.SSLCertVerificationError(1, "certificate verify failed")
    unknown.verify_message = "self-signed certificate"
    assert "its certificate is not valid: self-signed certificate" == reason(unknown)
