"""Cautions: what is told at a start, and what `check` alone tells."""

from __future__ import annotations

from typing import Literal

import pytest

from wsworker.cautions import advice, of_root, warnings
from wsworker.config import KEYS, Config, ListenAddress
from wsworker.sections import AdminConfig, BusConfig, HttpConfig, WebSocketConfig


def test_the_defaults_are_no_mistake() -> None:
    """A first try on one's own machine starts without a warning; `check` tells of DNS rebinding."""
    assert {} == warnings(Config(app="app"))
    assert ["http.allowed_hosts"] == list(advice(Config(app="app")))


def test_every_origin() -> None:
    """Who lets every page connect is told so at each start, with what that means and what to do."""
    config = Config(app="app", websocket=WebSocketConfig(origins="*"))
    (sentence,) = warnings(config).values()
    assert sentence.startswith('websocket.origins is "*": ')
    assert sentence.endswith("; list the origins that may")


@pytest.mark.parametrize(
    ("listen", "told"),
    [
        ((ListenAddress("127.0.0.1", 80),), True),
        ((ListenAddress("192.0.2.1", 80), ListenAddress("::1", 80)), True),
        ((ListenAddress("0.0.0.0", 80), ListenAddress("::", 80)), False),
        ((ListenAddress("", 0, "/run/hello.ws"),), False),
    ],
)
def test_rebinding_concerns_loopback(listen: tuple[ListenAddress, ...], told: bool) -> None:
    """Only a service on loopback is out of reach for pages but by rebinding."""
    assert told == ("http.allowed_hosts" in advice(Config(app="app", listen=listen)))


def test_rebinding_needs_hosts_and_origins() -> None:
    """A list of hosts keeps such a page out, and so does a list of origins."""
    assert {} == advice(Config(app="app", http=HttpConfig(allowed_hosts=("localhost",))))
    assert {} == advice(Config(app="app", websocket=WebSocketConfig(origins=("https://example.org",))))
    assert {} != advice(Config(app="app", websocket=WebSocketConfig(origins="*")))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (ListenAddress("127.0.0.1", 9464), False),
        (ListenAddress("10.1.2.3", 9464), False),
        (ListenAddress("fd00::1", 9464), False),
        (ListenAddress("", 0, "/run/admin.sock"), False),
        (ListenAddress("0.0.0.0", 9464), True),
        (ListenAddress("::", 9464), True),
        (ListenAddress("8.8.8.8", 9464), True),
    ],
)
def test_operators_are_among_themselves(address: ListenAddress, told: bool) -> None:
    """Whoever reaches the address of operators is one."""
    assert told == ("admin.listen" in advice(Config(app="app", admin=AdminConfig(listen=address))))


@pytest.mark.parametrize(
    ("mode", "user", "group", "told"),
    [
        (0o660, "www", None, True),
        (0o660, None, "www", True),
        (0o600, "www", "www", False),
        (0o660, None, None, False),
    ],
)
def test_workers_that_may_command(mode: Literal[0o600, 0o660], user: str | None, group: str | None, told: bool) -> None:
    """The group that may give commands is that of the workers; without `user` and `group` workers may do so anyway."""
    config = Config(app="app", user=user, group=group, control_socket_mode=mode)
    assert told == ("control_socket_mode" in advice(config))


def test_keys_are_keys() -> None:
    """Each sentence stands under the key whose place in the file is to be shown, and begins with it."""
    config = Config(app="app", user="www", control_socket_mode=0o660, websocket=WebSocketConfig(origins="*"))
    found = warnings(config) | advice(config)
    assert set(found) <= set(KEYS)
    assert all(sentence.startswith(f"{key} is ") for key, sentence in found.items())


@pytest.mark.parametrize(
    ("listen", "trusted", "told"),
    [
        (ListenAddress("0.0.0.0", 80), ("127.0.0.1", "::1"), True),
        (ListenAddress("0.0.0.0", 80), ("10.0.0.1",), False),
        (ListenAddress("127.0.0.1", 80), ("127.0.0.1",), False),
        (ListenAddress("127.0.0.1", 80), (), True),
    ],
)
def test_a_proxy_protocol_for_nobody(listen: ListenAddress, trusted: tuple[str, ...], told: bool) -> None:
    """Only trusted proxies may connect then, so there have to be some beyond this machine, or the listener is in it."""
    config = Config(app="app", listen=(listen,), proxy_protocol="v2", forwarded_allow_ips=trusted)
    assert told == ("proxy_protocol" in advice(config))


def test_root() -> None:
    """Workers are root where root starts them and no user is set."""
    assert "workers run as root; set `user` in my.yaml" == of_root(Config(app="app"), 0, "my.yaml")
    assert of_root(Config(app="app"), 1000, "my.yaml") is None
    assert of_root(Config(app="app", user="nobody"), 0, "my.yaml") is None


CLEAR, OPEN = "in the clear", "no password"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://127.0.0.1", []),
        ("redis://[::1]", []),
        ("redis://localhost", []),
        ("unix:///run/x.sock", []),
        ("redis://:p@10.0.0.5", []),
        ("redis://:p@100.64.0.1", []),
        ("redis://:p@[fe80::1]", []),
        ("redis://:p@cache", []),
        ("redis://:p@cache.default.svc.cluster.local.", []),
        ("nats://token@10.0.0.5,192.168.0.1", []),
        ("rediss://:p@8.8.8.8", []),
        ("rediss://8.8.8.8?cert=/c", []),
        ("redis://10.0.0.5", [OPEN]),
        ("redis://ada:@10.0.0.5", [OPEN]),
        ("rediss://cache", [OPEN]),
        ("nats://127.0.0.1,10.0.0.5", [OPEN]),
        ("redis://:p@8.8.8.8", ["messages and password travel to 8.8.8.8 in the clear, use rediss://"]),
        ("valkey+cluster://:p@10.0.0.5,[2a00::1]", [CLEAR, "use valkeys+cluster://"]),
        ("nats://token@Cache.Example.org", ["to cache.example.org in the clear, use tls://"]),
        ("redis://cache.example.org", [CLEAR, OPEN]),
    ],
)
def test_a_broker_that_others_reach(url: str, told: list[str]) -> None:
    """What travels beyond a private network needs TLS; whoever may connect must need a password or a certificate."""
    bus = BusConfig.model_validate({"url": url})
    sentence = advice(Config(app="app", bus=bus)).get("bus.url", "")
    assert bool(told) == bool(sentence)
    for words in told:
        assert words in sentence
    assert (CLEAR in "".join(told), OPEN in "".join(told)) == (CLEAR in sentence, OPEN in sentence)
