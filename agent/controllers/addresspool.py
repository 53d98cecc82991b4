"""Which addresses a Service of type LoadBalancer gets from the node's pool: the decision, as a pure function.

Nothing is remembered beside the Services themselves: an address in ``status.loadBalancer.ingress`` that lies in the
pool is held by that Service. So a restart adopts what is there, and an address is free again when the Service goes, or
its type changes (the API server then empties the status).

- A Service keeps what it has, as long as nobody older has it too; ``spec.loadBalancerIP`` alone moves it.
- What it lacks is the first free address of each family it has, if the pool holds that family.
- A wish that cannot be met changes nothing: whoever asks for one address is not served by another.
- A status that names anything outside the pool was written by somebody else's controller, and stays theirs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from agent.config import Address, Config, address_span
from agent.controllers.membership import address_family, canonical_address, resolve_families
from agent.controllers.objects import Service

CLASS = "podwire.io/pool"  # spec.loadBalancerClass, where it is given

# The other Services that hold an address.
Others = Callable[[str], Sequence[Service]]


@dataclass(frozen=True, slots=True)
class Pool:
    """``spans``: first and last addresses; ``reserved``: addresses within them that are never given away."""

    spans: tuple[tuple[Address, Address], ...]
    reserved: frozenset[Address] = frozenset()

    @classmethod
    def parse(cls, texts: Iterable[str], reserved: Iterable[str] = ()) -> Pool:
        """From CIDRs and ranges (``agent.config.address_span``). Raises ValueError."""
        return cls(tuple(map(address_span, texts)), frozenset(ipaddress.ip_address(text) for text in reserved))

    @classmethod
    def of_node(cls, config: Config) -> Pool | None:
        """The pool that a node is set up with, its own addresses left out; None where it has none."""
        own = [address for address in (config.node_ip, config.gateway) if address]
        return cls.parse(config.load_balancer_pool, reserved=own) if config.load_balancer_pool else None

    def __contains__(self, text: str) -> bool:
        address = parse_address(text)
        if address is None or address in self.reserved:
            return False
        return any(
            first.version == address.version and int(first) <= int(address) <= int(last) for first, last in self.spans
        )

    def addresses(self, family: str) -> Iterator[str]:
        """All of one family (IPv4 or IPv6), in order; made one by one, since an IPv6 pool may be huge."""
        for first, last in self.spans:
            if family == f"IPv{first.version}":
                found = (first + offset for offset in range(int(last) - int(first) + 1))
                yield from (str(address) for address in found if address not in self.reserved)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The addresses a Service is to have, and why it does not have more."""

    addresses: tuple[str, ...]
    problems: tuple[str, ...] = ()


def parse_address(text: str) -> Address | None:
    """An address as the API may hold it (leading zeros), None for what is none."""
    try:
        return ipaddress.ip_address(canonical_address(text))
    except ValueError:
        return None


def held_addresses(service: Service) -> list[str]:
    """The addresses in a Service's status, canonical, whoever wrote them."""
    found = (parse_address(entry.ip) for entry in service.status.load_balancer.ingress)
    return list(dict.fromkeys(str(address) for address in found if address is not None))


def is_ours(service: Service, pool: Pool) -> bool:
    """Is it for the pool to serve this Service?"""
    if service.spec.type != "LoadBalancer" or service.spec.load_balancer_class not in ("", CLASS):
        return False
    return all(entry.ip in pool for entry in service.status.load_balancer.ingress)


def resolve_assignment(service: Service, pool: Pool, others: Others) -> Assignment:
    """What a Service that ``is_ours`` is to have. ``others``: the other Services that hold an address."""
    kept, problems = _keep(service, others)
    wish = service.spec.load_balancer_ip
    if wish and (trouble := _trouble(wish, service, pool, others)):
        return Assignment(tuple(kept.values()), (*problems, trouble))
    if wish:
        kept[address_family(wish)] = canonical_address(wish)
    if service.metadata.deletion_timestamp is not None:
        return Assignment(tuple(kept.values()), tuple(problems))
    found: list[str] = []
    for family in resolve_families(service):
        address = kept.get(family) or _first_free(pool, family, others)
        if address is not None:
            found.append(address)
        elif next(pool.addresses(family), None) is not None:
            problems.append(f"load_balancer_pool has no free {family} address left")
    if not found and not problems:
        problems.append(f"load_balancer_pool has no {' or '.join(resolve_families(service))} addresses")
    return Assignment(tuple(found), tuple(problems))


def _keep(service: Service, others: Others) -> tuple[dict[str, str], list[str]]:
    """By family, what the Service has and nobody older has too; and what it has to give up."""
    kept: dict[str, str] = {}
    problems = []
    for address in held_addresses(service):
        older = next((other for other in others(address) if seniority(other) < seniority(service)), None)
        if older is None:
            kept.setdefault(address_family(address), address)
        else:
            problems.append(f"{address} belongs to Service {older.metadata.key}, which is older")
    return kept, problems


def seniority(service: Service) -> tuple[datetime, str]:
    """Of two Services with one address, the smaller may keep it."""
    return (service.metadata.creation_timestamp or datetime.max.replace(tzinfo=UTC), service.metadata.uid)


def _trouble(wish: str, service: Service, pool: Pool, others: Others) -> str | None:
    """Why ``spec.loadBalancerIP`` cannot be had."""
    address = parse_address(wish)
    if address is None:
        return f"loadBalancerIP {wish!r} is not an IP address"
    family = f"IPv{address.version}"
    if family not in resolve_families(service):
        return f"loadBalancerIP {wish} is an {family} address, and the Service has only {resolve_families(service)[0]}"
    if str(address) not in pool:
        reason = "is this node's own" if address in pool.reserved else "is not in load_balancer_pool"
        return f"loadBalancerIP {wish} {reason}"
    rivals = others(str(address))
    if str(address) in held_addresses(service):
        rivals = [other for other in rivals if seniority(other) < seniority(service)]
    return f"loadBalancerIP {wish} is in use by Service {rivals[0].metadata.key}" if rivals else None


def _first_free(pool: Pool, family: str, others: Others) -> str | None:
    return next((address for address in pool.addresses(family) if not others(address)), None)
