"""Servers that no test harms, and what tests of TLS need."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import trustme

from tests.bus.redis.servers import Valkey, cluster, valkey


class Tls(NamedTuple):
    """An authority, another one, and the file of a certificate with its key that the first has issued."""

    authority: trustme.CA
    ca: str
    other_ca: str
    own: str

    def context(self, *names: str) -> ssl.SSLContext:
        """Return a context for a server of these names."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(made)
        self.authority.configure_trust(made)
        return made


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """What TLS needs."""
    folder = tmp_path_factory.mktemp("tls")
    made = Tls(trustme.CA(), *(str(folder / f"{name}.pem") for name in ("ca", "other", "own")))
    made.authority.cert_pem.write_to_path(made.ca)
    trustme.CA().cert_pem.write_to_path(made.other_ca)
    made.authority.issue_cert("worker.invalid").private_key_and_cert_chain_pem.write_to_path(made.own)
    return made


@pytest.fixture(scope="package")
def server() -> Iterator[Valkey]:
    """A server."""
    with valkey() as made:
        yield made


@pytest.fixture(scope="package")
def servers() -> Iterator[list[Valkey]]:
    """A cluster."""
    with cluster() as made:
        yield made
