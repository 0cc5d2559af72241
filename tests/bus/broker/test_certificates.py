"""The files of TLS: who is trusted, what cannot be used, and readings that hang."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.bus.contract import until
from tests.worker.conftest import Run
from wsworker.brokers import BrokerUrl
from wsworker.bus.broker.certificates import Certificates
from wsworker.bus.broker.reasons import reason


async def read(url: BrokerUrl) -> ssl.SSLContext:
    """Return the context of a URL."""
    return await Certificates(asyncio.get_running_loop(), url).context(10)


def test_who_is_trusted(run: Run, tmp_path: Path) -> None:
    """The authority that is named and no other, else those of the machine; by TLS 1.2 or newer (RFC 8996)."""
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))

    async def main() -> None:
        for url in (BrokerUrl("tls", ()), BrokerUrl("tls", (), ca=str(file))):
            context = await read(url)
            assert (ssl.TLSVersion.TLSv1_2, True) == (context.minimum_version, context.check_hostname)
            assert ssl.CERT_REQUIRED == context.verify_mode
        assert 1 == len(context.get_ca_certs())

    run(main())


def test_files_that_cannot_be_used(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is a clause that names it; nobody is asked for a pass phrase at the terminal."""
    authority = trustme.CA()
    issued = authority.issue_cert("ann@example.com")
    ca, cert, empty, locked = (f"{tmp_path}/{name}.pem" for name in ("ca", "cert", "empty", "locked"))
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(cert)
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    phrase = BestAvailableEncryption(b"phrase")
    Path(locked).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, phrase))
    Path(empty).touch()

    async def main() -> None:
        for url, clause in (
            (BrokerUrl("tls", (), ca=empty), f"{empty} cannot be used as ca (TLS fails: no certificate or crl found)"),
            (BrokerUrl("tls", (), ca=ca, cert=cert, key=locked), f"{cert} cannot be used as cert; its key must have"),
            (BrokerUrl("tls", (), cert=cert, key="/nowhere.key"), "/nowhere.key: No such file or directory"),
        ):
            with pytest.raises(OSError, match=r"cannot be used|No such file") as caught:
                await read(url)
            assert reason(caught.value).startswith(clause)

    run(main())
    assert ("", "") == capfd.readouterr()


def test_one_reading_at_a_time(run: Run, tmp_path: Path) -> None:
    """Who gives up and comes again waits for the same one; the next one reads anew."""
    file = tmp_path / "ca.pem"
    # whoever opens it for reading waits until somebody writes (fifo(7))
    os.mkfifo(file)

    async def main() -> None:
        certificates = Certificates(asyncio.get_running_loop(), BrokerUrl("tls", (), ca=str(file)))
        for _ in range(3):
            with pytest.raises(OSError, match="cannot be read in time"):
                await certificates.context(0.01)
        # the thread of an earlier test may be about to end
        await until(lambda: [each.name for each in threading.enumerate()].count("wsworker-tls") == 1)
        waiting = asyncio.create_task(certificates.context(10))
        await asyncio.sleep(0)
        file.rename(tmp_path / "fifo")

        def ended() -> bool:
            # what it opens next is gone; it may not have come to the fifo at all
            with suppress(OSError):
                os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK))
            return waiting.done()

        await until(ended)
        with pytest.raises(OSError, match="No such file"):
            await waiting
        trustme.CA().cert_pem.write_to_path(str(file))
        assert 1 == len((await certificates.context(10)).get_ca_certs())

    run(main())
