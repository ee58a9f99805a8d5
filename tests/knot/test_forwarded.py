"""Who a client is, by the word of a proxy that is trusted."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy_headers import START, version_1, version_2

from knot.access.forwarded import (
    FIXED,
    MAX_HOPS,
    MAX_V1,
    MAX_V2,
    Forwarded,
    Header,
    parse_header,
)
from knot.access.networks import Networks

V4, V6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
PORTS = st.integers(0, 65535)


def plain(text: str) -> str:
    address = ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


PAIRS = st.tuples(V4, V4) | st.tuples(V6, V6)
HEADERS = st.one_of(
    st.builds(lambda pair, *ports: (version_1(*pair, *ports), pair[0]), PAIRS, PORTS, PORTS),
    st.builds(
        lambda pair, port, more: (version_2(*pair, port, more=more), pair[0]),
        PAIRS, PORTS, st.binary(max_size=300),
    ),
)  # fmt: skip


# -- the header ----------------------------------------------------------------------------------


@given(HEADERS, st.binary(max_size=100))
def test_the_client_is_found_and_what_follows_is_left(pair: tuple[bytes, str], rest: bytes) -> None:
    header, client = pair
    assert parse_header(header + rest) == Header(len(header), plain(client))


@given(HEADERS)
def test_a_part_of_a_header_is_waited_for(pair: tuple[bytes, str]) -> None:
    for end in range(len(pair[0])):
        assert parse_header(pair[0][:end]) is None


@given(st.binary(max_size=200), st.sampled_from([b"", START, START + b"\x21", b"PROXY TCP4 "]))
def test_any_bytes_are_a_header_or_the_beginning_of_one_or_junk(more: bytes, start: bytes) -> None:
    data = start + more
    try:
        found = parse_header(data)
    except ValueError:
        for end in range(len(data), len(data) + 30):
            with pytest.raises(ValueError, match="PROXY header"):
                parse_header(data.ljust(end))  # more of it makes nothing good
        return
    if found is not None:
        assert 0 < found.size <= len(data)
        assert parse_header(data[: found.size]) == found
        assert not found.client or ip_address(found.client)


KEEPS_THE_ADDRESS = [
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
    b"PROXY UNKNOWN whatever it is\r\n",
    START + b"\x20\x00\0\0",
    START + b"\x20\x11\0\x0c" + b"a" * 12,
    START + b"\x20\xff\0\x03abc",
    START + b"\x21\x00\0\0",
    START + b"\x21\x00\0\x05abcde",
    START + b"\x21\x31\0\xd8" + b"/" * 216,
    START + b"\x21\x12\0\x0c" + b"a" * 12,
]


@pytest.mark.parametrize("header", KEEPS_THE_ADDRESS)
def test_a_proxy_may_speak_for_itself(header: bytes) -> None:
    assert parse_header(header + b"GET") == Header(len(header), "")
    for end in range(len(header)):
        assert parse_header(header[:end]) is None


def test_an_address_of_ipv4_may_be_written_as_one_of_ipv6() -> None:
    for version in (version_1, version_2):
        found = parse_header(version("::ffff:192.0.2.7", "::1"))
        assert found
        assert found.client == "192.0.2.7"


def test_the_longest_headers_are_taken_and_longer_ones_are_not() -> None:
    line = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16)
    assert parse_header(line + b"\r\n") == Header(MAX_V1, "")
    assert parse_header(line + b"x") is None
    for longer in (line + b"x\r\n", line + b"xx"):
        with pytest.raises(ValueError, match="ends within 107 bytes"):
            parse_header(longer)
    longest = version_2("1.2.3.4", "5.6.7.8", more=b"x" * (MAX_V2 - FIXED - 12))
    assert parse_header(longest) == Header(MAX_V2, "1.2.3.4")
    with pytest.raises(ValueError, match="longer than 2048 bytes"):
        parse_header(version_2("1.2.3.4", "5.6.7.8", more=b"x" * (MAX_V2 - FIXED - 11))[:16])


@given(V6)
def test_an_address_is_shown_as_the_system_would(text: str) -> None:
    found = parse_header(version_1(IPv6Address(text).exploded, "::1"))
    assert found
    assert found.client == plain(text)


# -- the field -----------------------------------------------------------------------------------

TRUSTED = Networks(["10.0.0.0/8", "2001:db8::/32"])


def forwarded(address: str, *values: bytes) -> str:
    fields = tuple((b"x-forwarded-for", value) for value in values)
    return Forwarded(TRUSTED.have).client(address, ((b"accept-encoding", b"br"), *fields))


FORWARDED = [
    # (the connection is from, the fields, the client is at)
    ("203.0.113.1", [b"192.0.2.7"], "203.0.113.1"),
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", [b"192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", [b"198.51.100.1, 192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", [b"192.0.2.7, 10.0.0.9"], "192.0.2.7"),
    ("10.0.0.1", [b"1.1.1.1", b"192.0.2.7 ,\t10.0.0.9", b" 2001:db8::9"], "192.0.2.7"),
    ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ("10.0.0.1", [b"192.0.2.7:4711"], "192.0.2.7"),
    ("10.0.0.1", [b"[2001:DB9::0:1]:4711"], "2001:db9::1"),
    ("10.0.0.1", [b"2001:DB9:0::1"], "2001:db9::1"),
    ("10.0.0.1", [b"::ffff:192.0.2.7"], "192.0.2.7"),
    ("2001:db8::5", [b"192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", [b"192.0.2.7, unknown"], "10.0.0.1"),
    ("10.0.0.1", [b"192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
    ("10.0.0.1", [b""], "10.0.0.1"),
    ("10.0.0.1", [b"192.0.2.7,"], "10.0.0.1"),
    ("10.0.0.1", [b"unix"], "10.0.0.1"),
    ("10.0.0.1", [b"fe80::1%eth0"], "10.0.0.1"),
    ("10.0.0.1", [b"\xff"], "10.0.0.1"),
    ("unix:", [b"192.0.2.7"], "unix:"),
]


@pytest.mark.parametrize(("address", "values", "client"), FORWARDED)
def test_the_client_is_the_last_that_is_no_proxy(
    address: str, values: list[bytes], client: str
) -> None:
    assert forwarded(address, *values) == client


def test_clients_of_a_path_may_be_proxies() -> None:
    fields = ((b"x-forwarded-for", b"192.0.2.7"),)
    assert Forwarded(Networks(["unix"]).have).client("unix:", fields) == "192.0.2.7"


@given(st.lists(V4 | V6), V4 | V6, st.lists(st.sampled_from(["10.1.2.3", "2001:db8::7"])))
def test_what_a_client_says_of_itself_does_not_matter(
    said: list[str], client: str, proxies: list[str]
) -> None:
    """Its proxy puts its address behind whatever stands there already."""
    if TRUSTED.have(client) or len(proxies) >= MAX_HOPS:
        return
    assert forwarded("10.0.0.1", ", ".join([*said, client, *proxies]).encode()) == plain(client)


@given(st.binary(max_size=300))
def test_any_field_gives_an_address(value: bytes) -> None:
    assert ip_address(forwarded("10.0.0.1", value))


def test_a_long_field_is_looked_at_up_to_a_bound() -> None:
    assert forwarded("10.0.0.1", b"192.0.2.7" + b", 10.0.0.2" * 10_000) == "10.0.0.2"
    networks = Networks(["10.0.0.0/8"])
    found = Forwarded(networks.have)
    for number in range(50):
        found.client("10.0.0.1", ((b"x-forwarded-for", b"x" * 1000 + b"%d" % number),))
    assert found._remembered.cache_info().currsize == 0, "only short ones are remembered"
