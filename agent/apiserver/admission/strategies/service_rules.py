"""What a Service must look like, and what about it cannot be changed (apis/core/validation: ValidateService)."""

from __future__ import annotations

from typing import Any

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import duplicate, forbidden, invalid, not_supported, required
from agent.apiserver.admission.rules import Causes, formed, labels, one_of, port_reference
from agent.apiserver.registry import JSON

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS = ("SCTP", "TCP", "UDP")
FAMILIES = ("IPv4", "IPv6")
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
TRAFFIC_POLICIES = ("Cluster", "Local")
DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
AFFINITY_LIMIT = 86400  # seconds
KUBELET_PORT = 10250


def is_headless(spec: JSON) -> bool:
    several: list[str | None] = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return several[0] == "None"


def has_node_ports(spec: JSON) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def is_external(spec: JSON) -> bool:
    """Reachable from outside: then ``externalTrafficPolicy`` means something."""
    return has_node_ports(spec) or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def needs_health_check_port(spec: JSON) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def check_service(spec: JSON) -> Causes:
    ports: list[JSON] = spec.get("ports") or []
    if not ports and not is_headless(spec) and spec["type"] != "ExternalName":
        yield required("spec.ports")
    yield from _check_type(spec, ports)
    yield from check_ports(ports)
    yield from labels("spec.selector", spec.get("selector"))
    yield from _check_affinity(spec)
    yield from check_cluster_ips(spec)
    for index, address in enumerate(spec.get("externalIPs") or []):
        yield from formed(f"spec.externalIPs[{index}]", address, names.ip)
        yield from formed(f"spec.externalIPs[{index}]", address, names.special_ip)
    yield from one_of("spec.type", spec["type"], TYPES)
    yield from _check_port_clashes(spec, ports)
    yield from _check_load_balancer(spec)
    yield from _check_traffic(spec)


def _check_type(spec: JSON, ports: list[JSON]) -> Causes:
    kind = spec["type"]
    if kind == "LoadBalancer":
        for index, port in enumerate(ports):
            if port.get("port") == KUBELET_PORT:
                why = f"may not expose port {KUBELET_PORT} externally since it is used by kubelet"
                yield invalid(f"spec.ports[{index}]", port["port"], why)
    if has_node_ports(spec) and is_headless(spec):
        yield invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(name):
                yield forbidden(f"spec.{name}", "may not be set for ExternalName services")
        target = spec.get("externalName", "").removesuffix(".")
        if target:
            yield from formed("spec.externalName", target, names.dns_subdomain)
        else:
            yield required("spec.externalName")


def check_ports(ports: list[JSON]) -> Causes:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        path, name = f"spec.ports[{index}]", port.get("name", "")
        if not name and len(ports) > 1:
            yield required(f"{path}.name")
        elif name:
            yield from formed(f"{path}.name", name, names.dns_label)
            if name in seen:
                yield duplicate(f"{path}.name", name)
            seen.add(name)
        for complaint in names.port_number(port.get("port", 0)):
            yield invalid(f"{path}.port", port.get("port", 0), complaint)
        yield from one_of(f"{path}.protocol", port.get("protocol"), PROTOCOLS)
        yield from port_reference(f"{path}.targetPort", port.get("targetPort"))
        if port.get("appProtocol"):
            yield from formed(f"{path}.appProtocol", port["appProtocol"], names.qualified_name)


def _check_affinity(spec: JSON) -> Causes:
    yield from one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    timeout = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if spec.get("sessionAffinity") == "ClientIP" and timeout is not None and not 0 < timeout <= AFFINITY_LIMIT:
        why = f"must be greater than 0 and less than {AFFINITY_LIMIT}"
        yield invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout, why)


def check_cluster_ips(spec: JSON) -> Causes:
    """``clusterIP``, ``clusterIPs`` and ``ipFamilies`` must tell one story."""
    single, several, families = spec.get("clusterIP"), spec.get("clusterIPs") or [], spec.get("ipFamilies") or []
    if several and single and several[0] != single:
        yield invalid("spec.clusterIPs", several, "first value must match `clusterIP`")
    elif several and not single:
        yield invalid("spec.clusterIPs", several, "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(families):
        if family not in FAMILIES:
            yield not_supported(f"spec.ipFamilies[{index}]", family, FAMILIES)
        elif family in families[:index]:
            yield duplicate(f"spec.ipFamilies[{index}]", family)
    if spec.get("ipFamilyPolicy") and spec["ipFamilyPolicy"] not in POLICIES:
        yield not_supported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], POLICIES)
    yield from _check_addresses(several, families)


