"""Who the client is: trusted proxies, honest and forged chains, every shape of a hop."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsworker.protocol.forwarded import MOST_HOPS, Header, Trusted, client_address, ip_of
from wsworker.protocol.request import Address

PROXY = Address("127.0.0.1", 40000)
STRANGER = Address("198.51.100.7", 40000)
TRUSTED = Trusted.of(["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:aaaa::/48"])
HEADERS: tuple[Header, ...] = ("x-forwarded-for", "forwarded")

ADDRESSES = st.ip_addresses().map(str)
UNTRUSTED = ADDRESSES.filter(lambda host: not TRUSTED.holds(host))
INNER = st.integers(0, 2**24 - 1).map(lambda number: str(ipaddress.IPv4Address((10 << 24) + number)))
BITS = ["for=", "1.2.3.4", '"', "[", "]", "::1", ",", ";", " ", "\\", ":", "80", "_x", "unknown", "=", "é", "10.0.0.1"]
NOISE = st.lists(st.sampled_from(BITS), max_size=12).map("".join) | st.text(st.characters(max_codepoint=255))


def listed(*values: str, peer: Address = PROXY, trusted: Trusted = TRUSTED) -> Address:
    """Return the client by X-Forwarded-For."""
    return client_address(values, peer, "x-forwarded-for", trusted)


def forwarded(*values: str, peer: Address = PROXY, trusted: Trusted = TRUSTED) -> Address:
    """Return the client by Forwarded."""
    return client_address(values, peer, "forwarded", trusted)


def element(host: str) -> str:
    """Return a Forwarded element with this address."""
    return f'for="[{host}]"' if ":" in host else f"for={host}"


# Trusted


@pytest.mark.parametrize(
    ("entries", "host", "held"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["127.0.0.1"], "::ffff:127.0.0.1", True),
        (["::ffff:127.0.0.1"], "127.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "10.200.0.1", True),
        (["::ffff:10.0.0.0/104"], "11.0.0.1", False),
        (["::ffff:0:0/96"], "203.0.113.9", True),
        (["10.0.0.0/8"], "10.255.255.255", True),
        (["10.0.0.0/8"], "11.0.0.0", False),
        (["10.0.0.0/8", "192.168.0.0/16"], "192.168.3.4", True),
        (["::1"], "::1", True),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["::1"], "127.0.0.1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["::/0"], "2001:db8::1", True),
        (["::/0"], "10.0.0.1", False),
        (["::/0"], "::ffff:10.0.0.1", False),
        (["0.0.0.0/0"], "10.0.0.1", True),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0", "::/0"], "unix", False),
        (["unix"], "unix", True),
        (["unix"], "127.0.0.1", False),
        (["*"], "unix", True),
        (["*"], "203.0.113.9", True),
        (["0.0.0.0/0", "::/0"], "localhost", False),
        (["0.0.0.0/0", "::/0"], "*", False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["0.0.0.0/0", "::/0"], "010.0.0.1", False),
        ([], "127.0.0.1", False),
        ([], "unix", False),
    ],
)
def test_who_is_trusted(entries: list[str], host: str, held: bool) -> None:
    """An address by itself or by its network, IPv4-mapped ones as IPv4, unix and everyone only if asked for."""
    assert held == Trusted.of(entries).holds(host)


@pytest.mark.parametrize("entry", ["localhost", "", "10.0.0.1/8", "10.0.0.0/33", "Unix", "127.0.0.1:80", "[::1]"])
def test_an_entry_that_means_nothing_is_refused(entry: str) -> None:
    """ValueError: a slip must not trust anybody else."""
    with pytest.raises(ValueError, match=r"."):
        Trusted.of(["127.0.0.1", entry])


# the walk


@pytest.mark.parametrize("header", HEADERS)
def test_an_untrusted_peer_is_the_client(header: Header) -> None:
    """What it says is not read, whatever it is."""
    for value in ("203.0.113.9", "for=203.0.113.9", "10.0.0.1", "for=10.0.0.1"):
        assert client_address([value], STRANGER, header, TRUSTED) == STRANGER


@pytest.mark.parametrize("header", HEADERS)
def test_without_the_header_the_peer_is_the_client(header: Header) -> None:
    """A trusted peer that names nobody came for itself."""
    assert PROXY == client_address([], PROXY, header, TRUSTED)
    assert PROXY == client_address([""], PROXY, header, TRUSTED)


def test_the_other_header_is_another_language() -> None:
    """A hop of the one header names nobody in the other."""
    assert PROXY == listed("for=203.0.113.9")
    assert PROXY == forwarded("203.0.113.9")


def test_one_proxy_names_the_client() -> None:
    """The usual case."""
    assert Address("203.0.113.9", 0) == listed("203.0.113.9")
    assert Address("203.0.113.9", 0) == forwarded("for=203.0.113.9")


def test_a_forged_chain_ends_at_the_one_who_forged_it() -> None:
    """What a client wrote stands left of its own address, which the proxy appended."""
    assert Address("203.0.113.9", 0) == listed("127.0.0.1, 6.6.6.6, 203.0.113.9")
    assert Address("203.0.113.9", 0) == listed("6.6.6.6, 203.0.113.9, 10.1.1.1")
    assert Address("203.0.113.9", 0) == forwarded("for=6.6.6.6, for=203.0.113.9;proto=https, for=10.1.1.1")


def test_repeated_headers_are_one_list() -> None:
    """A proxy may add a header of its own behind the client's; the order of the lines counts."""
    assert Address("203.0.113.9", 0) == listed("6.6.6.6", "203.0.113.9", "10.1.1.1")
    assert Address("203.0.113.9", 0) == listed("6.6.6.6, 203.0.113.9", "10.1.1.1, 10.1.1.2")
    assert Address("203.0.113.9", 0) == forwarded("for=6.6.6.6", "for=203.0.113.9")


