"""Pod addresses: a pure allocator over a frozen value, and the file that remembers it.

An address that has just been released is still remembered: by connection tracking, by clients' DNS caches, by proxies
that have not yet heard. So addresses are not reused while others are free: ``allocate`` gives out addresses that were
never used first, in order, and then the one that was released *longest* ago.

The network and broadcast addresses and the gateway (the first host) are never given out.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from netns.errors import NetnsError, PoolExhausted


@dataclass(frozen=True, slots=True)
class Pool:
    """Who has which address of ``cidr`` (owner: address); and when the free ones were last released (epoch, s)."""

    cidr: str
    allocated: Mapping[str, str] = field(default_factory=dict)
    released: Mapping[str, float] = field(default_factory=dict)

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.cidr)

    @property
    def size(self) -> int:
        """How many pods can have an address at the same time: all but network, gateway and broadcast."""
        return max(0, self.network.num_addresses - 3)


def allocate(pool: Pool, owner: str) -> tuple[Pool, str]:
    """An address for ``owner`` (the same as before if it has one) and the pool afterwards. Raises PoolExhausted."""
    if owner in pool.allocated:
        return pool, pool.allocated[owner]
    address = _never_used(pool) or _longest_released(pool)
    if address is None:
        raise PoolExhausted(f"cannot give {owner} an address: all {pool.size} of {pool.cidr} are in use")
    released = {a: at for a, at in pool.released.items() if a != address}
    return replace(pool, allocated={**pool.allocated, owner: address}, released=released), address


def release(pool: Pool, owner: str, *, now: float) -> Pool:
    """The pool without ``owner``; nothing changes if it has no address."""
    if owner not in pool.allocated:
        return pool
    allocated = {o: a for o, a in pool.allocated.items() if o != owner}
    return replace(pool, allocated=allocated, released={**pool.released, pool.allocated[owner]: now})


def adopt(pool: Pool, owner: str, address: str) -> Pool:
    """The pool in which ``owner`` has ``address``, as somebody knows better. Raises NetnsError if it cannot."""
    if pool.allocated.get(owner) == address:
        return pool
    if address in pool.allocated.values() or ipaddress.IPv4Address(address) not in pool.network:
        raise NetnsError(f"cannot note {address} for {owner}: it is not a free address of {pool.cidr}")
    released = {a: at for a, at in pool.released.items() if a != address}
    return replace(pool, allocated={**pool.allocated, owner: address}, released=released)


def render(pool: Pool) -> str:
    """JSON. ``parse(render(pool)) == pool``."""
    value = {"cidr": pool.cidr, "allocated": dict(pool.allocated), "released": dict(pool.released)}
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def parse(text: str) -> Pool:
    """Raises ValueError if ``text`` is not a pool: not JSON, an address outside the CIDR, or one with two owners."""
    value = json.loads(text)
    try:
        allocated = {str(owner): str(address) for owner, address in value["allocated"].items()}
        released = {str(address): float(at) for address, at in value["released"].items()}
        pool = Pool(str(value["cidr"]), allocated, released)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an address pool: {error!r}") from error
    _check(pool)
    return pool


class DamagedPool(NetnsError):
    """Who has which address must be learnt from somewhere else: an empty pool would give some out twice."""


def load(file: Path, cidr: str) -> Pool:
    """The pool of a file; a new one if there is no file, or if it is of another CIDR and nobody has an address.

    Raises DamagedPool for a file that cannot be understood, NetnsError for one of another CIDR that is in use.
    """
    content = file.read_bytes() if file.exists() else b""
    if not content:  # some file systems keep only the name of what was written just before a power cut
        return Pool(cidr)
    try:
        pool = parse(content.decode())
    except ValueError as error:
        raise DamagedPool(f"cannot read pod addresses from {file}: {error}") from error
    if pool.cidr == cidr:
        return pool
    if pool.allocated:
        raise NetnsError(
            f"cannot use pod CIDR {cidr}: {len(pool.allocated)} pods have addresses of {pool.cidr} ({file}); "
            "`podwire clean` removes them"
        )
    return Pool(cidr)


def save(file: Path, pool: Pool) -> None:
    """Replace the file in one step, so that a crash leaves the old or the new.

    It is not flushed to the disk, which may take longer than all else that makes a pod: after a power cut no pod runs.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(render(pool))
    fresh.replace(file)


def _never_used(pool: Pool) -> str | None:
    """Addresses are given out in order, so all below the highest one known have been used."""
    known = [int(ipaddress.IPv4Address(a)) for a in (*pool.allocated.values(), *pool.released)]
    first = int(pool.network.network_address) + 2
    candidate = max(known, default=first - 1) + 1
    return str(ipaddress.IPv4Address(candidate)) if candidate < int(pool.network.broadcast_address) else None


def _longest_released(pool: Pool) -> str | None:
    return min(pool.released, key=lambda address: (pool.released[address], address), default=None)


def _check(pool: Pool) -> None:
    network = pool.network
    for address in (*pool.allocated.values(), *pool.released):
        if ipaddress.IPv4Address(address) not in network:
            raise ValueError(f"{address} is outside {pool.cidr}")
    owned = list(pool.allocated.values())
    if len(set(owned)) != len(owned) or set(owned) & set(pool.released):
        raise ValueError("an address is listed twice")
