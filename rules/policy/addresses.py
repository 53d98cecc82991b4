"""Addresses and CIDRs as the API may hold them, made canonical.

Kubernetes accepted leading zeros (``010.0.0.1`` is 10.0.0.1: decimal, as Go read it before 1.17), IPv4-mapped IPv6
addresses and CIDRs, white space around CIDRs, and CIDRs with host bits set; stored objects keep them for ever.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable

from rules.snapshot import Family

_LEADING_ZERO = re.compile(r"(?:^|\.)0\d")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
NOWHERE = {Family.IPV4: "0.0.0.0/32", Family.IPV6: "::/128"}  # no packet is on its way to the unspecified address
LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
_MAPPED = 96  # bits of ::ffff:0:0/96, in which IPv6 holds the IPv4 addresses (RFC 4291, 2.5.5.2)


def parse_address(text: str) -> Address:
    """The address; raises ValueError."""
    text = text.strip()
    if ":" not in text:
        return ipaddress.IPv4Address(_decimal(text))
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone: it means something on one link of one machine only")
    return address.ipv4_mapped or address


@functools.lru_cache(maxsize=1024)  # the same few networks are asked about for every Service
def parse_network(text: str) -> Network:
    """The network of a CIDR, host bits cleared; a bare address is a network of one. Raises ValueError."""
    address, slash, length = text.strip().partition("/")
    network = ipaddress.ip_network(f"{_decimal(address)}{slash}{length}", strict=False)
    first = network.network_address
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped is not None and network.prefixlen >= _MAPPED:
        return ipaddress.IPv4Network((first.ipv4_mapped, network.prefixlen - _MAPPED))
    return network


def family_of(value: Address | Network) -> Family:
    return Family(value.version)


def of_family(networks: Iterable[Network], family: Family) -> tuple[str, ...]:
    """The networks of one family as text, each once, in order."""
    return tuple(dict.fromkeys(str(network) for network in networks if family_of(network) is family))


def _decimal(text: str) -> str:
    """Dotted quads without leading zeros, which ``ipaddress`` refuses because some programs read them as octal."""
    if not _LEADING_ZERO.search(text):
        return text
    parts = text.split(".")
    if ":" in text or not all(part.isascii() and part.isdigit() for part in parts):
        return text
    return ".".join(str(int(part)) for part in parts)
