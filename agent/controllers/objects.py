"""What controllers read of API objects: frozen values with the fields they decide upon, decoded straight from JSON.

Everything else is left out at the edge, which keeps caches small. Nothing here is ever written back whole: writes are
patches, or raw JSON. A JSON ``null`` means "absent" in the Kubernetes API; objects that carry one take a second, slower
way through the decoder, which drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from lightkube.models.meta_v1 import LabelSelector

from agent.kube.informer import Key

T = TypeVar("T")


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A frozen part of an object. Fields are snake_case here and camelCase in JSON."""


class OwnerReference(Value, frozen=True):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class Meta(Value, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    @property
    def controller(self) -> OwnerReference | None:
        """The one owner that manages this object (``controller: true``), if any."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class Object(Value, frozen=True):
    """Any object, its metadata only: all the garbage collector needs to know."""

    api_version: str = ""
    kind: str = ""
    metadata: Meta = Meta()


class Condition(Value, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class ContainerPort(Value, frozen=True):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")
    protocol: str = "TCP"


class Container(Value, frozen=True):
    name: str = ""
    ports: list[ContainerPort] = []
    restart_policy: str = ""


class Toleration(Value, frozen=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class NodeSelectorRequirement(Value, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] = []


class NodeSelectorTerm(Value, frozen=True):
    match_expressions: list[NodeSelectorRequirement] = []
    match_fields: list[NodeSelectorRequirement] = []


class NodeSelector(Value, frozen=True):
    node_selector_terms: list[NodeSelectorTerm] = []


class NodeAffinity(Value, frozen=True):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)


class PodAffinity(Value, frozen=True):
    required: list[Any] = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default_factory=list)


class Affinity(Value, frozen=True):
    node_affinity: NodeAffinity = NodeAffinity()
    pod_affinity: PodAffinity = PodAffinity()
    pod_anti_affinity: PodAffinity = PodAffinity()


class TopologySpread(Value, frozen=True):
    topology_key: str = ""
    when_unsatisfiable: str = ""


class PodSpec(Value, frozen=True):
    node_name: str = ""
    node_selector: dict[str, str] = {}
    hostname: str = ""
    subdomain: str = ""
    scheduler_name: str = "default-scheduler"
    host_network: bool = False
    containers: list[Container] = []
    init_containers: list[Container] = []
    tolerations: list[Toleration] = []
    affinity: Affinity = Affinity()
    topology_spread_constraints: list[TopologySpread] = []
    scheduling_gates: list[Any] = []
    resource_claims: list[Any] = []


class PodIP(Value, frozen=True):
    ip: str = ""


class ContainerStatus(Value, frozen=True):
    name: str = ""
    restart_count: int = 0


class PodStatus(Value, frozen=True):
    phase: str = "Pending"
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIP] = msgspec.field(name="podIPs", default_factory=list)
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(Value, frozen=True):
    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def condition(self, type: str) -> Condition | None:
        return find_condition(self.status.conditions, type)

    @property
    def ready(self) -> bool:
        found = self.condition("Ready")
        return found is not None and found.status == "True"

    @property
    def finished(self) -> bool:
        """Its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def active(self) -> bool:
        """It counts as a replica: neither finished nor on its way out."""
        return not self.finished and not self.terminating

    @property
    def addresses(self) -> list[str]:
        """Its addresses, of every family, as the kubelet wrote them."""
        listed = [entry.ip for entry in self.status.pod_ips if entry.ip]
        return listed or ([self.status.pod_ip] if self.status.pod_ip else [])


class ServicePort(Value, frozen=True):
    name: str = ""
    port: int = 0
    protocol: str = "TCP"
    app_protocol: str = ""
    target_port: int | str = 0


class ServiceSpec(Value, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    ip_families: list[str] = []
    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""
    load_balancer_class: str = ""
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")


class Ingress(Value, frozen=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Value, frozen=True):
    ingress: list[Ingress] = []


class ServiceStatus(Value, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Value, frozen=True):
    metadata: Meta = Meta()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def headless(self) -> bool:
        return self.spec.cluster_ip in ("", "None")

    @property
    def selects(self) -> bool:
        """Whether its endpoints are pods. Without a selector they are somebody's own business."""
        return bool(self.spec.selector) and self.spec.type != "ExternalName"


class ReplicaSetSpec(Value, frozen=True):
    replicas: int = 1
    min_ready_seconds: int = 0
    selector: LabelSelector | None = None
    template: msgspec.Raw = msgspec.Raw(b"{}")  # copied into each pod as it is


class ReplicaSetStatus(Value, frozen=True):
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    terminating_replicas: int | None = None
    observed_generation: int = 0
    conditions: list[Condition] = []


class ReplicaSet(Value, frozen=True):
    metadata: Meta = Meta()
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class Taint(Value, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Value, frozen=True):
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeStatus(Value, frozen=True):
    conditions: list[Condition] = []
    allocatable: dict[str, str | int | float] = {}


class Node(Value, frozen=True):
    metadata: Meta = Meta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        found = find_condition(self.status.conditions, "Ready")
        return found is not None and found.status == "True"


class LeaseSpec(Value, frozen=True):
    holder_identity: str = ""
    renew_time: datetime | None = None


class Lease(Value, frozen=True):
    metadata: Meta = Meta()
    spec: LeaseSpec = LeaseSpec()


class NamespaceSpec(Value, frozen=True):
    finalizers: list[str] = []


class NamespaceStatus(Value, frozen=True):
    phase: str = ""
    conditions: list[Condition] = []


class Namespace(Value, frozen=True):
    metadata: Meta = Meta()
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class Reference(Value, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


def find_condition(conditions: list[Condition], type: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type), None)


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """A decoder for an informer. Raises ValueError (msgspec.ValidationError) for what cannot be read."""
    fast = msgspec.json.Decoder(kind).decode

    def decode(data: bytes) -> T:
        try:
            return fast(data)
        except msgspec.ValidationError:
            return fast(msgspec.json.encode(without_nulls(msgspec.json.decode(data))))

    return decode


def without_nulls(value: Any) -> Any:
    """A JSON value without the members that are null."""
    if isinstance(value, Mapping):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
