"""How measurements are summed up and printed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0..1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: Sequence[float], *, unit: str = "ms", scale: float = 1000.0) -> tuple[str, str, str, str]:
    """Count, median, 99th percentile and maximum as text; ``values`` in seconds unless ``scale`` says otherwise."""
    shown = (statistics.median(values), quantile(values, 0.99), max(values))
    return (str(len(values)), *(f"{value * scale:.1f} {unit}" for value in shown))  # type: ignore[return-value]


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for number, line in enumerate(lines):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
