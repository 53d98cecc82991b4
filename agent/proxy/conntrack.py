"""Connections that outlive their endpoint: UDP has no end, so conntrack would send a talkative client to a dead
address for ever. After each change, entries whose original destination is one of ours and whose replies come from an
endpoint that is no longer usable are deleted; entries of healthy endpoints and other people's are left alone.

(TCP needs no help: a dead endpoint's connections end or reset by themselves.)

This is the pure half; ``conntrack_netlink`` talks to the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from agent.proxy.conntrack_wire import Entry
from rules.iptables.adopt import Destination
from rules.policy import Kind, PortFrontends, ServiceFrontends
from rules.snapshot import Family

CONNECTIONLESS = ("UDP", "SCTP")

Address = tuple[str, int]  # address and port
Usable = frozenset[Address] | None  # None: not known, whoever it was
Places = Mapping[Destination, Usable]


def usable_endpoints(services: Iterable[ServiceFrontends], family: Family) -> dict[Destination, Usable]:
    """For each connectionless frontend: the endpoints that its connections may be on."""
    ports = chain.from_iterable(service.ports for service in services)
    found: dict[Destination, Usable] = {}
    for port in ports:
        if port.family is family and port.protocol in CONNECTIONLESS:
            found.update(_places(port))
    return found


def stale_entries(
    entries: Iterable[Entry], *, before: Places, after: Places, node_addresses: Iterable[str]
) -> list[Entry]:
    """Those to delete. ``before`` and ``after`` speak of the Services that changed; what neither speaks of stays."""
    local = set(node_addresses)
    return [entry for entry in entries if _is_stale(entry, before, after, local)]


def _places(port: PortFrontends) -> Iterator[tuple[Destination, Usable]]:
    for frontend in port.frontends:
        usable = frozenset((backend.address, backend.port) for backend in port.usable(frontend))
        address = None if frontend.kind is Kind.NODE_PORT else frontend.address
        yield Destination(port.protocol, address, frontend.port), usable


def _is_stale(entry: Entry, before: Places, after: Places, local: set[str]) -> bool:
    address, port = entry.destination
    exact, node_port = (Destination(entry.protocol_name, where, port) for where in (address, None))
    if exact in after:
        return not _is_on(entry, after[exact])
    if exact in before:
        return _is_on(entry, before[exact])  # the Service is gone, or this address of it
    if node_port in after:  # the port alone does not say that the destination was this node
        ours = address in local or (node_port in before and _is_on(entry, before[node_port]))
        return ours and not _is_on(entry, after[node_port])
    return node_port in before and _is_on(entry, before[node_port])


def _is_on(entry: Entry, usable: Usable) -> bool:
    """Does one of these endpoints answer? Where they are not known: somebody else than was asked?"""
    return entry.endpoint != entry.destination if usable is None else entry.endpoint in usable
