"""v1 Endpoints: the older form of the same answer, which `kubectl get endpoints` and `kubectl describe svc` show. Pure.

An Endpoints object has subsets: within one, every address listens on every port. Pods that listen on different numbers
make different subsets. Unlike slices it has no terminating addresses, one address family, and at most 1000 addresses
(the rest is cut off and an annotation says so).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.controllers.endpoint_objects import Address, Subset, SubsetPort
from agent.controllers.membership import Member

MAX_ADDRESSES = 1000


def resolve_subsets(members: Iterable[Member], *, publish_not_ready: bool) -> tuple[Subset, ...]:
    """Subsets in a stable order. Ports with the same addresses share a subset."""
    by_port: dict[SubsetPort | None, dict[Address, bool]] = {}
    for member in members:
        conditions = member.endpoint.conditions
        if conditions.terminating and not publish_not_ready:
            continue
        for port in _ports(member):
            by_port.setdefault(port, {})[_address(member)] = bool(conditions.ready)
    by_addresses: dict[tuple[tuple[Address, bool], ...], list[SubsetPort]] = {}
    for port, addresses in by_port.items():
        group = by_addresses.setdefault(tuple(sorted(addresses.items(), key=lambda item: item[0].ip)), [])
        group += [port] if port is not None else []
    subsets = [_subset(addresses, ports) for addresses, ports in by_addresses.items()]
    return tuple(sorted(subsets, key=_order))


def limit_addresses(subsets: Sequence[Subset], limit: int = MAX_ADDRESSES) -> tuple[tuple[Subset, ...], bool]:
    """The subsets with at most ``limit`` addresses in all, ready ones first, and whether any were cut off."""
    if sum(len(subset.addresses) + len(subset.not_ready_addresses) for subset in subsets) <= limit:
        return tuple(subsets), False
    ready = _shares([len(subset.addresses) for subset in subsets], limit)
    waiting = _shares([len(subset.not_ready_addresses) for subset in subsets], limit - sum(ready))
    cut = [
        Subset(addresses=s.addresses[:r], not_ready_addresses=s.not_ready_addresses[:w], ports=s.ports)
        for s, r, w in zip(subsets, ready, waiting, strict=True)
    ]
    return tuple(subset for subset in cut if subset.addresses or subset.not_ready_addresses), True


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """Of each size a proportional share, together at most ``limit``."""
    total, left, shares = sum(sizes), limit, []
    for size in sizes:
        share = size if total <= limit else min(left, -(-size * limit // total))
        shares.append(share)
        left -= share
    return shares


def _ports(member: Member) -> list[SubsetPort | None]:
    if not member.ports:
        return [None]
    return [
        SubsetPort(name=p.name or "", port=p.port or 0, protocol=p.protocol, app_protocol=p.app_protocol)
        for p in member.ports
    ]


def _address(member: Member) -> Address:
    endpoint = member.endpoint
    return Address(
        ip=endpoint.addresses[0],
        hostname=endpoint.hostname or "",
        node_name=endpoint.node_name,
        target_ref=endpoint.target_ref,
    )


def _subset(addresses: tuple[tuple[Address, bool], ...], ports: list[SubsetPort]) -> Subset:
    return Subset(
        addresses=tuple(address for address, ready in addresses if ready),
        not_ready_addresses=tuple(address for address, ready in addresses if not ready),
        ports=tuple(sorted(ports, key=lambda port: (port.name, port.port, port.protocol))),
    )


def _order(subset: Subset) -> tuple[list[tuple[int, str]], list[str]]:
    ports = [(port.port, port.protocol) for port in subset.ports]
    return ports, [address.ip for address in (*subset.addresses, *subset.not_ready_addresses)]
