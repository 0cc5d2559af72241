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
        ("protocol", "always WebSocket: remove this key"),
        ("preload", "each worker imports the app itself, so that a reload brings new code: remove this key"),
        ("transport", "did you mean 'tls.certfile'?"),
        ("reuse-port", "always on: remove this key"),
        ("daemon", "use `wsworker start -d`"),
        ("log.level", "write it inside its section, `log: {level: ...}`"),
        ("log", "this section has 'log.level', 'log.format', 'log.file', 'log.access'"),
        ("log.zzz", "this section has 'log.level', 'log.format', 'log.file', 'log.access'"),
        ("http", "this section has 'http.health', 'http.static', 'http.allowed_hosts'"),
        ("admin", "this section has 'admin.listen', 'admin.min_ready'"),
        ("onMessage", "callbacks are functions in the app: remove this key"),
        ("on_close", "callbacks are functions in the app: remove this key"),
        ("websocket.onConnect", "callbacks are functions in the app: remove this key"),
        ("zzz", "remove it or correct its spelling"),
        ("zzz.zzz", "remove it or correct its spelling"),
    ],
)
def test_advice(key: str, expected: str) -> None:
    """There is always a next step."""
    assert expected == spelling.advice(key, tuple(KEYS))


# the words of the documentation, by what they lead to
DOCUMENTED = {
    "name": "proc_name",
    "app": "wsgi_app module factory",
    "app_dir": "chdir pythonpath",
    "listen": "bind host port uds",
    "workers": "count worker_processes concurrency",
    "worker_connections": "limit-concurrency",
    "backlog": "DEFAULT_BACKLOG",
    "worker_timeout": "timeout timeout-worker-healthcheck",
    "graceful_timeout": "stopTimeout timeout-graceful-shutdown worker_shutdown_timeout",
    "max_messages": "max_requests limit-max-requests",
    "pidfile": "pid pid_file pidFile",
    "control_socket": "statusFile",
    "forwarded_allow_ips": "set_real_ip_from",
    "loop": "asgi_loop eventLoopClass use",
    "websocket.max_size": "ws_max_size maxPackageSize defaultMaxPackageSize max_size",
    "websocket.send_buffer": "maxSendBufferSize send_buffer",
    "websocket.ping_interval": "ws-ping-interval ping_interval",
    "websocket.ping_timeout": "ws-ping-timeout ping_timeout",
    "websocket.open_timeout": "client_header_timeout open_timeout",
    "websocket.close_timeout": "close_timeout",
    "websocket.idle_timeout": "proxy_read_timeout idle_timeout",
    "websocket.compression": "ws-per-message-deflate compression",
    "websocket.subprotocols": "subprotocols",
    "websocket.origins": "origins",
    "tls.certfile": "ssl_certfile certfile ssl-certfile local_cert ssl_certificate",
    "tls.keyfile": "ssl_keyfile keyfile local_pk ssl_certificate_key",
    "tls.ca_certs": "ca_certs",
    "tls.min_version": "min_version",
    "log.level": "loglevel log_level log-level level",
    "log.file": "errorlog logfile logFile stdoutFile error_log file",
    "log.access": "accesslog access_log access-log access",
    "log.format": "format",
    "admin.listen": "metrics prometheus statsd_host stub_status",
    "http.health": "health",
    "http.static": "static",
    "bus.max_message": "max_message",
}


@pytest.mark.parametrize(("word", "key"), [(word, key) for key, words in DOCUMENTED.items() for word in words.split()])
def test_words_of_other_programs(word: str, key: str) -> None:
    """Each word that the documentation names, and each key without its section, leads to the right key."""
    assert f"did you mean {key!r}?" == spelling.advice(word, tuple(KEYS))


def test_no_word_means_two_things() -> None:
    """Programs that share a word mean the same key by it."""
    meanings: dict[str, set[str]] = {}
    for by_key in spelling.FOREIGN.values():
        for key, words in by_key.items():
            for word in words:
                meanings.setdefault(word.lower(), set()).add(key)
    assert {} == {word: keys for word, keys in meanings.items() if len(keys) > 1}


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("WSWORKER_PORT", "tcp://10.0.0.1:2346", True),
        ("WSWORKER_PORT", "2346", False),
        ("WSWORKER_SERVICE_HOST", "10.0.0.1", True),
        ("WSWORKER_SERVICE_PORT", "2346", True),
        ("WSWORKER_SERVICE_PORT_WS", "2346", True),
        ("WSWORKER_PORT_2346_TCP", "tcp://10.0.0.1:2346", True),
        ("WSWORKER_PORT_2346_TCP_ADDR", "10.0.0.1", True),
        ("WSWORKER_LISTEN", "tcp://10.0.0.1:2346", False),
    ],
)
def test_service_links(variable: str, value: str, expected: bool) -> None:
    """What Kubernetes sets for a Service called wsworker is told from what somebody wrote."""
    assert expected == spelling.is_service_link(variable, value)


def test_a_large_section() -> None:
    """Of many keys those are shown that look like the word, in the order of the documentation."""
    advice = spelling.advice("websocket.time", tuple(KEYS))
    assert advice.startswith("this section has 'websocket.write_timeout', 'websocket.ping_timeout', ")
    assert advice.endswith(" more; `wsworker schema` prints them all")


def test_advice_in_the_words_of_a_source() -> None:
    """A variable is told a variable's name."""
    assert spelling.advice("wrokers", tuple(KEYS), written=str.upper) == "did you mean WORKERS?"


def test_synonyms_lead_somewhere() -> None:
    """Each synonym leads to a key that exists, and is none itself."""
    assert set(spelling.SYNONYMS.values()) <= set(KEYS)
    assert not (set(spelling.SYNONYMS) | set(spelling.NOT_KEYS)) & set(KEYS)
