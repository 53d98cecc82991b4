"""Quantities: cpu and memory as the API writes them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("2", 2),
        (3, 3),
        (0.5, Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("250u", Fraction(250, 10**6)),
        ("7n", Fraction(7, 10**9)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("-1", -1),
        ("1k", 1000),
        ("64Mi", 64 * 1024**2),
        ("1.5Gi", 3 * 2**29),
        ("1Ki", 1024),
        ("1Ei", 2**60),
        ("1E", 10**18),
        ("2e3", 2000),
        ("1E2", 100),
        ("12e-1", Fraction(6, 5)),
    ],
)
def test_known(text: str | int | float, number: Fraction | int) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1mi", "1KI", "--1", "1e", "1e9999", "Gi"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@given(st.integers(-(10**12), 10**12))
def test_thousandths_are_exact(number: int) -> None:
    assert parse_quantity(f"{number}m") * 1000 == number
