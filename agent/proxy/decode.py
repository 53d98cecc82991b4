"""API objects -> the dataplane's values, straight from JSON: only the fields that matter are ever decoded.

Absent and ``null`` are the same to the API (``endpoints: null`` is what Go writes for a slice without any).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from rules.snapshot import (
    Endpoint,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Service,
    ServiceName,
    ServicePort,
    SlicePort,
)

SERVICE_NAME = "kubernetes.io/service-name"
ZONE = "topology.kubernetes.io/zone"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"  # a taint's key
DEFAULT_AFFINITY = 10800  # seconds


@dataclass(frozen=True, slots=True)
class OwnedSlice:
    """An EndpointSlice and the Service it belongs to (None: to none that we know of).

    ``triggered``: when the change behind it happened, in seconds since the epoch, if its maker says so.
    """

    service: ServiceName | None
    value: EndpointSlice
    triggered: float | None = None


@dataclass(frozen=True, slots=True)
class OwnNode:
    """The Node we run on, and whether load balancers should still bring new connections to it: not once it is being
    deleted, be it by its deletionTimestamp or the cluster autoscaler's taint (KEP-3836). What connections then do here
    does not change, so the dataplane is not told.
    """

    node: Node
    eligible: bool = True


class _Struct(msgspec.Struct, rename="camel"):
    pass


class _Meta(_Struct):
    name: str = ""
    namespace: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _ServicePort(_Struct):
    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class _ClientIP(_Struct):
    timeout_seconds: int | None = None


class _AffinityConfig(_Struct):
    client_ip: _ClientIP | None = msgspec.field(name="clientIP", default=None)


class _ServiceSpec(_Struct):
    type: str | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    ports: list[_ServicePort] | None = None
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: _AffinityConfig | None = None
    health_check_node_port: int | None = None


class _Ingress(_Struct):
    ip: str | None = None
    ip_mode: str | None = None


class _LoadBalancer(_Struct):
    ingress: list[_Ingress] | None = None


class _ServiceStatus(_Struct):
    load_balancer: _LoadBalancer | None = None


class _Service(_Struct):
    metadata: _Meta
    spec: _ServiceSpec | None = None
    status: _ServiceStatus | None = None


class _Conditions(_Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Named(_Struct):
    name: str = ""


class _Hints(_Struct):
    for_zones: list[_Named] | None = None
    for_nodes: list[_Named] | None = None


class _Endpoint(_Struct):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: _Hints | None = None


class _SlicePort(_Struct):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class _Slice(_Struct):
    metadata: _Meta
    address_type: str = ""
    ports: list[_SlicePort] | None = None
    endpoints: list[_Endpoint] | None = None


class _NodeAddress(_Struct):
    type: str = ""
    address: str = ""


class _NodeStatus(_Struct):
    addresses: list[_NodeAddress] | None = None


class _Taint(_Struct):
    key: str = ""


class _NodeSpec(_Struct):
    taints: list[_Taint] | None = None


class _Node(_Struct):
    metadata: _Meta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


_SERVICE = msgspec.json.Decoder(_Service)
_SLICE = msgspec.json.Decoder(_Slice)
_NODE = msgspec.json.Decoder(_Node)


def decode_service(data: bytes) -> Service:
    """A v1 Service. Raises ValueError."""
    found = _SERVICE.decode(data)
    spec = found.spec or _ServiceSpec()
    balancer = (found.status or _ServiceStatus()).load_balancer or _LoadBalancer()
    return Service(
        name=ServiceName(found.metadata.namespace or "", found.metadata.name),
        type=spec.type or "ClusterIP",
        cluster_ips=tuple(spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])),
        ports=tuple(_service_port(port) for port in spec.ports or []),
        external_ips=tuple(spec.external_ips or []),
        load_balancer=tuple(LoadBalancerIngress(i.ip or "", i.ip_mode or "VIP") for i in balancer.ingress or []),
        source_ranges=tuple(spec.load_balancer_source_ranges or []),
        internal_traffic_policy=spec.internal_traffic_policy or "Cluster",
        external_traffic_policy=spec.external_traffic_policy or "Cluster",
        affinity_seconds=_affinity(spec),
        health_check_node_port=spec.health_check_node_port or 0,
        labels=found.metadata.labels or {},
        uid=found.metadata.uid or "",
    )


def decode_slice(data: bytes) -> OwnedSlice:
    """A discovery.k8s.io/v1 EndpointSlice. Raises ValueError."""
    found = _SLICE.decode(data)
    owner = (found.metadata.labels or {}).get(SERVICE_NAME)
    value = EndpointSlice(
        name=found.metadata.name,
        address_type=found.address_type,
        ports=tuple(SlicePort(p.port, p.name or "", p.protocol or "TCP") for p in found.ports or []),
        endpoints=tuple(_endpoint(e, e.addresses[0]) for e in found.endpoints or [] if e.addresses),
    )
    return OwnedSlice(
        service=ServiceName(found.metadata.namespace or "", owner) if owner else None,
        value=value,
        triggered=_timestamp((found.metadata.annotations or {}).get(TRIGGER_TIME)),
    )


def decode_node(data: bytes) -> OwnNode:
    """A v1 Node. Its internal addresses come first: they are its primary ones. Raises ValueError."""
    found = _NODE.decode(data)
    addresses = (found.status or _NodeStatus()).addresses or []
    internal = [a.address for a in addresses if a.type == "InternalIP"]
    external = [a.address for a in addresses if a.type == "ExternalIP"]
    node = Node(
        name=found.metadata.name,
        addresses=tuple(dict.fromkeys(internal + external)),
        zone=(found.metadata.labels or {}).get(ZONE, ""),
    )
    taints = (found.spec or _NodeSpec()).taints or []
    leaving = found.metadata.deletion_timestamp or any(taint.key == TO_BE_DELETED for taint in taints)
    return OwnNode(node, eligible=not leaving)


def _service_port(port: _ServicePort) -> ServicePort:
    return ServicePort(port.port, port.name or "", port.protocol or "TCP", port.node_port or 0)


def _affinity(spec: _ServiceSpec) -> int | None:
    if spec.session_affinity != "ClientIP":
        return None
    client = (spec.session_affinity_config or _AffinityConfig()).client_ip or _ClientIP()
    return DEFAULT_AFFINITY if client.timeout_seconds is None else client.timeout_seconds


def _endpoint(endpoint: _Endpoint, address: str) -> Endpoint:
    conditions, hints = endpoint.conditions or _Conditions(), endpoint.hints or _Hints()
    return Endpoint(
        address=address,
        ready=conditions.ready,
        serving=conditions.serving,
        terminating=conditions.terminating,
        node=endpoint.node_name or "",
        zone=endpoint.zone or "",
        zone_hints=tuple(hint.name for hint in hints.for_zones or []),
        node_hints=tuple(hint.name for hint in hints.for_nodes or []),
    )


def _timestamp(text: str | None) -> float | None:
    """RFC 3339 with up to nanoseconds; what is no time is no time known."""
    try:
        return msgspec.convert(text, datetime).timestamp() if text else None
    except msgspec.ValidationError:
        return None
