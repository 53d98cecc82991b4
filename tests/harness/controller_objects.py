"""Short ways to write the values that controllers decide upon."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from lightkube.models.meta_v1 import LabelSelector

from agent.controllers.objects import (
    Condition,
    Container,
    ContainerPort,
    ContainerStatus,
    Meta,
    Node,
    NodeSpec,
    NodeStatus,
    OwnerReference,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
    ReplicaSet,
    ReplicaSetSpec,
    Service,
    decoder,
)
from agent.kube.informer import Key

NOW = datetime(2025, 1, 1, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def pod(
    name: str,
    ip: str = "",
    *,
    ready: bool = True,
    ready_for: float = 600,
    age: float = 3600,
    node: str = "n1",
    phase: str = "Running",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    owner: OwnerReference | None = None,
    terminating: bool = False,
    restarts: int = 0,
    ports: dict[str, int] | None = None,
    ips: tuple[str, ...] = (),
    **spec: Any,
) -> Pod:
    condition = Condition(type="Ready", status="True" if ready else "False", last_transition_time=ago(ready_for))
    listed = [ContainerPort(name=n, container_port=number) for n, number in (ports or {}).items()]
    return Pod(
        metadata=Meta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            creation_timestamp=ago(age),
            deletion_timestamp=NOW if terminating else None,
            labels={"app": "web"} if labels is None else labels,
            annotations=annotations or {},
            owner_references=[owner] if owner is not None else [],
        ),
        spec=PodSpec(node_name=node, containers=[Container(name="c", ports=listed)], **spec),
        status=PodStatus(
            phase=phase,
            pod_ip=ip,
            pod_ips=[PodIP(ip=address) for address in ips or ((ip,) if ip else ())],
            conditions=[condition],
            container_statuses=[ContainerStatus(name="c", restart_count=restarts)],
        ),
    )


def service(spec: str = '{"ports": [{"port": 80}]}', *, name: str = "web", **meta: Any) -> Service:
    """A Service that selects ``app: web``; ``spec`` in JSON adds to that."""
    body = {"clusterIP": "10.96.0.50", "ipFamilies": ["IPv4"], "selector": {"app": "web"}, **json.loads(spec)}
    fields = {"name": name, "namespace": "default", "uid": f"uid-{name}", **meta}
    return decoder(Service)(json.dumps({"metadata": fields, "spec": body}).encode())


def node(
    name: str = "n1", *, zone: str = "", labels: dict[str, str] | None = None, ready: bool = True, **kw: Any
) -> Node:
    every = {**(labels or {}), **({"topology.kubernetes.io/zone": zone} if zone else {})}
    return Node(
        metadata=Meta(name=name, uid=f"uid-{name}", labels=every),
        spec=NodeSpec(unschedulable=kw.get("unschedulable", False), taints=kw.get("taints", [])),
        status=NodeStatus(
            conditions=[Condition(type="Ready", status="True" if ready else "False")],
            allocatable=kw.get("allocatable", {}),
        ),
    )


def nodes(*found: Node) -> dict[Key, Node]:
    return {Key("", each.metadata.name): each for each in found or (node(),)}


def replicaset(
    replicas: int = 3, *, name: str = "web", template: dict[str, Any] | None = None, **spec: Any
) -> ReplicaSet:
    body = template or {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return ReplicaSet(
        metadata=Meta(name=name, namespace="default", uid=f"uid-rs-{name}", generation=4),
        spec=ReplicaSetSpec(
            replicas=replicas,
            selector=LabelSelector(matchLabels={"app": "web"}),
            template=msgspec.Raw(json.dumps(body).encode()),
            **spec,
        ),
    )


def owned_by(owner: ReplicaSet, *, controller: bool = True) -> OwnerReference:
    meta = owner.metadata
    return OwnerReference(api_version="apps/v1", kind="ReplicaSet", name=meta.name, uid=meta.uid, controller=controller)
