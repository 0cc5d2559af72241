"""What somebody meant who wrote a key that does not exist: a key of another program, of another level, or a typo.

SYNONYMS holds what gunicorn, uvicorn, Workerman, nginx and plain habit call our keys; NOT_KEYS what is no setting here
and what to do instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

MOST_SHOWN: Final = 6

FOREIGN: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "gunicorn": {
        "name": ("proc_name",),
        "app": ("wsgi_app",),
        "app_dir": ("chdir", "pythonpath"),
        "listen": ("bind",),
        "workers": ("workers",),
        "worker_connections": ("worker_connections",),
        "backlog": ("backlog",),
        "worker_timeout": ("timeout",),
        "graceful_timeout": ("graceful_timeout",),
        "max_messages": ("max_requests",),
        "user": ("user",),
        "group": ("group",),
        "umask": ("umask",),
        "pidfile": ("pidfile",),
        "control_socket": ("control_socket",),
        "control_socket_mode": ("control_socket_mode",),
        "forwarded_allow_ips": ("forwarded_allow_ips", "proxy_allow_ips"),
        "forwarded_header": ("forwarder_headers",),
        "proxy_protocol": ("proxy_protocol",),
        "loop": ("asgi_loop",),
        "websocket.idle_timeout": ("keepalive",),
        "tls.certfile": ("certfile",),
        "tls.keyfile": ("keyfile",),
        "tls.ca_certs": ("ca_certs",),
        "tls.min_version": ("ssl_version",),
        "log.level": ("loglevel",),
        "log.format": ("access_log_format",),
        "log.file": ("errorlog",),
        "log.access": ("accesslog",),
        "admin.listen": ("statsd_host",),
    },
    "uvicorn": {
        "app": ("factory",),
        "app_dir": ("app_dir",),
        "listen": ("host", "port", "uds", "fd"),
        "workers": ("workers",),
        "worker_connections": ("limit_concurrency",),
        "backlog": ("backlog",),
        "worker_timeout": ("timeout_worker_healthcheck",),
        "graceful_timeout": ("timeout_graceful_shutdown",),
        "max_messages": ("limit_max_requests",),
        "forwarded_allow_ips": ("forwarded_allow_ips", "proxy_headers"),
        "loop": ("loop",),
        "websocket.max_size": ("ws_max_size",),
        "websocket.ping_interval": ("ws_ping_interval",),
        "websocket.ping_timeout": ("ws_ping_timeout",),
        "websocket.idle_timeout": ("timeout_keep_alive",),
        "websocket.compression": ("ws_per_message_deflate",),
        "tls.certfile": ("ssl_certfile",),
        "tls.keyfile": ("ssl_keyfile",),
        "tls.ca_certs": ("ssl_ca_certs",),
        "tls.min_version": ("ssl_version",),
        "log.level": ("log_level",),
        "log.access": ("access_log",),
    },
    "Workerman": {
        "name": ("name",),
        "workers": ("count",),
        "backlog": ("DEFAULT_BACKLOG",),
        "graceful_timeout": ("stopTimeout",),
        "user": ("user",),
        "group": ("group",),
        "pidfile": ("pidFile",),
        "control_socket": ("statusFile",),
        "loop": ("eventLoopClass",),
        "websocket.max_size": ("maxPackageSize", "defaultMaxPackageSize"),
        "websocket.send_buffer": ("maxSendBufferSize", "defaultMaxSendBufferSize"),
        "tls.certfile": ("local_cert", "transport"),
        "tls.keyfile": ("local_pk",),
        "log.file": ("logFile", "stdoutFile"),
        "bus.url": ("registerAddress",),
    },
    "nginx": {
        "listen": ("listen",),
        "workers": ("worker_processes",),
        "worker_connections": ("worker_connections",),
        "backlog": ("backlog",),
        "graceful_timeout": ("worker_shutdown_timeout",),
        "user": ("user",),
        "pidfile": ("pid",),
        "forwarded_allow_ips": ("set_real_ip_from",),
        "forwarded_header": ("real_ip_header",),
        "proxy_protocol": ("proxy_protocol",),
        "loop": ("use",),
        "websocket.max_size": ("client_max_body_size",),
        "websocket.write_timeout": ("send_timeout", "proxy_send_timeout"),
        "websocket.open_timeout": ("client_header_timeout",),
        "websocket.idle_timeout": ("proxy_read_timeout", "keepalive_timeout"),
        "websocket.rate_handshakes": ("limit_req",),
        "websocket.max_per_address": ("limit_conn",),
        "websocket.compression": ("gzip",),
        "tls.certfile": ("ssl_certificate",),
        "tls.keyfile": ("ssl_certificate_key",),
        "tls.ca_certs": ("ssl_client_certificate",),
        "tls.min_version": ("ssl_protocols",),
        "http.static": ("root",),
        "http.allowed_hosts": ("server_name",),
        "log.format": ("log_format",),
        "log.file": ("error_log",),
        "log.access": ("access_log",),
        "admin.listen": ("stub_status",),
    },
}
"""What our keys are called in other programs, by program; the reference prints it."""

_HABITS: Final = {
    "app": ("module",),
    "listen": ("http",),
    "workers": ("concurrency",),
    "pidfile": ("pid_file",),
    "forwarded_allow_ips": ("trusted_proxies",),
    "websocket.ping_interval": ("heartbeat",),
    "websocket.open_timeout": ("handshake_timeout",),
    "websocket.rate_messages": ("rate_limit",),
    "websocket.compression": ("per_message_deflate", "permessage_deflate", "deflate"),
    "websocket.origins": ("allowed_origins", "allow_origins"),
    "tls.certfile": ("ssl",),
    "http.health": ("healthcheck", "healthz"),
    "http.static": ("document_root",),
    "http.allowed_hosts": ("trusted_hosts",),
    "log.format": ("logformat",),
    "admin.listen": ("metrics", "prometheus"),
    "bus.url": ("broker", "broker_url", "redis", "redis_url", "valkey", "valkey_url", "nats", "nats_url"),
    "bus.prefix": ("channel_prefix",),
}
# looked up without regard to case: variables have lost theirs. A word that is ours as well is found at its own place.
SYNONYMS: Final = {
    word.lower(): key
    for words_by_key in (*FOREIGN.values(), _HABITS)
    for key, words in words_by_key.items()
    for word in words
    if word.lower() != key.rpartition(".")[2]
}
NOT_KEYS: Final = {
    "reuse_port": "always on: remove this key",
    "reuseport": "always on: remove this key",
    "daemon": "use `wsworker start -d`",
    "daemonize": "use `wsworker start -d`",
    "reload": "use `wsworker start --reload`",
    "protocol": "always WebSocket: remove this key",
    "preload": "each worker imports the app itself, so that a reload brings new code: remove this key",
    "preload_app": "each worker imports the app itself, so that a reload brings new code: remove this key",
    "worker_class": "there is one kind of worker: remove this key, and see `loop`",
    "threads": "callbacks run in the event loop, see asyncio.to_thread: remove this key, and see `workers`",
    "max_requests_jitter": "up to 10 % are added to max_messages at random: remove this key",
    "limit_max_requests_jitter": "up to 10 % are added to max_messages at random: remove this key",
    "worker_rlimit_nofile": "use `ulimit -n`, or LimitNOFILE= in the unit",
}
_CALLBACK = re.compile("on(_|[A-Z])")  # on_message, and onMessage of Workerman
# the variables of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(
    r"WSWORKER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)"
)


def advice(key: str, keys: Collection[str], written: Callable[[str], str] = repr) -> str:
    """Return the next step for an unknown key, as a clause.

    key: with its section and a dot, if it has one, or such a dotted word where sections and no dots are written;
    keys: those that exist; written: how a key looks in this source.
    """
    section, dot, word = _plain(key).rpartition(".")
    if key in keys:
        return f"write it inside its section, `{section}: {{{word}: ...}}`"
    if word in NOT_KEYS:
        return NOT_KEYS[word]
    if _CALLBACK.match(key.rpartition(".")[2]):
        return "callbacks are functions in the app: remove this key"
    if own := [existing for existing in keys if existing.startswith(f"{key}.")]:
        return _inventory(own, word, written)
    if target := meant(key, keys):
        return f"did you mean {written(target)}?"
    siblings = [existing for existing in keys if dot and existing.startswith(f"{section}.")]
    return _inventory(siblings, word, written) if siblings else "remove it or correct its spelling"


def _inventory(keys: Sequence[str], word: str, written: Callable[[str], str]) -> str:
    """Say which keys a section has; of a large one those that look most like the word."""
    shown = keys
    if len(keys) > MOST_SHOWN:
        near = difflib.get_close_matches(word, [key.rpartition(".")[2] for key in keys], n=MOST_SHOWN - 1, cutoff=0.0)
        shown = [key for key in keys if key.rpartition(".")[2] in near]
    more = f" and {len(keys) - len(shown)} more; `wsworker schema` prints them all" if len(shown) < len(keys) else ""
    return f"this section has {', '.join(map(written, shown))}{more}"


def meant(key: str, keys: Collection[str]) -> str | None:
    """Return the key that was most probably meant, or None."""
    section, dot, word = key.rpartition(".")
    word = _plain(word)
    if word in SYNONYMS:
        return SYNONYMS[word]
    # a right word on the wrong level, or with a wrong sign between section and word
    for existing in keys:
        if word in (existing.rpartition(".")[2], existing.replace(".", "_")):
            return existing
    here = {existing.removeprefix(section + dot) for existing in keys if existing.rpartition(".")[0] == section}
    close = difflib.get_close_matches(word, sorted(here), n=1)
    return section + dot + close[0] if close else None


def is_service_link(variable: str, value: str) -> bool:
    """Say whether Kubernetes made this variable, for a Service called wsworker: WSWORKER_PORT=tcp://10.0.0.1:80."""
    return _SERVICE_LINK.fullmatch(variable) is not None and (variable != "WSWORKER_PORT" or "://" in value)


def _plain(key: str) -> str:
    """Return the key as ours look: flags of other programs have hyphens, Workerman's properties capitals."""
    return key.lower().replace("-", "_")
