"""Kubernetes quantities (``500m``, ``1.5Gi``, ``2e3``) as exact numbers. The grammar is apimachinery's api/resource."""

from __future__ import annotations

import re
from fractions import Fraction

_SUFFIXES = {
    **{suffix: Fraction(1000) ** (i - 3) for i, suffix in enumerate("num-kMGTPE")},
    **{f"{suffix}i": Fraction(1024) ** (i + 1) for i, suffix in enumerate("KMGTPE")},
}
_GRAMMAR = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d{1,3}))?")


def parse_quantity(text: str | int | float) -> Fraction:
    """The number a quantity stands for. Raises ValueError for anything that is none."""
    match = _GRAMMAR.fullmatch(str(text))
    if match is None:
        raise ValueError(f"not a quantity: {text!r}; expected for example 500m, 2 or 64Mi")
    number, suffix, exponent = match.groups()
    scale = Fraction(10) ** int(exponent) if exponent else _SUFFIXES.get(suffix or "-", Fraction(1))
    return Fraction(number) * scale
