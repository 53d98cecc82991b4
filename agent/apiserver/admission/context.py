"""What admission knows beside the object: the cluster's ranges, and who holds which address and port.

One Context lives as long as the server. Each request that may change allocations works on an attempt::

    with context.attempt() as attempt:
        obj = admit_create(kind, obj, attempt)
        await store.create(obj)  # may fail: somebody was quicker
        attempt.commit()  # a dry run leaves this out

Leaving the block without ``commit`` gives back what was taken and keeps what was to be released. Between taking and
committing no other request can get the same value, so the block may await. On the Context itself, outside an attempt,
every admission and release is final at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from agent.apiserver.admission.allocation import Lease, OutOfRange, Pool, Taken, address_range, port_range
from agent.apiserver.admission.names import parse_ip
from agent.apiserver.registry import JSON
from agent.config import Config


@dataclass(frozen=True, slots=True)
class Holding:
    """One value that a Service holds; ``written`` names it to people."""

    pool: Literal["addresses", "ports"]
    number: int
    written: str


@dataclass(slots=True)
class Context:
    """``addresses`` and ``ports`` are this request's leases on pools that all requests share."""

    config: Config
    addresses: Lease
    ports: Lease
    tentative: bool = False
    conflicts: list[str] = field(default_factory=list)

    @classmethod
    def load(
        cls, services: Iterable[JSON], config: Config, *, choose: Callable[[int], int] = random.randrange
    ) -> Context:
        """Rebuild the pools from the stored Services. ``conflicts`` tells what two Services cannot both have."""
        reserved = (config.kubernetes_ip, config.dns_ip)
        context = cls(
            config=config,
            addresses=Lease(Pool(address_range(config.service_cidr, reserved), choose=choose)),
            ports=Lease(Pool(port_range(*config.node_port_range), choose=choose)),
        )
        for service in services:
            context._adopt(service)
        context.commit()
        return context

    def _adopt(self, service: JSON) -> None:
        holder = service_key(service)
        for holding in held_by(service):
            try:
                self.lease_of(holding).take(holding.number, holder)
            except OutOfRange:
                self.conflicts.append(f"Service {holder}: {holding.written} is outside the configured range")
            except Taken:
                self.conflicts.append(f"Service {holder}: {holding.written} is also held by another Service")

    def lease_of(self, holding: Holding) -> Lease:
        return self.addresses if holding.pool == "addresses" else self.ports

    @contextmanager
    def attempt(self) -> Iterator[Context]:
        """A Context for one request; rolled back on leaving unless it was committed."""
        attempt = Context(self.config, Lease(self.addresses.pool), Lease(self.ports.pool), tentative=True)
        try:
            yield attempt
        finally:
            attempt.rollback()

    @contextmanager
    def settling(self) -> Iterator[None]:
        """One admission: undone if it fails, final at once unless this is an attempt."""
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        if not self.tentative:
            self.commit()

    def commit(self) -> None:
        """Make it so: what was released is free from now on."""
        self.addresses.commit()
        self.ports.commit()

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        self.addresses.rollback()
        self.ports.rollback()


def service_key(service: JSON) -> str:
    metadata = service.get("metadata") or {}
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"


def address_number(written: str) -> int:
    """A ClusterIP as the pools count it. Raises ValueError."""
    address = parse_ip(written)
    if address is None:
        raise ValueError(f"{written!r} is not an IP address")
    return int(address)


def held_by(service: JSON) -> Iterator[Holding]:
    """What a stored Service holds. What its type has no use for it does not hold, even if it is written there."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return
    for ip in spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]:
        if ip != "None":
            yield Holding("addresses", address_number(ip), f"clusterIP {ip}")
    numbers = [port.get("nodePort") for port in spec.get("ports") or []] + [spec.get("healthCheckNodePort")]
    for number in dict.fromkeys(numbers):
        if number:
            yield Holding("ports", number, f"nodePort {number}")
