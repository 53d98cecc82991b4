"""Names: spelling, labels, reverse names."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsserver.names import (
    Address,
    Name,
    dashed,
    is_below,
    is_partial_reverse,
    parse_address,
    parse_dashed,
    parse_label,
    parse_name,
    render_name,
    reverse_address,
    reverse_apex,
    reverse_name,
    wire_length,
)

addresses = st.ip_addresses()
labels = st.text("abcz019-_", min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("web.default.svc.cluster.local", (b"web", b"default", b"svc", b"cluster", b"local")),
        ("Web.Default.", (b"web", b"default")),
        ("", ()),
        (".", ()),
    ],
)
def test_parse_name(text: str, name: Name) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize("text", ["a..b", ".a", "a..", "x" * 64, ".".join(["x" * 63] * 4), "bücher.example"])
def test_what_cannot_be_a_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"domain name|ascii"):
        parse_name(text)


@given(st.lists(labels, min_size=1, max_size=8))
def test_render_undoes_parse(parts: list[str]) -> None:
    text = ".".join(parts) + "."
    assert render_name(parse_name(text)) == text
    assert wire_length(parse_name(text)) == len(text) + 1


def test_unusual_octets_are_escaped_in_presentation() -> None:
    assert render_name((b"a.b", b"c\x00", b"\\")) == "a\\046b.c\\000.\\092."


@pytest.mark.parametrize("text", ["", "x" * 64, "ü"])
def test_what_cannot_be_a_label_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"label|ascii"):
        parse_label(text)


def test_a_label_may_hold_a_dot() -> None:
    assert parse_label("A.b") == b"a.b"


def test_is_below_compares_whole_labels() -> None:
    assert is_below((b"a", b"b"), (b"b",))
    assert is_below((b"b",), (b"b",))
    assert not is_below((b"ab",), (b"b",))
    assert not is_below((), (b"b",))
    assert is_below((b"b",), ())


@given(addresses)
def test_reverse_names_lead_back(address: Address) -> None:
    assert reverse_address(reverse_name(address)) == address
    assert render_name(reverse_name(address)) == address.reverse_pointer + "."


@given(addresses)
def test_dashed_names_lead_back(address: Address) -> None:
    assert parse_dashed(dashed(address)) == address


@pytest.mark.parametrize(
    ("label", "address"),
    [
        (b"10-0-0-1", "10.0.0.1"),
        (b"fd00--1", "fd00::1"),
        (b"--1", "::1"),
        (b"1-2-3", None),
        (b"256-0-0-1", None),
        (b"010-0-0-1", None),
        (b"fe80--1%eth0", None),
        (b"web", None),
        (b"\xff-0-0-1", None),
    ],
)
def test_parse_dashed(label: bytes, address: str | None) -> None:
    assert parse_dashed(label) == (ip_address(address) if address else None)


@pytest.mark.parametrize(
    ("name", "network", "apex"),
    [
        ("1.0.96.10.in-addr.arpa", "10.96.0.0/12", "96.10.in-addr.arpa"),
        ("1.0.111.10.in-addr.arpa", "10.96.0.0/12", "111.10.in-addr.arpa"),
        ("1.0.112.10.in-addr.arpa", "10.96.0.0/12", None),
        ("96.10.in-addr.arpa", "10.96.0.0/12", "96.10.in-addr.arpa"),
        ("10.in-addr.arpa", "10.96.0.0/12", None),
        ("junk.96.10.in-addr.arpa", "10.96.0.0/12", "96.10.in-addr.arpa"),
        ("096.10.in-addr.arpa", "10.96.0.0/12", None),
        ("x.10.in-addr.arpa", "10.96.0.0/12", None),
        ("300.10.in-addr.arpa", "10.96.0.0/12", None),
        ("7.0.244.10.in-addr.arpa", "10.244.0.0/24", "0.244.10.in-addr.arpa"),
        ("7.1.244.10.in-addr.arpa", "10.244.0.0/24", None),
        ("7.0.244.10.in-addr.arpa", "10.244.0.0/29", "7.0.244.10.in-addr.arpa"),
        ("8.0.244.10.in-addr.arpa", "10.244.0.0/29", None),
        ("1.in-addr.arpa", "0.0.0.0/0", "in-addr.arpa"),
        ("a.0.0.d.f.ip6.arpa", "fd00::/16", "0.0.d.f.ip6.arpa"),
        ("A.0.1.d.f.ip6.arpa".lower(), "fd00::/16", None),
        ("4.3.2.1.in-addr.example", "0.0.0.0/0", None),
        ("example.com", "10.96.0.0/12", None),
    ],
)
def test_the_reverse_zone_of_a_name(name: str, network: str, apex: str | None) -> None:
    assert reverse_apex(parse_name(name), ip_network(network)) == (parse_name(apex) if apex else None)


@given(addresses, st.integers(0, 128))
def test_a_name_is_in_the_reverse_zone_iff_its_address_is_in_the_network(address: Address, bits: int) -> None:
    network = ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    assert reverse_apex(reverse_name(address), network) is not None
    if network.prefixlen:
        other = type(address)(int(address) ^ 1 << (address.max_prefixlen - network.prefixlen))
        assert reverse_apex(reverse_name(other), network) is None


@pytest.mark.parametrize("name", ["1.2.3.in-addr.arpa", "x.1.2.3.in-addr.arpa", "a.b.c.d.example.com", "1.ip6.arpa"])
def test_other_names_stand_for_no_address(name: str) -> None:
    assert reverse_address(parse_name(name)) is None


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("96.10.in-addr.arpa", True),
        ("ip6.arpa", True),
        ("1.0.96.10.in-addr.arpa", False),
        ("x.10.in-addr.arpa", False),
        ("example.com", False),
    ],
)
def test_partial_reverse_names(name: str, partial: bool) -> None:
    assert is_partial_reverse(parse_name(name)) is partial


@pytest.mark.parametrize(
    ("text", "address"), [("010.0.00.1", "10.0.0.1"), (" 10.0.0.1 ", "10.0.0.1"), ("FD00::1", "fd00::1")]
)
def test_addresses_as_old_objects_spell_them(text: str, address: str) -> None:
    assert parse_address(text) == ip_address(address)


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "web"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        parse_address(text)
