"""examples/wss."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import trustme
from websockets.sync.client import connect

from tests.certificates import client_context
from tests.examples.conftest import MakeExample
from tests.examples.example import Example
from tests.system.daemon import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def say_tom(example: Example, host: str, trust: ssl.SSLContext) -> str:
    """Return what is answered to "tom" over TLS."""
    with connect(f"wss://{host}:{example.port}/", ssl=trust, proxy=None, open_timeout=10) as client:
        client.send("tom")
        return str(client.recv(10))


def give_certificate(example: Example) -> trustme.CA:
    """Put a certificate where config.yaml expects it; return the authority that has issued it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    (example.folder / "certificate.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(example.folder / "key.pem")
    return authority


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's context that trusts an authority."""
    trust = client_context()
    authority.configure_trust(trust)
    return trust


def test_a_certificate(make_example: MakeExample) -> None:
    """Who trusts the certificate is served, by the old one and after a reload by the new one; the others are not."""
    example = make_example("wss")
    trust = trusting(give_certificate(example))
    example.start()
    assert "hello tom, over TLS" == say_tom(example, "127.0.0.1", trust)
    with pytest.raises(ssl.SSLCertVerificationError):
        say_tom(example, "127.0.0.1", client_context())

    renewed = trusting(give_certificate(example))
    assert 0 == example.cli("reload").code
    # a worker that leaves may still take a client for a moment
    eventually(lambda: _is_served(example, renewed), "the renewed certificate")


def _is_served(example: Example, trust: ssl.SSLContext) -> bool:
    try:
        return say_tom(example, "127.0.0.1", trust) == "hello tom, over TLS"
    except ssl.SSLCertVerificationError:
        return False


def test_without_a_certificate(make_example: MakeExample) -> None:
    """Before make-certificate.sh was run, the start fails with a sentence that names the missing file."""
    failed = make_example("wss").cli("start")
    assert 78 == failed.code
    assert "certificate.pem" in failed.err
    failed.check_tone()


def test_the_script(make_example: MakeExample, require: Callable[[str], str]) -> None:
    """make-certificate.sh makes a key that only its owner can read, and a certificate for localhost and 127.0.0.1."""
    require("openssl")
    example = make_example("wss")
    subprocess.run([example.folder / "make-certificate.sh"], check=True, capture_output=True)
    assert 0o600 == (example.folder / "key.pem").stat().st_mode & 0o777
    example.start()
    trust = client_context(example.folder / "certificate.pem")
    for host in ("localhost", "127.0.0.1"):
        assert "hello tom, over TLS" == say_tom(example, host, trust)


def test_the_page(make_example: MakeExample, browser: Browser) -> None:
    """A page that came by https speaks wss."""
    example = make_example("wss")
    give_certificate(example)
    example.start()
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        page.goto(f"https://localhost:{example.port}/")
        page.wait_for_function("document.getElementById('state').textContent === 'open'")
        page.click("button")
        page.wait_for_function("document.getElementById('log').textContent === 'hello tom, over TLS\\n'")
