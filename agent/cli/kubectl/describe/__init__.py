"""``describe``: an object and what belongs to it, as text. Pure: JSON and the current time in, text out.

`page` lays text out · `pods` Pod and pod templates · `workloads` ReplicaSet · `network` Service, Endpoints,
EndpointSlice · `cluster` Node, Namespace, ConfigMap, Secret, ServiceAccount · `generic` everything else. The layout
is kubectl's, line for line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.cli.kubectl.describe import cluster, generic, network, pods, workloads
from agent.cli.kubectl.describe.page import Page, write_events
from agent.cli.kubectl.describe.related import Related
from agent.cli.kubectl.objects import group_of

__all__ = ["Related", "describe", "needs"]

Writer = Callable[[Page, Mapping[str, Any], Related], None]


@dataclass(frozen=True, slots=True)
class _Kind:
    write: Writer
    needs: frozenset[str] = frozenset()  # which fields of Related are to be read
    events: bool = True


_KINDS: Mapping[tuple[str, str], _Kind] = {
    ("", "Pod"): _Kind(pods.write_pod),
    ("apps", "ReplicaSet"): _Kind(workloads.write_replicaset, frozenset({"pods"})),
    ("", "Service"): _Kind(network.write_service, frozenset({"slices"})),
    ("", "Endpoints"): _Kind(network.write_endpoints),
    ("discovery.k8s.io", "EndpointSlice"): _Kind(network.write_endpoint_slice),
    ("", "Node"): _Kind(cluster.write_node, frozenset({"pods", "lease"})),
    ("", "Namespace"): _Kind(cluster.write_namespace, events=False),
    ("", "ConfigMap"): _Kind(cluster.write_config_map),
    ("", "Secret"): _Kind(cluster.write_secret, events=False),
    ("", "ServiceAccount"): _Kind(cluster.write_service_account),
}
_GENERIC = _Kind(generic.write_generic)


def needs(obj: Mapping[str, Any]) -> frozenset[str]:
    """Which related objects ``describe`` shows for this kind: pods, slices, lease."""
    return _kind(obj).needs


def describe(
    obj: Mapping[str, Any],
    related: Related,
    events: Sequence[Mapping[str, Any]] | None,
    *,
    now: datetime | None = None,
) -> str:
    """The object as kubectl describes it; ``events`` None leaves the section out."""
    kind = _kind(obj)
    page = Page(now or datetime.now(UTC))
    kind.write(page, obj, related)
    if kind.events and events is not None:
        write_events(page, events)
    return page.text()


def _kind(obj: Mapping[str, Any]) -> _Kind:
    return _KINDS.get((group_of(obj), str(obj.get("kind"))), _GENERIC)
