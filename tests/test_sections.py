"""Sections: what each of their fields takes, by itself and as far as it depends on its neighbours."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsworker.brokers import BrokerUrl, Server
from wsworker.kinds import Section
from wsworker.sections import AdminConfig, BusConfig, HttpConfig, LogConfig, TlsConfig, WebSocketConfig
from wsworker.values import ListenAddress, Sentence

CONTEXT = {"folder": "/srv/hello"}


def made(section: type[Section], key: str, value: object) -> object:
    """Return what this section of a config file makes of one key."""
    return getattr(section.model_validate({key: value}, context=CONTEXT), key)


def refusals(section: type[Section], **keys: object) -> list[tuple[str, str]]:
    """Return each key that is refused, with the whole sentence if it has one."""
    with pytest.raises(ValidationError) as caught:
        section.model_validate(keys, context=CONTEXT)
    found = []
    for error in caught.value.errors():
        reason = error.get("ctx", {}).get("error")
        found.append((str(error["loc"][0]), str(reason) if isinstance(reason, Sentence) else ""))
    return found


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        (WebSocketConfig, "max_size", "64KiB", 65536),
        (WebSocketConfig, "send_buffer", "1GiB", 1024**3),
        (WebSocketConfig, "slow_consumer", "drop_oldest", "drop_oldest"),
        (WebSocketConfig, "slow_consumer", "disconnect", "disconnect"),
        (WebSocketConfig, "write_timeout", "250ms", 0.25),
        (WebSocketConfig, "ping_interval", 0, 0.0),
        (WebSocketConfig, "ping_timeout", 5, 5.0),
        (WebSocketConfig, "open_timeout", 5, 5.0),
        (WebSocketConfig, "close_timeout", 5, 5.0),
        (WebSocketConfig, "idle_timeout", "1h", 3600.0),
        (WebSocketConfig, "auth_timeout", "10s", 10.0),
        (WebSocketConfig, "message_timeout", 0, 0.0),
        (WebSocketConfig, "rate_messages", 100, 100),
        (WebSocketConfig, "rate_bytes", "1MiB", 1024**2),
        (WebSocketConfig, "rate_control", 0, 0),
        (WebSocketConfig, "rate_handshakes", 10**6, 10**6),
        (WebSocketConfig, "max_handshakes", 1, 1),
        (WebSocketConfig, "max_handshakes", 10**6, 10**6),
        (WebSocketConfig, "max_per_address", 20, 20),
        (WebSocketConfig, "max_per_user", 5, 5),
        (WebSocketConfig, "max_topics", 0, 0),
        (WebSocketConfig, "compression", "deflate", "deflate"),
        (WebSocketConfig, "subprotocols", ["chat.v2", "chat.v1"], ("chat.v2", "chat.v1")),
        (WebSocketConfig, "origins", "*", "*"),
        (WebSocketConfig, "origins", ["HTTPS://Example.org:443"], ("https://example.org",)),
        (TlsConfig, "certfile", "cert.pem", "/srv/hello/cert.pem"),
        (TlsConfig, "keyfile", None, None),
        (TlsConfig, "ca_certs", None, None),
        (TlsConfig, "min_version", "1.3", "1.3"),
        (HttpConfig, "health", "/healthz", "/healthz"),
        (HttpConfig, "health", None, None),
        (HttpConfig, "static", "../public", "/srv/public"),
        (HttpConfig, "allowed_hosts", ["Example.org", "[::1]:8080"], ("example.org", "[::1]:8080")),
        (HttpConfig, "allowed_hosts", "example.org", ("example.org",)),
        (HttpConfig, "allowed_hosts", [], ()),
        (LogConfig, "level", "debug", "debug"),
        (LogConfig, "file", "-", "-"),
        (LogConfig, "file", "x.log", "/srv/hello/x.log"),
        (LogConfig, "format", "json", "json"),
        (LogConfig, "access", True, True),
        (AdminConfig, "listen", "127.0.0.1:9464", ListenAddress("127.0.0.1", 9464)),
        (AdminConfig, "listen", "unix:x", ListenAddress("", 0, "/srv/hello/x")),
        (AdminConfig, "listen", None, None),
        (AdminConfig, "min_ready", 256, 256),
        (BusConfig, "url", "nats://a:1", BrokerUrl("nats", (Server("a", 1),))),
        (BusConfig, "url", None, None),
        (BusConfig, "prefix", "prod:chat:", "prod:chat:"),
        (BusConfig, "max_message", "1GiB", 1024**3),
        (BusConfig, "peer_queue", 1, 1),
    ],
)
def test_taken(section: type[Section], key: str, value: object, expected: object) -> None:
    """A value is normalised: seconds, bytes, tuples, absolute paths, hosts and origins in lower case."""
    assert expected == made(section, key, value)


@pytest.mark.parametrize(
    ("section", "key", "values"),
    [
        (WebSocketConfig, "max_size", [0, "1MB", None]),
        (WebSocketConfig, "send_buffer", [0, -1]),
        (WebSocketConfig, "slow_consumer", ["drop", "Disconnect", True, None]),
        (WebSocketConfig, "write_timeout", [0, "25h", None]),
        (WebSocketConfig, "ping_interval", [-1]),
        (WebSocketConfig, "ping_timeout", [0]),
        (WebSocketConfig, "open_timeout", [0]),
        (WebSocketConfig, "close_timeout", [0]),
        (WebSocketConfig, "idle_timeout", [-1, "5d", None]),
        (WebSocketConfig, "auth_timeout", [-1, "never", None]),
        (WebSocketConfig, "message_timeout", [-1, None]),
        (WebSocketConfig, "rate_messages", [-1, 10**6 + 1, "1m", None]),
        (WebSocketConfig, "rate_bytes", [-1, "1MB", "2GiB", None]),
        (WebSocketConfig, "rate_control", [-1, 0.5, None]),
        (WebSocketConfig, "rate_handshakes", [-1, "10/s", None]),
        (WebSocketConfig, "max_handshakes", [0, 10**6 + 1, None]),
        (WebSocketConfig, "max_per_address", [-1, 10**6 + 1, None]),
        (WebSocketConfig, "max_per_user", [-1, "none", None]),
        (WebSocketConfig, "max_topics", [-1, "none", None]),
        (WebSocketConfig, "compression", ["gzip", "permessage-deflate", True, None]),
        (WebSocketConfig, "subprotocols", ["chat", ["a b"], ["a", "a"], None]),
        (WebSocketConfig, "origins", ["example.org", ["null "], None]),
        (TlsConfig, "certfile", ["", 5, ["x"]]),
        (TlsConfig, "min_version", ["1.1", "1", 1.2, "TLSv1.2", None]),
        (HttpConfig, "health", ["healthz", "", "/x?y", True, 5]),
        (HttpConfig, "static", ["", 5]),
        (HttpConfig, "allowed_hosts", ["*", [""], ["https://example.org"], ["a", "A"], 5, None]),
        (LogConfig, "level", ["INFO", None]),
        (LogConfig, "file", ["", None]),
        (LogConfig, "format", ["JSON", "text", None]),
        (LogConfig, "access", ["-", "yes", "access.log", 1, None]),
        (AdminConfig, "listen", ["9464", "localhost:9464", 9464]),
        (AdminConfig, "min_ready", [0, 257, "1", None]),
        (BusConfig, "url", ["localhost", "redis://h:0", 6379, True, ["redis://h"]]),
        (BusConfig, "prefix", ["chat", "a b:", "topic:", 5, None]),
        (BusConfig, "max_message", [0, "1MB", "2GiB", None]),
        (BusConfig, "peer_queue", [0, None]),
    ],
)
def test_refused(section: type[Section], key: str, values: list[object]) -> None:
    """Each of these values is refused."""
    for value in values:
        assert {key} == {refused for refused, _ in refusals(section, **{key: value})}


@pytest.mark.parametrize(
    ("value", "told"), [("-", True), ("/var/log/x", True), ("x.log", True), ("yes", False), ("", False)]
)
def test_the_access_log_is_no_file(value: str, told: bool) -> None:
    """Who writes a path, or the "-" of gunicorn, learns where the lines go."""
    with pytest.raises(ValidationError) as caught:
        LogConfig.model_validate({"access": value}, context=CONTEXT)
    assert told == ("its lines go into the log, see log.file" in str(caught.value))


@pytest.mark.parametrize("key", ["keyfile", "ca_certs"])
def test_tls_needs_a_certificate(key: str) -> None:
    """A key or authorities without a certificate would leave plain TCP where TLS was meant: they are refused."""
    sentence = "has no effect without tls.certfile; set that as well, or remove this key"
    assert [(key, sentence)] == refusals(TlsConfig, **{key: "x.pem"})
    assert [(key, sentence)] == refusals(TlsConfig, **{key: "x.pem", "certfile": None})
    assert made(TlsConfig, key, None) is None
    whole = TlsConfig.model_validate({key: "x.pem", "certfile": "c.pem"}, context=CONTEXT)
    assert getattr(whole, key) == "/srv/hello/x.pem"


def test_one_refusal_for_a_wrong_certificate() -> None:
    """Where certfile is refused itself, its neighbours are not told that it is missing."""
    assert [("certfile", "")] == refusals(TlsConfig, certfile="", keyfile="key.pem", ca_certs="ca.pem")


def test_in_code() -> None:
    """Without a file paths stay as they are, and the defaults need nothing."""
    tls = TlsConfig(certfile="cert.pem", keyfile="key.pem")
    assert ("cert.pem", "key.pem", None, "1.2") == (tls.certfile, tls.keyfile, tls.ca_certs, tls.min_version)
    assert HttpConfig() == HttpConfig(health=None, static=None, allowed_hosts=())


def test_a_password_is_never_shown() -> None:
    """Not by what prints a section, nor as JSON, nor by pydantic's own error, which code lets through."""
    bus = BusConfig.model_validate({"url": "redis://:secret@h"})
    assert bus.url is not None
    assert "secret" == bus.url.password
    assert "secret" not in f"{bus} {bus!r} {bus.model_dump()} {bus.model_dump_json()}"
    assert '"redis://h:6379"' in bus.model_dump_json()
    with pytest.raises(ValidationError) as caught:
        BusConfig.model_validate({"url": "redis://:secret@h:0"})
    assert "secret" not in f"{caught.value} {caught.value!r}"
