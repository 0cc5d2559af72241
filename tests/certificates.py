"""Certificates of an authority that nobody but the test trusts, as PEM files, and clients that trust it."""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import trustme

HOST = "127.0.0.1"

T = TypeVar("T")


class Socket(ssl.SSLSocket):
    """An SSLSocket of which one thread may read while another one writes.

    websockets.sync does that, OpenSSL does not allow it at the same time (openssl-threads(7)), and CPython lets it
    happen up to 3.13 at least: about one client in 1,500 then loses the answer to its request, whatever the server.
    Here each of them gets its turn, and nobody waits for the network with the turn in hand.
    """

    _turn: threading.Lock

    def __new__(cls, *args: Any, **options: Any) -> Socket:  # SSLContext.wrap_socket() never calls __init__
        """Return a socket whose turn is free."""
        new: Socket = super().__new__(cls, *args, **options)
        new._turn = threading.Lock()
        return new

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read, in turn."""
        return self._in_turn(lambda: super(Socket, self).recv(buflen, flags))

    def send(self, data: Any, flags: int = 0) -> int:
        """Write, in turn; sendall() uses this one."""
        return self._in_turn(lambda: super(Socket, self).send(data, flags))

    def _in_turn(self, act: Callable[[], T]) -> T:
        while True:
            with self._turn:
                patience = self.gettimeout()
                self.settimeout(0)
                try:
                    return act()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
                finally:
                    self.settimeout(patience)
            ready = select.poll()
            ready.register(self, event)
            if not ready.poll(None if patience is None else patience * 1000):
                raise TimeoutError(f"nothing came within {patience} s")


def client_context(cafile: Path | None = None) -> ssl.SSLContext:
    """Return the context of a client; cafile: whom it trusts, None for those whom the system trusts."""
    context = ssl.create_default_context(cafile=cafile)
    context.sslsocket_class = Socket
    return context


class Pair(NamedTuple):
    """The files of one certificate."""

    certfile: Path
    keyfile: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The two keys of the section tls."""
        return {"certfile": str(self.certfile), "keyfile": str(self.keyfile)}


class Authority:
    """Issues certificates for 127.0.0.1, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, begins_in: timedelta = timedelta(days=-2), days: int = 365) -> Pair:
        """Write NAME.crt, with the chain, and NAME.key; begins_in: from when on it is valid, and then for some days."""
        begin = datetime.now(UTC) + begins_in
        issued = self._ca.issue_cert(HOST, common_name=name, not_before=begin, not_after=begin + timedelta(days))
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certfile.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.keyfile)
        return pair

    def expired(self, name: str) -> Pair:
        """Write a certificate that was valid until yesterday."""
        return self.issue(name, timedelta(days=-10), days=9)

    def client(self, certificate: Pair | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority; certificate: what it shows when asked."""
        context = client_context(self.file)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def name_of(peer_certificate: Any) -> str:
    """Return the common name in what getpeercert() gives."""
    return str(dict(part for parts in peer_certificate["subject"] for part in parts)["commonName"])
