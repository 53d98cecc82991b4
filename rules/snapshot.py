"""The only input of the dataplane: what the API says about Services, their endpoints, and this node, as frozen values.

Strings are as the API sent them. Nothing is checked, chosen or corrected here: what a field means, and what to do when
it makes no sense, is decided once, in ``rules.policy``. Absent fields of the API are ``None`` or empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Family(IntEnum):
    """An IP family; a dual-stack Service is served once in each."""

    IPV4 = 4
    IPV6 = 6


class ServiceName(NamedTuple):
    """Which Service: ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One entry of ``spec.ports``. ``node_port`` is 0 where there is none; ``protocol`` is TCP, UDP or SCTP."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class LoadBalancerIngress:
    """One address of ``status.loadBalancer.ingress``; ``ip_mode`` is ``VIP`` (also when absent) or ``Proxy``."""

    ip: str
    ip_mode: str = "VIP"


@dataclass(frozen=True, slots=True)
class Service:
    """What the dataplane needs of a v1 Service."""

    name: ServiceName
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer: tuple[LoadBalancerIngress, ...] = ()
    source_ranges: tuple[str, ...] = ()
    internal_traffic_policy: str = "Cluster"
    external_traffic_policy: str = "Cluster"
    affinity_seconds: int | None = None  # sessionAffinity ClientIP and its timeout; None: no affinity
    health_check_node_port: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of an EndpointSlice, with its first address (the others are for DNS alone).

    The conditions are as sent, ``None`` where absent. Hints are what the endpoints controller proposed for topology.
    """

    address: str
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    node: str = ""
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A port of an EndpointSlice; it serves the Service port of the same name. ``port`` is None where any will do."""

    port: int | None
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A discovery.k8s.io/v1 EndpointSlice; ``address_type`` is IPv4, IPv6 or FQDN."""

    name: str
    address_type: str = "IPv4"
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """This node: ``addresses`` are those of its Node object (the first of a family is its primary one)."""

    name: str
    addresses: tuple[str, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the proxy of this node is set up.

    ``cluster_cidrs``: the whole pod network; a source inside is a pod, whose address is preserved. Empty: unknown, so
    no source is taken for an outsider. ``egress_cidrs``: pods in these ranges leave the pod network with the node's
    address (empty: somebody else sees to it); ``pod_bridge`` is the link on which pods are reached without leaving.
    ``node_port_addresses``: CIDRs, or ``primary``; none of a family: all its local addresses.
    """

    cluster_cidrs: tuple[str, ...] = ()
    masquerade_all: bool = False
    egress_cidrs: tuple[str, ...] = ()
    pod_bridge: str = ""
    node_port_addresses: tuple[str, ...] = ()
    localhost_node_ports: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, or some Services, at one moment. ``slices`` by their Service (``kubernetes.io/service-name``)."""

    node: Node
    settings: Settings = Settings()
    services: Mapping[ServiceName, Service] = field(default_factory=dict)
    slices: Mapping[ServiceName, tuple[EndpointSlice, ...]] = field(default_factory=dict)
