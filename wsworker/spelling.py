"""What somebody meant who wrote a key that does not exist: a key of another program, of another level, or a typo.

SYNONYMS holds what gunicorn, uvicorn, Workerman, nginx and plain habit call our keys; NOT_KEYS what is no setting here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from typing import Final

_SYNONYMS_BY_KEY: Final = {
    "name": ("proc_name",),
    "app": ("wsgi_app", "module", "factory"),
    "app_dir": ("chdir", "pythonpath"),
    "listen": ("bind", "host", "port", "uds"),
    "workers": ("count", "worker_processes", "concurrency"),
    "worker_connections": ("limit_concurrency",),
    "worker_timeout": ("timeout", "timeout_worker_healthcheck"),
    "graceful_timeout": ("stopTimeout", "timeout_graceful_shutdown", "worker_shutdown_timeout"),
    "max_messages": ("max_requests", "limit_max_requests"),
    "pidfile": ("pid", "pid_file"),
    "forwarded_allow_ips": ("set_real_ip_from", "proxy_allow_ips", "proxy_headers", "trusted_proxies"),
    "forwarded_header": ("real_ip_header",),
    "loop": ("asgi_loop", "eventLoopClass"),
    "websocket.max_size": ("ws_max_size", "maxPackageSize", "defaultMaxPackageSize", "client_max_body_size"),
    "websocket.send_buffer": ("maxSendBufferSize", "defaultMaxSendBufferSize"),
    "websocket.write_timeout": ("send_timeout", "proxy_send_timeout"),
    "websocket.ping_interval": ("ws_ping_interval", "heartbeat"),
    "websocket.ping_timeout": ("ws_ping_timeout",),
    "websocket.open_timeout": ("client_header_timeout", "handshake_timeout"),
    "websocket.idle_timeout": ("proxy_read_timeout", "keepalive_timeout", "timeout_keep_alive"),
    "websocket.rate_messages": ("rate_limit",),
    "websocket.rate_handshakes": ("limit_req",),
    "websocket.max_per_address": ("limit_conn",),
    "websocket.compression": ("ws_per_message_deflate", "per_message_deflate", "permessage_deflate", "deflate", "gzip"),
    "websocket.origins": ("allowed_origins", "allow_origins"),
    "tls.certfile": ("ssl", "ssl_certfile", "ssl_certificate", "local_cert"),
    "tls.keyfile": ("ssl_keyfile", "ssl_certificate_key", "local_pk"),
    "tls.ca_certs": ("ssl_ca_certs", "ssl_client_certificate"),
    "tls.min_version": ("ssl_version", "ssl_protocols"),
    "http.health": ("healthcheck", "healthz"),
    "http.static": ("root", "document_root"),
    "http.allowed_hosts": ("server_name", "trusted_hosts"),
    "log.level": ("loglevel", "log_level"),
    "log.file": ("errorlog", "logfile", "stdoutFile"),
}
# looked up without regard to case: variables have lost theirs
SYNONYMS: Final = {word.lower(): key for key, words in _SYNONYMS_BY_KEY.items() for word in words}
NOT_KEYS: Final = {
    "reuse_port": "always on: remove this key",
    "reuseport": "always on: remove this key",
    "daemon": "use `wsworker start -d`",
    "daemonize": "use `wsworker start -d`",
}


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
    if own := [written(existing) for existing in keys if existing.startswith(f"{key}.")]:
        return f"this section has {', '.join(own)}"
    if target := meant(key, keys):
        return f"did you mean {written(target)}?"
    siblings = [written(existing) for existing in keys if dot and existing.startswith(f"{section}.")]
    return f"this section has {', '.join(siblings)}" if siblings else "remove it or correct its spelling"


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


def _plain(key: str) -> str:
    """Return the key as ours look: flags of other programs have hyphens, Workerman's properties capitals."""
    return key.lower().replace("-", "_")
