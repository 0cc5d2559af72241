"""Spelling: which key was meant."""

from __future__ import annotations

import pytest

from wsworker import spelling
from wsworker.config import KEYS


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("wrokers", "workers"),
        ("Workers", "workers"),
        ("gracefulTimeout", "graceful_timeout"),
        ("websocket.maxsize", "websocket.max_size"),
        ("max_size", "websocket.max_size"),
        ("websocket.workers", "workers"),
        ("websocket_max_size", "websocket.max_size"),
        ("stopTimeout", "graceful_timeout"),
        ("stoptimeout", "graceful_timeout"),
        ("log.logfile", "log.file"),
        ("certfile", "tls.certfile"),
        ("keyfile", "tls.keyfile"),
        ("ca_certs", "tls.ca_certs"),
        ("ssl_certfile", "tls.certfile"),
        ("ssl-keyfile", "tls.keyfile"),
        ("tls.ssl_certificate", "tls.certfile"),
        ("tls_min_version", "tls.min_version"),
        ("ssl_ca_certs", "tls.ca_certs"),
        ("forwarded-allow-ips", "forwarded_allow_ips"),
        ("set_real_ip_from", "forwarded_allow_ips"),
        ("real_ip_header", "forwarded_header"),
        ("limit-concurrency", "worker_connections"),
        ("limit_max_requests", "max_messages"),
        ("timeout_graceful_shutdown", "graceful_timeout"),
        ("eventLoopClass", "loop"),
        ("ws_per_message_deflate", "websocket.compression"),
        ("websocket.permessage-deflate", "websocket.compression"),
        ("ws-ping-interval", "websocket.ping_interval"),
        ("proxy_read_timeout", "websocket.idle_timeout"),
        ("proxy_send_timeout", "websocket.write_timeout"),
        ("client_header_timeout", "websocket.open_timeout"),
        ("limit_conn", "websocket.max_per_address"),
        ("server_name", "http.allowed_hosts"),
        ("http.root", "http.static"),
        ("zzz", None),
        ("zzz.level", "log.level"),
        ("", None),
        (".", None),
    ],
)
def test_meant(key: str, expected: str | None) -> None:
    """A name from elsewhere comes first, then the right word on another level, then a typo on the same level."""
    assert expected == spelling.meant(key, tuple(KEYS))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("wrokers", "did you mean 'workers'?"),
        ("reusePort", "always on: remove this key"),
        ("reuse-port", "always on: remove this key"),
        ("daemon", "use `wsworker start -d`"),
        ("log.level", "write it inside its section, `log: {level: ...}`"),
        ("log", "this section has 'log.level', 'log.file'"),
        ("log.zzz", "this section has 'log.level', 'log.file'"),
        ("http", "this section has 'http.health', 'http.static', 'http.allowed_hosts'"),
        ("zzz", "remove it or correct its spelling"),
        ("zzz.zzz", "remove it or correct its spelling"),
    ],
)
def test_advice(key: str, expected: str) -> None:
    """There is always a next step."""
    assert expected == spelling.advice(key, tuple(KEYS))


def test_advice_in_the_words_of_a_source() -> None:
    """A variable is told a variable's name."""
    assert spelling.advice("wrokers", tuple(KEYS), written=str.upper) == "did you mean WORKERS?"


def test_synonyms_lead_somewhere() -> None:
    """Each synonym leads to a key that exists, and is none itself."""
    assert set(spelling.SYNONYMS.values()) <= set(KEYS)
    assert not (set(spelling.SYNONYMS) | set(spelling.NOT_KEYS)) & set(KEYS)