def test_if_all_are_trusted_the_leftmost_is_the_client() -> None:
    """The chain began inside."""
    assert Address("10.0.0.9", 1234) == listed("10.0.0.9:1234, 10.0.0.8, 10.0.0.7")
    everyone = Trusted.of(["*"])
    assert Address("6.6.6.6", 0) == listed("6.6.6.6, 203.0.113.9", peer=STRANGER, trusted=everyone)


def test_a_peer_of_a_unix_socket_is_believed_only_if_that_is_set() -> None:
    """Its host is unix."""
    peer = Address("unix", 0)
    assert peer == listed("203.0.113.9", peer=peer)
    assert Address("203.0.113.9", 0) == listed("203.0.113.9", peer=peer, trusted=Trusted.of(["unix"]))
    # and nobody becomes one by saying so
    assert PROXY == listed("203.0.113.9, unix", trusted=Trusted.of(["unix", "127.0.0.1"]))


def test_a_peer_that_is_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    """A listener on [::] sees IPv4 peers so."""
    assert Address("203.0.113.9", 0) == listed("203.0.113.9", peer=Address("::ffff:127.0.0.1", 1))


@pytest.mark.parametrize(
    "bad", ["", "unknown", "_hidden", "1.2.3.4.5", "1.2.3", "host.example", '"', "[::1", "1.2.3.4:"]
)
def test_a_hop_that_is_no_address_ends_the_walk(bad: str) -> None:
    """The client is the last one that was read; what stands left of the gap may be forged."""
    assert PROXY == listed(f"203.0.113.9, {bad}")
    assert Address("10.0.0.8", 0) == listed(f"203.0.113.9, {bad}, 10.0.0.8")
    assert Address("10.0.0.8", 0) == forwarded(f'for=203.0.113.9, for="{bad}", for=10.0.0.8')
    assert Address("10.0.0.8", 0) == forwarded(f"for=203.0.113.9, {bad}, for=10.0.0.8")


def test_what_stands_left_of_the_client_is_not_looked_at() -> None:
    """Nonsense there is the client's own."""
    assert Address("203.0.113.9", 0) == listed("\\\x7f[[, 203.0.113.9")
    assert Address("203.0.113.9", 0) == forwarded('for="\\, for=203.0.113.9')


