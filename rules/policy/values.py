"""The answer of the policy step: frontends, their routes, and the endpoints behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from rules.snapshot import Family, Node, ServiceName, Settings


class Kind(Enum):
    """What sort of address a frontend has. The value is how people call it."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer IP"


class Source(Enum):
    """Where a connection comes from, as far as it matters."""

    POD = "a pod"
    NODE = "this node itself"
    ANYONE = "anyone"


class Action(Enum):
    FORWARD = "forward"
    REJECT = "reject"  # tell the client at once: TCP reset or "connection refused", UDP an ICMP error
    DROP = "drop"


class Pool(Enum):
    """Which endpoints a connection is spread over."""

    CLUSTER = "all endpoints"
    LOCAL = "this node's endpoints"


class Masquerade(Enum):
    """When the client's address is replaced by the node's. A hairpin (a pod that reaches itself) always needs it."""

    NEVER = "never"
    ALWAYS = "always"
    OUTSIDERS = "sources outside the pod network"


class PortName(NamedTuple):
    """Which port of which Service: ``namespace/name:port``, or ``namespace/name`` for a port without a name."""

    namespace: str
    name: str
    port: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One usable endpoint: canonical address and port; ``local``: on this node."""

    address: str
    port: int
    local: bool = False

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to connections from ``source``. ``why`` is said of what is refused: "has no endpoints"."""

    source: Source
    action: Action
    pool: Pool = Pool.CLUSTER
    masquerade: Masquerade = Masquerade.NEVER
    why: str = ""


@dataclass(frozen=True, slots=True)
class Frontend:
    """One place where a Service port listens. ``address`` None: the node's local addresses (NodePort).

    ``routes``: the first whose source fits decides; the last one fits anyone. ``allowed_sources``: CIDRs that may
    connect (everybody else is dropped, whoever they are); None: everybody may. Where no route forwards, there is nobody
    to be guarded, and the routes alone decide: everybody learns that there is no endpoint.
    """

    kind: Kind
    address: str | None
    port: int
    routes: tuple[Route, ...]
    allowed_sources: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class PortFrontends:
    """One Service port in one family: its usable endpoints and its frontends. ``affinity`` is in seconds."""

    name: PortName
    family: Family
    protocol: str
    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]
    frontends: tuple[Frontend, ...]
    affinity: int | None = None

    def pool(self, pool: Pool) -> tuple[Backend, ...]:
        return self.cluster if pool is Pool.CLUSTER else self.local

    def usable(self, frontend: Frontend) -> frozenset[Backend]:
        """The endpoints that an open connection may stay on: those of every route, whoever the client is."""
        pools = {route.pool for route in frontend.routes if route.action is Action.FORWARD}
        return frozenset(backend for pool in pools for backend in self.pool(pool))


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What an external load balancer asks this node about a Service (``spec.healthCheckNodePort``): on which TCP port.

    ``ready_here``: how many of its endpoints are on this node and ready. Terminating ones do not count, even while
    connections still go to them: a load balancer should look elsewhere before the last one has gone (KEP-1669).
    """

    port: int
    ready_here: int = 0


@dataclass(frozen=True, slots=True)
class ServiceFrontends:
    """One Service. ``skipped`` says why it is none of the proxy's business; ``problems``, what was left out of it."""

    name: ServiceName
    ports: tuple[PortFrontends, ...] = ()
    skipped: str = ""
    problems: tuple[str, ...] = ()
    health_check: HealthCheck | None = None


@dataclass(frozen=True, slots=True)
class Frontends:
    """Everything this node's dataplane must do."""

    node: Node
    settings: Settings = field(default_factory=Settings)
    services: Mapping[ServiceName, ServiceFrontends] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # with the settings, not with a Service

    def ports(self, family: Family) -> Iterator[PortFrontends]:
        """The Service ports of one family, in a fixed order."""
        for name in sorted(self.services):
            yield from (port for port in self.services[name].ports if port.family is family)
