"""Policy: what each VIP:port must do, decided once for every backend.

``resolve_frontends`` turns a ``Snapshot`` into ``Frontends``. Whatever Kubernetes means by a field of a Service
(traffic policies, readiness, termination, topology, masquerade, reject or drop) is decided here and nowhere else; a
backend only spells the answer in its kernel's language.

- ``values``: the answer. A frontend is an address and port with *routes*: the first route whose source fits the packet
  says what happens to it.
- ``endpoints``: which endpoints are usable, for the whole cluster and on this node.
- ``addresses``: odd but legal addresses made canonical.
- ``services``: one Service, its ports, families and frontends.
- ``nodeports``: on which of the node's addresses NodePorts listen.

Nothing here fails because of what an object contains: the part that makes no sense is left out and described in
``Frontends.problems``; everything else goes on.
"""

from rules.policy.nodeports import node_port_destinations
from rules.policy.services import resolve_frontends, resolve_service
from rules.policy.values import (
    Action,
    Backend,
    Frontend,
    Frontends,
    HealthCheck,
    Kind,
    Masquerade,
    Pool,
    PortFrontends,
    PortName,
    Route,
    ServiceFrontends,
    Source,
)

__all__ = [
    "Action",
    "Backend",
    "Frontend",
    "Frontends",
    "HealthCheck",
    "Kind",
    "Masquerade",
    "Pool",
    "PortFrontends",
    "PortName",
    "Route",
    "ServiceFrontends",
    "Source",
    "node_port_destinations",
    "resolve_frontends",
    "resolve_service",
]
