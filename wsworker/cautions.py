"""Cautions: settings that are right and yet may be a mistake, each with what to do about it.

There are two kinds. What somebody has chosen and ought to see in the log is told at each start and reload. What is the
default, or cannot be told from a good choice, is told by `wsworker check` alone: said at every start it would be noise,
above all at the first one, and a log whose first line is noise is not read.
"""

from __future__ import annotations

from ipaddress import ip_address

from wsworker.config import Config
from wsworker.kinds import GROUP_MODE


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
    return found


def _is_private(host: str) -> bool:
    address = ip_address(host)
    # 0.0.0.0 and [::] count as private, and mean every address there is
    return address.is_private and not address.is_unspecified


def _trusts_none_beyond(config: Config) -> bool:
    return all(entry in ("127.0.0.1", "::1", "unix") for entry in config.forwarded_allow_ips)


def _is_on_loopback(config: Config) -> bool:
    return any(ip_address(address.host).is_loopback for address in config.listen if address.host)
