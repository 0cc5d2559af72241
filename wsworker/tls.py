"""TLS: from the files that the settings name to the context in which a worker speaks.

Whatever is wrong with a file is told in one sentence before anything serves: it ends a start, and at a reload the old
workers go on. There is no falling back to plain text. The master looks at the files first, because it knows the line of
the setting. Each worker loads them again between its fork and the change of its user, as a key is often readable by
root alone; so a worker that comes later has what is on disk by then, as it has the app.

A certificate outside its dates is no error but a warning. nginx serves it too, and rightly: it may have run out while
the service ran, and a reload that brings a remedy for something else must not fail by it.

OpenSSL asks at the terminal for the pass phrase of a key, and waits for ever for the writer of a pipe. Neither may
happen to a daemon: an encrypted key is an error, and so is what is no regular file.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
from collections.abc import Mapping
from typing import Final, NoReturn

from wsworker.errors import TlsError
from wsworker.sections import TlsConfig

_VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

ALPN: Final = ("http/1.1",)
"""RFC 6455 begins with HTTP/1.1; RFC 7301 section 6 has the name."""

_FLIGHTS: Final = 3
"""So often both sides of a handshake in memory have their turn until the client knows the certificate."""


class _Encrypted(Exception):
    """The key has a pass phrase."""


def context(tls: TlsConfig) -> ssl.SSLContext | None:
    """Return the context for the connections of a worker; None without tls.certfile.

    Certificate and key are matched. Raises TlsError. Source: protocol settings of RFC 9325 sections 3.1 to 3.4.
    """
    if tls.certfile is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[tls.min_version]
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(list(ALPN))
    _need_file("tls.certfile", tls.certfile)
    _authorities("tls.certfile", tls.certfile, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    _load_pair(made, tls.certfile, tls.keyfile)
    if tls.ca_certs is not None:
        _need_file("tls.ca_certs", tls.ca_certs)
        _authorities("tls.ca_certs", tls.ca_certs, made)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def objection(tls: TlsConfig) -> str:
    """Return a sentence if no client would take the certificate, such as one that has expired, or "".

    You must call context before. Only dates and purpose are judged: names and authorities are the clients' business.
    A client that trusts this very file is shown the certificate, in memory, as ssl gives nobody the dates of a file.
    """
    if tls.certfile is None:
        return ""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(server, tls.certfile, tls.keyfile)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cafile=tls.certfile)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(_FLIGHTS):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        file = tls.certfile
        return f"clients will not take the certificate in {file}: {error.verify_message}; replace it and reload"
    return ""


def _need_file(key: str, path: str) -> None:
    """Raise TlsError unless this is a file that can be read."""
    try:
        # a pipe must not keep us waiting for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TlsError(key, f"there is no file {path}", "create it, or correct the path") from None
    except PermissionError:
        cure = "change its rights, or start as a user who may"
        raise TlsError(key, f"no permission to read {path}", cure) from None
    except OSError as error:
        raise TlsError(key, f"{path} cannot be read ({error.strerror})", "correct the path") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TlsError(key, f"{path} is no regular file", "name a PEM file")
    finally:
        os.close(descriptor)


def _authorities(key: str, path: str, into: ssl.SSLContext) -> None:
    """Load certificates; also of certfile, into a context that is thrown away, as this tells them from the key."""
    try:
        into.load_verify_locations(cafile=path)
    except OSError as error:
        raise TlsError(key, f"{path} holds no certificate in PEM form ({_said(error)})", "name one that does") from None


def _load_pair(into: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    key, path = ("tls.keyfile", keyfile) if keyfile is not None else ("tls.certfile", certfile)
    _need_file(key, path)
    try:
        into.load_cert_chain(certfile, keyfile, password=_refuse)
    except _Encrypted:
        cure = "take the pass phrase off (openssl pkey -in OLD -out NEW) and protect the file by its rights"
        raise TlsError(key, f"the key in {path} is encrypted, and a daemon has nobody to ask", cure) from None
    except OSError as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {path} does not belong to the first certificate in {certfile}"
            raise TlsError(key, text, "name the two that belong together, the server's certificate first") from None
        if reason is None:
            # the certificate has been read before, so this is about the key
            cure = "name one that does" if keyfile is not None else "set tls.keyfile"
            raise TlsError(key, f"{path} holds no private key in PEM form", cure) from None
        raise TlsError(key, f"OpenSSL refuses {certfile} or its key ({_said(error)})", "replace them") from None


def _refuse() -> NoReturn:
    raise _Encrypted


def _said(error: OSError) -> str:
    """Return OpenSSL's own words for an error: those of its constants, such as "ee key too small"."""
    reason = getattr(error, "reason", None) or error.strerror or "unknown"
    return str(reason).replace("_", " ").lower()
