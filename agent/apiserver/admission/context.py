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

import ipaddress
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.apiserver.admission.allocation import Lease, OutOfRange, Pool, Taken, address_range, port_range
from agent.apiserver.registry import JSON
from agent.config import Config


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
        for lease, value, shown in held_by(service):
            try:
                (self.addresses if lease == "address" else self.ports).take(value, holder)
            except OutOfRange:
                self.conflicts.append(f"Service {holder}: {shown} is outside the configured range")
            except Taken:
                self.conflicts.append(f"Service {holder}: {shown} is also held by another Service")

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


def held_by(service: JSON) -> Iterator[tuple[str, int, str]]:
    """What a stored Service holds: ``("address" | "port", number, as written)``."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return
    for ip in spec.get("clusterIPs") or [spec.get("clusterIP") or "None"]:
        if ip != "None":
            yield "address", int(ipaddress.ip_address(ip)), f"clusterIP {ip}"
    for port in node_ports(service):
        yield "port", port, f"nodePort {port}"


def node_ports(service: JSON) -> list[int]:
    """The NodePorts a Service holds, its health check's among them, each once."""
    spec = service.get("spec") or {}
    numbers = [port.get("nodePort") for port in spec.get("ports") or []] + [spec.get("healthCheckNodePort")]
    return list(dict.fromkeys(number for number in numbers if number))
