"""One strategy per kind: defaults, rules, what an update may change."""

from __future__ import annotations

from agent.apiserver.admission.strategies.base import Strategy
from agent.apiserver.admission.strategies.endpoints import EndpointSliceStrategy, EndpointsStrategy
from agent.apiserver.admission.strategies.plain import (
    ConfigMapStrategy,
    EventStrategy,
    LeaseStrategy,
    NamespaceStrategy,
    NodeStrategy,
    SecretStrategy,
)
from agent.apiserver.admission.strategies.pod import PodStrategy
from agent.apiserver.admission.strategies.replicaset import ReplicaSetStrategy
from agent.apiserver.admission.strategies.service import ServiceStrategy
from agent.apiserver.registry import Kind


def strategy_of(kind: Kind) -> Strategy:
    """The kind's strategy; kinds without rules of their own get the common one."""
    return _STRATEGIES.get(kind.storage, _COMMON)


_COMMON = Strategy()
_STRATEGIES: dict[str, Strategy] = {
    "apps/replicasets": ReplicaSetStrategy(),
    "configmaps": ConfigMapStrategy(),
    "coordination.k8s.io/leases": LeaseStrategy(),
    "discovery.k8s.io/endpointslices": EndpointSliceStrategy(),
    "endpoints": EndpointsStrategy(),
    "events": EventStrategy(),
    "namespaces": NamespaceStrategy(),
    "nodes": NodeStrategy(),
    "pods": PodStrategy(),
    "secrets": SecretStrategy(),
    "services": ServiceStrategy(),
}
