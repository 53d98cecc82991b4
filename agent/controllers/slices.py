"""The smallest change that turns the EndpointSlices there are into those there should be. Pure.

Every slice that is written travels to every node, so: an endpoint stays in the slice it is in; what must be written
anyway is filled first; an emptied slice is used again rather than deleted while another is made; only then come new
slices. A Service without any endpoint keeps one empty slice, which tells readers "nobody" instead of "not yet known".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.controllers.endpoint_objects import Endpoint, EndpointSlice, Port, Target

MAX_ENDPOINTS = 100  # per slice, as upstream's --max-endpoints-per-slice

Ports = tuple[Port, ...]
Identity = tuple[tuple[str, ...], Target | None]


@dataclass(frozen=True, slots=True)
class Content:
    """What a slice should hold; ``slice`` is the one to change, None for a new one."""

    slice: EndpointSlice | None
    ports: Ports
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class SlicePlan:
    write: tuple[Content, ...] = ()
    delete: tuple[EndpointSlice, ...] = ()


@dataclass(slots=True)
class _Draft:
    """A slice while it is being decided upon."""

    slice: EndpointSlice | None
    ports: Ports
    endpoints: list[Endpoint] = field(default_factory=list)

    def room(self, limit: int) -> int:
        return limit - len(self.endpoints)

    @property
    def changed(self) -> bool:
        if self.slice is None:
            return True
        return tuple(self.endpoints) != self.slice.endpoints or _port_set(self.ports) != self.slice.port_set


def group_by_ports(members: Iterable[tuple[Endpoint, Ports]]) -> dict[Ports, list[Endpoint]]:
    """Endpoints that listen on the same ports share slices."""
    groups: dict[frozenset[object], tuple[Ports, list[Endpoint]]] = {}
    for endpoint, ports in members:
        groups.setdefault(_port_set(ports), (ports, []))[1].append(endpoint)
    return dict(groups.values())


def diff_slices(
    existing: Sequence[EndpointSlice],
    desired: Mapping[Ports, Sequence[Endpoint]],
    *,
    labels: Mapping[str, str],
    limit: int = MAX_ENDPOINTS,
) -> SlicePlan:
    """What to write and delete, for one address family. ``existing``: the Service's own slices of that family.

    A slice is written when its endpoints, ports or labels differ.
    """
    known = {_port_set(ports): ports for ports in desired}
    pools = {ports: {endpoint.identity: endpoint for endpoint in wanted} for ports, wanted in desired.items()}
    drafts = [_draft(found, known.get(found.port_set), pools, limit) for found in existing]
    kept, empty = [d for d in drafts if d.endpoints], [d for d in drafts if not d.endpoints]
    for ports, pool in pools.items():
        kept += _place(list(pool.values()), ports, [draft for draft in kept if draft.ports == ports], empty, limit)
    if not kept:
        kept.append(_Draft(empty.pop(0).slice if empty else None, ()))
    return SlicePlan(
        write=tuple(
            Content(d.slice, d.ports, tuple(d.endpoints)) for d in kept if d.changed or _relabelled(d.slice, labels)
        ),
        delete=tuple(draft.slice for draft in empty if draft.slice is not None),
    )


def _draft(
    found: EndpointSlice, ports: Ports | None, pools: Mapping[Ports, dict[Identity, Endpoint]], limit: int
) -> _Draft:
    """``found`` with those of its endpoints that are still wanted at its ports; ``ports`` is None when none are."""
    return _Draft(found, found.ports) if ports is None else _Draft(found, ports, _take(found, pools[ports], limit))


def _take(found: EndpointSlice, pool: dict[Identity, Endpoint], limit: int) -> list[Endpoint]:
    """The wanted endpoints that ``found`` holds already, in their order and in their new state; taken from ``pool``."""
    taken = [pool.pop(endpoint.identity, None) for endpoint in found.endpoints]
    kept = [endpoint for endpoint in taken if endpoint is not None]
    for surplus in kept[limit:]:
        pool[surplus.identity] = surplus
    return kept[:limit]


def _place(rest: list[Endpoint], ports: Ports, own: Sequence[_Draft], empty: list[_Draft], limit: int) -> list[_Draft]:
    """Find room for ``rest``; returns the drafts that came into use for it."""
    for draft in own:
        if draft.changed:
            _fill(draft, rest, limit)
    fitting = [draft for draft in own if draft.room(limit) >= len(rest)]
    if rest and fitting:
        _fill(min(fitting, key=lambda draft: draft.room(limit)), rest, limit)
    used: list[_Draft] = []
    while rest:
        found = empty.pop(0).slice if empty else None
        used.append(_Draft(found, ports))
        _fill(used[-1], rest, limit)
    return used


def _fill(draft: _Draft, rest: list[Endpoint], limit: int) -> None:
    room = draft.room(limit)
    draft.endpoints += rest[:room]
    del rest[:room]


def _relabelled(found: EndpointSlice | None, labels: Mapping[str, str]) -> bool:
    return found is not None and found.metadata.labels != labels


def _port_set(ports: Ports) -> frozenset[tuple[str, int, str, str]]:
    return frozenset(port.identity for port in ports)