def _check_addresses(several: list[str], families: list[str]) -> Causes:
    if "None" in several and len(several) > 1:
        yield invalid("spec.clusterIPs", several, "'None' must be the first and only value")
    if len(several) > 2:
        yield invalid("spec.clusterIPs", several, "may only hold up to 2 values")
    seen: set[int] = set()
    for index, written in enumerate(several):
        path = f"spec.clusterIPs[{index}]"
        address = names.parse_ip(written)
        if written == "None":
            continue
        if address is None:
            yield from formed(path, written, names.ip)
        elif address.version in seen:
            yield invalid("spec.clusterIPs", several, "may specify no more than one IP for each IP family")
        elif index < len(families) and families[index] != f"IPv{address.version}":
            why = f"expected an {families[index]} value as indicated by `ipFamilies[{index}]`"
            yield invalid(path, written, why)
        if address is not None:
            seen.add(address.version)


def check_families(spec: JSON, family: str, *, by_hand: bool) -> Causes:
    """Only ``family`` can be had here; a headless Service without selector may name others, nothing is allocated."""
    policy, families = spec["ipFamilyPolicy"], spec.get("ipFamilies") or []
    if policy == "SingleStack":
        for name, noun in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
            if len(spec.get(name) or []) == 2:
                why = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {noun} are specified"
                yield invalid("spec.ipFamilyPolicy", policy, why)
    if by_hand:
        return
    if policy == "RequireDualStack":
        yield invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
    for index, wanted in enumerate(families):
        if wanted in FAMILIES and wanted != family:
            yield invalid(f"spec.ipFamilies[{index}]", wanted, "not configured on this cluster")
    if not families:
        for index, written in enumerate(spec.get("clusterIPs") or []):
            address = names.parse_ip(written)
            if address is not None and f"IPv{address.version}" != family:
                why = f"IPv{address.version} is not configured on this cluster"
                yield invalid(f"spec.clusterIPs[{index}]", spec["clusterIPs"], why)


def _check_port_clashes(spec: JSON, ports: list[JSON]) -> Causes:
    on_nodes: set[tuple[Any, int]] = set()
    on_address: set[tuple[Any, int]] = set()
    for index, port in enumerate(ports):
        number, protocol = port.get("nodePort"), port.get("protocol")
        if number and spec["type"] == "ClusterIP":
            yield forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
        elif number and (protocol, number) in on_nodes:
            yield duplicate(f"spec.ports[{index}].nodePort", number)
        if (protocol, port.get("port", 0)) in on_address:
            yield duplicate(f"spec.ports[{index}]", {"port": port.get("port", 0), "protocol": protocol})
        on_nodes.add((protocol, number or 0))
        on_address.add((protocol, port.get("port", 0)))


def _check_load_balancer(spec: JSON) -> Causes:
    only = "may only be used when `type` is 'LoadBalancer'"
    for name in ("loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "loadBalancerClass"):
        if spec["type"] != "LoadBalancer" and spec.get(name) not in (None, []):
            yield forbidden(f"spec.{name}", only)
    if spec["type"] == "LoadBalancer":
        for index, written in enumerate(spec.get("loadBalancerSourceRanges") or []):
            yield from formed(f"spec.loadBalancerSourceRanges[{index}]", written, names.cidr)
        if spec.get("loadBalancerClass"):
            yield from formed("spec.loadBalancerClass", spec["loadBalancerClass"], names.qualified_name)


def _check_traffic(spec: JSON) -> Causes:
    policy = spec.get("externalTrafficPolicy")
    if is_external(spec):
        yield from one_of("spec.externalTrafficPolicy", policy, TRAFFIC_POLICIES)
    elif policy:
        yield invalid("spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services")
    port = spec.get("healthCheckNodePort")
    if port and not needs_health_check_port(spec):
        why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid("spec.healthCheckNodePort", port, why)
    for name, supported in (("internalTrafficPolicy", TRAFFIC_POLICIES), ("trafficDistribution", DISTRIBUTIONS)):
        if spec.get(name):
            yield from one_of(f"spec.{name}", spec[name], supported)


def check_service_update(new: JSON, old: JSON) -> Causes:
    if "ExternalName" not in (new["type"], old.get("type")):
        yield from _check_kept("clusterIPs", new, old)
        yield from _check_kept("ipFamilies", new, old)
    both = new["type"] == old.get("type") == "LoadBalancer"
    if both and new.get("loadBalancerClass") != old.get("loadBalancerClass"):
        yield invalid("spec.loadBalancerClass", new.get("loadBalancerClass", ""), "may not change once set")
    if needs_health_check_port(new) and needs_health_check_port(old):
        number = new.get("healthCheckNodePort")
        if number != old.get("healthCheckNodePort"):
            yield invalid("spec.healthCheckNodePort", number, "field is immutable")


def _check_kept(name: str, new: JSON, old: JSON) -> Causes:
    """The first address and the first family stay; so does being headless."""
    now, then = new.get(name) or [], old.get(name) or []
    if then and now[:1] != then[:1]:
        yield invalid(f"spec.{name}[0]", now, "may not change once set")
