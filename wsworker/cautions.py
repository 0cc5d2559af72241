"""Cautions: settings that are right and yet may be a mistake, each with what to do about it.

There are two kinds. What somebody has chosen and ought to see in the log is told at each start and reload. What is the
default, or cannot be told from a good choice, is told by `wsworker check` alone: said at every start it would be noise,
above all at the first one, and a log whose first line is noise is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from wsworker.brokers import BrokerUrl
from wsworker.config import Config
from wsworker.kinds import GROUP_MODE

PRIVATE_DOMAINS: Final = (".local", ".internal", ".svc", ".lan", ".home.arpa")
"""Ends of names that mean nothing outside a network: RFC 6762, RFC 8375, Kubernetes, and habit."""


def warnings(config: Config) -> dict[str, str]:
    """Return what to warn of at a start or reload: from keys, as in config.KEYS, to one sentence each."""
    found = {}
    if config.websocket.origins == "*":
        found["websocket.origins"] = (
            'websocket.origins is "*": pages of every site may connect, with their cookies and Authorization '
            "hidden from the app; list the origins that may"
        )
    return found


def of_root(config: Config, uid: int, shown: str) -> str | None:
    """Return what to warn of where workers are root. uid: of who starts; shown: the config file, as people see it."""
    return f"workers run as root; set `user` in {shown}" if uid == 0 and config.user is None else None


def advice(config: Config) -> dict[str, str]:
    """Return what `check` tells beyond the warnings, in the same form."""
    found = {}
    # behind a proxy of the same machine there is no browser beside it, but that cannot be seen from here
    if _is_on_loopback(config) and not config.http.allowed_hosts and not isinstance(config.websocket.origins, tuple):
        found["http.allowed_hosts"] = (
            "http.allowed_hosts is empty: a web page open in a browser of this machine can connect under a name of its "
            "own (DNS rebinding); list the hosts you use, such as [localhost, 127.0.0.1]"
        )
    alone = not config.forwarded_allow_ips or (_trusts_none_beyond(config) and not _is_on_loopback(config))
    if config.proxy_protocol != "none" and alone:
        found["proxy_protocol"] = (
            "proxy_protocol lets only those in that forwarded_allow_ips names, and that is nobody beyond this machine; "
            "add the address of your proxy"
        )
    if config.control_socket_mode == GROUP_MODE and (config.user or config.group):
        found["control_socket_mode"] = (
            "control_socket_mode is 0660, and the group that it lets in is that of the workers: whoever gets into one "
            'may stop and reload the service; take "0600" and give commands as root, or by sudo'
        )
    operators = config.admin.listen
    if operators is not None and operators.host and not _is_private(operators.host):
        found["admin.listen"] = (
            f"admin.listen is {operators}, which other machines may reach, and it has no password; "
            "use an address of loopback or of a private network, or a firewall"
        )
    if config.bus.url is not None and (sentences := [*_of_broker(config.bus.url)]):
        found["bus.url"] = f"bus.url: {'; '.join(sentences)}"
    return found


def _of_broker(url: BrokerUrl) -> Iterator[str]:
    """Yield what to say of a broker that others may listen to, or speak with."""
    # of a unix socket there are none
    hosts = [server.host.lower().rstrip(".") for server in url.servers]
    if not url.kind.tls and (far := next((host for host in hosts if not _is_near(host)), None)):
        what = "messages and password travel" if url.has_secret else "messages travel"
        word, plus, rest = url.scheme.partition("+")
        safe = "tls" if url.kind.adapter == "nats" else f"{word}s{plus}{rest}"
        yield f"{what} to {far} in the clear, use {safe}:// unless all of the way is private"
    if not (url.has_secret or url.cert) and not all(map(_is_this_machine, hosts)):
        yield (
            "it has no password, so whoever reaches the broker may speak as the server to every client; "
            "give the broker one and write it into WSWORKER_BUS__URL"
        )


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_near(host: str) -> bool:
    """Whether a broker's host is on this machine or in a private network, as far as its name or address tells."""
    address = _address(host)
    if address is None:
        # one word is a name of the own network, of a container most often
        return "." not in host or host.endswith(PRIVATE_DOMAINS)
    return not address.is_global


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_private(host: str) -> bool:
    address = ip_address(host)
    # 0.0.0.0 and [::] count as private, and mean every address there is
    return address.is_private and not address.is_unspecified


def _trusts_none_beyond(config: Config) -> bool:
    return all(entry in ("127.0.0.1", "::1", "unix") for entry in config.forwarded_allow_ips)


def _is_on_loopback(config: Config) -> bool:
    return any(ip_address(address.host).is_loopback for address in config.listen if address.host)
