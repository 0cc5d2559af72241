"""Certificates of an authority that nobody but the test trusts, as PEM files, and clients that trust it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import trustme

HOST = "127.0.0.1"


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
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def name_of(peer_certificate: Any) -> str:
    """Return the common name in what getpeercert() gives."""
    return str(dict(part for parts in peer_certificate["subject"] for part in parts)["commonName"])
