"""Which endpoints of a Service port are usable: for the whole cluster, and on this node.

Ready endpoints are used. Where there are none, those that still serve while they terminate keep the Service alive
(KEP-1669). Topology hints narrow the cluster's set only (KEP-2433, KEP-3015), and only if every ready endpoint has one:
a half-hinted Service would overload the few that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rules.policy.addresses import family_of, parse_address
from rules.policy.values import Backend
from rules.snapshot import Endpoint, EndpointSlice, Family, Node, ServicePort, SlicePort


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint at one port, its conditions made plain."""

    backend: Backend
    ready: bool
    draining: bool  # serving and terminating
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """``cluster``: what connections from this node are spread over; ``local``: the usable ones on this node."""

    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]


def gather_candidates(
    slices: Iterable[EndpointSlice], *, port_name: str, protocol: str, family: Family, node: Node, problems: list[str]
) -> tuple[Candidate, ...]:
    """The endpoints of one Service port, sorted. One address and port in several slices (as happens while a pod moves
    from one to another) is one endpoint; the readier mention wins."""
    found: dict[tuple[str, int], Candidate] = {}
    for piece in slices:
        if piece.address_type != f"IPv{family.value}":
            continue
        for port in piece.ports:
            if port.name == port_name and port.protocol == protocol and port.port is not None:
                _gather(piece, port, family=family, node=node, found=found, problems=problems)
    return tuple(sorted(found.values(), key=lambda candidate: candidate.backend))


def select_endpoints(candidates: Sequence[Candidate], node: Node) -> Selection:
    ready = [candidate for candidate in candidates if candidate.ready]
    here = [candidate for candidate in candidates if candidate.backend.local]
    return Selection(
        cluster=_backends(_near(ready, node) or _draining(candidates)),
        local=_backends([candidate for candidate in here if candidate.ready] or _draining(here)),
    )


def count_ready_here(
    slices: Sequence[EndpointSlice], ports: Iterable[ServicePort], *, families: Iterable[Family], node: Node
) -> int:
    """How many endpoints of a Service are on this node and ready. A pod behind two ports is one endpoint; so is a pod
    with an address in each family, wherefore the family that has most of them counts."""
    found: dict[Family, set[str]] = {family: set() for family in families}
    for port in ports:
        for family, addresses in found.items():
            candidates = gather_candidates(
                slices, port_name=port.name, protocol=port.protocol, family=family, node=node, problems=[]
            )
            addresses.update(c.backend.address for c in candidates if c.ready and c.backend.local)
    return max(map(len, found.values()), default=0)


def _gather(
    piece: EndpointSlice,
    port: SlicePort,
    *,
    family: Family,
    node: Node,
    found: dict[tuple[str, int], Candidate],
    problems: list[str],
) -> None:
    assert port.port is not None
    if not 0 < port.port < 65536:
        problems.append(f"EndpointSlice {piece.name}: port {port.port} is not between 1 and 65535")
        return
    for endpoint in piece.endpoints:
        try:
            address = parse_address(endpoint.address)
        except ValueError:
            problems.append(f"EndpointSlice {piece.name}: {endpoint.address!r} is not an IP address")
            continue
        if family_of(address) is not family:
            problems.append(f"EndpointSlice {piece.name}: {endpoint.address} is not an {piece.address_type} address")
            continue
        candidate = _candidate(endpoint, Backend(str(address), port.port, local=_is_local(endpoint, node)))
        key = (candidate.backend.address, candidate.backend.port)
        found[key] = _readier(found.get(key), candidate)


def _candidate(endpoint: Endpoint, backend: Backend) -> Candidate:
    """Absent conditions mean ready, serving, not terminating (discovery/v1 EndpointConditions)."""
    return Candidate(
        backend,
        ready=endpoint.ready is not False,
        draining=endpoint.serving is not False and bool(endpoint.terminating),
        zone_hints=endpoint.zone_hints,
        node_hints=endpoint.node_hints,
    )


def _is_local(endpoint: Endpoint, node: Node) -> bool:
    return bool(endpoint.node) and endpoint.node == node.name


def _readier(known: Candidate | None, new: Candidate) -> Candidate:
    """Of two equal mentions, the one that knows that the endpoint is here."""
    return new if known is None or _readiness(new) > _readiness(known) else known


def _readiness(candidate: Candidate) -> tuple[bool, bool, bool]:
    return candidate.ready, candidate.draining, candidate.backend.local


def _near(ready: list[Candidate], node: Node) -> list[Candidate]:
    """Those hinted for this node, else for its zone, else all; a hint counts only if all have one."""
    for name, hints in ((node.name, _node_hints), (node.zone, _zone_hints)):
        near = [candidate for candidate in ready if name and name in hints(candidate)]
        if near and all(hints(candidate) for candidate in ready):
            return near
    return ready


_Hints = Callable[[Candidate], tuple[str, ...]]


def _node_hints(candidate: Candidate) -> tuple[str, ...]:
    return candidate.node_hints


def _zone_hints(candidate: Candidate) -> tuple[str, ...]:
    return candidate.zone_hints


def _draining(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.draining]


def _backends(candidates: Iterable[Candidate]) -> tuple[Backend, ...]:
    return tuple(candidate.backend for candidate in candidates)
