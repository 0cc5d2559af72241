"""TLS contexts: what the settings make of them, what is wrong with a file, and what clients think of a certificate."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.certificates import HOST, Authority, name_of
from tests.master.forks import become_nobody, in_child, needs_root
from wsworker import tls
from wsworker.errors import TlsError
from wsworker.sections import TlsConfig


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that writes its certificates into tmp_path."""
    return Authority(tmp_path)


def server(**settings: Any) -> ssl.SSLContext:
    """Return the context that these settings make."""
    context = tls.context(TlsConfig(**settings))
    assert context is not None
    return context


def shake_hands(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return the client's and the server's end after a handshake in memory; raises what either of them finds wrong."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(to_client, to_server, server_hostname=HOST)
    serving = ours.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, serving):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return client, serving


# What the settings make


def test_without_a_certificate_there_is_no_tls() -> None:
    """Plain TCP is the absence of certfile."""
    assert tls.context(TlsConfig()) is None
    assert "" == tls.objection(TlsConfig())


def test_a_pair_of_files(authority: Authority) -> None:
    """The certificate is shown with its chain; the newest version and http/1.1 are agreed on."""
    theirs = authority.client()
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    client, _ = shake_hands(server(**authority.issue("one").settings), theirs)
    assert "one" == name_of(client.getpeercert())
    assert ("TLSv1.3", "http/1.1", None) == (client.version(), client.selected_alpn_protocol(), client.compression())


def test_both_in_one_file(authority: Authority) -> None:
    """Without keyfile the key stands in certfile, as haproxy has it."""
    pair = authority.issue("one")
    pair.certfile.write_bytes(pair.certfile.read_bytes() + pair.keyfile.read_bytes())
    client, _ = shake_hands(server(certfile=str(pair.certfile)), authority.client())
    assert "one" == name_of(client.getpeercert())


@pytest.mark.parametrize(("setting", "spoken"), [("1.2", True), ("1.3", False)])
def test_the_oldest_version(authority: Authority, setting: str, spoken: bool) -> None:
    """A client that speaks nothing newer than 1.2 is served only if that is allowed."""
    theirs = authority.client()
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    ours = server(**authority.issue("one").settings, min_version=setting)
    with contextlib.nullcontext() if spoken else pytest.raises(ssl.SSLError):
        client, _ = shake_hands(ours, theirs)
        assert "TLSv1.2" == client.version()


def test_tls_1_1_is_not_spoken(authority: Authority) -> None:
    """Also where the library could speak it, and a client that insists on it is refused."""
    ours = server(**authority.issue("one").settings)
    assert ours.minimum_version == ssl.TLSVersion.TLSv1_2
    theirs = authority.client()
    # RFC 8996; the client needs the weaker hash functions that go with it
    theirs.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        theirs.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        theirs.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError) as caught:
        shake_hands(ours, theirs)
    assert "UNSUPPORTED_PROTOCOL" == caught.value.reason


def test_what_is_never_spoken(authority: Authority) -> None:
    """Compression (CVE-2012-4929) and renegotiation by the client (CVE-2011-1473)."""
    options = server(**authority.issue("one").settings).options
    assert options & ssl.OP_NO_COMPRESSION
    assert options & ssl.OP_NO_RENEGOTIATION


def test_client_certificates(authority: Authority, tmp_path: Path) -> None:
    """With ca_certs a client has to show one of that authority: none, or that of another, ends the handshake."""
    ours = server(**authority.issue("one").settings, ca_certs=str(authority.file))
    _, serving = shake_hands(ours, authority.client(authority.issue("tom")))
    assert "tom" == name_of(serving.getpeercert())
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("eve")
    for theirs in (authority.client(), authority.client(stranger)):
        with pytest.raises(ssl.SSLError, match=r"PEER_DID_NOT_RETURN_A_CERTIFICATE|CERTIFICATE_VERIFY_FAILED"):
            shake_hands(ours, theirs)


# What may be wrong with a file


def failure(**settings: Any) -> TlsError:
    """Return what is found wrong."""
    with pytest.raises(TlsError) as caught:
        tls.context(TlsConfig(**settings))
    return caught.value


def no_file(path: Path) -> None:
    """Leave it away."""
    path.unlink()


