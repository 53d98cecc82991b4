"""Server-side printing: objects as a meta.k8s.io/v1 Table, which is what ``kubectl get`` asks for.

kubectl prints the cells as they come, columns of priority 0 always and of priority 1 with ``-o wide``. Columns, words
and rules are upstream's (pkg/printers/internalversion/printers.go), because people know them by heart; the
descriptions come from the models, as theirs come from the Go types.

A kind's entry in ``PRINTERS`` is its columns and a function from an object to its cells; kinds without one get name and
age. ``pod_status`` holds the one piece of real logic: the STATUS of a pod, which is not a field but a judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lightkube.models import apps_v1, coordination_v1, core_v1, discovery_v1, meta_v1

from agent.apiserver import pod_status
from agent.apiserver.durations import NONE, UNKNOWN, since
from agent.apiserver.models import describe
from agent.apiserver.registry import JSON, Kind, value_at

Include = Literal["None", "Metadata", "Object"]
Cells = Callable[[JSON, datetime], list[Any]]
SHOWN = 3  # addresses and ports listed before "+ N more..."


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    description: str
    type: str = "string"
    format: str = ""
    priority: int = 0

    def render(self) -> JSON:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True)
class Printer:
    columns: tuple[Column, ...]
    cells: Cells


def render_table(
    kind: Kind, objects: Sequence[JSON], *, list_meta: JSON, include_object: Include, now: datetime
) -> JSON:
    """A Table of ``objects``, one row each, in their order. Ages are relative to ``now``, which must be aware."""
    printer = PRINTERS.get(kind.kind, DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": [column.render() for column in printer.columns],
        "rows": [_row(kind, printer, obj, include_object, now) for obj in objects],
    }


def _row(kind: Kind, printer: Printer, obj: JSON, include: Include, now: datetime) -> JSON:
    row: JSON = {"cells": printer.cells(obj, now)}
    if kind.kind == "Pod" and (conditions := pod_status.row_conditions(obj)):
        row["conditions"] = conditions
    row["object"] = _included(obj, include)
    return row


def _included(obj: JSON, include: Include) -> JSON | None:
    if include == "Object":
        return obj
    if include == "None":
        return None
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj.get("metadata") or {}}


def _name(obj: JSON) -> str:
    return str(value_at(obj, "metadata.name") or "")


def _age(obj: JSON, now: datetime) -> str:
    return since(value_at(obj, "metadata.creationTimestamp"), now)


def _joined(items: Sequence[str], otherwise: str) -> str:
    """The first few, and how many more there are."""
    more = f" + {len(items) - SHOWN} more..." if len(items) > SHOWN else ""
    return ",".join(items[:SHOWN]) + more or otherwise


def format_labels(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def format_selector(selector: JSON | None) -> str:
    """A LabelSelector as ``-l`` would take it, requirements in the order of their keys."""
    if not selector:
        return NONE
    parts = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for requirement in selector.get("matchExpressions") or []:
        parts.append((requirement["key"], _format_requirement(requirement)))
    return ",".join(text for _, text in sorted(parts)) or NONE


def _format_requirement(requirement: JSON) -> str:
    key, values = requirement["key"], ",".join(sorted(requirement.get("values") or []))
    match requirement["operator"]:
        case "In":
            return f"{key} in ({values})"
        case "NotIn":
            return f"{key} notin ({values})"
        case "DoesNotExist":
            return f"!{key}"
    return str(key)


# Services


def _service(obj: JSON, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [
        _name(obj),
        spec.get("type", ""),
        ips[0] if ips else NONE,
        external_ip(obj),
        format_ports(spec.get("ports") or []) or NONE,
        _age(obj, now),
        format_labels(spec.get("selector")),
    ]


def external_ip(service: JSON) -> str:
    spec = service.get("spec") or {}
    own: list[str] = list(spec.get("externalIPs") or [])
    match spec.get("type"):
        case "ClusterIP" | "NodePort":
            return ",".join(own) or NONE
        case "LoadBalancer":
            ingress = value_at(service, "status.loadBalancer.ingress") or []
            balancers = sorted({entry.get("ip") or entry.get("hostname") or "" for entry in ingress} - {""})
            return ",".join(balancers + own) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
    return UNKNOWN


def format_ports(ports: Sequence[JSON]) -> str:
    return ",".join(_format_port(port) for port in ports)


def _format_port(port: JSON) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port', 0)}{node}/{port.get('protocol', 'TCP')}"


# Workloads


def _pod(obj: JSON, now: datetime) -> list[Any]:
    summary = pod_status.summarize(obj)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts = f"{restarts} ({since(summary.last_restart, now)} ago)"
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ips = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return [
        _name(obj),
        f"{summary.ready}/{summary.total}",
        summary.reason,
        restarts,
        _age(obj, now),
        ips[0].get("ip") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        pod_status.readiness_gates(obj),
    ]


def _replica_set(obj: JSON, now: datetime) -> list[Any]:
    containers = value_at(obj, "spec.template.spec.containers") or []
    return [
        _name(obj),
        value_at(obj, "spec.replicas") or 0,
        value_at(obj, "status.replicas") or 0,
        value_at(obj, "status.readyReplicas") or 0,
        _age(obj, now),
        ",".join(container.get("name", "") for container in containers),
        ",".join(container.get("image", "") for container in containers),
        format_selector(value_at(obj, "spec.selector")),
    ]


# Endpoints


def _endpoints(obj: JSON, now: datetime) -> list[Any]:
    subsets = obj.get("subsets") or []
    addresses = [
        host_port(address["ip"], port["port"])
        for subset in subsets
        for port in subset.get("ports") or []
        for address in subset.get("addresses") or []
    ]
    return [_name(obj), _joined(addresses, "" if subsets else NONE), _age(obj, now)]


def host_port(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _endpoint_slice(obj: JSON, now: datetime) -> list[Any]:
    addresses = [address for endpoint in obj.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    ports = [str(port.get("port") or port.get("name") or "*") for port in obj.get("ports") or []]
    return [
        _name(obj),
        obj.get("addressType", ""),
        _joined(ports, "<unset>"),
        _joined(addresses, "<unset>"),
        _age(obj, now),
    ]


# Nodes and the rest


def _node(obj: JSON, now: datetime) -> list[Any]:
    info = value_at(obj, "status.nodeInfo") or {}
    return [
        _name(obj),
        node_status(obj),
        node_roles(obj),
        _age(obj, now),
        info.get("kubeletVersion", ""),
        _node_address(obj, "InternalIP"),
        _node_address(obj, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def node_status(node: JSON) -> str:
    ready = [entry for entry in value_at(node, "status.conditions") or [] if entry.get("type") == "Ready"]
    words = ["Unknown" if not ready else "Ready" if ready[0].get("status") == "True" else "NotReady"]
    if value_at(node, "spec.unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def node_roles(node: JSON) -> str:
    """From labels ``node-role.kubernetes.io/ROLE`` and ``kubernetes.io/role=ROLE``."""
    prefix, roles = "node-role.kubernetes.io/", set()
    for key, value in (value_at(node, "metadata.labels") or {}).items():
        role = key.removeprefix(prefix) if key.startswith(prefix) else value if key == "kubernetes.io/role" else ""
        roles.add(role)
    return ",".join(sorted(roles - {""})) or NONE


def _node_address(node: JSON, kind: str) -> str:
    found = [entry["address"] for entry in value_at(node, "status.addresses") or [] if entry.get("type") == kind]
    return str(found[0]) if found else NONE


def _namespace(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), value_at(obj, "status.phase") or "", _age(obj, now)]


def _config_map(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), _age(obj, now)]


def _secret(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or {}), _age(obj, now)]


def _service_account(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), len(obj.get("secrets") or []), _age(obj, now)]


def _lease(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), value_at(obj, "spec.holderIdentity") or "", _age(obj, now)]


def _scale(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), value_at(obj, "spec.replicas") or 0, value_at(obj, "status.replicas") or 0, _age(obj, now)]


def _event(obj: JSON, now: datetime) -> list[Any]:
    """Both spellings of an Event: the newer one prefixes the times with ``deprecated``."""
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    first_at = _either(obj, "firstTimestamp") or obj.get("eventTime")
    first = since(first_at, now)
    last_at = value_at(obj, "series.lastObservedTime") or _either(obj, "lastTimestamp")
    kind, name = about.get("kind", "").lower(), about.get("name")
    return [
        since(last_at, now) if last_at else first,
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{kind}/{name}" if name else kind,
        about.get("fieldPath", ""),
        _event_source(obj),
        str(obj.get("message") or obj.get("note") or "").strip(),
        first,
        value_at(obj, "series.count") or _either(obj, "count") or 1,
        _name(obj),
    ]


def _either(event: JSON, name: str) -> Any:
    return event.get(name) or event.get(f"deprecated{name[0].upper()}{name[1:]}")


def _event_source(event: JSON) -> str:
    source = _either(event, "source") or {}
    component = source.get("component") or event.get("reportingComponent") or event.get("reportingController")
    host = source.get("host") or event.get("reportingInstance")
    return ", ".join(part for part in (component, host) if part)


def _default(obj: JSON, now: datetime) -> list[Any]:
    return [_name(obj), value_at(obj, "metadata.creationTimestamp") or UNKNOWN]


NAME = Column("Name", describe(meta_v1.ObjectMeta, "name"), format="name")
CREATED = describe(meta_v1.ObjectMeta, "creationTimestamp")
AGE = Column("Age", CREATED)
DEFAULT = Printer((NAME, Column("Created At", CREATED, type="date")), _default)


def _wide(name: str, description: str) -> Column:
    return Column(name, description, priority=1)


def _count(name: str, description: str) -> Column:
    return Column(name, description, type="integer")


PRINTERS: Mapping[str, Printer] = {
    "Pod": Printer(
        (
            NAME,
            Column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
            Column("Status", "The aggregate status of the containers in this pod."),
            Column("Restarts", "How often the containers in this pod have been restarted, and when the last time was."),
            AGE,
            _wide("IP", describe(core_v1.PodStatus, "podIP")),
            _wide("Node", describe(core_v1.PodSpec, "nodeName")),
            _wide("Nominated Node", describe(core_v1.PodStatus, "nominatedNodeName")),
            _wide("Readiness Gates", describe(core_v1.PodSpec, "readinessGates")),
        ),
        _pod,
    ),
    "Service": Printer(
        (
            NAME,
            Column("Type", describe(core_v1.ServiceSpec, "type")),
            Column("Cluster-IP", describe(core_v1.ServiceSpec, "clusterIP")),
            Column("External-IP", describe(core_v1.ServiceSpec, "externalIPs")),
            Column("Port(s)", describe(core_v1.ServiceSpec, "ports")),
            AGE,
            _wide("Selector", describe(core_v1.ServiceSpec, "selector")),
        ),
        _service,
    ),
    "ReplicaSet": Printer(
        (
            NAME,
            _count("Desired", describe(apps_v1.ReplicaSetSpec, "replicas")),
            _count("Current", describe(apps_v1.ReplicaSetStatus, "replicas")),
            _count("Ready", describe(apps_v1.ReplicaSetStatus, "readyReplicas")),
            AGE,
            _wide("Containers", "The names of the containers in the template."),
            _wide("Images", "The images of the containers in the template."),
            _wide("Selector", describe(apps_v1.ReplicaSetSpec, "selector")),
        ),
        _replica_set,
    ),
    "Endpoints": Printer((NAME, Column("Endpoints", describe(core_v1.Endpoints, "subsets")), AGE), _endpoints),
    "EndpointSlice": Printer(
        (
            NAME,
            Column("AddressType", describe(discovery_v1.EndpointSlice, "addressType")),
            Column("Ports", describe(discovery_v1.EndpointSlice, "ports")),
            Column("Endpoints", describe(discovery_v1.EndpointSlice, "endpoints")),
            AGE,
        ),
        _endpoint_slice,
    ),
    "Node": Printer(
        (
            NAME,
            Column("Status", "The status of the node."),
            Column("Roles", "The roles of the node."),
            AGE,
            Column("Version", describe(core_v1.NodeSystemInfo, "kubeletVersion")),
            _wide("Internal-IP", describe(core_v1.NodeStatus, "addresses")),
            _wide("External-IP", describe(core_v1.NodeStatus, "addresses")),
            _wide("OS-Image", describe(core_v1.NodeSystemInfo, "osImage")),
            _wide("Kernel-Version", describe(core_v1.NodeSystemInfo, "kernelVersion")),
            _wide("Container-Runtime", describe(core_v1.NodeSystemInfo, "containerRuntimeVersion")),
        ),
        _node,
    ),
    "Namespace": Printer((NAME, Column("Status", "The status of the namespace."), AGE), _namespace),
    "ConfigMap": Printer((NAME, _count("Data", describe(core_v1.ConfigMap, "data")), AGE), _config_map),
    "Secret": Printer(
        (
            NAME,
            Column("Type", describe(core_v1.Secret, "type")),
            _count("Data", describe(core_v1.Secret, "data")),
            AGE,
        ),
        _secret,
    ),
    "ServiceAccount": Printer(
        (NAME, _count("Secrets", describe(core_v1.ServiceAccount, "secrets")), AGE),
        _service_account,
    ),
    "Lease": Printer((NAME, Column("Holder", describe(coordination_v1.LeaseSpec, "holderIdentity")), AGE), _lease),
    "Scale": Printer(
        (
            NAME,
            _count("Desired", "The number of pods wanted."),
            _count("Available", "The number of pods there are."),
            AGE,
        ),
        _scale,
    ),
    "Event": Printer(
        (
            Column("Last Seen", describe(core_v1.Event, "lastTimestamp")),
            Column("Type", describe(core_v1.Event, "type")),
            Column("Reason", describe(core_v1.Event, "reason")),
            Column("Object", describe(core_v1.Event, "involvedObject")),
            _wide("Subobject", describe(core_v1.ObjectReference, "fieldPath")),
            _wide("Source", describe(core_v1.Event, "source")),
            Column("Message", describe(core_v1.Event, "message")),
            _wide("First Seen", describe(core_v1.Event, "firstTimestamp")),
            Column("Count", describe(core_v1.Event, "count"), priority=1),
            Column("Name", describe(meta_v1.ObjectMeta, "name"), format="name", priority=1),
        ),
        _event,
    ),
}
