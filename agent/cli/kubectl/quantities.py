"""Quantities (``100m``, ``64Mi``) as numbers and back, as far as adding up a node's requests needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
}
_FORM = re.compile(r"([+-]?\d*\.?\d+(?:[eE][+-]?\d+)?)([A-Za-z]*)")


def parse_quantity(text: str) -> Decimal:
    """In whole units (cores, bytes). Raises ValueError."""
    found = _FORM.fullmatch(text)
    if found is None or (found[2] not in _BINARY and found[2] not in _DECIMAL):
        raise ValueError(f"not a quantity: {text!r}")
    return Decimal(found[1]) * (_BINARY[found[2]] if found[2] in _BINARY else _DECIMAL[found[2]])


def add_quantities(texts: Iterable[str]) -> str:
    """The sum, in binary units if the first had them; nothing sums up to 0."""
    listed = list(texts)
    if len(listed) == 1:
        return listed[0]
    total = sum((parse_quantity(text) for text in listed), Decimal(0))
    if listed and listed[0].endswith("i"):
        return _binary(int(total))
    if total != total.to_integral_value():
        return f"{int((total * 1000).to_integral_value(rounding='ROUND_CEILING'))}m"
    return str(int(total))


def _binary(total: int) -> str:
    for suffix, size in reversed(_BINARY.items()):
        if total and total % size == 0:
            return f"{total // size}{suffix}"
    return str(total)


def percent(part: str, whole: str) -> int:
    """How much of the whole, in whole percent, towards zero."""
    size = parse_quantity(whole)
    return int(parse_quantity(part) * 100 / size) if size else 0