def folder(path: Path) -> None:
    """Put a folder there."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """Put a pipe there, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def prose(path: Path) -> None:
    """Put text there."""
    path.write_text("Dear Sir or Madam,\n")


def garbage(path: Path) -> None:
    """Put something there that looks like PEM at first."""
    kind = path.read_text().splitlines()[0]
    path.write_text(f"{kind}\nAAAA\n{kind.replace('BEGIN', 'END')}\n")


@pytest.mark.parametrize("key", ["certfile", "keyfile", "ca_certs"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_file, "there is no file {}"),
        (folder, "{} is no regular file"),
        (pipe, "{} is no regular file"),
        (prose, "{} holds no "),
        (garbage, "{} holds no "),
    ],
)
def test_a_file_that_cannot_be_used(authority: Authority, key: str, spoil: Callable[[Path], None], reason: str) -> None:
    """The setting and the file that are at fault are named, whichever of the three it is."""
    settings = {**authority.issue("one").settings, "ca_certs": str(authority.file)}
    spoil(Path(settings[key]))
    error = failure(**settings)
    assert f"tls.{key}" == error.key
    assert error.reason.startswith(reason.format(settings[key]))


@needs_root
def test_a_file_that_may_not_be_read(authority: Authority, tmp_path: Path) -> None:
    """It is said that it is a matter of rights."""
    pair = authority.issue("one")
    pair.keyfile.chmod(0o600)
    for path in (tmp_path, *tmp_path.parents):
        # pytest keeps its folders to itself
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)

    def child() -> list[str]:
        become_nobody()
        error = failure(**pair.settings)
        return [error.key, error.reason]

    assert ["tls.keyfile", f"no permission to read {pair.keyfile}"] == in_child(child)


def test_a_path_that_is_none(authority: Authority) -> None:
    """What the system says of it is passed on."""
    pair = authority.issue("one")
    assert (
        "cannot be read (Not a directory)" in failure(certfile=f"{pair.certfile}/x", keyfile=str(pair.keyfile)).reason
    )


def test_no_key(authority: Authority) -> None:
    """A certificate without a key in its file, and no keyfile: the setting that is missing is named."""
    pair = authority.issue("one")
    error = failure(certfile=str(pair.certfile))
    assert f"tls.certfile: {pair.certfile} holds no private key in PEM form; set tls.keyfile" == str(error)


def test_a_key_of_another_certificate(authority: Authority) -> None:
    """Both files are named."""
    one, two = authority.issue("one"), authority.issue("two")
    error = failure(certfile=str(one.certfile), keyfile=str(two.keyfile))
    expected = f"the key in {two.keyfile} does not belong to the first certificate in {one.certfile}"
    assert ("tls.keyfile", expected) == (error.key, error.reason)


def test_an_encrypted_key(authority: Authority) -> None:
    """Nobody is asked for a pass phrase: it is an error."""
    pair = authority.issue("one")
    key = load_pem_private_key(pair.keyfile.read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret")
    pair.keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    error = failure(**pair.settings)
    assert ("tls.keyfile", True) == (error.key, "is encrypted" in error.reason)


def test_a_weak_key(tmp_path: Path) -> None:
    """What OpenSSL itself refuses is told in its words."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weak")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    file = tmp_path / "weak.pem"
    file.write_bytes(certificate + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert f"OpenSSL refuses {file} or its key (ee key too small)" == failure(certfile=str(file)).reason


# What clients think of it


def test_a_good_certificate(authority: Authority) -> None:
    """There is nothing to say, also if clients have to show one of their own."""
    pair = authority.issue("one")
    assert "" == tls.objection(TlsConfig(**pair.settings, ca_certs=str(authority.file)))


def test_dates(authority: Authority) -> None:
    """A certificate that has expired, or is for later, can be loaded, and it is said that nobody will take it."""
    later = authority.issue("later", timedelta(days=2))
    for pair, clause in [(authority.expired("old"), "has expired"), (later, "is not yet valid")]:
        server(**pair.settings)
        text = f"clients will not take the certificate in {pair.certfile}: certificate {clause}; replace it and reload"
        assert text == tls.objection(TlsConfig(**pair.settings))
