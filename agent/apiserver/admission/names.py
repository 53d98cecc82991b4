"""What names may look like: pure checks of strings, each returning the complaints (none: fine).

The rules are RFC 1035 and RFC 1123 labels, label keys and values, config map keys, port names. The sentences are
apimachinery's (util/validation/validation.go), regular expression included: they say what would be accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], list[str]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = LABEL + r"(\." + LABEL + ")*"
LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL_VALUE = f"({QUALIFIED})?"
CONFIG_KEY = "[-._a-zA-Z0-9]+"

_STARTS_AND_ENDS = "and must start and end with an alphanumeric character"
_NAME_CHARACTERS = f"alphanumeric characters, '-', '_' or '.', {_STARTS_AND_ENDS}"


def dns_label(value: str) -> list[str]:
    """RFC 1123: namespaces, containers, named ports of a Service."""
    message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    return _most(value, 63) + _match(value, LABEL, message + _STARTS_AND_ENDS, "my-name", "123-abc")


def dns_subdomain(value: str) -> list[str]:
    """RFC 1123: most names."""
    message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    return _most(value, 253) + _match(value, SUBDOMAIN, message + _STARTS_AND_ENDS, "example.com")


def dns_1035_label(value: str) -> list[str]:
    """RFC 1035: Services, whose names are host names and prefixes of environment variables."""
    message = (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character"
    )
    return _most(value, 63) + _match(value, LABEL_1035, message, "my-name", "abc-123")


def fully_qualified(value: str) -> list[str]:
    """A domain name of at least two labels; it may end in a dot. Upstream tells the first thing wrong, on one line."""
    value = value.removesuffix(".")
    if complaints := dns_subdomain(value):
        return [",".join(complaints)]
    labels = value.split(".")
    if len(labels) < 2:
        return ["should be a domain with at least two segments separated by dots"]
    return [",".join(complaints) for label in labels if (complaints := dns_label(label))]


def qualified_name(value: str) -> list[str]:
    """``[prefix/]name``: keys of labels and annotations, finalizers."""
    prefix, slash, name = value.rpartition("/")
    rule = _regex_error(f"must consist of {_NAME_CHARACTERS}", QUALIFIED, "MyName", "my.name", "123-abc")
    if "/" in prefix:
        return [f"a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    complaints = []
    if slash:
        complaints = [f"prefix part {text}" for text in (dns_subdomain(prefix) if prefix else ["must be non-empty"])]
    if not name:
        complaints.append("name part must be non-empty")
    complaints += [f"name part {text}" for text in _most(name, 63)]
    return complaints + ([] if re.fullmatch(QUALIFIED, name) else [f"name part {rule}"])


def label_value(value: str) -> list[str]:
    message = f"a valid label must be an empty string or consist of {_NAME_CHARACTERS}"
    return _most(value, 63) + _match(value, LABEL_VALUE, message, "MyValue", "my_value", "12345")


def config_key(value: str) -> list[str]:
    """Keys of ConfigMaps and Secrets: they become file names."""
    message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
    complaints = _most(value, 253) + _match(value, CONFIG_KEY, message, "key.name", "KEY_NAME", "key-name")
    if value in (".", ".."):
        return [*complaints, f"must not be '{value}'"]
    return [*complaints, "must not start with '..'"] if value.startswith("..") else complaints


def env_name(value: str) -> list[str]:
    """Environment variables (KEP-4369): any printable ASCII but ``=``."""
    if value and all(" " <= char <= "~" and char != "=" for char in value):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def port_name(value: str) -> list[str]:
    """Named ports of containers and targets (RFC 6335): at most 15 characters, a letter among them."""
    rules = (
        (len(value) > 15, "must be no more than 15 bytes"),
        (
            not re.fullmatch("[-a-z0-9]+", value),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (not re.search("[a-z]", value), "must contain at least one letter (a-z)"),
        ("--" in value, "must not contain consecutive hyphens"),
        (value[:1] == "-" or value[-1:] == "-", "must not begin or end with a hyphen"),
    )
    return [complaint for broken, complaint in rules if broken]


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def ip(value: str) -> list[str]:
    return [] if parse_ip(value) else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def parse_ip(value: str) -> Address | None:
    """The address as the API has always read it (upstream: ParseIPSloppy), None for what is none.

    Leading zeros are decimal (``010.0.0.1`` is 10.0.0.1), and an IPv4-mapped IPv6 address is the IPv4 one.
    """
    parts = value.split(".")
    if ":" not in value and all(part.isascii() and part.isdigit() for part in parts):
        value = ".".join(part.lstrip("0") or "0" for part in parts)
    try:
        address = ipaddress.ip_address(value) if "%" not in value else None
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def cidr(value: str) -> list[str]:
    """``address/bits``; host bits may be set (upstream: ParseCIDRSloppy)."""
    address, _, bits = value.partition("/")
    longest = 128 if ":" in address else 32
    if parse_ip(address) and bits.isascii() and bits.isdigit() and int(bits) <= longest:
        return []
    return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


def special_ip(value: str) -> list[str]:
    """Addresses that cannot be an endpoint: they would mean this very machine (CVE-2020-8554's neighbours)."""
    address = parse_ip(value)
    if address is None:
        return []
    rules = (
        (address.is_unspecified, f"may not be unspecified ({value})"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (_is_link_local_multicast(address), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    )
    return [complaint for broken, complaint in rules if broken]


def _is_link_local_multicast(address: Address) -> bool:
    """IPv6: scope 2 (RFC 4291, 2.7), whatever its flags."""
    if address.version == 4:
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.is_multicast and address.packed[1] & 0x0F == 2


def _most(value: str, limit: int) -> list[str]:
    return [f"must be no more than {limit} bytes"] if len(value.encode()) > limit else []


def _match(value: str, pattern: str, message: str, *examples: str) -> list[str]:
    return [] if re.fullmatch(pattern, value) else [_regex_error(message, pattern, *examples)]


def _regex_error(message: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"
