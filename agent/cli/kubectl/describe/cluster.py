"""Nodes, namespaces and data."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.kubectl.describe.page import NONE, UNSET, Page, write_head, write_labels
from agent.cli.kubectl.describe.related import Related
from agent.cli.kubectl.objects import age, meta, name_of, namespace_of, rfc1123
from agent.cli.kubectl.quantities import add_quantities, percent

Json = Mapping[str, Any]
ROLE_LABEL = "node-role.kubernetes.io/"


def write_node(page: Page, node: Json, related: Related) -> None:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    write_head(page, node, namespaced=False)
    roles = [label.removeprefix(ROLE_LABEL) for label in meta(node).get("labels") or {} if label.startswith(ROLE_LABEL)]
    page.field("Roles", ",".join(sorted(roles)) or NONE)
    write_labels(page, node)
    page.field("CreationTimestamp", rfc1123(meta(node).get("creationTimestamp")))
    page.listed("Taints", _taints(spec.get("taints") or []))
    page.field("Unschedulable", str(bool(spec.get("unschedulable"))).lower())
    _write_lease(page, node, related.lease)
    _write_conditions(page, status.get("conditions") or [])
    page.line("Addresses:")
    for each in status.get("addresses") or []:
        page.field(each["type"], each["address"], level=1)
    for title in ("capacity", "allocatable"):
        if status.get(title):
            page.line(f"{title.capitalize()}:")
            for name in sorted(status[title]):
                page.field(name, status[title][name], level=1)
    _write_system(page, status.get("nodeInfo") or {})
    page.optional("PodCIDR", spec.get("podCIDR"))
    page.optional("PodCIDRs", ",".join(spec.get("podCIDRs") or []))
    page.optional("ProviderID", spec.get("providerID"))
    _write_pods(page, related.pods, status.get("allocatable") or status.get("capacity") or {})


def _taints(taints: Sequence[Json]) -> list[str]:
    ordered = sorted(taints, key=lambda each: f"{each.get('effect')},{each.get('key')}")
    values = [f"={each['value']}" if each.get("value") else "" for each in ordered]
    return [f"{each['key']}{value}:{each['effect']}" for each, value in zip(ordered, values, strict=True)]


def _write_lease(page: Page, node: Json, lease: Json | None) -> None:
    if lease is None:
        page.field("Lease", f'Failed to get lease: leases.coordination.k8s.io "{name_of(node)}" not found')
        return
    spec = lease.get("spec") or {}
    page.line("Lease:")
    page.field("HolderIdentity", spec.get("holderIdentity") or UNSET, level=1)
    for title, field in (("AcquireTime", "acquireTime"), ("RenewTime", "renewTime")):
        page.field(title, rfc1123(spec[field]) if spec.get(field) else UNSET, level=1)


def _write_conditions(page: Page, conditions: Sequence[Json]) -> None:
    if not conditions:
        return
    page.line("Conditions:")
    page.line("Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage", level=1)
    page.line("----\t------\t-----------------\t------------------\t------\t-------", level=1)
    for each in conditions:
        times = [rfc1123(each.get(field)) for field in ("lastHeartbeatTime", "lastTransitionTime")]
        cells = [each.get("type", ""), each.get("status", ""), *times, each.get("reason", "")]
        page.line("".join(f"{cell} \t" for cell in cells) + str(each.get("message", "")), level=1)


_SYSTEM = {
    "Machine ID": "machineID",
    "System UUID": "systemUUID",
    "Boot ID": "bootID",
    "Kernel Version": "kernelVersion",
    "OS Image": "osImage",
    "Operating System": "operatingSystem",
    "Architecture": "architecture",
    "Container Runtime Version": "containerRuntimeVersion",
    "Kubelet Version": "kubeletVersion",
    "Kube-Proxy Version": "kubeProxyVersion",
}


def _write_system(page: Page, info: Json) -> None:
    page.line("System Info:")
    for title, field in _SYSTEM.items():
        page.field(title, info.get(field, ""), level=1)


def _write_pods(page: Page, pods: Sequence[Json], allocatable: Json) -> None:
    """What runs on the node, and how much of it is promised to whom."""
    page.field("Non-terminated Pods", f"({len(pods)} in total)")
    page.line("Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge", level=1)
    page.line("---------\t----\t\t------------\t----------\t---------------\t-------------\t---", level=1)
    columns = [("cpu", "requests"), ("cpu", "limits"), ("memory", "requests"), ("memory", "limits")]
    for pod in pods:
        cells = [_share(resource, [_of_pod(pod, resource, which)], allocatable) for resource, which in columns]
        since = age(meta(pod).get("creationTimestamp"), page.now)
        page.line("\t".join([namespace_of(pod), name_of(pod), "", *cells, since]), level=1)
    page.line("Allocated resources:")
    page.line("(Total limits may be over 100 percent, i.e., overcommitted.)", level=1)
    page.line("Resource\tRequests\tLimits", level=1)
    page.line("--------\t--------\t------", level=1)
    for resource in ("cpu", "memory", "ephemeral-storage"):
        amounts = [[_of_pod(pod, resource, which) for pod in pods] for which in ("requests", "limits")]
        sums = [_share(resource, each, allocatable) for each in amounts]
        page.line("\t".join([resource, *sums]), level=1)


def _of_pod(pod: Json, resource: str, which: str) -> str:
    containers = (pod.get("spec") or {}).get("containers") or []
    stated = [((each.get("resources") or {}).get(which) or {}).get(resource) for each in containers]
    return add_quantities(str(each) for each in stated if each)


def _share(resource: str, amounts: Sequence[str], allocatable: Json) -> str:
    total = add_quantities([each for each in amounts if each != "0"])
    return f"{total} ({percent(total, str(allocatable.get(resource) or '0'))}%)"


def write_namespace(page: Page, namespace: Json, related: Related) -> None:
    write_head(page, namespace, namespaced=False)
    write_labels(page, namespace)
    status = namespace.get("status") or {}
    page.field("Status", status.get("phase", ""))
    if conditions := status.get("conditions"):
        page.line("Conditions:")
        page.line("Type\tStatus\tLastTransitionTime\tReason\tMessage", level=1)
        page.line("----\t------\t------------------\t------\t-------", level=1)
        for each in conditions:
            cells = [each.get("type", ""), each.get("status", ""), rfc1123(each.get("lastTransitionTime"))]
            page.line("\t".join([*cells, each.get("reason", ""), each.get("message", "")]), level=1)


def write_config_map(page: Page, config_map: Json, related: Related) -> None:
    write_head(page, config_map)
    write_labels(page, config_map)
    page.line("\nData\n====")
    for key, value in sorted((config_map.get("data") or {}).items()):
        page.line(f"{key}:\n----\n{value}\n")
    page.line("\nBinaryData\n====")
    for key, value in sorted((config_map.get("binaryData") or {}).items()):
        page.line(f"{key}: {len(base64.b64decode(value))} bytes")
    page.line()


def write_secret(page: Page, secret: Json, related: Related) -> None:
    """Never the values: only how long they are."""
    write_head(page, secret)
    write_labels(page, secret)
    page.line(f"\nType:\t{secret.get('type', '')}")
    page.line("\nData\n====")
    for key, value in sorted((secret.get("data") or {}).items()):
        page.field(key, f"{len(base64.b64decode(value))} bytes")


def write_service_account(page: Page, account: Json, related: Related) -> None:
    write_head(page, account)
    write_labels(page, account)
    secrets = [each.get("name", "") for each in account.get("secrets") or []]
    pull = [each.get("name", "") for each in account.get("imagePullSecrets") or []]
    for header, names in (("Image pull secrets:", pull), ("Mountable secrets: ", secrets), ("Tokens:            ", [])):
        for at, name in enumerate(names or [NONE]):
            page.line(f"{header if at == 0 else ' ' * len(header)}\t{name}")