def test_a_quote_left_open_does_not_swallow_what_proxies_append() -> None:
    """Neither with the proxy's own quotes behind it."""
    assert Address("203.0.113.9", 0) == forwarded('for=6.6.6.6;x=", for=203.0.113.9')
    assert Address("2001:db8::9", 0) == forwarded('for=6.6.6.6;x=", for="[2001:db8::9]"')
    assert Address("203.0.113.9", 0) == forwarded('for=6.6.6.6;x="', "for=203.0.113.9", 'for="10.0.0.1"')


def test_a_comma_within_quotes_ends_the_walk() -> None:
    """No address holds one, and half an element is none."""
    assert PROXY == forwarded('for=203.0.113.9;ext="a,b"')
    assert PROXY == forwarded('for=203.0.113.9;host="a,for=6.6.6.6,b"')
    assert PROXY == forwarded('for=203.0.113.9;host="a,for=6.6.6.6"')
    assert PROXY == forwarded('for=203.0.113.9;host="a,for=\\"6.6.6.6"')


@pytest.mark.parametrize("header", HEADERS)
def test_only_so_many_hops_are_read(header: Header) -> None:
    """The client is the hop at the bound, a trusted one."""
    hops = [f"10.0.0.{number}" for number in range(MOST_HOPS + 2)]
    values = hops if header == "x-forwarded-for" else [element(hop) for hop in hops]
    for more in range(3):
        assert Address("10.0.0.2", 0) == client_address(values[more:], PROXY, header, TRUSTED)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("bit", [",", ", ", " ", ";", "; ", '"', "\\", "a=", "a", ":", "[", "1.", 'a="";', '"\\'])
