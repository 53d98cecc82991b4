"""Domain names as tuples of lower-case labels.

``web.default.svc.cluster.local`` is ``(b"web", b"default", b"svc", b"cluster", b"local")``; the root is ``()``.
Labels are bytes: a dot inside a label is not a separator (RFC 1035 section 3.1 allows any octet). Names compare
case-insensitively (RFC 4343), so they are lowered once, at the edge, and never again.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Name = tuple[bytes, ...]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_LABEL = 63  # octets (RFC 1035 section 2.3.4)
MAX_NAME = 255  # octets on the wire, length bytes and root included

# Per IP version: the reverse tree's suffix, the bits of a label, the base of its digits, the labels of an address.
_REVERSE: dict[int, tuple[Name, int, int, int]] = {
    4: ((b"in-addr", b"arpa"), 8, 10, 4),
    6: ((b"ip6", b"arpa"), 4, 16, 32),
}


def wire_length(name: Name) -> int:
    return sum(map(len, name)) + len(name) + 1


def parse_name(text: str) -> Name:
    """``"Web.default."`` -> ``(b"web", b"default")``. Raises ValueError for what cannot be a domain name."""
    if text in ("", "."):
        return ()
    labels = tuple(label.encode("ascii", "strict") for label in text.lower().removesuffix(".").split("."))
    if not all(0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError(f"{text!r} is not a domain name: labels have 1 to {MAX_LABEL} characters")
    if wire_length(labels) > MAX_NAME:
        raise ValueError(f"{text!r} is not a domain name: it is longer than {MAX_NAME} octets")
    return labels


def parse_label(text: str) -> bytes:
    """One label of a name, lowered; dots are taken as they are. Raises ValueError."""
    label = text.lower().encode("ascii", "strict")
    if not 0 < len(label) <= MAX_LABEL:
        raise ValueError(f"{text!r} is not a label: 1 to {MAX_LABEL} characters")
    return label


def render_name(name: Name) -> str:
    """Presentation form with a final dot; anything unusual as ``\\DDD`` (RFC 1035 section 5.1)."""
    return ".".join("".join(map(_render_octet, label)) for label in name) + "."


def _render_octet(octet: int) -> str:
    plain = 0x21 <= octet <= 0x7E and octet not in b'."\\;()@$'
    return chr(octet) if plain else f"\\{octet:03d}"


def is_below(name: Name, apex: Name) -> bool:
    """``name`` is ``apex`` or lies below it."""
    return len(name) >= len(apex) and name[len(name) - len(apex) :] == apex


def dashed(address: Address) -> bytes:
    """The label of an endpoint without a hostname: ``10-244-0-7``, ``fd00--7``."""
    return str(address).replace(".", "-").replace(":", "-").encode()


def parse_dashed(label: bytes) -> Address | None:
    """The inverse, for names of pods. Exactly three single dashes mean IPv4."""
    try:
        text = label.decode("ascii")
        if text.count("-") == 3 and "--" not in text:
            return IPv4Address(text.replace("-", "."))
        return None if "%" in text else IPv6Address(text.replace("-", ":"))
    except ValueError:
        return None


def reverse_name(address: Address) -> Name:
    """``10.0.0.1`` -> ``1.0.0.10.in-addr.arpa`` (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    return tuple(label.encode() for label in address.reverse_pointer.split("."))


def reverse_apex(name: Name, network: Network) -> Name | None:
    """The apex of the reverse zone of ``network`` that ``name`` lies in; None if it lies in none.

    A network whose prefix ends inside a label has several zones: 10.96.0.0/12 is served as 96.10.in-addr.arpa to
    111.10.in-addr.arpa.
    """
    suffix, bits, base, _ = _REVERSE[network.version]
    labels = -(-network.prefixlen // bits)
    apex = name[len(name) - len(suffix) - labels :] if len(name) >= len(suffix) + labels else ()
    if not is_below(apex, suffix):
        return None
    digits = [_digit(label, base, 1 << bits) for label in reversed(apex[:labels])]
    value = 0
    for digit in digits:
        if digit is None:
            return None
        value = value << bits | digit
    first = value << (network.max_prefixlen - labels * bits)
    return apex if first >> _host_bits(network) == int(network.network_address) >> _host_bits(network) else None


def _host_bits(network: Network) -> int:
    return network.max_prefixlen - network.prefixlen


def _digit(label: bytes, base: int, limit: int) -> int | None:
    """A label of a reverse name as a number; None unless it is written as reverse names write it."""
    try:
        value = int(label, base)
    except ValueError:
        return None
    canonical = b"%d" % value if base == 10 else b"%x" % value
    return value if canonical == label and value < limit else None


def reverse_address(name: Name) -> Address | None:
    """The address a complete reverse name stands for; None for every other name."""
    for version, (suffix, bits, base, labels) in _REVERSE.items():
        if len(name) == labels + len(suffix) and is_below(name, suffix):
            digits = [_digit(label, base, 1 << bits) for label in reversed(name[:labels])]
            if None in digits:
                return None
            value = sum((digit or 0) << (bits * at) for at, digit in enumerate(reversed(digits)))
            return IPv4Address(value) if version == 4 else IPv6Address(value)
    return None


def is_partial_reverse(name: Name) -> bool:
    """A reverse name of fewer digits than an address has: there may be names below it."""
    for suffix, bits, base, labels in _REVERSE.values():
        if is_below(name, suffix):
            digits = name[: len(name) - len(suffix)]
            return len(digits) < labels and all(_digit(label, base, 1 << bits) is not None for label in digits)
    return False


def parse_address(text: str) -> Address:
    """An address as API objects may spell it: IPv4 octets may have leading zeros, meant as decimal (KEP-4858)."""
    if ":" not in text:
        text = ".".join(part.lstrip("0") or "0" if part.isdigit() else part for part in text.strip().split("."))
    return ipaddress.ip_address(text.strip())
