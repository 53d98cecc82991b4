"""What of the dataplane is to be measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.dataplane.programming import WAYS, Way
from benchmarks.dataplane.world import Size

SERVICES, ENDPOINTS = (100, 1_000, 10_000, 30_000), (2, 5)
_QUICK = ((100, 1_000), (2,))
_MOST_SERVICES, _MOST_ENDPOINTS = 100_000, 30  # what the addresses are laid out for
_LARGE = 30_000  # from here on every single change takes long enough


@dataclass(frozen=True, slots=True)
class Options:
    """``pairs``, ``changes``, ``flushes``: how often what is measured is repeated."""

    sizes: tuple[Size, ...]
    ways: tuple[Way, ...]
    pairs: int = 300
    is_quick: bool = False

    @property
    def flushes(self) -> int:
        return 3 if self.is_quick else 5

    def is_first_of_variant(self, way: Way) -> bool:
        return way is next(other for other in self.ways if other.variant == way.variant)

    def changes(self, size: Size) -> int:
        if self.is_quick:
            return 5
        return 8 if size.services >= _LARGE else 20


def parse_options(arguments: Sequence[str]) -> Options:
    """Exits with a message if they make no sense."""
    parser = argparse.ArgumentParser("bench dataplane", description="Measure the dataplane at scale.")
    parser.add_argument("--services", type=_numbers(1, _MOST_SERVICES), metavar="N[,N...]", help=f"default: {SERVICES}")
    parser.add_argument(
        "--endpoints", type=_numbers(2, _MOST_ENDPOINTS), metavar="E[,E...]", help=f"default: {ENDPOINTS}"
    )
    parser.add_argument("--engines", type=_ways, default=WAYS, metavar="NAME[,NAME...]", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few Services, few repetitions")
    found = parser.parse_args(arguments)
    services, endpoints = _QUICK if found.quick else (SERVICES, ENDPOINTS)
    sizes = tuple(Size(n, e) for n in found.services or services for e in found.endpoints or endpoints)
    return Options(sizes, found.engines, pairs=50 if found.quick else 300, is_quick=found.quick)


def _numbers(least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        numbers = tuple(int(part) if part.isdecimal() else -1 for part in text.split(","))
        if not all(least <= number <= most for number in numbers):
            raise argparse.ArgumentTypeError(f"{text!r} is not numbers from {least} to {most}, as in 100,1000")
        return numbers

    return parse


def _ways(text: str) -> tuple[Way, ...]:
    known = {way.name: way for way in WAYS}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such engine: {', '.join(unknown)} (there are: {', '.join(known)})")
    return tuple(known[name] for name in text.split(","))
