"""The models: defaults, what each field takes, and which changes a reload can apply."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsworker import config
from wsworker.config import KEYS, Config, ListenAddress, ProxiedAddress
from wsworker.judging import Mistake, validate
from wsworker.sections import AdminConfig, LogConfig, WebSocketConfig

FOLDER = "/srv/hello"


def valid(**values: object) -> Config:
    """Return the Config of these keys, sections with two underscores, and app: hello."""
    judged = validate({"app": "hello"} | {key.replace("__", "."): value for key, value in values.items()}, FOLDER)
    assert isinstance(judged, Config)
    return judged


def mistakes(**values: object) -> list[Mistake]:
    """Return what is wrong with these keys beside app: hello."""
    judged = validate({"app": "hello"} | {key.replace("__", "."): value for key, value in values.items()}, FOLDER)
    assert isinstance(judged, list)
    return judged


def test_defaults() -> None:
    """Only app has to be given; every other setting has the default of the documentation."""
    expected = {
        "name": "",
        "app": "hello",
        "app_dir": "/srv/hello",
        "listen": (ListenAddress("127.0.0.1", 2346),),
        "workers": 1,
        "worker_connections": 10000,
        "backlog": 2048,
        "boot_timeout": 60.0,
        "worker_timeout": 30.0,
        "graceful_timeout": 30.0,
        "drain_window": 10.0,
        "reload_strategy": "handover",
        "handover_timeout": 5.0,
        "max_messages": 0,
        "max_worker_age": 0.0,
        "max_worker_rss": 0,
        "user": None,
        "group": None,
        "umask": 0o027,
        "pidfile": None,
        "control_socket": "auto",
        "control_socket_mode": 0o600,
        "forwarded_allow_ips": ("127.0.0.1", "::1"),
        "forwarded_header": "x-forwarded-for",
        "proxy_protocol": "none",
        "loop": "auto",
        "websocket.max_size": 1024**2,
        "websocket.send_buffer": 1024**2,
        "websocket.slow_consumer": "drop_newest",
        "websocket.write_timeout": 30.0,
        "websocket.ping_interval": 20.0,
        "websocket.ping_timeout": 20.0,
        "websocket.open_timeout": 5.0,
        "websocket.close_timeout": 10.0,
        "websocket.idle_timeout": 0.0,
        "websocket.auth_timeout": 0.0,
        "websocket.message_timeout": 60.0,
        "websocket.rate_messages": 0,
        "websocket.rate_bytes": 0,
        "websocket.rate_control": 1000,
        "websocket.rate_handshakes": 0,
        "websocket.max_handshakes": 512,
        "websocket.max_per_address": 0,
        "websocket.max_per_user": 0,
        "websocket.max_topics": 128,
        "websocket.compression": "none",
        "websocket.subprotocols": (),
        "websocket.origins": "same-origin",
        "tls.certfile": None,
        "tls.keyfile": None,
        "tls.ca_certs": None,
        "tls.min_version": "1.2",
        "http.health": None,
        "http.static": None,
        "http.allowed_hosts": (),
        "log.level": "info",
        "log.format": "auto",
        "log.file": "-",
        "log.access": False,
        "admin.listen": None,
        "admin.min_ready": 1,
        "bus.url": None,
        "bus.prefix": "wsworker:",
        "bus.max_message": 1024**2,
        "bus.peer_queue": 8 * 1024**2,
    }
    loaded = valid()
    assert expected == {key: config.value_of(loaded, key) for key in KEYS}


def test_defaults_pass_their_own_checks() -> None:
    """Giving each default explicitly changes nothing."""
    loaded = valid()
    given = {key.replace(".", "__"): config.value_of(loaded, key) for key in KEYS if key != "name"}
    assert loaded == valid(**given)


def test_every_key_is_described() -> None:
    """Each key has one sentence, words for what it takes, and says whether a reload applies it."""
    for key, field in KEYS.items():
        assert field.description
        assert field.description.endswith("."), key
        assert ". " not in field.description, key
        assert config.takes(key).words, key
        assert isinstance(config.applies_on_reload(key), bool)


def test_sections() -> None:
    """Six subjects have a section, and each is described."""
    assert config.SECTIONS == ("websocket", "tls", "http", "log", "admin", "bus")
    for section in config.SECTIONS:
        assert Config.model_fields[section].description


def test_values_are_normalised() -> None:
    """Times become seconds, sizes bytes, a mode a number, lists tuples, paths absolute."""
    loaded = valid(
        app_dir="../app",
        listen=["0.0.0.0:80", "unix:ws.sock"],
        workers="auto",
        boot_timeout="250ms",
        drain_window=0,
        max_messages=1_000_000,
        max_worker_age="24h",
        max_worker_rss="512MiB",
        user="www",
        umask="0o077",
        pidfile="run/x.pid",
        control_socket="x.sock",
        forwarded_allow_ips=["10.0.0.0/255.0.0.0", "0::1", "unix"],
        forwarded_header="Forwarded",
        proxy_protocol=["0.0.0.0:80=v1", "unix:ws.sock=v2"],
        websocket__max_size="64KiB",
        websocket__rate_bytes="64KiB",
        websocket__auth_timeout="1m",
        websocket__subprotocols=["b", "a"],
        websocket__origins=["HTTPS://Example.org:443"],
        tls__certfile="cert.pem",
        tls__keyfile="key.pem",
        http__static="public",
        http__allowed_hosts=["Example.org"],
        log__file="logs/x.log",
    )
    assert loaded.app_dir == "/srv/app"
    assert loaded.listen == (ListenAddress("0.0.0.0", 80), ListenAddress("", 0, "/srv/hello/ws.sock"))
    assert loaded.workers == "auto"
    assert loaded.boot_timeout == 0.25
    assert loaded.drain_window == 0.0
    assert isinstance(loaded.drain_window, float)
    assert loaded.max_messages == 1_000_000
    assert loaded.max_worker_age == 86400.0
    assert loaded.max_worker_rss == 512 * 1024**2
    assert loaded.user == "www"
    assert loaded.umask == 0o077
    assert loaded.pidfile == "/srv/hello/run/x.pid"
    assert loaded.control_socket == "/srv/hello/x.sock"
    assert loaded.forwarded_allow_ips == ("10.0.0.0/8", "::1", "unix")
    assert loaded.forwarded_header == "forwarded"
    assert loaded.proxy_protocol == (
        ProxiedAddress(ListenAddress("0.0.0.0", 80), "v1"),
        ProxiedAddress(ListenAddress("", 0, "/srv/hello/ws.sock"), "v2"),
    )
    assert loaded.websocket.max_size == 65536
    assert loaded.websocket.rate_bytes == 65536
    assert loaded.websocket.auth_timeout == 60.0
    assert loaded.websocket.subprotocols == ("b", "a")
    assert loaded.websocket.origins == ("https://example.org",)
    assert (loaded.tls.certfile, loaded.tls.keyfile) == ("/srv/hello/cert.pem", "/srv/hello/key.pem")
    assert loaded.http.static == "/srv/hello/public"
    assert loaded.http.allowed_hosts == ("example.org",)
    assert loaded.log.file == "/srv/hello/logs/x.log"


def test_one_address_needs_no_list() -> None:
    """A single address may stand alone."""
    assert valid(listen="[::]:80").listen == (ListenAddress("::", 80),)


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("max_messages", 0, 0),
        ("max_messages", 1, 1),
        ("max_messages", 10**15, 10**15),
        ("max_worker_age", 0, 0.0),
        ("max_worker_age", "8760h", 365 * 86400.0),
        ("max_worker_rss", 0, 0),
        ("max_worker_rss", "32MiB", 32 * 1024**2),
        ("max_worker_rss", "1024GiB", 1024**4),
    ],
)
def test_limits_of_a_worker(key: str, value: object, taken: float) -> None:
    """Each is off at 0 and else within bounds that a worker can live in."""
    assert taken == config.value_of(valid(**{key: value}), key)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("none", "none"),
        ("v1", "v1"),
        ("v2", "v2"),
        ([], ()),
        ("127.0.0.1:2346=v2", (ProxiedAddress(ListenAddress("127.0.0.1", 2346), "v2"),)),
    ],
)
def test_proxy_protocol(written: object, taken: object) -> None:
    """One word is for all of `listen`; else each address that is named has its version."""
    assert taken == valid(proxy_protocol=written).proxy_protocol


def test_proxied_addresses_are_listened_on() -> None:
    """An address that is not in `listen` is told at its place, and one that is there twice is told once."""
    wrong = mistakes(proxy_protocol=["127.0.0.1:2346=v1", "127.0.0.1:2347=v2", "127.0.0.1:2346"])
    names = "proxy_protocol names 127.0.0.1:2347, which is not in `listen`; remove it, or correct the address"
    assert Mistake("proxy_protocol", 1, names) == wrong[0]
    assert wrong[1].item == 2
    assert wrong[1].message.endswith("not '127.0.0.1:2346'; write an address of `listen`, = and v1 or v2")
    twice = mistakes(proxy_protocol=["127.0.0.1:2346=v1", "127.0.0.1:2346=v2"])
    assert [Mistake("proxy_protocol", None, "proxy_protocol holds 127.0.0.1:2346 twice; remove one")] == twice


def test_a_refused_listen_is_told_alone() -> None:
    """While `listen` is wrong, nothing is said about the addresses that are not in it."""
    assert ["listen"] == [mistake.key for mistake in mistakes(listen="x", proxy_protocol="127.0.0.1:2346=v1")]


def test_one_proxy_needs_no_list() -> None:
    """A single proxy, or a word, may stand alone."""
    assert valid(forwarded_allow_ips="*").forwarded_allow_ips == ("*",)
    assert valid(forwarded_allow_ips=[]).forwarded_allow_ips == ()


@pytest.mark.parametrize("origins", ["*", "same-origin", ()])
def test_origins(origins: object) -> None:
    """Origins are one of two words or a list, which may be empty."""
    assert origins == valid(websocket__origins=origins).websocket.origins


def test_a_null_name_is_no_name() -> None:
    """The name may be left to the folder in two ways."""
    assert valid(name=None).name == ""
    assert valid(name="").name == ""


REFUSED: dict[str, list[object]] = {
    "app": [None, 5, "a b"],
    "name": [5, ".x", "a/b"],
    "app_dir": ["", None, 5],
    "listen": [None, 5, "x", [], ["127.0.0.1:80", "127.0.0.1:80"], {"a": 1}],
    "workers": [0, 257, 1.5, True, "4", "Auto", None, [1]],
    "worker_connections": [0, 1_000_001, "10", True],
    "backlog": [0, 65536, None],
    "boot_timeout": [0, -1, "0s", 86401, "x", True, None, float("inf")],
    "worker_timeout": [0, 1.9, "25h"],
    "graceful_timeout": [0],
    "drain_window": [-1, "25h"],
    "reload_strategy": ["move", "", None, True, ["drain"]],
    "handover_timeout": [0, -1, None],
    "max_messages": [-1, 10**15 + 1, 1.5, "1m", True, None],
    "max_worker_age": [-1, "8761h", "7d", True, None],
    "max_worker_rss": [-1, 1, 512, "31MiB", 32 * 1024**2 - 1, "1025GiB", "512MB", 1e9, True, None],
    "user": [0, True, ["x"]],
    "group": [0],
    "umask": [0, 0o1000, "27", "0", None, True],
    "pidfile": ["", 5],
    "control_socket": ["", None, "/" + "x" * 107],
    "forwarded_allow_ips": [None, 5, "proxy", ["10.0.0.1/8"], ["::1", "0::1"], {"a": 1}],
    "forwarded_header": ["x-real-ip", "", None, 5, True],
    "proxy_protocol": ["v3", "V1", "", None, True, 1, ["v1"], ["127.0.0.1:80=v1"], {"a": 1}],
    "loop": ["", None, "Auto", True],
    "websocket.max_size": [0, -1, "1MB", 1024**3 + 1, 1.5, None],
    "websocket.send_buffer": [0],
    "websocket.ping_interval": [-1],
    "websocket.ping_timeout": [0],
    "websocket.open_timeout": [0],
    "websocket.close_timeout": [0],
    "websocket.slow_consumer": ["drop", None, True],
    "websocket.write_timeout": [0],
    "websocket.idle_timeout": [-1],
    "websocket.auth_timeout": [-1],
    "websocket.message_timeout": [-1],
    "websocket.rate_messages": [-1, 10**6 + 1, "5"],
    "websocket.rate_bytes": [-1, "1MB"],
    "websocket.rate_control": [-1],
    "websocket.rate_handshakes": [-1],
    "websocket.max_handshakes": [0],
    "websocket.max_per_address": [-1],
    "websocket.max_per_user": [-1],
    "websocket.max_topics": [-1, 10**6 + 1, None],
    "websocket.compression": ["gzip", True, None],
    "websocket.subprotocols": ["chat", ["a b"], [5], ["a", "a"]],
    "websocket.origins": ["x", None, True, "null", [None], [5]],
    "tls.certfile": ["", 5],
    "tls.keyfile": ["", "key.pem"],
    "tls.ca_certs": ["", "ca.pem"],
    "tls.min_version": ["1.1", 1.2, None],
    "http.health": ["", "healthz", "/x?y"],
    "http.static": ["", 5],
    "http.allowed_hosts": ["*", ["https://example.org"], ["a", "A"], None],
    "log.level": ["INFO", None, 10],
    "log.file": ["", None],
    "control_socket_mode": ["0644", "0777", "600", 0o644, "rw", None, True],
    "log.format": ["JSON", "text", None, True],
    "log.access": ["-", "true", 1, None],
    "admin.listen": ["", "9464", "localhost:9464", 9464, True, ["127.0.0.1:9464"]],
    "admin.min_ready": [0, 257, "1", 1.5, None, True],
    "bus.url": [
        "",
        "localhost",
        "http://h",
        "redis://",
        "redis://h:0",
        "redis:// h",
        "nats://a,",
        "tls://h?ca=x",
        5,
        True,
    ],
    "bus.prefix": [
        "",
        "chat",
        "a b:",
        ":",
        "a::",
        "é:",
        "a.b:",
        "x" * 64 + ":",
        "topic:",
        "a:user:",
        5,
        None,
    ],
    "bus.max_message": [0, "1MB", 1024**3 + 1, None],
    "bus.peer_queue": [0, "8MB", None],
}
"""Values that each key refuses, as YAML has them."""

TAKEN: dict[str, list[object]] = {
    "name": [None, "", "a", "_x.y-z", "x" * 64],
    "app": ["hello", "chat.rooms", "chat:app", "chat.rooms:make.it"],
    "app_dir": [".", "../app", "/srv"],
    "listen": ["127.0.0.1:1", "[::1]:65535", "unix:x.sock", ["0.0.0.0:80", "[::]:80"]],
    "workers": [1, 256, "auto"],
    "worker_connections": [1, 10**6],
    "backlog": [1, 65535],
    "boot_timeout": [1, 0.5, 86400, "250ms", "30s", "30 s", "1.5H", "5m", "30"],
    "worker_timeout": [4, "4s", "24h"],
    "drain_window": [0, "0", "0s"],
    "reload_strategy": ["handover", "drain"],
    "handover_timeout": [0.5, "5s", "24h"],
    "max_messages": [0, 10**15],
    "max_worker_age": [0, "8760h"],
    "max_worker_rss": [0, 32 * 1024**2, "32MiB", "1g", "1024GiB"],
    "user": [None, "www"],
    "group": [None, "www"],
    "umask": ["0027", "027", "0o27", "0777", 0o27],
    "pidfile": [None, "x.pid"],
    "control_socket": ["auto", "x.sock", "/run/x.sock"],
    "control_socket_mode": ["0600", "0660", "0o660", 0o600],
    "forwarded_allow_ips": ["*", "unix", "::1", [], ["10.0.0.0/8", "fd00::/8"], ["fe80::1%eth0"], "fe80::%eth0/64"],
    "forwarded_header": ["x-forwarded-for", "X-Forwarded-For", "x-FORWARDED-for", "Forwarded", "ForWarded"],
    "proxy_protocol": ["none", "v1", "v2", [], "127.0.0.1:2346=v2", ["127.0.0.1:2346=v1"]],
    "loop": ["auto", "uvloop", "asyncio"],
    "websocket.max_size": [1, 1024**3, "1", "64k", "64KiB", "64 KIB", "1GiB"],
    "websocket.slow_consumer": ["drop_newest", "drop_oldest", "disconnect"],
    "websocket.rate_bytes": [0, "64KiB"],
    "websocket.compression": ["none", "deflate"],
    "websocket.subprotocols": [[], ["chat.v2", "chat.v1"]],
    "websocket.origins": ["*", "same-origin", [], ["https://a.example:8443", "null", "chrome-extension://abc"]],
    "tls.certfile": [None, "x.pem"],
    "tls.min_version": ["1.2", "1.3"],
    "http.health": [None, "/", "/healthz"],
    "http.static": [None, "public"],
    "http.allowed_hosts": ["localhost", [], ["Example.org:80", "[::1]"]],
    "log.level": ["debug", "info", "warning", "error"],
    "log.format": ["auto", "console", "journal", "json"],
    "log.file": ["-", "x.log", "/var/log/x.log"],
    "log.access": [True, False],
    "admin.listen": [None, "127.0.0.1:9464", "[::1]:9464", "unix:admin.sock"],
    "admin.min_ready": [1, 256],
    "bus.url": [None, "redis://h", "valkeys://:p%40ss@[::1]:1/2", "unix:///x?db=1", "nats://t@a,b:1", "tls://a?ca=/x"],
    "bus.prefix": ["a:", "prod:chat-2_x:", "topics:", "x" * 63 + ":"],
    "bus.max_message": [1, "1MiB"],
    "bus.peer_queue": ["8MiB"],
}
"""Values that each key takes, as YAML has them."""


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in TAKEN.items() for value in values])
def test_taken(key: str, value: object) -> None:
    """Each of these values is taken."""
    assert isinstance(validate({"app": "hello", key: as_read(value)}, FOLDER), Config)


def as_read(value: object) -> object:
    """Return a value as the YAML reader hands it on."""
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("key", REFUSED)
def test_refused(key: str) -> None:
    """Each of these values is refused once, in a sentence that begins with the key."""
    for value in REFUSED[key]:
        (mistake,) = mistakes(**{key: value})
        assert key == mistake.key
        assert mistake.message.startswith(mistake.key)


def test_the_table_is_complete() -> None:
    """Each key has values that it refuses."""
    assert set(KEYS) == set(REFUSED)


def test_operators_have_an_address_of_their_own() -> None:
    """admin.listen is none of `listen`, whichever way it is written; while `listen` is wrong nothing is said of it."""
    sentence = "admin.listen is 127.0.0.1:80, which is in `listen` already; choose another port"
    assert [Mistake("admin.listen", None, sentence)] == mistakes(listen="127.0.0.1:80", admin__listen="127.0.0.1:80")
    (mistake,) = mistakes(listen=["[0::1]:80", "unix:x"], admin__listen="[::1]:80")
    assert "admin.listen" == mistake.key
    assert ["listen"] == [mistake.key for mistake in mistakes(listen="x", admin__listen="127.0.0.1:80")]
    with pytest.raises(ValidationError, match="choose another port"):
        Config(app="hello", admin=AdminConfig(listen=ListenAddress("127.0.0.1", 2346)))


def test_in_code() -> None:
    """Config(...) in code keeps relative paths, and is strict, closed and frozen."""
    made = Config(app="hello", app_dir="x", log=LogConfig(file="y"), websocket=WebSocketConfig(max_size=5))
    assert (made.app_dir, made.log.file, made.websocket.max_size) == ("x", "y", 5)
    with pytest.raises(ValidationError, match="frozen"):
        made.workers = 2
    with pytest.raises(ValidationError, match="Extra"):
        Config.model_validate({"app": "hello", "wrokers": 2})


RESTART_KEYS = (
    "name",
    "listen",
    "backlog",
    "user",
    "group",
    "umask",
    "pidfile",
    "control_socket",
    "control_socket_mode",
    "admin.listen",
)


def test_restart_keys() -> None:
    """These keys need a restart."""
    assert RESTART_KEYS == tuple(key for key in KEYS if not config.applies_on_reload(key))


def test_carry_over() -> None:
    """A reload keeps what needs a restart and takes all else, the number of workers and the log too."""
    old = valid(name="a", umask="0022", workers=1, websocket__max_size=1)
    new = valid(name="b", umask="0077", workers=2, websocket__max_size=2, backlog=5, log__level="debug", max_messages=9)
    assert config.restart_needed(old, new) == ("name", "backlog", "umask")
    carried = config.carry_over(old, new)
    assert (carried.name, carried.umask, carried.backlog) == ("a", 0o022, 2048)
    assert (carried.workers, carried.websocket.max_size, carried.log.level, carried.max_messages) == (2, 2, "debug", 9)
    assert config.restart_needed(old, carried) == ()


def test_carry_over_within_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys of a section need a restart, those are kept and their neighbours are taken."""
    for key in ("websocket.max_size", "websocket.send_buffer"):
        extra = KEYS[key].json_schema_extra
        assert isinstance(extra, dict)
        monkeypatch.setitem(extra, "reload", False)
    old = valid(websocket__max_size=1, websocket__send_buffer=2, websocket__ping_interval=3)
    carried = config.carry_over(old, valid(websocket__max_size=4, websocket__send_buffer=5, websocket__ping_interval=6))
    assert (1, 2, 6.0) == (
        carried.websocket.max_size,
        carried.websocket.send_buffer,
        carried.websocket.ping_interval,
    )


def test_nothing_to_carry_over() -> None:
    """Without such a change the new Config stays as it is."""
    old, new = valid(app="one"), valid(app="two")
    assert config.restart_needed(old, new) == ()
    assert new == config.carry_over(old, new)


def test_proxy_protocol_waits_for_listen() -> None:
    """A new proxy_protocol is applied by a reload, unless listen has changed as well: it speaks of its addresses."""
    old, new = valid(), valid(proxy_protocol="v2")
    assert config.restart_needed(old, new) == ()
    moved = valid(listen="127.0.0.1:2347", proxy_protocol=["127.0.0.1:2347=v2"])
    assert config.restart_needed(old, moved) == ("listen", "proxy_protocol")
    assert "none" == config.carry_over(old, moved).proxy_protocol
