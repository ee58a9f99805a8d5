"""Addresses, the networks that they are in, and which of them are one client."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from knot.access.networks import MAX_REMEMBERED, UNIX, Networks, client_at, network
from knot.models.peer import name_of

V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8", "203.0.113.7", "2001:db8::/32", "::1", "0.0.0.0/0", "::/0", "unix"]
)
def test_it_is_a_network(text: str) -> None:
    assert network(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1/8", "is an address within a network: write 10.0.0.0/8"),
        ("2001:db8::1/32", "is an address within a network: write 2001:db8::/32"),
        ("10.0.0.0/33", "is not a valid network; use 10.0.0.0/8"),
        ("example.org", "is not a valid network"),
        ("10.0.0", "is not a valid network"),
        ("::ffff:10.0.0.0/104", "is of IPv4: write 10.0.0.0/8"),
        ("Unix", "is not a valid network"),
        ("", "is not a valid network"),
    ],
)
def test_it_is_no_network(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(text)


@given(V4 | V6, st.integers(0, 128))
def test_an_address_is_in_the_networks_around_it_and_not_in_those_beside_it(
    text: str, bits: int
) -> None:
    address = ip_address(text)
    assume(getattr(address, "ipv4_mapped", None) is None)
    most = address.max_prefixlen
    around = ip_network(f"{text}/{min(bits, most)}", strict=False)
    assert Networks([str(around)]).have(text)
    assert Networks(["unix", "192.0.2.0/24", str(around)]).have(text)
    if around.prefixlen:
        beside = int(around.network_address) ^ (1 << (most - around.prefixlen))
        other = type(address)(beside)
        assume(getattr(other, "ipv4_mapped", None) is None)
        assert not Networks([str(around)]).have(str(other))


def test_clients_of_a_path_are_in_no_network_but_their_own() -> None:
    assert name_of("") == name_of("/run/client") == UNIX
    assert Networks(["unix"]).have(UNIX)
    assert not Networks(["0.0.0.0/0", "::/0"]).have(UNIX)
    assert not Networks(["unix"]).have("127.0.0.1")
    assert client_at(UNIX) == UNIX


def test_an_address_of_ipv4_at_a_socket_of_ipv6_is_one_of_ipv4() -> None:
    assert Networks(["192.0.2.0/24"]).have("::ffff:192.0.2.7")
    assert not Networks(["::/0"]).have("::ffff:192.0.2.7")
    assert client_at("::ffff:192.0.2.7") == "192.0.2.7"


def test_a_zone_is_no_part_of_an_address() -> None:
    assert Networks(["fe80::/10"]).have("fe80::1%eth0")
    assert client_at("fe80::1%eth0") == client_at("fe80::2%eth1") == "fe80::"


@given(V4, V4)
def test_each_address_of_ipv4_is_a_client(one: str, other: str) -> None:
    assert (client_at(one) == client_at(other)) == (one == other)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_client_of_ipv6_has_64_bits_to_itself(prefix: int, one: int, other: int) -> None:
    if prefix == 0 and (one >> 32 == 0xFFFF or other >> 32 == 0xFFFF):
        return
    first, second = (str(IPv6Address(prefix << 64 | rest)) for rest in (one, other))
    assert client_at(first) == client_at(second)
    assert client_at(first) != client_at(str(IPv6Address((prefix ^ 1) << 64)))


def test_what_is_remembered_has_a_bound() -> None:
    networks = Networks(["10.0.0.0/8"])
    for number in range(3 * MAX_REMEMBERED):
        networks.have(str(IPv4Address(number)))
        client_at(str(IPv4Address(number)))
    assert networks.have.cache_info().currsize <= MAX_REMEMBERED
    assert client_at.cache_info().currsize <= MAX_REMEMBERED
