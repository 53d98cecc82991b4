"""What a Service must look like, and what about it cannot be changed (apis/core/validation: ValidateService).

Addresses and ranges are read as loosely as upstream reads them (leading zeros, white space, host bits): what is stored
is what was sent, and whoever uses it makes it canonical.
"""

from __future__ import annotations

from typing import Any

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import duplicate, forbidden, invalid, not_supported, required
from agent.apiserver.admission.rules import IMMUTABLE, Causes, formed, labels, one_of, port_reference
from agent.apiserver.registry import JSON

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS = ("SCTP", "TCP", "UDP")
FAMILIES = ("IPv4", "IPv6")
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
TRAFFIC_POLICIES = ("Cluster", "Local")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
IP_MODES = ("Proxy", "VIP")
AFFINITY_LIMIT = 86400  # seconds
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"  # the field's older form
ONLY_BALANCERS = "may only be used when `type` is 'LoadBalancer'"


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


def check_service(spec: JSON, annotations: JSON) -> Causes:
    ports: list[JSON] = spec.get("ports") or []
    if not ports and not is_headless(spec) and spec["type"] != "ExternalName":
        yield required("spec.ports")
    yield from _check_type(spec)
    yield from check_ports(ports)
    yield from labels("spec.selector", spec.get("selector"))
    yield from _check_affinity(spec)
    yield from check_cluster_ips(spec)
    for index, address in enumerate(spec.get("externalIPs") or []):
        yield from formed(f"spec.externalIPs[{index}]", address, names.ip)
        yield from formed(f"spec.externalIPs[{index}]", address, names.special_ip)
    yield from one_of("spec.type", spec["type"], TYPES)
    yield from _check_port_clashes(spec, ports)
    yield from _check_source_ranges(spec, annotations)
    yield from _check_load_balancer(spec)
    yield from _check_traffic(spec)


def _check_type(spec: JSON) -> Causes:
    kind = spec["type"]
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
        if port.get("appProtocol") is not None:
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
    headless = several[:1] == ["None"]
    if headless and len(several) > 1:
        yield invalid("spec.clusterIPs", several, "'None' must be the first and only value")
    for index, written in enumerate(several):
        if index or not headless:
            yield from formed(f"spec.clusterIPs[{index}]", written, names.ip)
    if len(several) > 2:
        yield invalid("spec.clusterIPs", several, "may only hold up to 2 values")
    found = [f"IPv{address.version}" for written in several if (address := names.parse_ip(written))]
    if len(found) == len(several):  # what is no address has been told; more would only repeat it
        yield from _check_families_of(several, found, families)


def _check_families_of(several: list[str], found: list[str], families: list[str]) -> Causes:
    """``found``: the family of each address; ``families``: those that were asked for, perhaps fewer."""
    if len(found) > 1 and len(set(found)) == 1:
        yield invalid("spec.clusterIPs", several, "may specify no more than one IP for each IP family")
    for index, (has, wanted) in enumerate(zip(found, families, strict=False)):
        if wanted in FAMILIES and has != wanted:
            why = f"expected an {wanted} value as indicated by `ipFamilies[{index}]`"
            yield invalid(f"spec.clusterIPs[{index}]", several[index], why)


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
            yield duplicate(f"spec.ports[{index}]", _as_go_shows_it(port))
        on_nodes.add((protocol, number or 0))
        on_address.add((protocol, port.get("port", 0)))


def _as_go_shows_it(port: JSON) -> JSON:
    """The part of a port that must be unique, in the shape in which upstream's message has it."""
    unset = {"Name": "", "Protocol": "", "AppProtocol": None, "Port": 0, "TargetPort": 0, "NodePort": 0}
    return {**unset, "Protocol": port.get("protocol"), "Port": port.get("port", 0)}


def _check_source_ranges(spec: JSON, annotations: JSON) -> Causes:
    """The field, or the annotation where the field is not used. (The capital letter in the path is upstream's.)"""
    ranges: list[str] = spec.get("loadBalancerSourceRanges") or []
    if ranges:
        path, each = "spec.LoadBalancerSourceRanges", [f"[{index}]" for index in range(len(ranges))]
    elif SOURCE_RANGES in annotations:
        path, written = f"metadata.annotations[{SOURCE_RANGES}]", annotations[SOURCE_RANGES].strip()
        ranges = written.split(",") if written else []
        each = [""] * len(ranges)
    else:
        return
    if spec["type"] != "LoadBalancer":
        yield forbidden(path, ONLY_BALANCERS)
    for text, place in zip(ranges, each, strict=True):
        yield from formed(path + place, text.strip(), names.cidr)


def _check_load_balancer(spec: JSON) -> Causes:
    for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
        if spec["type"] != "LoadBalancer" and spec.get(name) is not None:
            yield forbidden(f"spec.{name}", ONLY_BALANCERS)
    if spec["type"] == "LoadBalancer" and spec.get("loadBalancerClass") is not None:
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
        if spec.get(name) is not None and spec[name] not in supported:
            yield not_supported(f"spec.{name}", spec[name], supported)


def check_load_balancer_status(status: JSON, spec: JSON) -> Causes:
    """``status.loadBalancer`` as some load balancer's controller writes it (ValidateLoadBalancerStatus)."""
    ingress: list[JSON] = (status.get("loadBalancer") or {}).get("ingress") or []
    if ingress and spec.get("type") != "LoadBalancer":
        why = "may only be used when `spec.type` is 'LoadBalancer'"
        yield forbidden("status.loadBalancer.ingress", why)
        return
    for index, entry in enumerate(ingress):
        yield from _check_ingress(f"status.loadBalancer.ingress[{index}]", entry)


def _check_ingress(path: str, entry: JSON) -> Causes:
    ip, mode, hostname = entry.get("ip"), entry.get("ipMode"), entry.get("hostname")
    if ip:
        yield from formed(f"{path}.ip", ip, names.ip)
    elif mode is not None:
        yield forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set")
    if ip and mode not in IP_MODES:
        yield not_supported(f"{path}.ipMode", mode, IP_MODES)
    if hostname:
        yield from formed(f"{path}.hostname", hostname, names.dns_subdomain)
        if names.parse_ip(hostname):
            yield invalid(f"{path}.hostname", hostname, "must be a DNS name, not an IP address")


def check_service_update(new: JSON, old: JSON) -> Causes:
    if "ExternalName" not in (new["type"], old.get("type")):
        if not (is_headless(new) and is_headless(old)):
            yield from _check_kept("clusterIPs", new, old)
        if not is_headless(new) and not is_headless(old):
            yield from _check_kept("ipFamilies", new, old)
    both = new["type"] == old.get("type") == "LoadBalancer"
    if both and new.get("loadBalancerClass") != old.get("loadBalancerClass"):
        yield invalid("spec.loadBalancerClass", new.get("loadBalancerClass", "null"), "may not change once set")
    checked = needs_health_check_port(new) and needs_health_check_port(old)
    if checked and new.get("healthCheckNodePort") != old.get("healthCheckNodePort"):
        yield forbidden("spec.healthCheckNodePort", IMMUTABLE)


def _check_kept(name: str, new: JSON, old: JSON) -> Causes:
    """The first address and the first family stay; so does being headless."""
    now, then = new.get(name) or [], old.get(name) or []
    if then and now[:1] != then[:1]:
        yield invalid(f"spec.{name}[0]", now, "may not change once set")
