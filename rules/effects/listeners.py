"""Where Services listen, and what becomes of a new connection there: frontends, asked once for each kind of client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rules.effects.words import count_endpoints
from rules.policy import (
    Action,
    Backend,
    Frontend,
    Frontends,
    Kind,
    Masquerade,
    Pool,
    PortFrontends,
    Route,
    ServiceFrontends,
    Source,
)
from rules.snapshot import Family, ServiceName

CLIENTS = (Source.ANYONE, Source.POD, Source.NODE)  # the first is everybody who is neither of the others


class Place(NamedTuple):
    """Where a Service listens. ``address`` None: the node's own addresses of the family (a NodePort)."""

    kind: Kind
    family: Family
    protocol: str
    address: str | None
    port: int

    def __str__(self) -> str:
        if self.address is None:
            return f"{self.kind.value} {self.port}/{self.protocol}{' (IPv6)' if self.family is Family.IPV6 else ''}"
        return f"{self.kind.value} {Backend(self.address, self.port)}/{self.protocol}"


class Listener(NamedTuple):
    """What a place does with connections."""

    port: PortFrontends
    frontend: Frontend

    @property
    def serves(self) -> bool:
        return any(route.action is Action.FORWARD for route in self.frontend.routes)

    @property
    def guard(self) -> tuple[str, ...] | None:
        """Who may connect, None for everybody. Where nobody is served, nobody is guarded."""
        return self.frontend.allowed_sources if self.serves else None

    @property
    def usable(self) -> frozenset[Backend]:
        """The endpoints that an open flow may stay on: those of every route, whoever the client is."""
        return frozenset(map(plain, self.port.usable(self.frontend)))

    @property
    def policy(self) -> str:
        """Its traffic policy; unknown ("") while everybody is refused, because then it does not matter."""
        if all(route.action is Action.REJECT for route in self.frontend.routes):
            return ""
        return "Local" if any(route.pool is Pool.LOCAL for route in self.frontend.routes) else "Cluster"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to a new connection of one kind of client. ``keeps``: endpoints see the client's own address."""

    action: Action
    pool: Pool
    backends: tuple[Backend, ...]
    keeps: bool
    why: str

    def clause(self, *, address: bool = False) -> str:
        """What becomes of "connections ..."; ``address``: say also whose address the endpoints see."""
        if self.action is Action.REJECT:
            return f"are refused: {self.why}"
        if self.action is Action.DROP:
            return f"are dropped: {self.why}"
        several = len(self.backends) != 1
        where = " on this node" if self.pool is Pool.LOCAL else ""
        sees = ("see" if several else "sees") if self.keeps else f"{'do' if several else 'does'} not see"
        seen = f", which {sees} the client's address" if address else ""
        return f"{'are spread over' if several else 'go to'} {count_endpoints(self.backends)}{where}{seen}"


@dataclass(frozen=True, slots=True)
class Claims:
    """Which Services listen at an address and port, before and after."""

    before: Mapping[tuple[object, ...], tuple[ServiceName, ...]]
    after: Mapping[tuple[object, ...], tuple[ServiceName, ...]]

    def left(self, place: Place, name: ServiceName) -> list[str]:
        """Other Services that listen there afterwards."""
        return [str(other) for other in self.after.get(place[1:], ()) if other != name]

    def taken(self, place: Place, name: ServiceName) -> list[str]:
        """Other Services that did, and no longer do."""
        after = self.left(place, name)
        return [str(o) for o in self.before.get(place[1:], ()) if o != name and str(o) not in after]


def find_listeners(service: ServiceFrontends) -> dict[Place, Listener]:
    found: dict[Place, Listener] = {}
    for port in service.ports:
        for frontend in port.frontends:
            place = Place(frontend.kind, port.family, port.protocol, frontend.address, frontend.port)
            found.setdefault(place, Listener(port, frontend))
    return found


def find_claimants(frontends: Frontends) -> dict[tuple[object, ...], tuple[ServiceName, ...]]:
    found: dict[tuple[object, ...], tuple[ServiceName, ...]] = {}
    for name in sorted(frontends.services):
        for place in find_listeners(frontends.services[name]):
            found[place[1:]] = (*found.get(place[1:], ()), name)
    return found


def find_fate(listener: Listener, client: Source) -> Fate:
    """By the first route whose source fits."""
    route = next(route for route in listener.frontend.routes if route.source in (client, Source.ANYONE))
    return Fate(
        action=route.action,
        pool=route.pool,
        backends=tuple(plain(b) for b in listener.port.pool(route.pool)) if route.action is Action.FORWARD else (),
        keeps=route.masquerade is Masquerade.NEVER
        or (route.masquerade is Masquerade.OUTSIDERS and client is Source.POD),
        why=_why(route, listener.port),
    )


def _why(route: Route, port: PortFrontends) -> str:
    elsewhere = f", {len(port.cluster)} elsewhere" if route.action is Action.DROP else ""
    return f"the Service {route.why}{elsewhere}" if route.why else ""


def plain(backend: Backend) -> Backend:
    """Without where it is: an endpoint is its address and port."""
    return Backend(backend.address, backend.port)