def test_a_head_full_of_one_thing_changes_nothing(header: Header, bit: str) -> None:
    """16 KiB of it name nobody."""
    assert PROXY == client_address([bit * (16384 // len(bit))], PROXY, header, TRUSTED)


# the shapes of a hop


@pytest.mark.parametrize(
    ("hop", "host", "port"),
    [
        ("203.0.113.9", "203.0.113.9", 0),
        ("203.0.113.9:0", "203.0.113.9", 0),
        ("203.0.113.9:443", "203.0.113.9", 443),
        ("203.0.113.9:65535", "203.0.113.9", 65535),
        ("2001:db8::9", "2001:db8::9", 0),
        ("2001:DB8:0:0::9", "2001:db8::9", 0),
        ("2001:db8:0:0:0:0:0:9", "2001:db8::9", 0),
        ("[2001:db8::9]", "2001:db8::9", 0),
        ("[2001:db8::9]:443", "2001:db8::9", 443),
        ("::ffff:203.0.113.9", "203.0.113.9", 0),
        ("[::ffff:203.0.113.9]:443", "203.0.113.9", 443),
        ("::", "::", 0),
        (" \t203.0.113.9\t ", "203.0.113.9", 0),
    ],
)
def test_a_listed_hop(hop: str, host: str, port: int) -> None:
    """An address of either family, in its shortest form, with its port or 0."""
    assert Address(host, port) == listed(hop)


@pytest.mark.parametrize(
    "hop",
    [
        "203.0.113.9:65536",
        "203.0.113.9:123456",
        "203.0.113.9:+1",
        "203.0.113.9: 80",
        "203.0.113.9 :80",
        "203.0.113.9:80:80",
        "203.0.113.09",
        "203.0.113.256",
        "0x7f.0.0.1",
        "1",
        "[203.0.113.9]",
        "2001:db8::9::",
        "2001:db8:1:2:3:4:5:6:7",
        "12345::",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "[2001:db8::9]x",
        "[2001:db8::9]443",
        "[[2001:db8::9]]",
        "2001:db8::9]",
        "\N{ARABIC-INDIC DIGIT ONE}.1.1.1",
        "203.0.113.9\x00",
        "'203.0.113.9'",
        '"203.0.113.9"',
        "203.0.113.9 198.51.100.1",
    ],
)
def test_a_malformed_listed_hop(hop: str) -> None:
    """No part of it is taken."""
    assert PROXY == listed(hop)


@pytest.mark.parametrize(
    ("hop", "host", "port"),
    [
        ("for=203.0.113.9", "203.0.113.9", 0),
        ("FOR=203.0.113.9", "203.0.113.9", 0),
        ("by=10.0.0.1;For=203.0.113.9;Proto=https;host=example.org", "203.0.113.9", 0),
        ("for=203.0.113.9; proto=https; \t by=10.0.0.1", "203.0.113.9", 0),
        (";;for=203.0.113.9;;", "203.0.113.9", 0),
        ('for="203.0.113.9"', "203.0.113.9", 0),
        ('for="203.0.113.9:443"', "203.0.113.9", 443),
        ('for="203.0.113.9:_port"', "203.0.113.9", 0),
        ('for="[2001:db8::9]"', "2001:db8::9", 0),
        ('for="[2001:db8::9]:443"', "2001:db8::9", 443),
        ('for="[2001:DB8::9]:_a.b-c"', "2001:db8::9", 0),
        ('for="[::ffff:203.0.113.9]"', "203.0.113.9", 0),
        ('for="\\203.0.113.\\9"', "203.0.113.9", 0),
        ('host="a;for=6.6.6.6";for=203.0.113.9', "203.0.113.9", 0),
        ('x="\\";for=6.6.6.6;\\"";for=203.0.113.9', "203.0.113.9", 0),
    ],
)
def test_a_forwarded_hop(hop: str, host: str, port: int) -> None:
    """The for parameter, in any case and place, as a token or quoted."""
    assert Address(host, port) == forwarded(hop)


@pytest.mark.parametrize(
    "hop",
    [
        "for=",
        'for=""',
        "for",
        "=203.0.113.9",
        "for =203.0.113.9",
        "for= 203.0.113.9",
        "proto=https",
        "xfor=203.0.113.9",
        "for=203.0.113.9;for=203.0.113.9",
        "for=203.0.113.9;FOR=6.6.6.6",
        "for=203.0.113.9:443",
        "for=[2001:db8::9]",
        "for=2001:db8::9",
        'for="2001:db8::9"',
        'for="[203.0.113.9]"',
        'for="203.0.113.9',
        'for=203.0.113.9"',
        'for="203.0.113.9"x',
        'for="203.0.113.9:70000"',
        'for="[fe80::1%eth0]"',
        'for=" 203.0.113.9"',
        "for=203.0.113.9;proto",
        "for=203.0.113.9 proto=https",
        "for='203.0.113.9'",
    ],
)
def test_a_malformed_forwarded_hop(hop: str) -> None:
    """No part of it is taken: an element is read whole or not at all."""
    assert PROXY == forwarded(hop)


def test_the_ip_address_of_a_text() -> None:
    """None for what is no address; an IPv4-mapped one is IPv4."""
    assert ipaddress.IPv4Address("203.0.113.9") == ip_of("::ffff:203.0.113.9")
    assert ipaddress.IPv6Address("::1") == ip_of("::1")
    assert ip_of("unix") is None


# properties


@given(
    st.lists(NOISE, max_size=6), UNTRUSTED, st.lists(INNER, max_size=5), st.lists(st.booleans(), min_size=6, max_size=6)
)
def test_no_client_can_choose_its_address(noise: list[str], client: str, inner: list[str], joined: list[bool]) -> None:
    """Whatever a client sends, the chain of trusted proxies behind it yields its own address, however it is split."""
    for header in HEADERS:
        appended = [client, *inner] if header == "x-forwarded-for" else [element(host) for host in (client, *inner)]
        values = [*noise]
        for hop, same_line in zip(appended, joined, strict=False):
            if values and same_line:
                values[-1] += f", {hop}"
            else:
                values.append(hop)
        assert Address(str(ip_of(client)), 0) == client_address(values, PROXY, header, TRUSTED)


@given(st.lists(NOISE, max_size=6), st.sampled_from(HEADERS), st.booleans())
def test_any_text_yields_an_address(values: list[str], header: Header, everyone: bool) -> None:
    """It never raises; the answer is the peer or a proper address in its shortest form."""
    client = client_address(values, PROXY, header, Trusted.of(["*"]) if everyone else TRUSTED)
    assert client == PROXY or client.host == str(ip_of(client.host))
    assert 0 <= client.port <= 65535
