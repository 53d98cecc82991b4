"""Who holds which ClusterIP and which NodePort.

The memory of the pools is rebuilt from the stored Services at start (nothing else is the truth) and then follows every
request. Holders are Services, named ``namespace/name``.

Values chosen by the server come from the upper part of a range first, so that the lower part stays free for those who
ask for a certain value (KEP-3070 for ClusterIPs, KEP-3668 for NodePorts). A value that somebody asks for is granted
wherever it lies in the range. ``reserved`` values (the kubernetes Service's, the DNS server's) are never chosen.

A Lease is one request's view of a pool. What it takes is taken at once, so that no other request can get it, and given
back by ``rollback``; what it frees stays taken until ``commit``. A dry run never commits, hence leaks nothing.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


class OutOfRange(Exception):
    """The value asked for is outside the range."""


class Taken(Exception):
    """The value asked for belongs to somebody else."""


class Exhausted(Exception):
    """The range has no free value left."""


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers ``first`` to ``last``; the server chooses from ``dynamic`` on, and never what is ``reserved``."""

    first: int
    last: int
    dynamic: int
    reserved: frozenset[int] = frozenset()

    def __contains__(self, value: int) -> bool:
        return self.first <= value <= self.last


def address_range(cidr: str, reserved: Iterable[str] = ()) -> Range:
    """The usable addresses of a Service CIDR: without its base address and, for IPv4, its broadcast address."""
    network = ipaddress.ip_network(cidr)
    first, last = int(network.network_address) + 1, int(network.broadcast_address)
    if network.version == 4:
        last -= 1
    band = _band(last - first + 1, step=16, least=16, most=256)
    return Range(first, last, first + band, frozenset(int(ipaddress.ip_address(ip)) for ip in reserved))


def port_range(first: int, last: int) -> Range:
    return Range(first, last, first + _band(last - first + 1, step=32, least=16, most=128))


def _band(size: int, *, step: int, least: int, most: int) -> int:
    """How many values at the start are kept for those who ask; none if the whole range is hardly bigger."""
    return 0 if size <= least else min(max(least, size // step), most)


class Pool:
    """The holders of one range's values. Only ``Lease`` changes it."""

    def __init__(self, values: Range, *, choose: Callable[[int], int] = random.randrange) -> None:
        self.range = values
        self._choose = choose
        self._holders: dict[int, str] = {}
        self.holders: Mapping[int, str] = MappingProxyType(self._holders)

    def take(self, value: int, holder: str) -> None:
        """Give ``value`` to ``holder``, who may have it already. Raises OutOfRange or Taken."""
        if value not in self.range:
            raise OutOfRange(value)
        if self._holders.setdefault(value, holder) != holder:
            raise Taken(value)

    def free(self, value: int, holder: str) -> None:
        """Take ``value`` back from ``holder``; nothing happens if somebody else has it."""
        if self._holders.get(value) == holder:
            del self._holders[value]

    def pick(self) -> int:
        """A free value: above the band kept for those who ask, or from the band when all else is gone."""
        values = self.range
        for first, last in ((values.dynamic, values.last), (values.first, values.dynamic - 1)):
            for value in self._from_anywhere(first, last):
                if value not in self._holders and value not in values.reserved:
                    return value
        raise Exhausted

    def _from_anywhere(self, first: int, last: int) -> Iterator[int]:
        """``first`` to ``last``, each once, starting anywhere."""
        size = last - first + 1
        start = self._choose(size) if size > 0 else 0
        return (first + (start + step) % size for step in range(size))


@dataclass(slots=True)
class Lease:
    """One request's dealings with one pool, on behalf of ``holder``."""

    pool: Pool
    taken: list[tuple[int, str]] = field(default_factory=list)
    freed: list[tuple[int, str]] = field(default_factory=list)

    def take(self, value: int, holder: str) -> None:
        """Raises OutOfRange or Taken."""
        held = self.pool.holders.get(value) == holder
        self.pool.take(value, holder)
        if not held:
            self.taken.append((value, holder))
        elif (value, holder) in self.freed:
            self.freed.remove((value, holder))

    def take_any(self, holder: str) -> int:
        """Raises Exhausted."""
        value = self.pool.pick()
        self.take(value, holder)
        return value

    def free(self, value: int, holder: str) -> None:
        if self.pool.holders.get(value) == holder and (value, holder) not in self.freed:
            self.freed.append((value, holder))

    def commit(self) -> None:
        for value, holder in self.freed:
            self.pool.free(value, holder)
        self.taken, self.freed = [], []

    def rollback(self) -> None:
        for value, holder in self.taken:
            self.pool.free(value, holder)
        self.taken, self.freed = [], []
